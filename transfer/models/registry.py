"""Every architecture by name, found in the family files beside this one; and a model's arrays by dotted path."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import jax
from flax import nnx

import transfer.models
from transfer.errors import UsageError, did_you_mean, similar

# What a weight file holds of a model: parameters and the running statistics of batch norm.
STORED = (nnx.Param, nnx.BatchStat)


@cache
def architectures() -> dict[str, Callable[..., nnx.Module]]:
    """Architecture name -> builder, collected from the `ARCHITECTURES` of every file in `transfer/models`."""
    builders: dict[str, Callable[..., nnx.Module]] = {}
    for module in pkgutil.iter_modules(transfer.models.__path__):
        if module.name != "registry" and not module.ispkg:
            family = importlib.import_module(f"transfer.models.{module.name}")
            builders.update(getattr(family, "ARCHITECTURES", {}))
    return builders


def builder(arch: str) -> Callable[..., nnx.Module]:
    """The builder of architecture `arch`; UsageError with the nearest names if there is none."""
    known = architectures()
    if arch not in known:
        raise UsageError(f"unknown architecture {arch!r}{did_you_mean(similar(arch, known) or sorted(known))}")
    return known[arch]


def defaults(arch: str) -> dict[str, Any]:
    """The fields that architecture `arch` may be built with, and what they are if nothing else is said."""
    construct = builder(arch)
    made_by = getattr(construct, "func", construct)
    # what makes instances of NNX's classes has a signature that says nothing
    own = inspect.signature(made_by.__init__ if inspect.isclass(made_by) else made_by).parameters.values()
    usual = {each.name: each.default for each in own if each.default is not each.empty}
    return {**usual, **getattr(construct, "keywords", {})}


def build(arch: str, *, seed: int | None = 0, **fields: Any) -> nnx.Module:
    """A model of architecture `arch` with random weights; `seed=None` gives shapes only, to be filled.

    Args:
        arch: a key of `architectures()`, such as `"vgg16_bn"`.
        fields: the family's own, and those of all: `num_classes` (0 leaves the classifier out, as Keras' `notop`),
            `channels` (of the images) and `width` (multiplies every channel count, the hidden layers' included).

    Raises:
        UsageError: unknown architecture or field.
    """
    construct = builder(arch)

    def make(rngs: Any) -> nnx.Module:
        try:
            return construct(**fields, rngs=rngs)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise UsageError(f"{arch} has no field {str(error).split()[-1]}") from error

    if seed is not None:
        return make(nnx.Rngs(seed))
    return nnx.eval_shape(lambda: make(_OneKey()))


class _OneKey:
    """Stands in for `nnx.Rngs` where only shapes are wanted: its counters, traced, take time quadratic in layers."""

    def __init__(self) -> None:
        self.key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self.key


def flat_state(model: nnx.Module) -> dict[str, jax.Array]:
    """Dotted path -> array (`"block1.conv1.kernel"`), parameters and batch statistics."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Any(*STORED)))
    return {".".join(map(str, path)): variable.get_value() for path, variable in state}


def layers_of(paths: Iterable[str]) -> tuple[str, ...]:
    """The layers of arrays: `block1.conv1` of `block1.conv1.kernel`, each once, in order."""
    return tuple(dict.fromkeys(path.rpartition(".")[0] for path in paths))


def load_flat_state(model: nnx.Module, arrays: Mapping[str, Any]) -> None:
    """Puts `arrays` (dotted path -> array) into `model`, in place; every path of the model must be there."""
    state = nnx.state(model, nnx.Any(*STORED))
    flat = [(path, variable.replace(arrays[".".join(map(str, path))])) for path, variable in nnx.to_flat_state(state)]
    nnx.update(model, nnx.from_flat_state(flat))
