"""Reads a jaxpr of a model as steps that mean something: layers, activations, pools, joins."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
from flax import nnx

# An equation that calls a module has this and the module's path as its name.
PREFIX = "module:"
PATH = "path_in_graph"
# Equations that change no value.
PASSING = {"convert_element_type", "stop_gradient", "copy", "reduce_precision", "optimization_barrier"}
# The primitive of a windowed reduction, or the only one in its reducer -> what it is.
POOLS = {"max": "max_pool", "reduce_window_max": "max_pool", "add": "sum_pool", "reduce_window_sum": "sum_pool"}
RENAMED = {"concatenate": "concat", "add_any": "add", "dot_general": "matmul"}


def name_calls(model: nnx.Module) -> dict[str, nnx.Module]:
    """Makes each call of a module but `model` itself one equation; returns the layers by path.

    A layer holds variables and no modules. `model` must be a copy that is traced once and thrown away.
    """
    layers = {}
    for path, module in list(nnx.iter_modules(model)):
        if path:
            dotted = ".".join(map(str, path))
            has_variables = any(isinstance(value, (nnx.Param, nnx.BatchStat)) for value in vars(module).values())
            if has_variables and len(list(nnx.iter_modules(module))) == 1:
                layers[dotted] = module
            setattr(module, PATH, dotted)
            object.__setattr__(module, "__class__", _with_named_call(type(module)))
    return layers


# cached, since Flax registers every class for good
@cache
def _with_named_call(plain: type[nnx.Module]) -> type[nnx.Module]:
    """A subclass whose call is one `jit` equation; a call with anything but arrays stays as it is."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs or not all(isinstance(value, jax.Array) for value in args):
            return plain.__call__(self, *args, **kwargs)  # type: ignore[operator]

        def run(*arrays: jax.Array) -> Any:
            return plain.__call__(self, *arrays)  # type: ignore[operator]

        run.__name__ = PREFIX + getattr(self, PATH)
        return jax.jit(run)(*args)

    return type(plain.__name__, (plain,), {"__call__": call})


@dataclasses.dataclass(frozen=True)
class Applied:
    """An equation of a jaxpr, and what it takes beside the images' values: position of an operand -> its value."""

    equation: Any
    constants: Mapping[int, Any]

    def __call__(self, values: Sequence[Any], constants: Sequence[Any]) -> Any:
        """The first result, of `values` in the order of the operands that are not `constants`."""
        given, held = iter(values), dict(zip(self.constants, constants, strict=True))
        return bind(self.equation, [held[i] if i in held else next(given) for i in range(len(self.equation.invars))])[0]


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


class At(NamedTuple):
    """The position of the step that gives a value which depends on the images."""

    position: int


class Reading:
    """The steps read so far, in the order of the calls; step 0 is the images.

    Args:
      image_shape: of the images.
      layers: paths of the modules that stay whole.
      with_values: steps can be computed, as far as the values of the arguments are known, and not only looked at.
    """

    def __init__(self, image_shape: tuple[int, ...], layers: Collection[str], with_values: bool) -> None:
        self.layers, self.with_values = layers, with_values
        self.steps = [Step("input", (), image_shape)]

    def read(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], scope: str = "") -> list[Any]:
        """Reads a jaxpr; arguments and outputs are `At` a step, or values; None where not known."""
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

        def value(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else known[atom]  # literals have a value, and no hash

        for equation in jaxpr.eqns:
            operands, results = list(map(value, equation.invars)), [None] * len(equation.outvars)
            if any(isinstance(operand, At) for operand in operands):
                results = self._equation(equation, operands, scope)
            elif self.with_values and all(operand is not None for operand in operands):
                results = list(bind(equation, operands))
            known.update(zip(equation.outvars, results, strict=True))
        return list(map(value, jaxpr.outvars))

    def _equation(self, equation: Any, operands: list[Any], scope: str) -> list[Any]:
        """Reads an equation that takes a value which depends on the images."""
        primitive, params = equation.primitive.name, equation.params
        name = str(params.get("name", ""))
        path = name.removeprefix(PREFIX) if name.startswith(PREFIX) else None
        used = tuple(operand.position for operand in operands if isinstance(operand, At))
        constants = {i: operand for i, operand in enumerate(operands) if not isinstance(operand, At)}
        chain = (Applied(equation, constants),) if self.with_values else ()
        shape = tuple(equation.outvars[0].aval.shape)
        step = Step(RENAMED.get(primitive, primitive), used, shape, scope=scope, chain=chain)
        if primitive in PASSING:
            return [At(used[0])]
        if path in self.layers:
            step = dataclasses.replace(step, op="layer", layer=path or "")
        elif hasattr(jax.nn, name):
            step = dataclasses.replace(step, op=name)
        else:
            inner = None if primitive.startswith("reduce") else params.get("jaxpr", params.get("call_jaxpr"))
            consts, inner = getattr(inner, "consts", ()), getattr(inner, "jaxpr", inner)
            if inner is not None and len(inner.invars) == len(operands):
                return self.read(inner, consts, operands, scope if path is None else path)
            step = _meaning(primitive, step, params, self.steps)
        self.steps.append(step)
        return [At(len(self.steps) - 1)] * len(equation.outvars)


def _meaning(primitive: str, step: Step, params: Mapping[str, Any], steps: Sequence[Step]) -> Step:
    """The step as what it means, together with those right before it where only all of them mean something."""
    before = steps[step.inputs[0]]

    def read_as(**attributes: Any) -> Step:
        return dataclasses.replace(step, attributes=attributes)

    match primitive:
        case "concatenate":
            return read_as(axis=params["dimension"])
        case "pad":
            return read_as(padding=tuple((int(low), int(high)) for low, high, _ in params["padding_config"][1:-1]))
        case "slice":
            return read_as(strides=tuple(params["strides"] or (1,) * len(step.shape)))
        case "reduce_window" | "reduce_window_max" | "reduce_window_sum":
            inner = [equation.primitive.name for equation in params["jaxpr"].eqns] if "jaxpr" in params else [primitive]
            op = POOLS.get(inner[0] if len(inner) == 1 else "")
            return _pool(op, step, params, before) if op else step
        case "reduce_max":  # (B, h, k, w, k, C) over axes 2 and 4: windows that do not overlap, perhaps after a slice
            if before.op == "reshape" and len(before.shape) == 6 and tuple(params["axes"]) == (2, 4):
                cropped, kernel = steps[before.inputs[0]], (before.shape[2], before.shape[4])
                attributes = dict(kernel=kernel, strides=kernel, padding=((0, 0), (0, 0)))
                chain = (cropped, before) if cropped.op == "slice" else (before,)
                return step.after(*chain, op="max_pool", attributes=attributes)
        case "reduce_sum":
            return dataclasses.replace(read_as(axes=tuple(params["axes"])), op="sum")
        case "div" | "mul":  # a sum over a number of cells is a mean
            if len(step.inputs) == 1 and before.op in ("sum_pool", "sum"):
                op = "avg_pool" if before.op == "sum_pool" else "mean"
                return step.after(before, op=op, attributes=before.attributes)
        case "transpose":  # after rows, then columns, times a constant matrix each: an average to a number of cells
            rows = steps[before.inputs[0]] if before.op == "matmul" else before
            by_constants = before.op == rows.op == "matmul" and len(rows.inputs + before.inputs) == 2
            if by_constants and len(step.shape) == 4:
                return step.after(rows, before, op="avg_pool", attributes=dict(adaptive=True, cells=step.shape[1:3]))
            return read_as(permutation=tuple(params["permutation"]))
    return step


def _pool(op: str, step: Step, params: Mapping[str, Any], before: Step) -> Step:
    attributes: dict[str, Any] = dict(
        kernel=tuple(params["window_dimensions"][1:-1]),
        strides=tuple(params["window_strides"][1:-1]),
        padding=tuple(tuple(pair) for pair in params["padding"][1:-1]),
    )
    if op == "max_pool" and before.op == "pad":  # explicit padding takes part as a value
        attributes |= dict(padding=before.attributes["padding"], explicit=True)
        return step.after(before, op=op, attributes=attributes)
    return dataclasses.replace(step, op=op, attributes=attributes)
