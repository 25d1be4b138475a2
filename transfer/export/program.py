"""A finished run as one program for any JAX: uint8 images in, probabilities out, every weight inside."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from transfer.errors import UsageError
from transfer.export.finished_run import FinishedRun
from transfer.extract.extractor import DTYPES
from transfer.extract.program import PRECISIONS
from transfer.extract.taps import Tap
from transfer.heads.targets import ACTIVATIONS
from transfer.preprocess import recipe
from transfer.preprocess.any_size import resize
from transfer.preprocess.recipe import Preprocessing

# Name of a platform in `jax.export` -> its name in this package.
PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
Run = Callable[[jax.Array], jax.Array]


def exported(run: FinishedRun, platforms: tuple[str, ...], input_size: tuple[int, int] | None) -> export.Exported:
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
    program = _program(run, resize if input_size is None else recipe.resize)
    with jax.default_matmul_precision(_precision(run, platforms)):
        return export.export(jax.jit(program), platforms=platforms)(images)


def _precision(run: FinishedRun, platforms: tuple[str, ...]) -> str:
    """The precision of matrix products that is at least the run's on all of the platforms."""
    if _dtype(run) == jnp.bfloat16:
        return "default"
    # as `transfer.export.predictor` has it: a trained network's own steps are plain float32
    asked = run.config.precision if run.head is not None else "highest"
    precisions = {PRECISIONS[asked].get(PLATFORMS[platform], asked) for platform in platforms}
    return precisions.pop() if len(precisions) == 1 else "highest"


def _dtype(run: FinishedRun) -> Any:
    return jnp.dtype(DTYPES[run.config.dtype])


def _program(run: FinishedRun, resized: Callable[[Preprocessing, jax.Array], jax.Array]) -> Run:
    """The function from uint8 images to the output, with the run's parameters as constants."""
    preprocessing, output, dtype = run.preprocessing, _output(run), _dtype(run)
    graph, state = nnx.split(run.model)
    leaves, definition = jax.tree.flatten(
        jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state)
    )

    def network(leaves: Sequence[Any], images: jax.Array) -> jax.Array:
        model: Any = nnx.merge(graph, jax.tree.unflatten(definition, leaves))
        model.eval()
        return output(model(images)[1])

    used = _used(network, leaves, jax.ShapeDtypeStruct((1, *preprocessing.input_shape), dtype))

    def program(images: jax.Array) -> jax.Array:
        # a leaf that nothing depends on is made on the spot, so that the file need not hold it
        needed = [leaf if index in used else jnp.zeros_like(leaf) for index, leaf in enumerate(leaves)]
        return network(needed, recipe.normalise(preprocessing, resized(preprocessing, images)).astype(dtype))

    return program


def _used(function: Callable[[Any, Any], Any], leaves: Sequence[Any], images: jax.ShapeDtypeStruct) -> set[int]:
    """The indices of the leaves that the function's value depends on."""
    jaxpr = jax.make_jaxpr(function)(leaves, images).jaxpr
    needed = {id(variable) for variable in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(variable) for variable in equation.invars}
    return {index for index, variable in enumerate(jaxpr.invars[: len(leaves)]) if id(variable) in needed}


def _output(run: FinishedRun) -> Callable[[dict[str, jax.Array]], jax.Array]:
    """The function from end points to the program's output."""
    if run.head is None:
        return lambda endpoints: ACTIVATIONS[run.kind](endpoints["logits"].astype(jnp.float32))
    if not hasattr(run.head, "traced"):
        raise UsageError(f"--workdir={run.workdir}: its head, {type(run.head).__name__}, cannot be exported")
    tap, columns = Tap.parse(str(run.tap)), columns_of(run)
    stored = jnp.dtype(DTYPES[run.config.get("features_dtype", "float32")])

    def output(endpoints: dict[str, jax.Array]) -> jax.Array:
        rows = tap.of(endpoints).astype(stored).astype(jnp.float32)  # the bits that a store keeps
        probabilities = run.head.traced(rows.reshape(rows.shape[0], -1))
        if columns is None:
            return probabilities
        wide = jnp.zeros((len(probabilities), len(run.class_names)), probabilities.dtype)
        return wide.at[:, columns].set(probabilities)

    return output


def columns_of(run: FinishedRun) -> np.ndarray | None:
    """The indices of the head's classes among the run's; None where it knows them all."""
    classes = getattr(run.head, "classes_", ())
    if run.kind != "classes" or len(classes) == len(run.class_names):
        return None
    return np.asarray(classes).astype(np.int64)
