"""A finished run as one program for any JAX: uint8 images in, probabilities out, every weight inside."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from transfer.errors import UsageError
from transfer.export.finished_run import Bound
from transfer.extract.extractor import DTYPES
from transfer.extract.program import PRECISIONS
from transfer.extract.taps import Tap
from transfer.heads.targets import ACTIVATIONS
from transfer.preprocess import recipe
from transfer.preprocess.any_size import resize
from transfer.preprocess.recipe import Preprocessing

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
    run = _run(bound, resize if input_size is None else recipe.resize)
    with jax.default_matmul_precision(_precision(bound, platforms)):
        return export.export(jax.jit(run), platforms=platforms)(images)


def _precision(bound: Bound, platforms: tuple[str, ...]) -> str:
    """The one precision that keeps the run's promise on all of the platforms."""
    if _dtype(bound) == jnp.bfloat16:
        return "default"
    # as `transfer.export.predictor` has it: a trained network's own steps are plain float32
    asked = bound.config.precision if bound.head is not None else "highest"
    found = {PRECISIONS[asked].get(PLATFORMS[platform], asked) for platform in platforms}
    return found.pop() if len(found) == 1 else "highest"


def _dtype(bound: Bound) -> Any:
    return jnp.dtype(DTYPES[bound.config.dtype])


def _run(bound: Bound, resized: Callable[[Preprocessing, jax.Array], jax.Array]) -> Run:
    preprocessing, network, output = bound.preprocessing, _Network(bound), _output(bound)
    dtype = _dtype(bound)
    leaves, definition = jax.tree.flatten(network.state)
    image = jax.ShapeDtypeStruct((1, *preprocessing.input_shape), dtype)
    used = _used(lambda given, images: output(network(jax.tree.unflatten(definition, given), images)), leaves, image)

    def run(images: jax.Array) -> jax.Array:
        # what nothing depends on is made up on the spot, so that the file need not hold it
        given = [leaf if at in used else jnp.zeros_like(leaf) for at, leaf in enumerate(leaves)]
        prepared = recipe.normalise(preprocessing, resized(preprocessing, images)).astype(dtype)
        return output(network(jax.tree.unflatten(definition, given), prepared))

    return run


class _Network:
    """Parameters, and preprocessed images -> end points, in inference mode.

    Attributes:
        state: the parameters, in the run's type.
    """

    def __init__(self, bound: Bound) -> None:
        dtype = _dtype(bound)
        self._graph, state = nnx.split(bound.model)
        self.state = jax.tree.map(
            lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state
        )

    def __call__(self, state: Any, images: jax.Array) -> dict[str, jax.Array]:
        model: Any = nnx.merge(self._graph, state)
        model.eval()
        return model(images)[1]


def _used(function: Callable[[Any, Any], Any], leaves: Sequence[Any], images: jax.ShapeDtypeStruct) -> set[int]:
    """Numbers of the leaves that the function's value depends on."""
    jaxpr = jax.make_jaxpr(function)(leaves, images).jaxpr
    needed = {id(one) for one in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(one) in needed for one in equation.outvars):
            needed |= {id(one) for one in equation.invars}
    return {at for at, one in enumerate(jaxpr.invars[: len(leaves)]) if id(one) in needed}


def _output(bound: Bound) -> Callable[[dict[str, jax.Array]], jax.Array]:
    """End points -> what is returned."""
    if bound.head is None:
        return lambda endpoints: ACTIVATIONS[bound.kind](endpoints["logits"].astype(jnp.float32))
    if not hasattr(bound.head, "traced"):
        raise UsageError(f"--workdir={bound.workdir}: its head, {type(bound.head).__name__}, cannot be exported")
    tap, columns = Tap.parse(str(bound.tap)), columns_of(bound)
    stored = jnp.dtype(DTYPES[bound.config.get("features_dtype", "float32")])

    def output(endpoints: dict[str, jax.Array]) -> jax.Array:
        rows = tap.of(endpoints).astype(stored).astype(jnp.float32)  # the bits that a store keeps
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
