"""A model that runs part by part, each a compiled program: parts of equal shape share one, also between models.

Compiling whole networks at many sizes takes minutes, and layer by layer is as slow, for a batch norm is many small
programs. What is computed is the model's own code either way.
"""

from functools import partial

import jax
from flax import nnx


@partial(jax.jit, static_argnums=0)
def _run(definition: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    return nnx.merge(definition, state)(images)


class Part(nnx.Module):
    """A module in inference mode behind its compiled program."""

    def __init__(self, module: nnx.Module) -> None:
        self.module = module

    def __call__(self, images: jax.Array) -> jax.Array:
        return _run(*nnx.split(self.module), images)


def by_parts(model: nnx.Module) -> nnx.Module:
    """`model` with its blocks, units and single layers as parts, in place; stages are run unit by unit."""
    for name, child in list(nnx.iter_children(model)):
        if hasattr(child, "unit1"):
            by_parts(child)
        elif nnx.state(child, (nnx.Param, nnx.BatchStat)):
            setattr(model, name, Part(child))
    return model
