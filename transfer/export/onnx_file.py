"""A head as an ONNX graph: `features` (N, D) float32 in, `probabilities` (N, C) float32 out; names in the metadata."""

import json
from typing import Any

import numpy as np

from transfer.errors import UsageError
from transfer.export.layers import Layers
from transfer.runtime.distribution import install_hint

OPSET, IR_VERSION = 13, 8
# The least norm that is divided by, so that rows of zeros stay zeros.
TINY = 1e-30
ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "linear": "Identity"}


def content(layers: Layers) -> bytes:
    """The bytes of the file; UsageError where the package `onnx` is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise UsageError(f"--format=onnx needs the package onnx: {install_hint('onnx')}") from error
    helper: Any = onnx.helper
    nodes, constants = _graph(helper, layers)
    number = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("features", number, ["N", layers.width])],
        [helper.make_tensor_value_info("probabilities", number, ["N", len(layers.biases[-1])])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="transfer")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {"class_names": json.dumps(layers.class_names, ensure_ascii=False)})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _graph(helper: Any, layers: Layers) -> tuple[list[Any], dict[str, np.ndarray]]:
    """The nodes of the graph, and its constants by name."""
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}
    value = "features"
    if layers.unit:
        constants["tiny"] = np.float32(TINY).reshape(1)
        nodes += [
            helper.make_node("ReduceL2", ["features"], ["norm"], axes=[1], keepdims=1),
            helper.make_node("Max", ["norm", "tiny"], ["divisor"]),
            helper.make_node("Div", ["features", "divisor"], ["unit"]),
        ]
        value = "unit"
    for number, (kernel, bias) in enumerate(zip(layers.kernels, layers.biases, strict=True), 1):
        if number > 1:
            nodes.append(helper.make_node("Relu", [value], [f"units{number - 1}"]))
            value = f"units{number - 1}"
        constants |= {f"W{number}": kernel, f"b{number}": bias}
        nodes.append(helper.make_node("Gemm", [value, f"W{number}", f"b{number}"], [f"scores{number}"]))
        value = f"scores{number}"
    attributes = {"axis": 1} if layers.activation == "softmax" else {}
    nodes.append(helper.make_node(ACTIVATIONS[layers.activation], [value], ["probabilities"], **attributes))
    return nodes, constants
