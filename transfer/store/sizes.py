"""How the rows of a new store are cut into files, and into the chunks that are read.

A store has a file for each batch, which is one chunk. Where that would be many files, each is a shard, as Zarr has
them: many chunks, which are read one by one, and where each lies. What their sizes are has nothing to do with the
batch but that a shard has whole ones. There are enough shards to divide them among processes.
"""

import math
from collections.abc import Sequence

# Files of an array that has one for each batch.
MOST_BATCHES = 4096
# A shard has at most so many rows, so many bytes, which its writer has in memory, and of all rows such a part.
SHARD_ROWS, SHARD_BYTES, SHARDS = 65536, 256 << 20, 1024
CHUNK_ROWS, CHUNK_BYTES = 256, 512 << 10


def of_shards(num_images: int, batch_size: int, row_bytes: Sequence[int]) -> dict[str, int]:
    """The rows of shards and of chunks, as entries of a store's metadata; none for a store with a file for each batch.

    `row_bytes` are the bytes of a row of each tap.
    """
    if num_images <= MOST_BATCHES * batch_size:
        return {}
    most = max(min(CHUNK_ROWS, CHUNK_BYTES // max(*row_bytes, 1)), 1)
    chunk = 1 << (most.bit_length() - 1)
    whole, bytes_of_row = math.lcm(chunk, batch_size), max(sum(row_bytes), 1)
    if whole * bytes_of_row > SHARD_BYTES:  # of an odd number of images a batch
        chunk = whole = batch_size
    rows = min(num_images // SHARDS, SHARD_ROWS, SHARD_BYTES // bytes_of_row)
    return {"shard_rows": max(rows // whole, 1) * whole, "chunk_rows": chunk}
