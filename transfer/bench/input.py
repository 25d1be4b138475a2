"""`python -m transfer bench --input`: how fast images come in, and whether they keep up with the network.

For folders of JPEGs, images a second of one thread a core: Pillow's `draft` and decoding alone, which is the yardstick;
Pillow up to resized pixels; our loader as it feeds a CPU, where it resizes mixed sizes itself; as it feeds a GPU, which
resizes them; and the same with `resize="draft"`. Then for each network and folder, and for uint8 images in memory: what
the device computes in a second if nothing else is to be done, and what arrives in a feature store, end to end.
"""

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from transfer.bench import photographs
from transfer.bench.cases import NetworkSpec, cases_of, chosen, load
from transfer.bench.table import pixels
from transfer.bench.worker import Several
from transfer.data.folder import FolderSource, open_split
from transfer.data.frames import needs_resizing
from transfer.data.loader import Batch, batches, default_workers
from transfer.data.source import ArraySource, Source, select
from transfer.extract.extractor import Extractor
from transfer.extract.to_store import extract_to_store
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime import tables
from transfer.runtime.progress import Progress
from transfer.runtime.timing import interleaved, median_ratio

YARDSTICK = "Pillow draft + decode"
COMPUTE, END_TO_END = "compute", "end to end"
# Name -> (height, width) of the JPEGs that are made, in turn.
FOLDERS: dict[str, Sequence[tuple[int, int]]] = {
    "224x224": [(224, 224)],
    "500x375": [(375, 500)],
    "mixed": [(375, 500), (500, 375), (333, 500), (400, 400), (281, 450), (480, 640)],
    "1000x750": [(750, 1000)],
}
IN_MEMORY = "32x32 in memory"
FILES = 256  # of a folder
FEWEST_BATCHES = 6  # of a pass end to end, for there to be something to overlap
LOADED_BATCH, PREFETCH = 32, 2
REPEATED = 1_000_000  # images of a folder that is loaded again and again


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each folder, then one for each network, batch and folder. UsageError for unknown names."""
    cases = cases_of(options)
    size = options.image_size or 224
    with tempfile.TemporaryDirectory(prefix="transfer_input_") as temporary:
        sources: dict[str, Source] = {}
        for name, folder in _folders(options, Path(temporary)).items():
            sources[name] = folder
            yield measure_loading(name, folder, Preprocessing((size, size)), options)
        images = np.random.default_rng(options.seed).integers(0, 256, (FILES, 32, 32, 3), np.uint8)
        sources[IN_MEMORY] = ArraySource(IN_MEMORY, images, np.zeros(FILES, int))
        for case in cases:
            network = load(NetworkSpec.of(case.model, options))
            settings = {"dtype": case.dtype, "precision": options.precision}
            extractor = network.extractor(options.tap, batch_size=case.batch, **settings)
            for name, source in sources.items():
                yield {**case._asdict(), **measure_end_to_end(name, extractor, source, options)}


def _folders(options: argparse.Namespace, temporary: Path) -> dict[str, FolderSource]:
    """The user's own folder, or those that are made."""
    if options.images:
        return {options.images: open_split(options.images, None)}
    names = chosen("folders", options.folders or "*", FOLDERS)
    for name in names:
        photographs.write(temporary / name, FOLDERS[name], FILES, options.seed)
    return {name: open_split(str(temporary / name), None) for name in names}


def measure_loading(
    name: str, source: FolderSource, recipe: Preprocessing, options: argparse.Namespace
) -> dict[str, Any]:
    """Images a second of each way to load a folder, in interleaved rounds.

    Returns:
      JSON-able: "kind", "case", "image_size", "threads"; "seconds", contender -> seconds an image, one figure a round;
      "ratio", contender -> how many times the yardstick's rate, the median over rounds.
    """
    draft = Preprocessing(recipe.image_size, resize="draft")
    repeated = select(source, np.arange(REPEATED) % len(source))
    repeated.uniform_shape = source.uniform_shape  # read from every file's header once

    def stream(recipe: Preprocessing, canvases: bool) -> Iterator[Batch]:
        while True:
            yield from batches(repeated, 0, REPEATED, LOADED_BATCH, recipe, prefetch=PREFETCH, canvases=canvases)

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(default_workers()))

        def loader(recipe: Preprocessing, canvases: bool) -> Several:
            """Our loader over the folder again and again, once it runs, without what it had prepared before."""
            running = stack.enter_context(contextlib.closing(stream(recipe, canvases)))  # type: ignore[type-var]
            return Several(lambda: next(running), LOADED_BATCH, skip=PREFETCH + 1)

        contenders = {
            YARDSTICK: _pillow(pool, source, recipe, _draft),
            "Pillow decode + resize": _pillow(pool, source, recipe, _decode_and_resize),
            "ours": loader(recipe, canvases=False),
        }
        if needs_resizing(source, recipe):
            contenders["ours, device resizes"] = loader(recipe, canvases=True)
        if needs_resizing(source, draft):
            contenders["ours, draft"] = loader(draft, canvases=True)
        samples = _timed(f"loading {name}", contenders, options)
    return {
        "kind": "loading",
        "case": name,
        "image_size": list(recipe.image_size),
        "threads": default_workers(),
        "seconds": samples,
        "ratio": {name: median_ratio(ours, samples[YARDSTICK]) for name, ours in samples.items()},
    }


def _timed(
    title: str, contenders: Mapping[str, Callable[[], Any]], options: argparse.Namespace
) -> dict[str, list[float]]:
    with Progress(title, options.rounds, "rounds") as progress:
        return interleaved(contenders, options.rounds, 1, options.seconds, lambda done: progress.update())


def _draft(file: io.BytesIO, size: tuple[int, int]) -> None:
    with Image.open(file) as image:
        image.draft("RGB", size)
        image.load()


def _decode_and_resize(file: io.BytesIO, size: tuple[int, int]) -> None:
    with Image.open(file) as image:
        np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


def _pillow(
    pool: ThreadPoolExecutor, source: FolderSource, recipe: Preprocessing, load: Callable[[io.BytesIO, Any], None]
) -> Several:
    """Pillow in every thread of a pool, one file after another."""
    files = itertools.cycle([entry.locator for entry in source.files])
    threads, (height, width) = default_workers(), recipe.image_size

    def load_all(locators: Sequence[Any]) -> None:
        for locator in locators:
            load(io.BytesIO(source.container.read(locator)), (width, height))

    def call() -> None:
        locators = list(itertools.islice(files, LOADED_BATCH * threads))
        list(pool.map(load_all, [locators[k::threads] for k in range(threads)]))

    return Several(call, LOADED_BATCH * threads)


def measure_end_to_end(name: str, extractor: Extractor, source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image on the device alone, and from `source` into a feature store, in interleaved rounds.

    Images that the loader resizes are resized before "compute"; others are resized within it, by the device.
    """
    recipe, size = extractor.preprocessing, extractor.batch_size
    resized = needs_resizing(source, recipe)
    batch = next(batches(source, 0, min(len(source), size), size, recipe))
    images = jax.device_put(batch.images, extractor.program.sharding)

    def compute() -> None:
        jax.block_until_ready(extractor.compute(images, resized))

    compute()
    computing = Several(compute, size)
    count = size * max(FEWEST_BATCHES, round(options.seconds / (computing.timed(options.seconds) * size)))
    repeated = select(source, np.arange(count) % len(source))
    with tempfile.TemporaryDirectory(prefix="transfer_input_store_") as stores:
        numbers = itertools.count()
        extracting = Several(lambda: extract_to_store(extractor, repeated, Path(stores, str(next(numbers)))), count)
        samples = _timed(f"end to end, {name}", {COMPUTE: computing, END_TO_END: extracting}, options)
    ratio = median_ratio(samples[END_TO_END], samples[COMPUTE])
    return {
        "kind": "end to end",
        "case": name,
        "image_size": list(recipe.image_size),
        "images": count,
        "seconds": samples,
        "ratio": ratio,
        "idle_share": max(1 - ratio, 0.0),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text: images a second (median) and what they are measured against."""
    parts = []
    passes = [["model", "batch", "dtype", "images", "px", f"{COMPUTE}, images/s", END_TO_END, "ratio", "idle"]]
    for row in rows:
        rates = {name: f"{1 / statistics.median(seconds):.4g}" for name, seconds in row["seconds"].items()}
        if row["kind"] == "loading":
            height, width = row["image_size"]
            lines = [["loading", "images/s", f"x {YARDSTICK}"]]
            lines += [[name, rate, f"{row['ratio'][name]:.2f}"] for name, rate in rates.items()]
            title = f"{row['case']} to {width}x{height}, {row['threads']} threads"
            parts.append(f"{title}\n{tables.text(lines, left=1)}")
        else:
            case = [row["model"], str(row["batch"]), row["dtype"], row["case"], pixels(row["image_size"])]
            passes.append([*case, *rates.values(), f"{row['ratio']:.3f}", f"{row['idle_share']:.0%}"])
    return "\n\n".join([*parts, *([tables.text(passes, left=1)] if len(passes) > 1 else [])])
