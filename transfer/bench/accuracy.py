"""What a faster precision costs: the largest relative error at every tap against full precision."""

import functools

import numpy as np

from transfer.bench.network import Wanted, load
from transfer.extract.extractor import Extractor

# Every tap of a large batch would not fit where its pooled features do.
MOST_IMAGES = 8


@functools.lru_cache(maxsize=16)
def errors_by_tap(wanted: Wanted, dtype: str, precision: str, batch: int) -> dict[str, float]:
    """Tap -> largest difference from float32 at precision "highest", relative to the largest value there.

    Of random images, `batch` and at most `MOST_IMAGES`.
    """
    if (dtype, precision) == ("float32", "highest"):
        return {}
    network, batch = load(wanted), min(batch, MOST_IMAGES)
    taps = tuple(network.graph().endpoints)
    images = np.random.default_rng(0).integers(0, 256, (batch, *network.preprocessing.image_size, 3), np.uint8)

    def features(dtype: str, precision: str) -> dict[str, np.ndarray]:
        recipe = network.preprocessing
        return Extractor(network.model, taps, None, batch, dtype, precision=precision, preprocessing=recipe)(images)  # type: ignore[return-value]

    found, exact = features(dtype, precision), features("float32", "highest")
    return {tap: float(np.abs(found[tap] - exact[tap]).max() / np.abs(exact[tap]).max()) for tap in taps}
