"""Two convolutions whose results are added, as one: kernels stacked, inputs side by side.

On a TPU a residual unit whose shortcut is projected then never writes the projection, nor reads it again: ResNet-50 in
bfloat16 at 224 px moves 50 MB an image instead of 58 (`benchmarks/tpu_v5e.json`, counted by the compiler).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from transfer.freeze.fusion import Fused
from transfer.models.graph.trace import Graph

Arrays = dict[str, jax.Array]
Source = Callable[[Mapping[int, jax.Array]], jax.Array]


def joinable(graph: Graph, units: Mapping[int, Fused]) -> dict[int, int]:
    """Position of a unit -> that of the unit which is nothing but its residual; both are 1x1 convolutions."""
    consumers, wanted = graph.consumers(), set(graph.endpoints.values())
    found = {}
    for position, unit in units.items():
        other = units.get(-1 if unit.residual is None else unit.residual)
        if other is None or other.last in wanted or len(consumers[other.last]) != 1:
            continue
        plain = not other.relu and other.residual is None
        if plain and _is_pointwise(graph, unit) and _is_pointwise(graph, other) and _strides(graph, unit) == (1, 1):
            found[position] = other.last
    return found


def _is_pointwise(graph: Graph, unit: Fused) -> bool:
    given = graph.nodes[unit.conv].attributes
    unpadded = not any(map(sum, given["padding"]))
    return given["kernel"] == (1, 1) and given["groups"] == 1 and unpadded and not unit.pool


def _strides(graph: Graph, unit: Fused) -> tuple[int, int]:
    return graph.nodes[unit.conv].attributes["strides"]


def side_by_side(graph: Graph, unit: Fused, other: Fused) -> Source:
    """The joined convolution's input: channels of the one, then those pixels of the other that its strides keep."""
    (first,), (second,) = graph.nodes[unit.conv].inputs, graph.nodes[other.conv].inputs
    down, across = _strides(graph, other)
    return lambda values: jnp.concatenate([values[first], values[second][:, ::down, ::across]], axis=-1)


def stacked(own: Arrays, other: Arrays, layer: str, other_layer: str) -> Arrays:
    """HWIO kernels stacked along the input channels, biases added; under the name of `layer`."""
    kernels = [own[f"{layer}.kernel"], other[f"{other_layer}.kernel"]]
    biases = [
        arrays[name] for arrays, name in ((own, f"{layer}.bias"), (other, f"{other_layer}.bias")) if name in arrays
    ]
    result = {f"{layer}.kernel": jnp.concatenate(kernels, axis=2)}
    return result | ({f"{layer}.bias": sum(biases[1:], biases[0])} if biases else {})
