"""`python -m transfer bench --input`: how fast images come in, and whether they keep up with the network.

For folders of JPEGs, images a second of one thread a core: Pillow's `draft` and decoding alone, which is the yardstick;
Pillow up to resized pixels; our loader as it feeds a CPU, where it resizes mixed sizes itself; as it feeds a GPU, which
resizes them; and the same with `resize="draft"`. Then for each network and folder, and for uint8 images in memory: what
the device computes in a second if nothing else is to be done, and what arrives in a feature store, end to end.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transfer.bench import loading, photographs
from transfer.bench.cases import DEFAULT_BATCH, cases, whole_numbers, words
from transfer.bench.network import Wanted, load
from transfer.data.folder import FolderSource, open_split
from transfer.data.frames import needs_resizing
from transfer.data.loader import batches
from transfer.data.source import ArraySource, Source, select
from transfer.errors import UsageError
from transfer.extract.extractor import Extractor
from transfer.extract.to_store import extract_to_store
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime import tables
from transfer.runtime.progress import Progress
from transfer.runtime.timing import interleaved, median_ratio

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
FEWEST_BATCHES = 6  # of a pass end to end, for there is something to overlap


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each folder, then one for each network, batch and folder. UsageError for unknown names."""
    chosen = cases(
        options.models, whole_numbers("batch", options.batch or DEFAULT_BATCH), words("dtype", options.dtype)
    )
    size = options.image_size or 224
    with tempfile.TemporaryDirectory(prefix="transfer_input_") as temporary:
        sources = _sources(options, Path(temporary))
        for name, source in sources.items():
            yield loading.measure(name, source, Preprocessing((size, size)), options.rounds, options.seconds)
        inputs: dict[str, Source] = {**sources, IN_MEMORY: _in_memory(options.seed)}
        for case in chosen:
            network = load(Wanted(case.model, options.weights, options.tap, options.image_size, options.seed))
            extractor = Extractor(
                network.model,
                tap=options.tap,
                batch_size=case.batch,
                dtype=case.dtype,
                precision=options.precision,
                preprocessing=network.preprocessing,
            )
            for name, given in inputs.items():
                yield {**case._asdict(), **end_to_end(name, extractor, given, options.rounds, options.seconds)}


def _sources(options: argparse.Namespace, temporary: Path) -> dict[str, FolderSource]:
    if options.images:
        return {options.images: open_split(options.images, None)}
    names = words("folders", options.folders) if options.folders else list(FOLDERS)
    unknown = [name for name in names if name not in FOLDERS]
    if unknown:
        raise UsageError(f"--folders={','.join(unknown)} is not one of {', '.join(FOLDERS)}")
    sources: dict[str, FolderSource] = {}
    for name in names:
        photographs.write(temporary / name, FOLDERS[name], FILES, options.seed)
        sources[name] = open_split(str(temporary / name), None)
    return sources


def _in_memory(seed: int) -> Source:
    images = np.random.default_rng(seed).integers(0, 256, (FILES, 32, 32, 3), np.uint8)
    return ArraySource(IN_MEMORY, images, np.zeros(FILES, int))


def end_to_end(name: str, extractor: Extractor, source: Source, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds an image on the device alone, and from `source` into a feature store, in interleaved rounds.

    Images that the loader resizes are resized before "compute"; others are resized within it, by the device.
    """
    computing = Computing(extractor, source)
    computing.timed(0)
    count = max(FEWEST_BATCHES, round(seconds / (computing.timed(seconds) * extractor.batch_size)))
    rows_ = np.arange(count * extractor.batch_size) % len(source)
    contenders: dict[str, Any] = {COMPUTE: computing, END_TO_END: EndToEnd(extractor, select(source, rows_))}
    with Progress(f"end to end, {name}", rounds, "rounds") as progress:
        samples = interleaved(contenders, rounds, 1, seconds, lambda done: progress.update())
    return {
        "kind": "end to end",
        "case": name,
        "image_size": list(extractor.preprocessing.image_size),
        "images": len(rows_),
        "seconds": samples,
        "ratio": median_ratio(samples[END_TO_END], samples[COMPUTE]),
    }


class Computing:
    """The program on one batch of the source that lies on the device, again and again; times itself."""

    def __init__(self, extractor: Extractor, source: Source) -> None:
        self.extractor, recipe = extractor, extractor.preprocessing
        self.resized = needs_resizing(source, recipe)
        batch = next(batches(source, 0, min(len(source), extractor.batch_size), extractor.batch_size, recipe))
        self.images = jax.device_put(batch.images, extractor.program.sharding)

    def __call__(self) -> None:
        self.timed(0)

    def timed(self, seconds: float) -> float:
        """Seconds an image, in the mean."""
        steps, start = 0, time.perf_counter()
        while not steps or time.perf_counter() - start < seconds:
            jax.block_until_ready(self.extractor.compute(self.images, self.resized))
            steps += 1
        return (time.perf_counter() - start) / (steps * self.extractor.batch_size)


class EndToEnd:
    """A pass over a source into a new store; times itself."""

    def __init__(self, extractor: Extractor, source: Source) -> None:
        self.extractor, self.source = extractor, source

    def __call__(self) -> None:
        self.timed(0)

    def timed(self, seconds: float) -> float:
        """Seconds an image, in the mean of one pass, however long."""
        folder = tempfile.mkdtemp(prefix="transfer_input_store_")
        try:
            start = time.perf_counter()
            extract_to_store(self.extractor, self.source, folder)
            return (time.perf_counter() - start) / len(self.source)
        finally:
            shutil.rmtree(folder)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """For a person: images a second (median) and what they are measured against."""
    parts = [_loading_table(row) for row in found if row["kind"] == "loading"]
    passes = [row for row in found if row["kind"] != "loading"]
    return "\n\n".join([*parts, *([_end_to_end_table(passes)] if passes else [])])


def _loading_table(row: Mapping[str, Any]) -> str:
    lines = [["loading", "images/s", f"x {loading.YARDSTICK}"]]
    lines += [[name, _rate(taken), f"{row['ratio'][name]:.2f}"] for name, taken in row["seconds"].items()]
    height, width = row["image_size"]
    return f"{row['case']} to {width}x{height}, {row['threads']} threads\n{tables.text(lines, left=1)}"


def _end_to_end_table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [["model", "batch", "dtype", "images", "px", f"{COMPUTE}, images/s", END_TO_END, "ratio"]]
    for row in found:
        rates = [_rate(row["seconds"][name]) for name in (COMPUTE, END_TO_END)]
        case = [row["model"], str(row["batch"]), row["dtype"], row["case"], str(row["image_size"][0])]
        lines.append([*case, *rates, f"{row['ratio']:.3f}"])
    return tables.text(lines, left=1)


def _rate(seconds: Sequence[float]) -> str:
    return f"{1 / statistics.median(seconds):.4g}"
