"""Small feature stores: written, filled and finished, or damaged."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from transfer.store.format import ChunkedArray, arrays, read_metadata
from transfer.store.store import FeatureStore
from transfer.store.writer import StoreWriter

ROWS, BATCH, WIDTH = 11, 4, 3
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def writer(path, rows=ROWS, batch_size=BATCH, taps=None, ids=None, **changed):
    settings = dict(
        taps=taps or {"pre_logits": (WIDTH,)},
        labels=np.arange(rows) % 2,
        ids=ids or [f"train/{i:06d}" for i in range(rows)],
        class_names=("cat", "dog"),
        data="folder:images",
        fingerprint={"model": "vgg16.keras", "preprocessing": {"image_size": [224, 224], "resize": "pil"}},
        batch_size=batch_size,
    )
    return StoreWriter(path, **{**settings, **changed})


def rows_of(start, stop, shape=(WIDTH,)):
    return np.random.default_rng(start).normal(size=(stop - start, *shape)).astype(np.float32)


def fill(store, **arguments):
    for start, stop in store.pending():
        for first in range(start, stop, store.batch_size):
            last = min(first + store.batch_size, stop)
            store.write(first, {"pre_logits": rows_of(first, last)}, **arguments)


def expected():
    return np.concatenate([rows_of(a, min(a + BATCH, ROWS)) for a in range(0, ROWS, BATCH)])


def finished(path, **changed):
    with writer(path, **changed) as store:
        fill(store)
        store.finish()
    return FeatureStore.open(path)


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in Path(path).rglob("*") if f.is_file()}


def rewrite(path, name, values):
    """Writes values with valid checksums of their chunks, as another program might."""
    array = ChunkedArray(str(path), arrays(read_metadata(str(path)))[name])
    array.write(0, values)()
