"""`.onnx`: one protobuf message with a graph and its initialisers, which may lie in a second file.

The names of initialisers are the exporter's: PyTorch's own, or numbers. So what is read knows its graph too, and
`transfer.weights.follow` finds the model's arrays by its edges where no name map knows the names.
"""

from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import TransferError, how_to_add
from transfer.weights.readers._onnx_operators import OPERATORS
from transfer.weights.readers._onnx_sizes import check_functions
from transfer.weights.readers._onnx_steps import Steps

FORMAT = "ONNX"
# The message begins with field 1, ir_version, a small number; these are the tags of the fields that may follow.
IR_VERSION_TAG, LARGEST_IR_VERSION = 0x08, 0x40
NEXT_TAGS = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)


class OnnxTensors(dict[str, np.ndarray]):
    """The tensors that layers take, by name, in PyTorch's layouts; and the `steps` that take them."""

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps.named)
        self.steps = steps


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first two fields are those of a `ModelProto`."""
    return len(head) > 2 and head[0] == IR_VERSION_TAG and head[1] < LARGEST_IR_VERSION and head[2] in NEXT_TAGS


def read(path: Path) -> OnnxTensors:
    """The tensors of every layer that leads to an output.

    Raises:
      TransferError: the package `onnx` is not installed; an operator that is not known here, a graph with a part
        missing, external data missing or outside the file's folder.
    """
    model = _parse(path)
    if model.functions:
        from onnx import inliner

        check_functions(model)
        model = inliner.inline_local_functions(model)
    return OnnxTensors(Steps(model, path.parent, OPERATORS))


def _parse(path: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise TransferError(f"an ONNX file, which takes the package onnx: {how_to_add('onnx')}") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise TransferError(f"a damaged or truncated {FORMAT} file ({' '.join(str(error).split())})") from error
    if not model.graph.node or not model.opset_import:
        raise TransferError(f"a damaged or truncated {FORMAT} file (no nodes, or no version of the operators)")
    return model
