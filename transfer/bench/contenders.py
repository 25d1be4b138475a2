"""What runs in the rounds of a row: our steps, our whole road from uint8 to NumPy, and others."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from transfer.data.loader import Batch
from transfer.extract.extractor import Extractor
from transfer.runtime.timing import seconds_per_call

# A pass from uint8 to features goes over so many batches at least, for there is something to overlap.
FEWEST_BATCHES, MOST_BATCHES = 3, 64


class Steps:
    """One batch computed on the device; `durations` are the seconds of every step that was timed."""

    def __init__(self, extractor: Extractor, images: np.ndarray) -> None:
        self.extractor, self.images = extractor, images
        self.durations: list[float] = []
        self._on_device = jax.device_put(images, extractor.program.sharding)

    def __call__(self) -> None:
        """One step."""
        jax.block_until_ready(self.extractor.compute(self._on_device, resized=True))

    def timed(self, seconds: float) -> float:
        """Seconds a step, in the mean."""
        passed, steps = 0.0, 0
        while not steps or passed < seconds:
            start = time.perf_counter()
            self()
            self.durations.append(time.perf_counter() - start)
            passed, steps = passed + self.durations[-1], steps + 1
        return passed / steps

    def memory_bytes(self) -> int | None:
        """What a device needs for the program, says the compiler: arguments, results and temporaries."""
        found = self.extractor.compiled(self.images, True).memory_analysis()
        if found is None:
            return None
        return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


class EndToEnd:
    """uint8 in host memory -> float32 NumPy, several batches through the extractor's own stream."""

    def __init__(self, extractor: Extractor, images: np.ndarray, step_seconds: float) -> None:
        self.extractor, self.images, self.step_seconds = extractor, (images, images.copy()), step_seconds

    def __call__(self) -> None:
        """A short pass."""
        self._run(FEWEST_BATCHES)

    def timed(self, seconds: float) -> float:
        """Seconds a batch, in the mean of one pass."""
        count = min(max(FEWEST_BATCHES, math.ceil(seconds / self.step_seconds)), MOST_BATCHES)
        start = time.perf_counter()
        self._run(count)
        return (time.perf_counter() - start) / count

    def _run(self, count: int) -> None:
        for _ in self.extractor.stream(self._batches(count), resized=True):
            pass

    def _batches(self, count: int) -> Iterator[Batch]:
        size = len(self.images[0])
        for i in range(count):
            yield Batch(self.images[i % 2], i * size, size, [])


class Guest:
    """Somebody else's way, which may fail on the way without ending ours: `failed` is then the reason."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call, self.failed = call, ""

    def __call__(self) -> None:
        """One call."""
        self.timed(0)

    def timed(self, seconds: float) -> float:
        """Seconds a call; NaN from its failure on."""
        if not self.failed:
            try:
                return seconds_per_call(self.call, seconds)
            except Exception as error:  # whatever it raises is the reason why it is left out
                self.failed = " ".join(str(error).split()) or type(error).__name__
        return math.nan
