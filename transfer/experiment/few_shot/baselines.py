"""What features are to be compared with: raw pixels, and the features of the same network with random weights."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from transfer.data.loader import load_all
from transfer.data.splits import SPLITS, make_splits
from transfer.errors import UsageError
from transfer.experiment.backbone import build_extractor
from transfer.extract.to_store import extract_to_store

PIXELS = "raw pixels"


def names_of(taps: Iterable[str]) -> list[str]:
    """The names of the baselines of some taps."""
    return [PIXELS, *(f"{tap}, random weights" for tap in taps)]


def baselines(config: ConfigDict, workdir: epath.Path, num_rows: Mapping[str, int]) -> dict[str, tuple[Any, Any]]:
    """Raw pixels, and each tap with random weights (by `config.seed`), of the images of `config.data`.

    Of several processes all have to call it: they share the extraction, whose stores are WORKDIR/random_features.

    Args:
        num_rows: by split; UsageError where images were skipped, for then rows would not be those of the features.

    Returns:
        name -> rows to train on (N, ...), and those to validate on.
    """
    sources = dict(zip(SPLITS, make_splits(config.data), strict=True))
    if any(len(source) != num_rows[split] for split, source in sources.items()):
        raise UsageError(
            "config.few_shot.baselines compares with the raw pixels of every image, and some were skipped; repair "
            "those images, or leave it out"
        )
    random = config.copy_and_resolve_references()
    random.model.weights = "random"
    extractor = build_extractor(random)
    stores = {
        split: extract_to_store(
            extractor, source, workdir / "random_features" / split, config.on_error, split, config.features_dtype
        )
        for split, source in sources.items()
    }
    pixels = [load_all(source) for source in sources.values()]
    taps = stores["train"].taps
    rows: list[list[Any]] = [[images.reshape(len(images), -1) / np.float32(255) for images in pixels]]
    rows += [[store.tap(tap) for store in stores.values()] for tap in taps]
    return {name: (train, validation) for name, (train, validation) in zip(names_of(taps), rows, strict=True)}
