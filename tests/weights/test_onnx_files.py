"""One graph is written in many ways: what order, names, layout, types and folding must not matter for."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from golden import onnx_graphs, seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transfer.models import registry
from transfer.weights import create_model

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper, reference  # noqa: E402

# graph -> (model, divisor of its channel counts)
SMALL = {
    "lenet5.legacy": ("lenet5", 1),
    "resnet18.raw": ("resnet18", 16),
    "googlenet.legacy": ("googlenet.tv", 8),
    "vgg16.keras": ("vgg16.keras", 16),
}


def flat(name: str, path: Path, **fields: Any) -> dict[str, np.ndarray]:
    return {key: np.asarray(array) for key, array in registry.flat_state(create_model(name, path, **fields)).items()}


def load(model: Any, path: Path, name: str = "lenet5", **fields: Any) -> dict[str, np.ndarray]:
    onnx.save(model, str(path / "model.onnx"))
    return flat(name, path / "model.onnx", **fields)


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float = 0) -> None:
    assert a.keys() == b.keys()
    for path, array in a.items():
        np.testing.assert_allclose(array, b[path], rtol=tolerance, atol=tolerance, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("graph", SMALL)
def test_names_and_order_do_not_count(graph: str, tmp_path: Path) -> None:
    name, divisor = SMALL[graph]
    model = onnx_graphs.model(graph, divisor)
    expected = load(model, tmp_path, name, width=1 / divisor)
    mixed = onnx_graphs.shuffled(model, random.Random(0))
    assert_equal(load(mixed, tmp_path, name, width=1 / divisor), expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_any_order_of_a_small_graph(tmp_path: Path, seed: int) -> None:
    model = onnx_graphs.model("lenet5.legacy")
    expected = {name: array for name, array in onnx_graphs.arrays(model).items() if name.endswith("weight")}
    found = load(onnx_graphs.shuffled(model, random.Random(seed)), tmp_path)
    np.testing.assert_array_equal(found["conv2.kernel"], expected["conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found["logits.kernel"], expected["fc3.weight"].T)
    # PyTorch flattens (16, 5, 5), we flatten (5, 5, 16)
    turned = expected["fc1.weight"].reshape(120, 16, 5, 5).transpose(2, 3, 1, 0).reshape(400, 120)
    np.testing.assert_array_equal(found["fc1.kernel"], turned)


# What may be done to a graph without changing its function; the arrays that are found may differ by rounding.


def without_names(model: Any) -> None:
    onnx_graphs.rename(model, lambda name: f"renamed {name}")


def untransposed(model: Any) -> None:
    """`transB` 0, the kernels turned: under the same names, which so are no names of PyTorch's layout."""
    arrays = onnx_graphs.arrays(model)
    for node in (each for each in model.graph.node if each.op_type == "Gemm"):
        node.attribute.remove(next(each for each in node.attribute if each.name == "transB"))
        tensor = next(each for each in model.graph.initializer if each.name == node.input[1])
        onnx_graphs.set_array(tensor, arrays[tensor.name].T)


def as_matmul(model: Any) -> None:
    """Gemm as MatMul and Add, the bias on the left."""
    untransposed(model)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        product = f"{node.output[0]} product"
        nodes.append(helper.make_node("MatMul", list(node.input[:2]), [product]))
        nodes.append(helper.make_node("Add", [node.input[2], product], list(node.output)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def as_constants(model: Any) -> None:
    """Every initialiser as a node Constant and an Identity."""
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    for tensor in tensors:
        name = tensor.name
        model.graph.node.append(helper.make_node("Identity", [f"{name} value"], [name]))
        model.graph.node.append(helper.make_node("Constant", [], [f"{name} value"], value=tensor))


def transposed_by_a_node(model: Any) -> None:
    """Convolution kernels stored HWIO, and turned by a Transpose: as a converter from TensorFlow does."""
    arrays = onnx_graphs.arrays(model)
    for node in [each for each in model.graph.node if each.op_type == "Conv"]:
        tensor = next(each for each in model.graph.initializer if each.name == node.input[1])
        onnx_graphs.set_array(tensor, arrays[tensor.name].transpose(2, 3, 1, 0))
        model.graph.node.append(helper.make_node("Transpose", [tensor.name], [f"{tensor.name} t"], perm=[3, 2, 0, 1]))
        node.input[1] = f"{tensor.name} t"


def with_plumbing(model: Any) -> None:
    """Dropout, Identity and Cast behind every node."""
    for node in list(model.graph.node):
        last, out = node.output[0], node.output[0]
        if last in {each.name for each in model.graph.output}:
            continue
        node.output[0] = f"{last} 1"
        model.graph.node.append(helper.make_node("Dropout", [f"{out} 1"], [f"{out} 2"]))
        model.graph.node.append(helper.make_node("Cast", [f"{out} 2"], [f"{out} 3"], to=TensorProto.FLOAT))
        model.graph.node.append(helper.make_node("Identity", [f"{out} 3"], [out]))


def padded_by_a_node(model: Any) -> None:
    """The padding of a convolution as a node of its own."""
    for i, node in enumerate(each for each in list(model.graph.node) if each.op_type == "Conv"):
        pads = next(each for each in node.attribute if each.name == "pads")
        top, left, bottom, right = pads.ints
        numbers = np.array([0, 0, top, left, 0, 0, bottom, right])
        model.graph.initializer.append(numpy_helper.from_array(numbers, f"pads {i}"))
        model.graph.node.append(helper.make_node("Pad", [node.input[0], f"pads {i}"], [f"padded {i}"]))
        node.input[0] = f"padded {i}"
        pads.ints[:] = [0, 0, 0, 0]


def cast_like_floats(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float16(0), "like"))
    model.graph.node.append(helper.make_node("CastLike", [model.graph.input[0].name, "like"], ["cast"]))
    next(node for node in model.graph.node if node.op_type == "Conv").input[0] = "cast"


def gathered_in_order(model: Any) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.arange(28), "rows"))
    model.graph.node.append(helper.make_node("Gather", [model.graph.input[0].name, "rows"], ["gathered"], axis=2))
    next(node for node in model.graph.node if node.op_type == "Conv").input[0] = "gathered"


def ends_in_softmax(model: Any) -> None:
    out = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Softmax", [out], ["probabilities"]))
    model.graph.output[0].name = "probabilities"


def of_open_size(model: Any) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.Clear()


SAME_FUNCTION = [
    *(without_names, untransposed, as_matmul, as_constants, transposed_by_a_node, with_plumbing, padded_by_a_node),
    *(ends_in_softmax, of_open_size, cast_like_floats, gathered_in_order),
]


@pytest.mark.parametrize("change", SAME_FUNCTION, ids=lambda change: change.__name__)
def test_other_ways_to_write_the_same_graph(change: Callable[[Any], None], tmp_path: Path) -> None:
    model = onnx_graphs.model("lenet5.legacy")
    expected = load(model, tmp_path)
    change(model)
    assert_equal(load(model, tmp_path), expected)
    assert_equal(load(onnx_graphs.shuffled(model, random.Random(0)), tmp_path), expected)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_what_goes_into_a_softmax_is_said(op: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = onnx_graphs.model("lenet5.legacy")
    ends_in_softmax(model)
    model.graph.node[-1].op_type, model.graph.node[-1].name = op, "last"
    with caplog.at_level("INFO", logger="absl"):
        load(model, tmp_path)
    assert f"the logits are what goes into {op} 'last'" in caplog.text


def test_a_sigmoid_of_one_number_is_a_softmax_of_two_classes(tmp_path: Path) -> None:
    model = onnx_graphs.model("lenet5.legacy")
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    for each in model.graph.initializer:
        if each.name in last.input:
            onnx_graphs.set_array(each, numpy_helper.to_array(each)[3:4])
    ends_in_softmax(model)
    model.graph.node[-1].op_type = "Sigmoid"
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[-1].dim_value = 1
    path = save(model, tmp_path)
    images = seeded.images((2, 28, 28, 1))
    ours = jax.nn.softmax(create_model("lenet5", path)(images)[0])
    evaluator = reference.ReferenceEvaluator(model)
    theirs = evaluator.run(None, {model.graph.input[0].name: images.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(ours[:, 1:], theirs[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_other_types(dtype: Any, tmp_path: Path) -> None:
    model = onnx_graphs.model("lenet5.legacy")
    expected = {name: array.astype(dtype).astype(np.float32) for name, array in load(model, tmp_path).items()}
    for tensor in model.graph.initializer:
        onnx_graphs.set_array(tensor, numpy_helper.to_array(tensor).astype(dtype))
    found = load(model, tmp_path)
    assert_equal(found, expected)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


@pytest.mark.slow
def test_batch_norm_folded_or_not_is_one_function(tmp_path: Path) -> None:
    """Folded by hand in float64, as an exporter does; what is found computes the same."""
    model = onnx_graphs.model("resnet18.unfolded", 16)
    images = seeded.images((2, 64, 64, 3))
    named = create_model("resnet18", weights=save(model, tmp_path), width=1 / 16)
    fold(model)
    folded = create_model("resnet18", weights=save(model, tmp_path), width=1 / 16)
    ours = registry.flat_state(folded)
    np.testing.assert_array_equal(ours["stem.bn.mean"], np.zeros(4))
    np.testing.assert_allclose(ours["stem.bn.scale"], np.ones(4))
    graphdef, _ = nnx.split(named)
    run = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images)[0])
    a, b = (np.asarray(run(nnx.state(each), images)) for each in (named, folded))
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())


def save(model: Any, folder: Path) -> Path:
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def fold(model: Any) -> None:
    """Batch norm into the convolution before it."""
    arrays = onnx_graphs.arrays(model)
    makers = {node.output[0]: node for node in model.graph.node}
    tensors = {each.name: each for each in model.graph.initializer}
    for node in [each for each in model.graph.node if each.op_type == "BatchNormalization"]:
        scale, bias, mean, var = (arrays[name].astype(np.float64) for name in node.input[1:])
        epsilon = next(each.f for each in node.attribute if each.name == "epsilon")
        factor = scale / np.sqrt(var + epsilon)
        conv = makers[node.input[0]]
        kernel = arrays[conv.input[1]] * factor.reshape(-1, 1, 1, 1)
        onnx_graphs.set_array(tensors[conv.input[1]], kernel.astype(np.float32))
        onnx_graphs.set_array(tensors[node.input[2]], (bias - mean * factor).astype(np.float32))
        conv.input.append(node.input[2])
        conv.output[0] = node.output[0]
        model.graph.node.remove(node)
