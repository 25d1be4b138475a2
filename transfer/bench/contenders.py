"""What takes turns in the rounds of a row: our steps, our way from uint8 to NumPy, the plain Flax network, peers."""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transfer.data.loader import Batch
from transfer.extract.extractor import DTYPES, Extractor

# A pass from uint8 to features has so many batches: at least a few, for there to be something to overlap.
FEWEST_BATCHES, MOST_BATCHES = 3, 64


class Steps:
    """One batch computed on the device; `durations` are the seconds of every step that was timed."""

    def __init__(self, extractor: Extractor, images: np.ndarray) -> None:
        self.extractor, self.images = extractor, images
        self.durations: list[float] = []
        self._on_device = jax.device_put(images, extractor.program.sharding)

    def __call__(self) -> None:
        """Computes the batch once, and waits."""
        jax.block_until_ready(self.extractor.compute(self._on_device, resized=True))

    def timed(self, seconds: float) -> float:
        """The mean of the steps of at least so many seconds, one at least."""
        passed, steps = 0.0, 0
        while not steps or passed < seconds:
            start = time.perf_counter()
            self()
            self.durations.append(time.perf_counter() - start)
            passed, steps = passed + self.durations[-1], steps + 1
        return passed / steps

    def memory_bytes(self) -> int | None:
        """Bytes that a device needs for the program by the compiler's account: arguments, results and temporaries."""
        memory = self.extractor.compiled(self.images, True).memory_analysis()
        if memory is None:
            return None
        return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


class EndToEnd:
    """uint8 in host memory -> float32 NumPy, several batches through the extractor's own stream."""

    def __init__(self, extractor: Extractor, images: np.ndarray, step_seconds: float) -> None:
        self.extractor, self.images, self.step_seconds = extractor, (images, images.copy()), step_seconds

    def __call__(self) -> None:
        """A short pass."""
        self.timed(0)

    def timed(self, seconds: float) -> float:
        """Seconds a batch in one pass, which takes about as many seconds as given."""
        count = min(max(FEWEST_BATCHES, math.ceil(seconds / self.step_seconds)), MOST_BATCHES)
        size = len(self.images[0])
        start = time.perf_counter()
        for _ in self.extractor.stream((Batch(self.images[i % 2], i * size, size, []) for i in range(count)), True):
            pass
        return (time.perf_counter() - start) / count


class PlainFlax:
    """The network as its Flax code says, jitted, up to `pre_logits` on one device: what freezing is compared with.

    Args:
      images: preprocessed float32 (B, H, W, C).
    """

    NAME = "Flax, jitted"

    def __init__(self, model: nnx.Module, images: np.ndarray, dtype: str) -> None:
        def cast(leaf: jax.Array) -> jax.Array:
            return leaf.astype(DTYPES[dtype]) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        def forward(state: nnx.State, images: jax.Array) -> jax.Array:
            copy = nnx.merge(graph, state)
            copy.eval()
            return copy(images)[1]["pre_logits"]

        graph, state = nnx.split(model)
        self._arguments = jax.tree.map(cast, state), jnp.asarray(images, DTYPES[dtype])
        self._program = jax.jit(forward)

    def __call__(self) -> None:
        """Computes the batch once, and waits."""
        self._program(*self._arguments).block_until_ready()
