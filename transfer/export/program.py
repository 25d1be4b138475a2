"""A finished run as one program for any JAX: uint8 images in, probabilities out, every weight inside."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from transfer import preprocess
from transfer.bound import Bound
from transfer.errors import UsageError
from transfer.export.resize import resize
from transfer.extract import DTYPES, Tap
from transfer.heads.targets import ACTIVATIONS
from transfer.program import PRECISIONS

# What a platform is called by `jax.export`, and by us.
PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
Run = Callable[[jax.Array], jax.Array]


def exported(bound: Bound, platforms: tuple[str, ...], input_size: tuple[int, int] | None) -> export.Exported:
    """The program (B, h, w, 3) uint8 -> (B, C) float32: probabilities, or values; B is free.

    The convolutions are the library's, on every platform, and not those that `transfer.freeze` plans for this machine.

    Args:
        platforms: keys of `PLATFORMS`.
        input_size: h and w; None: free as well, and resized as Pillow does.

    Raises:
        UsageError: a head that JAX cannot trace.
    """
    sides = "h, w" if input_size is None else "{}, {}".format(*input_size)
    shape = export.symbolic_shape(f"b, {sides}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    with jax.default_matmul_precision(_precision(bound, platforms)):
        return export.export(jax.jit(_run(bound)), platforms=platforms)(images)


def _precision(bound: Bound, platforms: tuple[str, ...]) -> str:
    """The one precision that keeps the run's promise on all of the platforms."""
    if _dtype(bound) == jnp.bfloat16:
        return "default"
    asked = bound.config.precision
    found = {PRECISIONS[asked].get(PLATFORMS[platform], asked) for platform in platforms}
    return found.pop() if len(found) == 1 else "highest"


def _dtype(bound: Bound) -> Any:
    return jnp.dtype(DTYPES[bound.config.dtype]) if bound.head is not None else jnp.dtype(jnp.float32)


def _run(bound: Bound) -> Run:
    preprocessing, dtype, network, output = bound.preprocessing, _dtype(bound), _network(bound), _output(bound)

    def run(images: jax.Array) -> jax.Array:
        resized = resize(preprocessing, images)
        return output(network(preprocess.normalise(preprocessing, resized).astype(dtype)))

    return run


def _network(bound: Bound) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Preprocessed images -> end points, in inference mode; parameters in the run's type."""
    graph, state = nnx.split(bound.model)
    dtype = _dtype(bound)

    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    state = jax.tree.map(cast, state)

    def network(images: jax.Array) -> dict[str, jax.Array]:
        model: Any = nnx.merge(graph, state)
        model.eval()
        return model(images)[1]

    return network


def _output(bound: Bound) -> Callable[[dict[str, jax.Array]], jax.Array]:
    """End points -> what is returned."""
    if bound.head is None:
        return lambda endpoints: ACTIVATIONS[bound.kind](endpoints["logits"].astype(jnp.float32))
    if not hasattr(bound.head, "traced"):
        raise UsageError(f"--workdir={bound.workdir}: its head, {type(bound.head).__name__}, cannot be exported")
    tap, columns = Tap.parse(str(bound.tap)), columns_of(bound)

    def output(endpoints: dict[str, jax.Array]) -> jax.Array:
        rows = tap.of(endpoints)
        found = bound.head.traced(rows.reshape(rows.shape[0], -1))
        if columns is None:
            return found
        wide = jnp.zeros((found.shape[0], len(bound.class_names)), found.dtype)
        return wide.at[:, columns].set(found)

    return output


def columns_of(bound: Bound) -> np.ndarray | None:
    """Which of the run's classes the head's are; None where it knows them all."""
    own = getattr(bound.head, "classes_", ())
    if bound.kind != "classes" or len(own) == len(bound.class_names):
        return None
    return np.asarray(own).astype(np.int64)
