"""The graphs of `make_onnx_around.py` as models that run, filled with seeded numbers."""

import functools
import json
import zipfile
from pathlib import Path
from typing import Any

from golden import onnx_graphs

ARCHIVE = Path(__file__).parent / "onnx_around.zip"


@functools.cache
def cases() -> list[dict[str, Any]]:
    """What each graph is made of (`onnx_around.Plan.case`), with its exporter and its outcome."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return json.loads(archive.read("cases.json"))


def model(number: int) -> Any:
    """The graph of a case with numbers in it."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return filled(archive.read(f"{number:03}.onnx"))


def filled(content: bytes) -> Any:
    """A stored graph with seeded numbers for the weights that it lacks."""
    import onnx

    found = onnx.load_model_from_string(content)
    onnx_graphs.fill(found, "around")
    return found
