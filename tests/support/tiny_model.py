"""A network small enough to compile in a moment, and a source whose pixels follow from the row: for the extractor."""

import hashlib
import time

import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.on_demand import OnDemand
from transfer.data import BrokenImage
from transfer.preprocess.recipe import Preprocessing

RECIPE = Preprocessing(image_size=(12, 12), scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))


class TinyModel(nnx.Module):
    """One convolution, a pool, a classifier; `stride` changes what is computed but no parameter's shape."""

    def __init__(self, seed: int = 0, stride: int = 2) -> None:
        numbers = np.random.default_rng(seed)

        def normal(key, shape, dtype=None):  # NumPy's: JAX's own would compile for seconds
            return jnp.asarray(numbers.normal(size=shape), jnp.float32)

        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(3, 5, (3, 3), strides=stride, padding=1, kernel_init=normal, bias_init=normal, rngs=rngs)
        self.norm = nnx.BatchNorm(5, scale_init=normal, bias_init=normal, rngs=rngs)
        self.logits = nnx.Linear(5, 4, kernel_init=normal, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        endpoints = {"block1": x, "pre_logits": x.mean(axis=(1, 2))}
        endpoints["logits"] = self.logits(endpoints["pre_logits"])
        return endpoints["logits"], endpoints


class TinySource:
    """`rows` random images; `shape` (h, w), or None for mixed sizes; `broken` rows cannot be read."""

    def __init__(self, rows=21, shape=(8, 10), broken=(), seconds=0.0, name="tiny"):
        self.rows, self.shape, self.broken, self.seconds, self.name = rows, shape, broken, seconds, name
        self.ids = [f"train/{row:04d}.jpg" for row in range(rows)]
        self.labels = np.arange(rows) % 3
        self.class_names = ("a", "b", "c")
        self.uniform_shape = None if shape is None else (*shape, 3)
        self.fingerprint = hashlib.sha256(repr((rows, shape, name)).encode()).hexdigest()

    def __len__(self):
        return self.rows

    def image(self, row):
        time.sleep(self.seconds)
        if row in self.broken:
            raise BrokenImage(f"{self.ids[row]} is not an image")
        height, width = self.shape or (6 + row % 2, 7 + row % 2)
        return np.random.default_rng(row).integers(0, 256, (height, width, 3), np.uint8)

    def image_into(self, row, out=None, divisor=None):
        return self.image(row)


class MadeSource(TinySource):
    """`rows` images of which nothing is held: for counting memory and time."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows=0)
        self.rows, self.ids, self.labels = (
            rows,
            OnDemand(rows, "made/{:09d}".format),
            OnDemand(rows, lambda row: row % 3),
        )
        self.pixels = np.zeros((*self.uniform_shape[:2], 3), np.uint8)

    def image(self, row: int) -> np.ndarray:
        return self.pixels
