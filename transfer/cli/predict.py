"""`python -m transfer predict`: images classified by a finished run or a pretrained network, as CSV or JSON lines."""

import argparse
import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from transfer.cli.main import Action, output_file
from transfer.data.folder import open_images
from transfer.data.loader import ON_ERROR
from transfer.data.source import BrokenImage
from transfer.errors import TransferError, UsageError
from transfer.runtime import cache, tables
from transfer.runtime.devices import use_cores
from transfer.runtime.files import atomic
from transfer.runtime.progress import Progress

# Digits that tell any two float32 apart.
DIGITS = 9
# How a file of predictions begins, as CSV and as JSON lines.
BEGINNINGS = (b"image,class,probability", b"image,probability of ", b"image,value of ", b'{"image":')
# What a run predicts -> what its numbers are called, in CSV and in JSON.
NUMBERS = {
    "classes": ("probability of", "probabilities"),
    "labels": ("probability of", "probabilities"),
    "values": ("value of", "values"),
}


class Row(NamedTuple):
    """The result for an image: its likeliest classes, most likely first; none of one that could not be read."""

    image: str
    top: list[tuple[str, float]]
    everything: list[float]
    error: str | None


def predict(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `predict --workdir DIR IMAGE_OR_FOLDER…`, or with `--model NAME`."""
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="files, and folders, zips, tars of images")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", metavar="DIR", help="folder of the finished run")
    which.add_argument(
        "--model", metavar="NAME", help="instead of a run, a network with the classifier of its own file"
    )
    parser.add_argument("--weights", metavar="FILE", help="of --model, for one that has none or others")
    parser.add_argument("--head", choices=["file"], help="of --model: what follows the network in a whole Keras model")
    parser.add_argument("--format", choices=WRITERS, default="csv", help="default: csv; jsonl is an object a line")
    parser.add_argument(
        "--top", type=int, default=1, metavar="K", help="number of classes to show per image (default: 1)"
    )
    parser.add_argument("--all", action="store_true", help="also the probability of every class")
    parser.add_argument("--output", metavar="FILE", help="a file, instead of the screen")
    parser.add_argument(
        "--on_error", choices=ON_ERROR, default="raise", help="skip: go on after an image that cannot be read"
    )
    parser.add_argument("--batch_size", type=int, metavar="N", help="images per batch (default: the run's)")
    cache.add_argument(parser)

    return _predict


def _predict(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise UsageError(f"--top={options.top} must be at least 1")
    if options.model is None and (options.weights or options.head):
        raise UsageError("--weights and --head are of a --model; a run has its own")
    if options.output is not None:
        mine = "predictions"
        output_file(options.output, earlier=lambda content: content.startswith(BEGINNINGS), what=mine)
    cache.keep_compiled(options.compilation_cache)
    use_cores()
    from transfer.export import finished_run
    from transfer.export.predictor import Predictor, suitable_batch

    source = open_images(options.images)
    if options.model is None:
        run = finished_run.load(options.workdir)
    else:
        run = finished_run.of_network(options.model, options.weights, head=options.head)
    if run.kind != "classes":
        if options.top != 1:
            raise UsageError(f"--top={options.top} is of classes, and this run predicts {run.kind}")
        options.top, options.all = 0, True  # no label and no value is first
    predictor = Predictor(run, suitable_batch(run, len(source), options.batch_size))
    rows = _rows(predictor, source, options)
    rows = itertools.chain([next(rows)], rows)  # where the first cannot be read, nothing is printed
    skipped = 0
    to_file = options.output is not None
    with atomic.writing(options.output) if to_file else nullcontext(sys.stdout.buffer) as stream:
        # the bytes of a name that is no UTF-8 stay as they are in CSV; of JSON they are escapes, for it is UTF-8
        errors = "surrogateescape" if options.format == "csv" else "backslashreplace"
        text = io.TextIOWrapper(stream, "utf-8", errors=errors, newline="", write_through=True)
        try:
            write = WRITERS[options.format](text, predictor.class_names, options, run.kind)
            for row in rows:
                write(row)
                skipped += row.error is not None
        finally:
            text.detach()  # else it closes what it writes to, the screen, too
        stream.flush()
    if skipped == len(source):
        raise TransferError(f"{_images(skipped)} given, and none could be read")
    note = f", {skipped} could not be read" if skipped else ""
    where = f": {options.output}" if options.output else ""
    print(f"{_images(len(source) - skipped)} classified{note}{where}", file=sys.stderr)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _rows(predictor: Any, source: Any, options: argparse.Namespace) -> Iterator[Row]:
    names = predictor.class_names
    with Progress("predict", len(source), "images") as progress:
        try:
            for batch, probabilities in predictor.stream(source, options.on_error):
                for row, of_image in enumerate(probabilities, batch.start):
                    if row in batch.failed:
                        yield Row(source.ids[row], [], [], _why(source, row))
                        continue
                    likeliest = np.argsort(-of_image, kind="stable")[: options.top]
                    top = [(names[i], _number(of_image[i])) for i in likeliest]
                    yield Row(source.ids[row], top, list(map(_number, of_image)) if options.all else [], None)
                progress.update(batch.size)
        except BrokenImage as error:
            raise BrokenImage(f"{error}; --on_error=skip goes on without it") from error


def _number(value: np.float32) -> float:
    return float(f"{value:.{DIGITS}g}")


def _why(source: Any, row: int) -> str:
    """The reason why an image could not be read, from reading it once more; logged, too."""
    try:
        source.image(row)
    except TransferError as error:
        logging.warning("%s", error)
        return str(error)
    return "it could not be read"


def _csv(text: Any, names: Sequence[str], options: argparse.Namespace, kind: str = "classes") -> Callable[[Row], None]:
    writer = csv.writer(text, lineterminator="\n")
    top = min(options.top, len(names))
    pairs = [("class", "probability"), *((f"class_{k}", f"probability_{k}") for k in range(2, top + 1))][:top]
    everything = [f"{NUMBERS[kind][0]} {name}" for name in names] if options.all else []
    header = ["image", *(name for pair in pairs for name in pair), *everything]
    writer.writerow(header)

    def write(row: Row) -> None:
        cells = [row.image, *(cell for pair in row.top for cell in pair), *row.everything]
        writer.writerow(tables.without_formulas(cells) + [""] * (len(header) - len(cells)))

    return write


def _jsonl(
    text: Any, names: Sequence[str], options: argparse.Namespace, kind: str = "classes"
) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        line: dict[str, Any] = {"image": row.image}
        if row.error is not None:
            line["error"] = row.error
        else:
            if row.top:
                best, probability = row.top[0]
                line |= {"class": best, "probability": probability}
            if options.top > 1:
                line["top"] = [{"class": name, "probability": value} for name, value in row.top]
            if options.all:
                line[NUMBERS[kind][1]] = dict(zip(names, row.everything, strict=True))
        text.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


# The value of --format -> (stream, class names, options, what is predicted) -> what writes a row.
WRITERS = {"csv": _csv, "jsonl": _jsonl}
