"""Makes each call of a module one equation of a jaxpr that carries the module's path as its name."""

from functools import cache
from typing import Any

import jax
from flax import nnx

PREFIX = "module:"
PATH = "path_in_graph"


def name_calls(model: nnx.Module) -> dict[str, nnx.Module]:
    """Changes every module of `model` but itself; returns the layers, which hold variables and no modules, by path.

    `model` must be a copy that is traced once and thrown away.
    """
    layers = {}
    for path, module in list(nnx.iter_modules(model)):
        if not path:
            continue
        dotted = ".".join(map(str, path))
        if _is_layer(module):
            layers[dotted] = module
        setattr(module, PATH, dotted)
        object.__setattr__(module, "__class__", _with_named_call(type(module)))
    return layers


def _is_layer(module: nnx.Module) -> bool:
    has_variables = any(isinstance(value, (nnx.Param, nnx.BatchStat)) for value in vars(module).values())
    return has_variables and sum(1 for _ in nnx.iter_modules(module)) == 1


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
