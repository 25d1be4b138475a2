"""The graph of a model: what it costs as published, and its structure as in the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transfer.models.graph.trace import Graph, Node, Total, trace
from transfer.models.registry import architectures, build, flat_state

# Multiply-adds at 224 px as torchvision's documentation publishes them (1e9).
PUBLISHED_GFLOPS = {
    "vgg11": 7.609,
    "vgg16": 15.47,
    "resnet18": 1.814,
    "resnet50": 4.089,
    "resnet152": 11.514,
    "resnext50_32x4d": 4.23,
    "alexnet": 0.714,
}
SIDES = {"lenet5": 28, "inception_v3": 299}


def graph_of(arch: str, side: int = 224, batch: int = 1, **fields: object) -> Graph:
    return trace(build(arch, seed=None, **fields), (batch, side, side, 3))


@pytest.mark.slow
@pytest.mark.parametrize("arch", PUBLISHED_GFLOPS)
def test_macs_as_published(arch: str) -> None:
    graph = graph_of(arch)
    assert graph.macs / 1e9 == pytest.approx(PUBLISHED_GFLOPS[arch], abs=0.001)
    assert sum(total.macs for total in graph.stages.values()) == graph.macs


def layers_of(graph: Graph) -> dict[str, Node]:
    """Layer path -> its (first) node."""
    return {node.layer: node for node in reversed(graph.nodes) if node.layer}


def test_macs_are_of_one_image() -> None:
    assert graph_of("vgg11", batch=3).macs == graph_of("vgg11").macs


# The deeper ones are more of the same units.
@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in architectures() if "101" not in arch and "152" not in arch])
def test_every_layer_once_and_every_shape_as_the_model_gives_it(arch: str) -> None:
    model = build(arch, seed=None)
    side = SIDES.get(arch, 224)
    shape = (2, side, side, 1 if arch == "lenet5" else 3)
    graph = trace(model, shape)
    layers = {path.rpartition(".")[0] for path in flat_state(model)}
    assert {node.layer for node in graph.nodes if node.layer} == layers == set(layers_of(graph))
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert graph.parameters == sum(node.parameters for node in graph.nodes) == sum(p.size for p in params)
    _, endpoints = nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert {tap: graph.nodes[i].shape for tap, i in graph.endpoints.items()} == {
        tap: value.shape for tap, value in endpoints.items()
    }
    assert all(source < i for i, node in enumerate(graph.nodes) for source in node.inputs)


def steps(graph: Graph, scope: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """(op, layer, where each input comes from) of the nodes that a module calls."""

    def origin(node: Node) -> str:
        return node.layer.rpartition(".")[2] or node.op

    chosen = [node for node in graph.nodes if node.scope == scope]
    return [(n.op, n.layer.rpartition(".")[2], tuple(origin(graph.nodes[i]) for i in n.inputs)) for n in chosen]


def test_a_basic_unit_adds_what_it_was_given() -> None:
    graph = graph_of("resnet18")
    assert steps(graph, "stage2.unit2") == [
        ("conv", "conv1", ("relu",)),
        ("batch_norm", "bn1", ("conv1",)),
        ("relu", "", ("bn1",)),
        ("conv", "conv2", ("relu",)),
        ("batch_norm", "bn2", ("conv2",)),
        ("add", "", ("bn2", "relu")),
        ("relu", "", ("add",)),
    ]
    layers = layers_of(graph)
    add = next(node for node in graph.nodes if node.scope == "stage2.unit2" and node.op == "add")
    assert add.inputs[1] == layers["stage2.unit2.conv1"].inputs[0]


def test_a_bottleneck_projects_where_the_shape_changes() -> None:
    graph = graph_of("resnet50")
    first = steps(graph, "stage3.unit1")
    assert [layer for op, layer, _ in first if op == "conv"] == ["proj", "conv1", "conv2", "conv3"]
    assert ("add", "", ("bn3", "proj_bn")) in first
    assert "proj" not in {layer for _, layer, _ in steps(graph, "stage3.unit2")}
    node = layers_of(graph)["stage3.unit1.conv2"]
    assert node == Node(
        "conv",
        node.inputs,
        (1, 14, 14, 256),
        "stage3.unit1.conv2",
        "stage3.unit1",
        dict(kernel=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)), groups=1, bias=False),
        parameters=3 * 3 * 256 * 256,
        macs=14 * 14 * 3 * 3 * 256 * 256,
    )


def test_vgg_by_stage() -> None:
    graph = graph_of("vgg16")
    assert list(graph.stages) == [*(f"block{i}" for i in range(1, 6)), "fc1", "fc2", "logits"]
    assert graph.stages["fc1"] == Total(25088 * 4096 + 4096, 25088 * 4096)
    assert graph.stages["block1"].parameters == 3 * 64 * 9 + 64 + 64 * 64 * 9 + 64
    assert graph.endpoints["logits"] == graph.output
    pools = [node for node in graph.nodes if node.op == "max_pool"]
    assert len(pools) == 5 and all(node.attributes["kernel"] == node.attributes["strides"] == (2, 2) for node in pools)


def test_pools_are_told_apart() -> None:
    stem = dict(kernel=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for value, more in ((-jnp.inf, {}), (0.0, {"explicit": True})):
        graph = graph_of("resnet18", pool_pad_value=value)
        assert [node.attributes for node in graph.nodes if node.op == "max_pool"] == [stem | more]
        assert "pad" not in {node.op for node in graph.nodes}
    adaptive = [node for node in graph_of("vgg11", side=256).nodes if node.op == "avg_pool"]
    assert [(node.shape, node.attributes["cells"]) for node in adaptive] == [((1, 7, 7, 512), (7, 7))]


@pytest.mark.parametrize("training", [False, True])
def test_the_callers_model_is_left_as_it_is(training: bool) -> None:
    model = build("resnet18", width=1 / 16, num_classes=3)
    if training:
        model.train()
    before, classes = flat_state(model), {path: type(m) for path, m in nnx.iter_modules(model)}
    assert trace(model, (1, 40, 32, 3)).nodes[-1].shape == (1, 3)
    assert {path: type(m) for path, m in nnx.iter_modules(model)} == classes
    assert model.stem.bn.use_running_average is not training
    for path, array in flat_state(model).items():
        np.testing.assert_array_equal(array, before[path])


class Gate(nnx.Module):
    """A layer that the graph has no name for, in a list, called twice."""

    def __init__(self) -> None:
        self.amount = nnx.Param(jnp.ones(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jax.nn.silu(self.amount[...])


class Odd(nnx.Module):
    """Parameters of its own, beside modules in a list."""

    def __init__(self) -> None:
        self.shift = nnx.Param(jnp.zeros(3))
        self.gates = nnx.List([Gate(), Gate()])

    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        a = self.gates[0](x + self.shift[...])
        b = self.gates[1](self.gates[0](jnp.tanh(a)))
        output = jnp.concatenate([a, b], axis=-1)
        return output, {"both": output}


def test_models_of_other_kinds() -> None:
    graph = trace(Odd(), (1, 4, 4, 3))
    assert [(n.op, n.layer, n.inputs) for n in graph.nodes[1:]] == [
        ("add", "", (0,)),
        ("gate", "gates.0", (1,)),
        ("tanh", "", (2,)),
        ("gate", "gates.0", (3,)),
        ("gate", "gates.1", (4,)),
        ("concat", "", (2, 5)),
    ]
    assert [(node.parameters, node.macs) for node in graph.nodes] == [
        (0, 0),
        (0, 0),
        (3, 0),
        (0, 0),
        (3, 0),
        (3, 0),
        (0, 0),
    ]
    assert graph.parameters == 9 and graph.parameters_by_stage == {"gates": 6, "shift": 3}
    assert graph.consumers()[2] == [3, 6]
