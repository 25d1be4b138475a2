"""Stores of format 1, which the version before checksums of rows wrote: two folders in `store_format1.zip`.

PYTHONPATH=CHECKOUT_OF_1557dae python tests/golden/make_old_store.py
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from transfer.store.writer import StoreWriter

TAPS = {"pre_logits": (3,), "block5": (2, 2)}


def rows_of(start: int, stop: int, shape: tuple[int, ...]) -> np.ndarray:
    """The features of a batch."""
    return np.random.default_rng(start).normal(size=(stop - start, *shape)).astype(np.float32)


def write(path: Path, starts: tuple[int, ...]) -> None:
    """Writes the batches that begin at `starts` of eleven rows, of which row 5 was skipped."""
    settings = dict(
        taps=TAPS,
        labels=np.arange(11) % 2,
        ids=[f"train/{i:06d}" for i in range(11)],
        class_names=("cat", "dog"),
        data="folder:images",
        fingerprint={"model": "vgg16.keras"},
        batch_size=4,
        provenance={"device": "cpu"},
    )
    with StoreWriter(path, **settings) as store:
        for start in starts:
            stop = min(start + 4, 11)
            batch = {tap: rows_of(start, stop, shape) for tap, shape in TAPS.items()}
            store.write(start, batch, [5] if start == 4 else [])
        if len(starts) == 3:
            store.finish()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "complete", (0, 4, 8))
        write(Path(folder) / "incomplete", (4,))
        shutil.make_archive(str(Path(__file__).with_name("store_format1")), "zip", folder)
