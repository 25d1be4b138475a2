"""Ways to load a folder of JPEGs, side by side: Pillow in threads, and our loader."""

import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from transfer.data.folder import FolderSource
from transfer.data.frames import needs_resizing
from transfer.data.loader import batches, default_workers
from transfer.data.source import Source
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.progress import Progress
from transfer.runtime.timing import interleaved

YARDSTICK = "Pillow draft + decode"
LOADED_BATCH = 32


def measure(name: str, source: FolderSource, recipe: Preprocessing, rounds: int, seconds: float) -> dict[str, Any]:
    """Images a second of each way to load a folder, in interleaved rounds.

    Returns:
      JSON-able: "kind", "case", "image_size", "threads"; "seconds", contender -> seconds an image, one figure a round;
      "ratio", contender -> how many times the yardstick's rate, the median over rounds.
    """
    draft = Preprocessing(recipe.image_size, resize="draft")
    mixed = needs_resizing(source, recipe)
    ours = {
        "ours": Loader(source, recipe, canvases=False),
        **({"ours, device resizes": Loader(source, recipe, canvases=True)} if mixed else {}),
        **({"ours, draft": Loader(source, draft, canvases=True)} if needs_resizing(source, draft) else {}),
    }
    with ThreadPoolExecutor(default_workers()) as pool, Progress(f"loading {name}", rounds, "rounds") as progress:
        pillow = {
            YARDSTICK: Pillow(pool, source, recipe, _drafted),
            "Pillow decode + resize": Pillow(pool, source, recipe, _resized),
        }
        samples = interleaved({**pillow, **ours}, rounds, 1, seconds, lambda done: progress.update())
    for loader in ours.values():
        loader.close()
    return {
        "kind": "loading",
        "case": name,
        "image_size": list(recipe.image_size),
        "threads": default_workers(),
        "seconds": samples,
        "ratio": {name: statistics.median(np.divide(samples[YARDSTICK], taken)) for name, taken in samples.items()},
    }


def _drafted(data: Any, size: tuple[int, int]) -> None:
    with Image.open(data) as image:
        image.draft("RGB", size)
        image.load()


def _resized(data: Any, size: tuple[int, int]) -> np.ndarray:
    with Image.open(data) as image:
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


class Pillow:
    """One file after another in every thread; times itself."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        source: FolderSource,
        recipe: Preprocessing,
        load: Callable[[Any, tuple[int, int]], Any],
    ) -> None:
        self.pool, self.load, self.read = pool, load, source.container.read
        self.size = (recipe.image_size[1], recipe.image_size[0])
        self.files = itertools.cycle([entry.locator for entry in source.files])

    def __call__(self) -> None:
        self.timed(0)

    def timed(self, seconds: float) -> float:
        """Seconds an image, in the mean."""
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds:
            files = list(itertools.islice(self.files, LOADED_BATCH * default_workers()))
            step = default_workers()
            for task in [self.pool.submit(self._load, files[k::step]) for k in range(step)]:
                task.result()
            count += len(files)
        return (time.perf_counter() - start) / count

    def _load(self, files: Sequence[Any]) -> None:
        for file in files:
            self.load(io.BytesIO(self.read(file)), self.size)


class Loader:
    """Our loader over a folder again and again; times itself once it runs, without what it had prepared before."""

    PREFETCH = 2

    def __init__(self, source: Source, recipe: Preprocessing, canvases: bool) -> None:
        endless = Repeated(source, 10_000_000)
        self.stream = batches(endless, 0, len(endless), LOADED_BATCH, recipe, prefetch=self.PREFETCH, canvases=canvases)

    def __call__(self) -> None:
        self.timed(0)

    def timed(self, seconds: float) -> float:
        """Seconds an image, in the mean."""
        for _ in range(self.PREFETCH + 1):
            next(self.stream)
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < seconds:
            count += next(self.stream).size
        return (time.perf_counter() - start) / count

    def close(self) -> None:
        """Ends its threads."""
        self.stream.close()  # type: ignore[attr-defined]


class Repeated(Source):
    """The images of a source over and over, `count` in all."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.name, self.class_names = source, source.name, source.class_names
        self.ids, self.labels = range(count), source.labels  # type: ignore[assignment]

    def image(self, index: int) -> np.ndarray:
        return self.source.image(index % len(self.source))

    def image_into(self, index: int, *rest: Any, **more: Any) -> np.ndarray:
        return self.source.image_into(index % len(self.source), *rest, **more)

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        return self.source.uniform_shape

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError
