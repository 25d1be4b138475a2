"""Commands: one file a verb, the table of verbs, and what all of them share."""

import gc

# JAX's imports and traces make objects by the hundred thousand, nearly all of which stay: with Python's threshold of
# 700, looking through them again and again takes a tenth of a short command's time.
gc.set_threshold(50_000)
