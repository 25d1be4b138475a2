"""`digits`: scikit-learn's 1,797 real 8x8 images of handwritten digits, which need no file."""

import numpy as np

from transfer.data.source import ArraySource, Source
from transfer.errors import UsageError


def open_split(path: str, split: str | None) -> Source:
    """The digits, their 17 grey levels spread over 0..255. Raises UsageError where a path or a split is given."""
    if path or split:
        raise UsageError(f"digits has no {'path' if path else 'splits'}; {path or split!r} is one too many")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return ArraySource("digits", images, bunch.target, [str(n) for n in bunch.target_names])
