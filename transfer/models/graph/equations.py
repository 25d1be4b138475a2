"""Reads a jaxpr of a model as steps that mean something: layers, activations, pools, joins."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from transfer.models.graph.calls import PREFIX

# Equations that change no value.
PASSING = {"convert_element_type", "stop_gradient", "copy", "reduce_precision", "optimization_barrier"}
RENAMED = {"concatenate": "concat", "add_any": "add", "dot_general": "matmul"}


@dataclasses.dataclass(frozen=True)
class Applied:
    """An equation with what it takes beside the images' values: `equation(*values)`.

    Attributes:
      equation: of a jaxpr.
      constants: position of an operand -> its value.
    """

    equation: Any
    constants: Mapping[int, Any]

    def __call__(self, values: Sequence[Any], constants: Sequence[Any]) -> Any:
        """The first result, of `values` in the order of the operands that are not `constants`."""
        given, held = iter(values), dict(zip(self.constants, constants, strict=True))
        operands = [held[i] if i in held else next(given) for i in range(len(self.equation.invars))]
        results = bind(self.equation, operands)
        return results[0]


def bind(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Computes an equation; its results."""
    results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return results if equation.primitive.multiple_results else [results]


@dataclasses.dataclass(frozen=True)
class Step:
    """A node without its layer's settings; `transfer.models.graph.trace.Node` says what the attributes mean.

    `chain` computes it where the model was read with its values: each equation takes the result of the one before.
    """

    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    layer: str = ""
    scope: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    chain: tuple[Applied, ...] = ()

    def after(self, *before: "Step", op: str, attributes: Mapping[str, Any]) -> "Step":
        """This step and those right before it, first to last, as one."""
        chain = tuple(applied for step in (*before, self) for applied in step.chain)
        return dataclasses.replace(self, op=op, inputs=before[0].inputs, attributes=attributes, chain=chain)


class Reading:
    """The steps read so far, in the order of the calls; step 0 is the images.

    Args:
      image_shape: of the images.
      layers: paths of the modules that stay whole.
      values: of the jaxpr's arguments but the images, None where one is not known; without them steps can be looked at
        and not computed.
    """

    def __init__(
        self, image_shape: tuple[int, ...], layers: Collection[str], values: Sequence[Any] | None = None
    ) -> None:
        self.layers, self.values = layers, values
        self.steps = [Step("input", (), image_shape)]

    def read(self, jaxpr: Any) -> list[int]:
        """Reads a closed jaxpr whose last argument is the images; returns the positions of its outputs."""
        arguments: list[int | None] = [*[None] * (len(jaxpr.jaxpr.invars) - 1), 0]
        held = None if self.values is None else [*self.values, None]
        outputs, _ = self._read(jaxpr.jaxpr, jaxpr.consts, arguments, held, "")
        return [position or 0 for position in outputs]

    def _read(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[int | None], held: Sequence[Any] | None, scope: str
    ) -> tuple[list[int | None], list[Any] | None]:
        """Positions of the outputs, None for what does not depend on the images; and the values of those."""
        known: dict[Any, int | None] = dict(zip(jaxpr.invars, arguments, strict=True))
        values = None if held is None else dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *held), strict=True))

        def position(atom: Any) -> int | None:
            return None if hasattr(atom, "val") else known.get(atom)  # literals have a value, and no hash

        def value(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else values[atom] if values is not None else None

        for equation in jaxpr.eqns:
            inputs = [position(atom) for atom in equation.invars]
            operands = None if values is None else [value(atom) for atom in equation.invars]
            if any(i is not None for i in inputs):
                positions, results = self._equation(equation, inputs, operands, scope)
                known.update(zip(equation.outvars, positions, strict=True))
            else:
                known_all = operands is not None and all(operand is not None for operand in operands)
                results = list(bind(equation, operands or [])) if known_all else None
            if values is not None:
                values.update(zip(equation.outvars, results or [None] * len(equation.outvars), strict=True))
        held = None if values is None else [value(atom) for atom in jaxpr.outvars]
        return [position(atom) for atom in jaxpr.outvars], held

    def _equation(
        self, equation: Any, inputs: list[int | None], operands: list[Any] | None, scope: str
    ) -> tuple[list[int | None], list[Any] | None]:
        primitive, params = equation.primitive.name, equation.params
        name = str(params.get("name", ""))
        path = name.removeprefix(PREFIX) if name.startswith(PREFIX) else None
        used = tuple(i for i in inputs if i is not None)
        shape = tuple(equation.outvars[0].aval.shape)
        chain: tuple[Applied, ...] = ()
        if operands is not None:
            chain = (Applied(equation, {i: v for i, v in enumerate(operands) if inputs[i] is None}),)
        step = Step(RENAMED.get(primitive, primitive), used, shape, scope=scope, chain=chain)
        if primitive in PASSING:
            return [used[0]], None
        if path in self.layers:
            return self._add(dataclasses.replace(step, op="layer", layer=path or ""), equation)
        if hasattr(jax.nn, name):
            return self._add(dataclasses.replace(step, op=name), equation)
        inner = None if primitive.startswith("reduce") else params.get("jaxpr", params.get("call_jaxpr"))
        consts = getattr(inner, "consts", ())
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(inner.invars) == len(inputs):
            return self._read(inner, consts, inputs, operands, scope if path is None else path)
        return self._add(MEANINGS.get(primitive, _as_it_is)(step, params, self.steps), equation)

    def _add(self, step: Step, equation: Any) -> tuple[list[int | None], None]:
        self.steps.append(step)
        return [len(self.steps) - 1] * len(equation.outvars), None


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
            return step.after(before, op=op, attributes=attributes)
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
    cropped = steps[reshape.inputs[0]]
    before = (cropped, reshape) if cropped.op == "slice" else (reshape,)
    kernel = (reshape.shape[2], reshape.shape[4])
    attributes = dict(kernel=kernel, strides=kernel, padding=((0, 0), (0, 0)))
    return step.after(*before, op="max_pool", attributes=attributes)


def _division(step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    """A sum over a number of cells is a mean."""
    before = steps[step.inputs[0]]
    if len(step.inputs) == 1 and before.op in ("sum_pool", "sum"):
        op = "avg_pool" if before.op == "sum_pool" else "mean"
        return step.after(before, op=op, attributes=before.attributes)
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
    before = (first, second) if second is not first else (first,)
    return step.after(*before, op="avg_pool", attributes=attributes)


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
