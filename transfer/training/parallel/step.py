"""The published head over many devices: rows are sharded over the mesh's axis `data`, classes over `model`.

A row stays with the device that owns it. In a step each device takes the gradient over those rows of the batch that it
owns, and one reduction over `data` gives all of them the batch's; with classes on several devices the softmax takes a
maximum and a sum over `model` besides. The recipe, its state and the numbers are those of
`transfer.heads.programs.LINEAR`, up to the order of additions; so are the checkpoints, which either goes on from.

One compiled function trains on rows that are all on the devices and on those that come by, a window at a time, as
`transfer.training.parallel.batches` hands them over.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from transfer.heads.gradient import Params, State, keras_adam, scores, transpose_tree
from transfer.heads.programs import LINEAR

DATA, MODEL = "data", "model"
# Rows of a device that are evaluated at a time.
EVALUATED = 4096
ROWS, BATCHES, REPLICATED = PartitionSpec(DATA), PartitionSpec(None, DATA), PartitionSpec()


class Batches(NamedTuple):
    """Rows at hand, R on each device along `data`, and which of them are in each of S batches."""

    features: Any  # (devices * R, D), float32 or bfloat16
    labels: Any  # int32 (devices * R,)
    # int32 (S, devices * K), sharded along its second axis: for each device where (below R) those of its rows lie that
    # are in the batch, -1 where there are fewer than K
    indices: Any
    sizes: Any  # float32 (S,), rows of each batch on all devices; a batch of 0 rows ends the call


BATCH_SPECS = Batches(ROWS, ROWS, BATCHES, REPLICATED)


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """The tree of shardings of a state: classes over `model` where that divides them, else everything everywhere."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(state, mesh))


def shard_state(state: Any, mesh: Mesh) -> Any:
    """A state that every process has whole, in its shards."""
    host = jax.tree.map(np.asarray, state)

    def shard(leaf: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(shard, host, state_sharding(host, mesh))


def _specs(tree: Any, mesh: Mesh) -> Any:
    """Classes are the last axis of kernels, of biases and of their moments."""

    def spec(leaf: Any) -> PartitionSpec:
        if not leaf.shape or mesh.shape[MODEL] == 1 or leaf.shape[-1] % mesh.shape[MODEL]:
            return REPLICATED
        return PartitionSpec(*[None] * (len(leaf.shape) - 1), MODEL)

    return jax.tree.map(spec, tree)


@functools.partial(jax.jit, static_argnames=("mesh", "num_steps"))
def train(
    state: State, batches: Batches, learning_rate: ArrayLike, *, mesh: Mesh, num_steps: int | None = None
) -> tuple[State, jax.Array]:
    """Trains a state of `LINEAR.init_state`, sharded as `state_sharding` says, on S batches.

    S is `num_steps` where that is known when the function is compiled; None: as many as have rows.

    Returns the state, its epoch not counted up, and float32 (2,): summed cross-entropy and number of right answers of
    the batches' rows before each step.
    """
    steps = jnp.sum(batches.sizes > 0, dtype=jnp.int32) if num_steps is None else num_steps
    num_classes = state["params"]["bias"].shape[0]
    trained = _pad_classes({"params": state["params"], "opt_state": state["opt_state"]}, mesh)
    specs = _specs(trained, mesh)
    trained, sums = jax.shard_map(
        functools.partial(_train, num_classes=num_classes, num_steps=num_steps),
        mesh=mesh,
        in_specs=(specs, BATCH_SPECS, REPLICATED, REPLICATED),
        out_specs=(specs, REPLICATED),
    )(trained, batches, learning_rate, steps)
    new = {**state, **jax.tree.map(lambda leaf: leaf[..., :num_classes] if leaf.ndim else leaf, trained)}
    return jax.lax.with_sharding_constraint(new, state_sharding(new, mesh)), sums


def _pad_classes(tree: Any, mesh: Mesh) -> Any:
    """Adds classes that no row has, so that all devices along `model` have equally many."""

    def pad(leaf: jax.Array) -> jax.Array:
        padding = -leaf.shape[-1] % mesh.shape[MODEL] if leaf.ndim else 0
        return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, padding)]) if padding else leaf

    return jax.tree.map(pad, tree)


def _train(
    state: State, batches: Batches, learning_rate: ArrayLike, steps: Any, *, num_classes: int, num_steps: int | None
) -> tuple[State, jax.Array]:
    """The part of one device."""
    optimiser = keras_adam(learning_rate)

    def step(number: jax.Array, carry: tuple[Any, Any, jax.Array]) -> tuple[Any, Any, jax.Array]:
        params, opt_state, sums_by_step = carry
        rows = batches.indices[number]
        real = (rows >= 0).astype(jnp.float32)
        x, y = (array.at[jnp.maximum(rows, 0)].get(mode="promise_in_bounds") for array in batches[:2])
        x = x.astype(jnp.float32)
        error, sums = _softmax(scores(params, x), y, real, num_classes)
        error = error / batches.sizes[number]
        kernel = jax.lax.dot_general(error, x, (((1,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
        # the one reduction of a step: XLA makes one of the three
        kernel, bias, sums = jax.lax.psum((kernel, error.sum(axis=1), sums), DATA)
        updates, opt_state = optimiser.update({"kernel": kernel, "bias": bias}, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, sums_by_step.at[number].set(sums)

    params, opt_state = transpose_tree((state["params"], state["opt_state"]))
    start = (params, opt_state, jnp.zeros((len(batches.sizes), 2), jnp.float32))
    params, opt_state, sums_by_step = jax.lax.fori_loop(0, steps if num_steps is None else num_steps, step, start)
    params, opt_state = transpose_tree((params, opt_state))
    return {"params": params, "opt_state": opt_state}, sums_by_step.sum(axis=0)


def _softmax(scores: jax.Array, labels: jax.Array, real: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Softmax minus one-hot, (C, K), and [summed loss, right answers], of scores (C, K) of this device's classes.

    Both are of the rows whose weight `real` is 1. Right is who scores the label highest and no class before it equally.
    """
    width = jax.lax.axis_size(MODEL)
    classes = jnp.arange(len(scores))[:, None]
    if width > 1:
        classes = classes + len(scores) * jax.lax.axis_index(MODEL)
        scores = jnp.where(classes < num_classes, scores, -jnp.inf)
    highest = scores.max(axis=0)
    if width > 1:
        highest = jax.lax.pmax(highest, MODEL)
    of_label = classes == labels
    powers = jnp.exp(scores - highest)
    before = (scores == highest) & (classes < labels)
    parts = (powers.sum(axis=0), jnp.where(of_label, scores, 0).sum(axis=0), before.sum(axis=0, dtype=jnp.float32))
    if width > 1:
        parts = jax.lax.psum(parts, MODEL)
    total, label_score, before_label = parts
    error = (powers / total - of_label) * real
    right = (label_score == highest) & (before_label == 0)
    losses = jnp.log(total) + highest - label_score
    return error, jnp.stack([jnp.sum(losses * real), jnp.sum(right * real)])


@functools.partial(jax.jit, static_argnames="mesh")
def evaluate(params: Params, features: jax.Array, labels: jax.Array, num_rows: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Float32 (2,): summed cross-entropy and number of right answers of the rows; one reduction in all.

    Of a device's R rows, as in `Batches`, the first `num_rows`, int32 (devices,), are rows.
    """
    num_classes = params["bias"].shape[0]
    padded = _pad_classes(params, mesh)

    def evaluate_shard(params: Params, features: jax.Array, labels: jax.Array, num_rows: jax.Array) -> jax.Array:
        # XLA would fold the transposition into the product
        class_major = jax.lax.optimization_barrier(transpose_tree(params))
        size = min(EVALUATED, len(features))

        def add_slice(number: jax.Array, sums: jax.Array) -> jax.Array:
            # the last slice begins earlier, where it would reach beyond the rows; what it holds twice counts once
            start = jnp.minimum(number * size, len(features) - size)
            x, y = (jax.lax.dynamic_slice_in_dim(array, start, size) for array in (features, labels))
            row = start + jnp.arange(size)
            real = ((row >= number * size) & (row < num_rows[0])).astype(jnp.float32)
            return sums + _softmax(scores(class_major, x.astype(jnp.float32)), y, real, num_classes)[1]

        start = jax.lax.pcast(jnp.zeros(2, jnp.float32), DATA, to="varying")
        return jax.lax.psum(jax.lax.fori_loop(0, math.ceil(len(features) / size), add_slice, start), DATA)

    return jax.shard_map(
        evaluate_shard, mesh=mesh, in_specs=(_specs(padded, mesh), ROWS, ROWS, ROWS), out_specs=REPLICATED
    )(padded, features, labels, num_rows)


def abstract_arguments(
    mesh: Mesh, rows: int, width: int, num_features: int, num_classes: int, num_steps: int, dtype: str = "float32"
) -> tuple[State, Batches, jax.ShapeDtypeStruct]:
    """The arguments of `train` without their values, to compile it for devices that are not here.

    Of so many `rows` of a device, of which `width` are in a batch: R and K.
    """

    def array(spec: PartitionSpec, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    shapes = jax.eval_shape(lambda: LINEAR.init_state(num_features, num_classes, LINEAR.init_key(0)))
    state = jax.tree.map(lambda leaf, spec: array(spec, leaf.shape, leaf.dtype), shapes, _specs(shapes, mesh))
    rows *= mesh.shape[DATA]
    indices = (num_steps, mesh.shape[DATA] * width)
    of_batches = ((rows, num_features), dtype), ((rows,), "int32"), (indices, "int32"), ((num_steps,), "float32")
    batches = Batches(*(array(spec, *kind) for spec, kind in zip(BATCH_SPECS, of_batches, strict=True)))
    return state, batches, array(REPLICATED, (), "float32")
