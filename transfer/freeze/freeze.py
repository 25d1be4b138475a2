"""A trained model as a program for inference: batch norm folded, every convolution planned, kernels laid out ahead.

The step between loading and extracting. The model's own code is read once as a graph; what the graph knows as a
convolution with its batch norm, residual, ReLU and pool becomes one step that runs the algorithm of the plan, and
every other equation is computed as the model has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from transfer.freeze.convolutions import ALGORITHMS, Epilogue, Geometry
from transfer.freeze.fusion import Fused, Segment, Source, fused, joinable, segments, side_by_side, stacked
from transfer.freeze.plan import plan_for
from transfer.models.graph.trace import Graph, Node, trace

Arrays = dict[str, jax.Array]
# What computes a node: (arrays, values of the nodes so far) -> value.
Run = Callable[[Mapping[str, Any], Mapping[int, jax.Array]], jax.Array]


@dataclass(frozen=True)
class Planned:
    """A convolution of the frozen model: what it computes and by which algorithm."""

    layer: str
    geometry: Geometry
    algorithm: str


@dataclass(frozen=True, eq=False)
class Frozen:
    """An inference-only backbone: `frozen(frozen.arrays, images)` gives the end points it was frozen for.

    Attributes:
      arrays: everything learned, folded, cast and laid out; what the program takes as arguments.
      convolutions: of the plan, in the order of the calls.
      segments: of the graph, with the number of images that each works on at a time.
      steps: position in the graph -> what computes it.
      endpoints: name -> position.
    """

    arrays: Arrays
    convolutions: Sequence[Planned]
    segments: Sequence[Segment]
    steps: Mapping[int, Run]
    endpoints: Mapping[str, int]

    @property
    def plan(self) -> dict[str, str]:
        """Layer -> algorithm."""
        return {planned.layer: planned.algorithm for planned in self.convolutions}

    def __call__(self, arrays: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        """End point -> value, of preprocessed images (B, H, W, C) of the size it was frozen for; any B."""
        values = {0: images}
        for segment in self.segments:
            values |= self._segment(segment, arrays, values[segment.start - 1])
        return {name: values[position] for name, position in self.endpoints.items()}

    def _segment(self, segment: Segment, arrays: Mapping[str, Any], taken: jax.Array) -> dict[int, jax.Array]:
        """Values of the segment's end points and of its last node, from that of the node before it."""
        inside = range(segment.start, segment.stop)
        kept = {segment.stop - 1, *self.endpoints.values()} & set(inside)

        def run(images: jax.Array) -> dict[int, jax.Array]:
            values = {segment.start - 1: images}
            for position in inside:
                if position in self.steps:
                    values[position] = self.steps[position](arrays, values)
            return {position: values[position] for position in kept}

        if len(taken) <= segment.chunk or len(taken) % segment.chunk:
            return run(taken)
        chunks = taken.reshape(-1, segment.chunk, *taken.shape[1:])
        return {position: value.reshape(-1, *value.shape[2:]) for position, value in lax.map(run, chunks).items()}


def freeze(
    model: nnx.Module,
    image_shape: tuple[int, int, int, int],
    taps: Sequence[str] | None = None,
    *,
    dtype: Any = jnp.float32,
    precision: str = "high",
    platform: str = "cpu",
    plan: Mapping[str, str] | None = None,
    autotune: bool = False,
    chunk_bytes: int | None = None,
) -> Frozen:
    """Freezes `model` for batches of one shape.

    Args:
      model: returns `(output, endpoints)`; it is left as it is.
      image_shape: (B, H, W, C) that one device computes at a time.
      taps: end points that are wanted; None: all.
      dtype: of parameters and activations; folding is done in float64.
      precision: "highest" keeps to algorithms that do the definition's products and sums.
      platform: "cpu", "gpu" or "tpu".
      plan: layer -> algorithm, instead of the planner's choice.
      autotune: measures the algorithms on the spot instead of trusting the cost model.
      chunk_bytes: what a node and its inputs may take; parts of the model where they would take more go through the
        batch in chunks. For a device that is one core: a loop's body uses no other.

    Raises:
      UsageError: the model's own, for images that it does not take.
    """

    @cache
    def graph_for(images: int) -> Graph:
        """The model's graph; its equations hold the number of images that they were traced for."""
        return trace(model, (images, *image_shape[1:]), dtype=dtype, with_values=True, taps_wanted=taps)

    graph = graph_for(image_shape[0])
    units = fused(graph, list(graph.endpoints.values()))
    present = set(range(1, len(graph.nodes))) - {i for unit in units.values() for i in unit.nodes[:-1]}
    parts = segments(graph, present, image_shape[0], chunk_bytes, jnp.dtype(dtype).itemsize)
    graph_at = {position: graph_for(part.chunk) for part in parts for position in range(part.start, part.stop)}
    geometries = {last: _geometry(graph_at[last], units[last]) for last in sorted(units)}
    layers = {last: graph.nodes[units[last].conv].layer for last in geometries}
    if plan is None:
        chosen = plan_for(geometries, precision=precision, platform=platform, dtype=dtype, autotune=autotune)
    else:
        chosen = {last: plan[layer] for last, layer in layers.items()}
    planned = {last: Planned(layer, geometries[last], chosen[last]) for last, layer in layers.items()}
    joins = platform == "tpu" and set(chosen.values()) <= {"direct"}
    joined = joinable(graph, units, geometries) if joins else {}
    parameters = {".".join(map(str, path)): value for path, value in nnx.to_flat_state(nnx.state(model))}
    fold, consumers = partial(_folded, graph, parameters, dtype), graph.consumers()
    arrays: Arrays = {}
    steps: dict[int, Run] = {}
    for position in sorted(present - set(joined.values())):
        node = graph_at[position].nodes[position]
        if position in units:
            other = (units[joined[position]], planned[joined[position]]) if position in joined else None
            shared = platform == "cpu" and len(consumers[position]) > 1
            held, steps[position] = _fused_step(graph, fold, units[position], planned[position], other, shared)
        elif platform == "cpu" and (pool := pool_of(node)):
            held, steps[position] = {}, _on_values(pool, node)
        else:
            held, steps[position] = _as_traced(position, node)
        arrays |= held
    return Frozen(arrays, tuple(planned.values()), tuple(parts), steps, graph.endpoints)


def _geometry(graph: Graph, unit: Fused) -> Geometry:
    node = graph.nodes[unit.conv]
    batch, height, width, channels = graph.nodes[node.inputs[0]].shape
    given = node.attributes
    window, groups = given["kernel"], given["groups"]
    return Geometry(batch, height, width, channels, node.shape[-1], window, given["strides"], given["padding"], groups)


def _folded(graph: Graph, parameters: Mapping[str, Any], dtype: Any, unit: Fused, planned: Planned) -> Arrays:
    """Kernel and bias with batch norm in them: y = scale (conv(x) + bias - mean) / sqrt(var + epsilon) + shift."""

    def value(path: str, missing: float) -> np.ndarray:
        return np.asarray(parameters[path][...] if path in parameters else missing, np.float64)

    layer = planned.layer
    kernel, bias = value(f"{layer}.kernel", 0), value(f"{layer}.bias", 0)
    if unit.norm is not None:
        norm = graph.nodes[unit.norm]
        path = norm.layer
        scale = value(f"{path}.scale", 1) / np.sqrt(value(f"{path}.var", 1) + norm.attributes["epsilon"])
        bias = (bias - value(f"{path}.mean", 0)) * scale + value(f"{path}.bias", 0)
        kernel = kernel * scale
    prepared = ALGORITHMS[planned.algorithm].prepare(kernel, planned.geometry)
    arrays = {f"{layer}.kernel": jnp.asarray(prepared, dtype)}
    return arrays if bias.ndim == 0 else arrays | {f"{layer}.bias": jnp.asarray(bias, dtype)}


def _fused_step(
    graph: Graph,
    fold: Callable[[Fused, Planned], Arrays],
    unit: Fused,
    planned: Planned,
    joined: tuple[Fused, Planned] | None,
    shared: bool,
) -> tuple[Arrays, Run]:
    """Makes a unit's arrays and step, with those of the unit that computes its residual where they are `joined`.

    `shared` keeps XLA's CPU backend from computing the epilogue again in each consumer.
    """
    algorithm, layer, held = ALGORITHMS[planned.algorithm], planned.layer, fold(unit, planned)
    (source,) = graph.nodes[unit.conv].inputs
    images: Source = itemgetter(source)
    if joined is not None:
        other, other_planned = joined
        held = stacked(held, fold(other, other_planned), layer, other_planned.layer)
        images = side_by_side(graph, unit, other, other_planned.geometry.strides)
        unit = replace(unit, residual=None)

    def run(arrays: Mapping[str, Any], values: Mapping[int, jax.Array]) -> jax.Array:
        residual = None if unit.residual is None else values[unit.residual]
        epilogue = Epilogue(arrays.get(f"{layer}.bias"), unit.relu, unit.pool, residual)
        result = algorithm.run(images(values), arrays[f"{layer}.kernel"], planned.geometry, epilogue)
        return lax.optimization_barrier(result) if shared else result

    return held, run


def _on_values(function: Callable[..., jax.Array], node: Node) -> Run:
    """Makes the step that computes a node by a function of its inputs' values alone."""
    return lambda arrays, values: function(*(values[i] for i in node.inputs))


def _as_traced(position: int, node: Node) -> tuple[Arrays, Run]:
    """Makes the step of a node that is no convolution: the model's own equations, their constants as arguments."""
    if node.op == "mean":
        return {}, _on_values(partial(_mean, node.attributes["axes"]), node)
    held = {
        f"{position}.{link}.{operand}": jnp.asarray(constant)
        for link, applied in enumerate(node.chain)
        for operand, constant in applied.constants.items()
    }

    def run(arrays: Mapping[str, Any], values: Mapping[int, jax.Array]) -> jax.Array:
        operands = [values[i] for i in node.inputs]
        for link, applied in enumerate(node.chain):
            constants = [arrays[f"{position}.{link}.{operand}"] for operand in applied.constants]
            operands = [applied(operands, constants)]
        return operands[0]

    return held, run


def _mean(axes: Sequence[int], images: jax.Array) -> jax.Array:
    """A mean in float32 for any dtype of images; scaled before the sum, so that one kernel does both on a GPU."""
    share = np.float32(1 / np.prod([images.shape[axis] for axis in axes]))
    return (images.astype(jnp.float32) * share).sum(axis=axes).astype(images.dtype)


def pool_of(node: Node) -> Callable[[jax.Array], jax.Array] | None:
    """The function that computes a `max_pool` or `avg_pool` node of a graph read with its values; None for any other.

    Maxima and sums of strided slices: on a CPU faster than XLA's windowed reduction, which uses no vectors. PyTorch's
    adaptive average is none: it is a pair of matrix products already.
    """
    if node.op == "max_pool":
        pad_value = float(node.chain[0].constants[1]) if node.attributes.get("explicit") else -np.inf
        return lambda images: _over_windows(node, jnp.maximum, pad_value, images)
    if node.op != "avg_pool" or "kernel" not in node.attributes:
        return None
    # the factor of each window's sum, (1, H', W', 1): the model's own answer to ones, over their sum
    images = node.chain[0].equation.invars[0].aval
    answer = jnp.ones((node.shape[0], *images.shape[1:3], node.shape[-1]), images.dtype)
    for applied in node.chain:
        answer = applied([answer], list(applied.constants.values()))
    sums = _over_windows(node, jnp.add, 0.0, jnp.ones((1, *images.shape[1:3], 1), jnp.float32))
    weights = np.broadcast_to(np.asarray(answer, np.float32), node.shape)[:1, :, :, :1] / np.asarray(sums)
    return lambda images: _over_windows(node, jnp.add, 0.0, images) * weights.astype(images.dtype)


def _over_windows(
    node: Node, join: Callable[[jax.Array, jax.Array], jax.Array], pad_value: float, images: jax.Array
) -> jax.Array:
    """Joins the pixels of each window, as NHWC images."""
    (height, width), (down, across) = node.attributes["kernel"], node.attributes["strides"]
    rows, columns = node.shape[1:3]
    padding = ((0, 0, 0), *((low, high, 0) for low, high in node.attributes["padding"]), (0, 0, 0))
    around = lax.pad(images, jnp.asarray(pad_value, images.dtype), padding)
    # rows first, then columns: height + width slices instead of height x width
    joined = reduce(join, [around[:, y : y + (rows - 1) * down + 1 : down] for y in range(height)])
    wide = [joined[:, :, x : x + (columns - 1) * across + 1 : across] for x in range(width)]
    return reduce(join, wide)
