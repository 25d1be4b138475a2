"""Keras 3's `.keras`: a zip whose `model.weights.h5` holds the weights."""

import io
import zipfile
from pathlib import Path

import numpy as np

from transfer.weights.readers import keras_h5
from transfer.weights.readers._archive import members

FORMAT = "Keras .keras"
MEMBER = "model.weights.h5"


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a zip with Keras' weights in it."""
    return MEMBER in members(path, head)


def read(path: Path) -> dict[str, np.ndarray]:
    """All variables as `layer/variable`, checksums of the zip verified; the model's own config is not looked at."""
    with zipfile.ZipFile(path) as archive:
        return keras_h5.read(io.BytesIO(archive.read(MEMBER)))
