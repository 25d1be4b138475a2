"""Writes the table of models.md that says which to take, from the catalogue and from what `benchmarks/` has measured.

python docs/models.py
"""

import json
import re
from pathlib import Path

from transfer.runtime import tables
from transfer.weights import catalogue

PAGE = Path(__file__).with_name("models.md")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BLOCK = re.compile(r"<!-- which -->\n.*?<!-- /which -->", re.DOTALL)
# A name of the catalogue -> what it is taken for.
CHOICE = {
    "vgg11_slim.cifar10": "trying things: it ships with the package",
    "resnet18.tv": "a CPU, and images like photographs",
    "googlenet.tv": "a CPU, the smallest of ImageNet's files",
    "resnet50.tv1": "a figure beside other people's; the usual first choice",
    "resnet50.tv2": "the same network, trained longer",
    "vgg16.keras": "the published lab",
    "inception_v3.keras": "the published lab",
    "resnet50.keras": "the published lab",
    "resnext101_32x8d.tv2": "a GPU: the highest accuracy on ImageNet in this table",
}
MISSING = ""


def speed(folder: str, record: catalogue.Record) -> str:
    """The most images a second, from NumPy to NumPy, measured of this architecture; empty where none was."""
    measured = [each for each in catalogue.records().values() if each.arch == record.arch and not each.fields]
    if record.gflops not in [each.gflops for each in measured]:
        return MISSING  # a variant, such as Keras' ResNet, which strides elsewhere
    rows = [
        row for path in sorted((BENCHMARKS / folder).glob("*.json")) for row in json.loads(path.read_text())["rows"]
    ]
    found = [
        row["images_per_second_end_to_end"]
        for row in rows
        if row["kind"] == "extractor"
        and row["model"] == record.arch
        and tuple(row["image_size"]) == record.preprocessing.image_size
    ]
    return f"{float(f'{max(found):.3g}'):,.0f}" if found else MISSING


def which() -> str:
    """The table of those that are worth knowing by name."""
    rows = [("name", "MB", "GFLOPs", "features", "top-1", "images/s, CPU", "images/s, H100", "take it for")]
    for name, purpose in CHOICE.items():
        record = catalogue.get(name)
        rows.append(
            (
                f"`{name}`",
                f"{record.num_params * 4e-6:.0f}",
                str(record.gflops),
                f"{record.num_features:,}",
                f"{record.acc1}" + ("" if record.dataset == "ImageNet-1k" else f" ({record.dataset})"),
                *(speed(folder, record) for folder in ("cpu", "gpu")),
                purpose,
            )
        )
    return tables.markdown(rows)


def refreshed(page: str) -> str:
    """The page with the table as it is now."""
    return BLOCK.sub(lambda _: f"<!-- which -->\n{which()}\n<!-- /which -->", page)


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text("utf-8")), "utf-8")
