"""The head of a run as plain dense layers, scaling folded in, in the file formats of others.

Rows of features (N, D) float32 in, probabilities (N, C) float32 out.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import UsageError
from transfer.export.finished_run import FinishedRun
from transfer.export.program import columns_of
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import digest

ACTIVATIONS = {"classes": "softmax", "labels": "sigmoid", "values": "linear"}
# The logit of a class that the head has never seen: its probability is 0.
NEVER = -1e9
OPSET, IR_VERSION = 13, 8
# The least norm that is divided by, so that rows of zeros stay zeros.
TINY = 1e-30
ONNX_ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "linear": "Identity"}


class Layers(NamedTuple):
    """Dense layers on rows of features, with a ReLU between each and the next.

    Attributes:
        kernels: float32 (D, U) each.
        biases: float32 (U,) each.
        unit: whether rows are brought to unit norm first; rows of zeros stay zeros.
        activation: "softmax", "sigmoid" or "linear", on the last.
        class_names: the C or L names of the outputs, or those of the values.
    """

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    unit: bool
    activation: str
    class_names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of features of a row."""
        return len(self.kernels[0])


def layers_of(run: FinishedRun) -> Layers:
    """The dense layers of a run's head; UsageError where the run has no head, or one of another kind."""
    if run.head is None:
        raise UsageError(f"--workdir={run.workdir} trained the network itself, which --format=stablehlo exports")
    if not hasattr(run.head, "dense"):
        raise UsageError(f"--workdir={run.workdir}: its head, {type(run.head).__name__}, cannot be exported")
    try:
        dense = run.head.dense().folded(run.head.scaler_)
    except UsageError as error:
        raise UsageError(f"--workdir={run.workdir}: {error}; --format=stablehlo holds any head") from error
    kernels, biases = [[array.astype(np.float32) for array in arrays] for arrays in (dense.kernels, dense.biases)]
    columns = columns_of(run)
    if columns is not None:
        wide = np.zeros((len(kernels[-1]), len(run.class_names)), np.float32)
        wide[:, columns] = kernels[-1]
        bias = np.full(len(run.class_names), NEVER, np.float32)
        bias[columns] = biases[-1]
        kernels[-1], biases[-1] = wide, bias
    return Layers(kernels, biases, dense.unit, ACTIVATIONS[run.kind], tuple(run.class_names))


def safetensors(layers: Layers) -> bytes:
    """A `.safetensors` file: `W1` (D, U), `b1` (U,), `W2`, …, the rest in the metadata, class names as JSON."""
    tensors: dict[str, np.ndarray] = {}
    for number, (kernel, bias) in enumerate(zip(layers.kernels, layers.biases, strict=True), 1):
        tensors |= {f"W{number}": kernel.copy(order="C"), f"b{number}": bias}
    metadata = {"unit_norm_first": str(layers.unit).lower(), "between": "relu", "activation": layers.activation}
    metadata["class_names"] = json.dumps(layers.class_names, ensure_ascii=False)
    return b"".join(bytes(piece) for piece in digest.safetensors(tensors, metadata))


def onnx(layers: Layers) -> bytes:
    """An ONNX graph from `features` to `probabilities`, names in the metadata; UsageError where `onnx` is missing."""
    try:
        import onnx
    except ImportError as error:
        raise UsageError(f"--format=onnx needs the package onnx: {install_hint('onnx')}") from error
    helper: Any = onnx.helper
    nodes, constants = _onnx_graph(helper, layers)
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


def _onnx_graph(helper: Any, layers: Layers) -> tuple[list[Any], dict[str, np.ndarray]]:
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
    nodes.append(helper.make_node(ONNX_ACTIVATIONS[layers.activation], [value], ["probabilities"], **attributes))
    return nodes, constants


def keras(layers: Layers) -> bytes:
    """A `.keras` file, which any backend of Keras reads; UsageError where Keras is not installed."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # the one that is here; Keras takes another where one is set
    try:
        import keras
    except ImportError as error:
        raise UsageError("--format=keras needs Keras: pip install keras") from error
    inputs: Any = keras.Input((layers.width,), dtype="float32", name="features")
    value = keras.layers.UnitNormalization(axis=-1, name="unit")(inputs) if layers.unit else inputs
    dense = []
    for number, kernel in enumerate(layers.kernels, 1):
        activation = layers.activation if number == len(layers.kernels) else "relu"
        dense.append(keras.layers.Dense(kernel.shape[1], activation=activation, name=f"dense{number}"))
        value = dense[-1](value)
    model = keras.Model(inputs, value, name="head")
    for layer, kernel, bias in zip(dense, layers.kernels, layers.biases, strict=True):
        layer.set_weights([kernel, bias])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "head.keras")
        model.save(path)
        return path.read_bytes()


# The value of `--format` -> what makes the bytes of the file.
WRITERS = {"safetensors": safetensors, "onnx": onnx, "keras": keras}
