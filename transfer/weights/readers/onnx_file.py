"""`.onnx`: one protobuf message with a graph and its initialisers, which may lie in a second file.

The names of initialisers are the exporter's: PyTorch's own, or numbers. So what is read knows its graph too, and
`transfer.weights.onnx.follow` finds the model's arrays by its edges where no name map knows the names.
"""

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from transfer.errors import TransferError
from transfer.runtime.distribution import install_hint
from transfer.runtime.files.untrusted import printable
from transfer.weights.onnx.constants import check_functions, initialiser
from transfer.weights.onnx.operators import OPERATORS
from transfer.weights.onnx.reading import ImageShape, OnnxUnits, UnsupportedNode, images_of, inputs_of, title_of
from transfer.weights.onnx.units import Unit
from transfer.weights.readers import Format
from transfer.weights.readers._described import Described

FORMAT = "ONNX"
# The message begins with field 1, ir_version, a small number; these are the tags of the fields that may follow.
IR_VERSION_TAG, LARGEST_IR_VERSION = 0x08, 0x40
NEXT_TAGS = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)
# Tried in turn where the file leaves the size of its images open.
SIDES, CHANNELS = (224, 299, 32, 28), (3, 1)
# Operators that round what a network computes, of ONNX and ONNX Runtime; DequantizeLinear alone is of stored weights.
QUANTISED = re.compile("QLinear|QGemm|QAttention|Integer|Quantize|NBits")


class OnnxTensors(Described):
    """The tensors that layers take, by name, in PyTorch's layouts; `functions` stand behind the last layer."""

    functions: Sequence[Unit] = ()

    def __init__(self, graph: OnnxUnits, at: Callable[[ImageShape], OnnxUnits] | None) -> None:
        """`graph` takes them; `at` is the same for images (H, W, C), where the file leaves their size open."""
        super().__init__(graph.named)
        self.graph, self.at = graph, at


def recognises(head: bytes, members: Collection[str] = ()) -> bool:
    """Whether the first two fields are those of a `ModelProto`."""
    return len(head) > 2 and head[0] == IR_VERSION_TAG and head[1] < LARGEST_IR_VERSION and head[2] in NEXT_TAGS


def read(path: Path) -> OnnxTensors:
    """The tensors of every layer that leads to an output.

    Raises TransferError where the package `onnx` is not installed, and for a graph with a part missing, external data
    missing or outside the file's folder.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import inliner
    except ImportError as error:
        raise TransferError(f"an ONNX file, which takes the package onnx: {install_hint('onnx')}") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise TransferError(f"a damaged or truncated {FORMAT} file ({' '.join(str(error).split())})") from error
    if not model.graph.node or not model.opset_import:
        raise TransferError(f"a damaged or truncated {FORMAT} file (no nodes, or no version of the operators)")
    if model.functions:
        check_functions(model)
        model = inliner.inline_local_functions(model)
    quantised = next((node for node in model.graph.node if QUANTISED.search(node.op_type)), None)
    if quantised is not None:
        raise TransferError(
            f"a quantised network ({printable(title_of(quantised))}): export the float model it was made from"
        )
    stored = {each.name: cache(partial(initialiser, each, path.parent)) for each in model.graph.initializer}
    at = partial(OnnxUnits, model, stored, OPERATORS)
    shapes = _image_shapes(model.graph)
    graphs = map(at, shapes)
    graph = next(graphs)
    if graph.problem or not graph.is_consistent:
        graph = next((other for other in graphs if other.problem is None and other.is_consistent), graph)
    return OnnxTensors(graph, at if len(shapes) > 1 else None)


def _image_shapes(graph: Any) -> list[ImageShape]:
    """(H, W, C) as the file says, or what may be tried for what it leaves open."""
    height = width = channels = 0
    with suppress(IndexError, UnsupportedNode):
        _, (height, width, channels), _ = images_of(inputs_of(graph)[0])
    shapes = [(height or side, width or side, channels or count) for count in CHANNELS for side in SIDES]
    return list(dict.fromkeys(shapes))


FORMATS = (Format(FORMAT, recognises, read),)
