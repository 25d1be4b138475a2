"""The features of validation rows as TensorBoard's projector reads them: points, what each is, and their images."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from transfer.evaluation import predictions as kept
from transfer.report.feature_map import components, sample
from transfer.report.images import tiled
from transfer.report.run_data import RunData
from transfer.report.templates import output_names, valid_text
from transfer.runtime.files import atomic

CONFIG = "projector_config.pbtxt"
FOLDER = "projector"
# More rows are sampled: the projector lays out all that it is given, and their images have to be read.
MOST_ROWS = 500
# The first principal components: what the projector lays out, and the time of the end of every run.
MOST_NUMBERS = 20
SIDE = 32


def write(run: RunData) -> None:
    """Writes `projector/` and, last, `projector_config.pbtxt` into the folder of the run's predictions.

    Does nothing where they are there and newer than the predictions, or the run's features are not there. Raises
    OSError where nothing can be written.
    """
    predictions, config = run.predictions, run.folder / CONFIG
    if predictions is None or (config.exists() and config.stat().mtime >= (run.folder / kept.FILE).stat().mtime):
        return
    rows = sample(len(predictions), MOST_ROWS, 0)
    features = run.features(rows)
    if features is None or len(rows) < 3:
        return
    places, _ = components(np.nan_to_num(features, posinf=0, neginf=0), min(MOST_NUMBERS, *features.shape))
    target = run.folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    atomic.write_text(target / "tensors.tsv", _lines("\t".join(f"{x:.5g}" for x in row) for row in places))
    atomic.write_text(target / "metadata.tsv", _lines(_metadata(run, rows)))
    images = run.thumbnails(rows, SIDE)
    sprite = any(image is not None for image in images)
    if sprite:
        # a square, row by row, as the projector cuts it up
        across = math.ceil(math.sqrt(len(images)))
        sheet = tiled([*images, *[None] * (across**2 - len(images))], SIDE, across)
        with atomic.writing(target / "sprite.png") as stream:
            Image.fromarray(sheet).save(stream, "PNG")
    atomic.write_text(config, _config(places.shape, run.result.get("tap"), sprite))


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _metadata(run: RunData, rows: np.ndarray) -> Iterator[str]:
    """A heading and a line a row: which image, what it is, what the run took it for."""
    predictions = run.predictions
    assert predictions is not None
    if predictions.kind != "classes":
        yield from (_cell(predictions.ids[row]) for row in rows)  # a single column has no heading
        return
    classes = [_cell(name) for name in output_names(predictions)]
    yield "id\tclass\tpredicted\tright"
    for row in rows:
        actual, said = classes[predictions.labels[row]], classes[predictions.top[row, 0]]
        yield f"{_cell(predictions.ids[row])}\t{actual}\t{said}\t{'right' if actual == said else 'wrong'}"


def _cell(text: object) -> str:
    """The text on one line, without tabs, and not empty, which the projector would take for no line at all."""
    return " ".join(valid_text(text).split()) or "-"


def _config(shape: tuple[int, ...], tap: object, sprite: bool) -> str:
    """The projector's protocol buffer as text; its paths are from the folder that it lies in."""
    lines = [
        "embeddings {",
        f'  tensor_name: "features{f" of {_cell(tap)}" if tap else ""}"',
        *(f"  tensor_shape: {size}" for size in shape),
        f'  tensor_path: "{FOLDER}/tensors.tsv"',
        f'  metadata_path: "{FOLDER}/metadata.tsv"',
    ]
    if sprite:
        lines += ["  sprite {", f'    image_path: "{FOLDER}/sprite.png"', *[f"    single_image_dim: {SIDE}"] * 2, "  }"]
    return _lines([*lines, "}"])
