"""Models run at many sizes in a test: compiled as a whole, or unit by unit where many units share one program.

Compiling a ResNet-152 as a whole takes as long as all other ResNets by their units, and layer by layer is slow too, for
a batch norm is many small programs. What is computed is the model's own code in every case.
"""

from functools import partial
from typing import Any

import jax
from flax import nnx

# Most of the time is compilation, which this halves. Convolutions and matrix products are library calls, as fast at any
# level.
QUICK = {"xla_backend_optimization_level": 0}


@partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _run(definition: nnx.GraphDef, state: nnx.State, images: jax.Array) -> Any:
    return nnx.merge(definition, state)(images)


class Part(nnx.Module):
    """A module in inference mode behind its compiled program."""

    def __init__(self, module: nnx.Module) -> None:
        self.module = module

    def __call__(self, images: jax.Array) -> Any:
        return _run(*nnx.split(self.module), images)


def compiled(model: nnx.Module) -> nnx.Module:
    """A drop-in for calling `model` in inference mode; a network with stages is changed in place."""
    staged = [child for child in vars(model).values() if hasattr(child, "unit1")]
    if not staged:
        return Part(model)
    for module in (model, *staged):
        for name, child in list(vars(module).items()):
            if child not in staged and isinstance(child, nnx.Module):
                setattr(module, name, Part(child))
    return model
