"""Every tap of every architecture against torchvision's and timm's own models, recorded in `tests/golden`.

The weights arrive as a state dict with the other library's names, so the name maps are proven as well. Ours run in
float32 with matrix products in full precision, the recorded models ran in float64. Of the four sizes that are recorded,
one image at the published and three at the odd one; `measure_parity.py` compares all.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import onnx_graphs, reading
from models import catalogue_parity
from models.catalogue_parity import MARGIN, TOLERANCE
from models.parts import compiled

from transfer.models.graph.trace import Node, trace
from transfer.models.registry import architectures, build
from transfer.weights import catalogue
from transfer.weights.names import name_map, shapes_of

# Read from real .pth files instead, in tests/weights.
FROM_FILES = ("resnet18_slim",)
CASES = [name for name in reading.cases() if name not in FROM_FILES]
# Of each family the smallest, and of each kind of unit.
SMALL = (
    *("vgg11", "vgg11_bn", "vgg11_bn timm", "vgg11_slim", "resnet18", "resnet18 timm", "resnet18_slim", "resnet50"),
    *("wide_resnet50_2", "resnext50_32x4d", "alexnet", "googlenet", "inception_v3"),
    *(name for name in CASES if name.startswith("lenet5")),
)
GRAPHS = (
    *("alexnet.dynamo", "googlenet.legacy", "inception_v3.dynamo", "lenet5.legacy", "resnet18.raw", "resnet50.dynamo"),
    *("resnext50_32x4d.legacy", "vgg11_bn.dynamo", "vgg16.legacy"),
)
# Of batch norm, by what the name of an architecture begins with.
EPSILONS = {"vgg": 1e-5, "res": 1e-5, "wide": 1e-5, "googlenet": 1e-3, "inception": 1e-3}
TORCHVISION = sorted({r.arch for r in catalogue.records().values() if r.name_map == "torchvision"})


@pytest.mark.parametrize("arch", TORCHVISION)
def test_recorded_at_the_published_and_an_odd_size_one_image_and_three(arch: str) -> None:
    sizes = {tap.size for tap in reading.cases()[arch].taps}
    published = {r.preprocessing.image_size for r in catalogue.records().values() if r.arch == arch}
    assert {size[0] for size in sizes} == {1, 3}
    odd = {size[1:3] for size in sizes if size[1] % 2 and size[2] % 2 and size[1] != size[2]}
    assert {size[1:3] for size in sizes} - odd & published
    assert len(sizes) == 4 and len(odd) == 1


def test_every_torchvision_architecture_is_recorded() -> None:
    assert len(TORCHVISION) == 20 and set(TORCHVISION) <= set(architectures()) & set(reading.cases())


@pytest.mark.parametrize("name", SMALL)
def test_names_and_shapes_are_the_other_librarys(name: str) -> None:
    case = reading.cases()[name]
    model = build(case.arch, seed=None, **case.fields)
    shapes = shapes_of(model)
    names = name_map(case.arch, case.library, shapes)
    assert {source.name for source in names.sources.values()} == {
        tensor for tensor in case.shapes if not names.is_excused(tensor)
    }
    for path, source in names.sources.items():
        assert source.convert(np.empty(case.shapes[source.name]), shapes[path]).shape == shapes[path], path
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, nnx.BatchNorm)]
    assert {norm.epsilon for norm in norms} <= {
        value for start, value in EPSILONS.items() if case.arch.startswith(start)
    }
    for size in case.sizes(every_batch=False):
        _, endpoints = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct(size, jnp.float32))
        expected = {tap.name: tap.shape for tap in case.taps if tap.size == size}
        assert {tap: value.shape for tap, value in endpoints.items()} == expected, size


Layer = tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int]


def ours(node: Node) -> Layer:
    """(operation, window, strides, padding at the top and left, output channels, groups)."""
    settings = node.attributes
    lows = tuple(low for low, _ in settings["padding"])
    channels = node.shape[-1] if node.op == "conv" else 0
    return node.op, settings["kernel"], settings["strides"], lows, channels, settings.get("groups", 1)


def theirs(graph: Any) -> list[Layer]:
    """The same of the convolutions and pools of an ONNX graph, in order; a 1x1 pool does nothing."""
    ops = {"Conv": "conv", "MaxPool": "max_pool", "AveragePool": "avg_pool"}
    channels, layers = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}, []
    for node in graph.node:
        given = {each.name: tuple(each.ints) or each.i for each in node.attribute}
        if node.op_type == "Conv" or node.op_type in ops and given["kernel_shape"] != (1, 1):
            kernel = channels[node.input[1]] if node.op_type == "Conv" else 0
            geometry = given["kernel_shape"], given["strides"], given["pads"][:2]
            layers.append((ops[node.op_type], *geometry, kernel, given.get("group", 1)))
    return layers


@pytest.mark.parametrize("name", GRAPHS)
def test_convolutions_and_pools_are_those_of_the_exported_graph(name: str) -> None:
    pytest.importorskip("onnx")
    exported, arch = onnx_graphs.graph(name).graph, name.partition(".")[0]
    sides = [side.dim_value for side in exported.input[0].type.tensor_type.shape.dim][2:]
    graph = trace(build(arch, seed=None), (1, *sides, 1 if arch == "lenet5" else 3))
    layers = [ours(node) for node in graph.nodes if node.op == "conv" or node.op.endswith("_pool")]
    # we call the projection of a residual unit before its other layers
    order = sorted if arch.startswith("res") else list
    assert order(layers) == order(theirs(exported))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_tap_equals_the_other_librarys(name: str) -> None:
    case = reading.cases()[name]
    errors = case.errors(compiled(case.model()), every_batch=False)
    assert {tap for _, tap in errors} >= {"pre_logits", "logits"}
    worst = max(errors.values())
    assert worst <= TOLERANCE, errors
    proven = [
        r.name for r in catalogue.records().values() if r.name_map != "keras" and name in catalogue_parity.cases(r)
    ]
    if proven:
        assert worst <= MARGIN * catalogue_parity.stated(proven)


def test_a_wrong_layout_is_noticed() -> None:
    """The tolerance separates right from wrong: fc1 filled without the permutation from CHW to HWC fails."""
    case = reading.cases()["vgg11 larger"]
    tensors = case.state_dict()
    kernel = tensors["classifier.0.weight"]
    outputs = kernel.shape[0]
    tensors["classifier.0.weight"] = kernel.reshape(outputs, 512, 49).transpose(0, 2, 1).reshape(outputs, -1)
    wrong = {tap for (_, tap), error in case.errors(compiled(case.model(tensors))).items() if error > TOLERANCE}
    assert wrong == {"fc1", "fc2", "logits"}
