"""Reads a jaxpr of a model as steps that mean something: layers, activations, pools, joins."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from transfer.models.graph_calls import PREFIX

# Equations that change no value, seen from where the data comes.
PASSING = {"convert_element_type", "stop_gradient", "copy", "copy_p", "reduce_precision", "optimization_barrier"}
RENAMED = {"concatenate": "concat", "add_any": "add", "dot_general": "matmul"}
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass(frozen=True)
class Step:
    """A node before its layer is looked at."""

    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    layer: str = ""
    scope: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Reading:
    """The steps read so far; step 0 is the images."""

    def __init__(self, image_shape: tuple[int, ...]) -> None:
        self.nodes = [Step("input", (), image_shape)]

    def read(self, jaxpr: Any) -> list[int]:
        """Reads a whole jaxpr whose last argument is the images; returns the positions of its outputs."""
        return [position or 0 for position in self._read(jaxpr, [*[None] * (len(jaxpr.invars) - 1), 0], "")]

    def _read(self, jaxpr: Any, arguments: Sequence[int | None], scope: str) -> list[int | None]:
        """Positions of the outputs; None for what does not depend on the images."""
        known: dict[Any, int | None] = dict(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            inputs = [known.get(v) if not hasattr(v, "val") else None for v in equation.invars]
            if any(i is not None for i in inputs):
                known.update(zip(equation.outvars, self._equation(equation, inputs, scope), strict=True))
        return [known.get(v) if not hasattr(v, "val") else None for v in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[int | None], scope: str) -> list[int | None]:
        primitive, params = equation.primitive.name, equation.params
        name = str(params.get("name", ""))
        used = tuple(i for i in inputs if i is not None)
        shape = tuple(equation.outvars[0].aval.shape)
        if primitive in PASSING:
            return list(used[:1])
        inner = None if primitive.startswith("reduce_window") else _inner(params)
        if name.startswith(PREFIX):
            path = name.removeprefix(PREFIX)
            if not _has_layers(inner):
                return [self._layer(path, used, tuple(v.aval.shape), scope) for v in equation.outvars]
            scope = path
        elif hasattr(jax.nn, name):
            return [self._add(Step(name, used, shape, scope=scope))]
        if inner is not None and len(inner.invars) == len(inputs):
            return self._read(inner, inputs, scope)
        attributes = _attributes(primitive, params)
        step = self._meaning(Step(RENAMED.get(primitive, primitive), used, shape, "", scope, attributes))
        return [self._add(step)] * len(equation.outvars)

    def _layer(self, path: str, used: tuple[int, ...], shape: tuple[int, ...], scope: str) -> int:
        return self._add(Step("layer", used, shape, path, scope))

    def _add(self, step: Step) -> int:
        self.nodes.append(step)
        return len(self.nodes) - 1
