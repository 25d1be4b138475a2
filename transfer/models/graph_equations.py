"""Reads a jaxpr of a model as steps that mean something: layers, activations, pools, joins."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from transfer.models.graph_calls import PREFIX

# Equations that change no value.
PASSING = {"convert_element_type", "stop_gradient", "copy", "reduce_precision", "optimization_barrier"}
RENAMED = {"concatenate": "concat", "add_any": "add", "dot_general": "matmul"}


@dataclasses.dataclass(frozen=True)
class Step:
    """A node before its layer is looked at; `transfer.models.graph.Node` says what the attributes mean."""

    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    layer: str = ""
    scope: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Reading:
    """The steps read so far, in the order of the calls; step 0 is the images."""

    def __init__(self, image_shape: tuple[int, ...], layers: Collection[str]) -> None:
        self.layers = layers
        self.steps = [Step("input", (), image_shape)]

    def read(self, jaxpr: Any) -> list[int]:
        """Reads a jaxpr whose last argument is the images; returns the positions of its outputs."""
        outputs = self._read(jaxpr, [*[None] * (len(jaxpr.invars) - 1), 0], "")
        return [position or 0 for position in outputs]

    def _read(self, jaxpr: Any, arguments: Sequence[int | None], scope: str) -> list[int | None]:
        """Positions of the outputs; None for what does not depend on the images."""
        known: dict[Any, int | None] = dict(zip(jaxpr.invars, arguments, strict=True))

        def position(atom: Any) -> int | None:
            return None if hasattr(atom, "val") else known.get(atom)  # literals have a value, and no hash

        for equation in jaxpr.eqns:
            inputs = [position(atom) for atom in equation.invars]
            if any(i is not None for i in inputs):
                known.update(zip(equation.outvars, self._equation(equation, inputs, scope), strict=True))
        return [position(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[int | None], scope: str) -> list[int | None]:
        primitive, params = equation.primitive.name, equation.params
        name = str(params.get("name", ""))
        path = name.removeprefix(PREFIX) if name.startswith(PREFIX) else None
        used = tuple(i for i in inputs if i is not None)
        shape = tuple(equation.outvars[0].aval.shape)
        if primitive in PASSING:
            return [used[0]]
        if path in self.layers:
            return self._add(Step("layer", used, shape, path or "", scope), equation)
        if hasattr(jax.nn, name):
            return self._add(Step(name, used, shape, scope=scope), equation)
        inner = None if primitive.startswith("reduce") else params.get("jaxpr", params.get("call_jaxpr"))
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(inner.invars) == len(inputs):
            return self._read(inner, inputs, scope if path is None else path)
        step = Step(RENAMED.get(primitive, primitive), used, shape, scope=scope)
        return self._add(MEANINGS.get(primitive, _as_it_is)(step, params, self.steps), equation)

    def _add(self, step: Step, equation: Any) -> list[int | None]:
        self.steps.append(step)
        return [len(self.steps) - 1] * len(equation.outvars)


def _as_it_is(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    return step


def _concat(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    return dataclasses.replace(step, attributes=dict(axis=params["dimension"]))


def _pad(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    padding = tuple((int(low), int(high)) for low, high, _ in params["padding_config"])
    return dataclasses.replace(step, attributes=dict(padding=padding[1:-1]))


def _slice(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    strides = params["strides"] or (1,) * len(step.shape)
    return dataclasses.replace(step, attributes=dict(strides=tuple(strides)))


def _window(op: str) -> Callable[..., Step]:
    def pool(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
        attributes: dict[str, Any] = dict(
            kernel=tuple(params["window_dimensions"][1:-1]),
            strides=tuple(params["window_strides"][1:-1]),
            padding=tuple(tuple(pair) for pair in params["padding"][1:-1]),
        )
        before = steps[step.inputs[0]]
        if op == "max_pool" and before.op == "pad":
            # explicit padding takes part as a value
            attributes |= dict(padding=before.attributes["padding"], explicit=True)
            return dataclasses.replace(step, op=op, inputs=before.inputs, attributes=attributes)
        return dataclasses.replace(step, op=op, attributes=attributes)

    return pool


def _reduce_window(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    names = [equation.primitive.name for equation in params["jaxpr"].eqns]
    op = {"max": "max_pool", "add": "sum_pool"}.get(names[0] if len(names) == 1 else "")
    return _window(op)(step, params, steps) if op else step


def _reduce_max(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    """(B, h, k, w, k, C) over axes 2 and 4: windows that do not overlap, from a reshape and perhaps a slice."""
    reshape = steps[step.inputs[0]]
    if reshape.op != "reshape" or len(reshape.shape) != 6 or tuple(params["axes"]) != (2, 4):
        return step
    source = reshape.inputs
    if steps[source[0]].op == "slice":
        source = steps[source[0]].inputs
    kernel = (reshape.shape[2], reshape.shape[4])
    attributes = dict(kernel=kernel, strides=kernel, padding=((0, 0), (0, 0)))
    return dataclasses.replace(step, op="max_pool", inputs=source, attributes=attributes)


def _division(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    """A sum over a number of cells is a mean."""
    before = steps[step.inputs[0]]
    if len(step.inputs) == 1 and before.op in ("sum_pool", "sum"):
        op = "avg_pool" if before.op == "sum_pool" else "mean"
        return dataclasses.replace(step, op=op, inputs=before.inputs, attributes=before.attributes)
    return step


def _reduce_sum(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    return dataclasses.replace(step, op="sum", attributes=dict(axes=tuple(params["axes"])))


def _transpose(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    """Rows, then columns, times a constant matrix each: an average to a fixed number of cells."""
    second = steps[step.inputs[0]]
    first = steps[second.inputs[0]] if second.op == "matmul" else second
    if (first.op, second.op, len(step.shape)) != ("matmul", "matmul", 4) or len(first.inputs + second.inputs) > 2:
        return dataclasses.replace(step, attributes=dict(permutation=tuple(params["permutation"])))
    attributes = dict(adaptive=True, cells=step.shape[1:3])
    return dataclasses.replace(step, op="avg_pool", inputs=first.inputs, attributes=attributes)


MEANINGS: dict[str, Callable[..., Step]] = {
    "concatenate": _concat,
    "pad": _pad,
    "slice": _slice,
    "reduce_window": _reduce_window,
    "reduce_window_max": _window("max_pool"),
    "reduce_window_sum": _window("sum_pool"),
    "reduce_max": _reduce_max,
    "reduce_sum": _reduce_sum,
    "div": _division,
    "mul": _division,
    "transpose": _transpose,
}
