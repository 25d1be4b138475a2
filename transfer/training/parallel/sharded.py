"""The published head over many devices: rows are sharded over the mesh's axis `data`, classes over `model`.

A row stays with the device that owns it. In a step each device takes the gradient over those rows of the batch that it
owns, and one reduction over `data` gives all of them the batch's; with classes on several devices the softmax takes a
maximum and a sum over `model` besides. The recipe, its state and the numbers are those of `transfer.heads.linear`, up
to the order of additions; so are the checkpoints, which either goes on from.

One program trains on rows that are all on the devices and on those that come by, a window at a time: what a call gets
are the rows at hand and, for each batch, where they lie. `transfer.training.parallel.dealing` makes these lists.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from transfer.heads.gradient import State
from transfer.heads.layers import Params, transpose_tree
from transfer.heads.optimisers import keras_adam
from transfer.heads.programs import LINEAR

DATA, MODEL = "data", "model"
# Rows of a device that are evaluated at a time.
EVALUATED = 4096
ROWS, BATCHES, NOWHERE = PartitionSpec(DATA), PartitionSpec(None, DATA), PartitionSpec()


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """The tree of shardings of a state: classes over `model` where that divides them, else everything everywhere."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(state, mesh))


def _spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Classes are the last axis of kernels, of biases and of their moments."""
    if not shape or mesh.shape[MODEL] == 1 or shape[-1] % mesh.shape[MODEL]:
        return NOWHERE
    return PartitionSpec(*[None] * (len(shape) - 1), MODEL)


def _specs(tree: Any, mesh: Mesh) -> Any:
    return jax.tree.map(lambda leaf: _spec(leaf.shape, mesh), tree)


@functools.partial(jax.jit, static_argnames=("mesh", "steps"))
def train(
    state: State,
    features: jax.Array,
    labels: jax.Array,
    taken: jax.Array,
    counts: jax.Array,
    learning_rate: ArrayLike,
    *,
    mesh: Mesh,
    steps: int | None = None,
) -> tuple[State, jax.Array]:
    """Trains on the first `steps` batches of `taken`.

    Args:
        state: as `transfer.heads.linear.init_state` makes it, sharded as `state_sharding` says.
        features: (devices * R, D), float32 or bfloat16; R rows for each device along `data`, on that device.
        labels: int32 (devices * R,).
        taken: int32 (S, devices * K), sharded along its second axis: of each device the places (below R) of those
            rows that are in the batch, -1 where there are fewer than K.
        counts: float32 (S,), rows of each batch on all devices. A batch of 0 rows ends the call.
        steps: S, where that is known when the program is compiled; None: as many as have rows.

    Returns:
        The state, its epoch not counted up, and float32 (2,): summed cross-entropy and number of right answers of
        the batches' rows before each step.
    """
    number = jnp.sum(counts > 0, dtype=jnp.int32) if steps is None else steps
    num_classes = state["params"]["bias"].shape[0]
    trained = {"params": state["params"], "opt_state": state["opt_state"]}
    wide = _pad_classes(trained, mesh)
    specs = _specs(wide, mesh)
    local = functools.partial(_train, num_classes=num_classes, steps=steps)
    wide, sums = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, ROWS, ROWS, BATCHES, NOWHERE, NOWHERE, NOWHERE),
        out_specs=(specs, NOWHERE),
    )(wide, features, labels, taken, counts, learning_rate, number)
    new = {**state, **_cut_classes(wide, num_classes)}
    return jax.lax.with_sharding_constraint(new, state_sharding(new, mesh)), sums


def _pad_classes(tree: Any, mesh: Mesh) -> Any:
    """Classes that nobody has, so that all devices along `model` have equally many."""

    def pad(leaf: jax.Array) -> jax.Array:
        more = -leaf.shape[-1] % mesh.shape[MODEL] if leaf.ndim else 0
        return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, more)]) if more else leaf

    return jax.tree.map(pad, tree)


def _cut_classes(tree: Any, num_classes: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[..., :num_classes] if leaf.ndim else leaf, tree)


def _train(
    state: State,
    features: jax.Array,
    labels: jax.Array,
    taken: jax.Array,
    counts: jax.Array,
    learning_rate: ArrayLike,
    number: jax.Array | int,
    *,
    num_classes: int,
    steps: int | None,
) -> tuple[State, jax.Array]:
    """The part of one device."""
    optimiser = keras_adam(learning_rate)

    def step(index: jax.Array, carry: tuple[Any, Any, jax.Array]) -> tuple[Any, Any, jax.Array]:
        params, opt_state, measured = carry
        rows = taken[index]
        own = (rows >= 0).astype(jnp.float32)
        x, y = (array.at[jnp.maximum(rows, 0)].get(mode="promise_in_bounds") for array in (features, labels))
        x = x.astype(jnp.float32)
        error, sums = _softmax(_scores(params, x), y, own, num_classes)
        error = error / counts[index]
        kernel = jax.lax.dot_general(error, x, (((1,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
        # the one reduction of a step: XLA makes one of the three
        kernel, bias, sums = jax.lax.psum((kernel, error.sum(axis=1), sums), DATA)
        updates, opt_state = optimiser.update({"kernel": kernel, "bias": bias}, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, measured.at[index].set(sums)

    params, opt_state = transpose_tree((state["params"], state["opt_state"]))
    start = (params, opt_state, jnp.zeros((len(counts), 2), jnp.float32))
    params, opt_state, measured = jax.lax.fori_loop(0, number if steps is None else steps, step, start)
    params, opt_state = transpose_tree((params, opt_state))
    return {"params": params, "opt_state": opt_state}, measured.sum(axis=0)


def _scores(class_major: Params, x: jax.Array) -> jax.Array:
    """Kernel (C, D), bias (C,); (K, D) -> (C, K)."""
    product = jax.lax.dot_general(
        class_major["kernel"], x, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )
    return product + class_major["bias"][:, None]


def _softmax(scores: jax.Array, labels: jax.Array, own: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """From (C, K) scores of this device's classes: softmax minus one-hot, (C, K), and [summed loss, right answers].

    Both are of the rows whose weight `own` is 1. Right is who scores the label highest and no class before it equally.
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
    error = (powers / total - of_label) * own
    right = (label_score == highest) & (before_label == 0)
    losses = jnp.log(total) + highest - label_score
    return error, jnp.stack([jnp.sum(losses * own), jnp.sum(right * own)])


@functools.partial(jax.jit, static_argnames="mesh")
def evaluate(params: Params, features: jax.Array, labels: jax.Array, real: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Float32 (2,): summed cross-entropy and number of right answers of the rows; one reduction in all.

    Args:
        features, labels: as for `train`.
        real: int32 (devices,), how many of a device's R rows are rows; the first ones.
    """
    num_classes = params["bias"].shape[0]
    wide = _pad_classes(params, mesh)
    return jax.shard_map(
        functools.partial(_evaluate, num_classes=num_classes),
        mesh=mesh,
        in_specs=(_specs(wide, mesh), ROWS, ROWS, ROWS),
        out_specs=NOWHERE,
    )(wide, features, labels, real)


def _evaluate(
    params: Params, features: jax.Array, labels: jax.Array, real: jax.Array, *, num_classes: int
) -> jax.Array:
    """The part of one device, some rows at a time."""
    class_major = jax.lax.optimization_barrier(
        transpose_tree(params)
    )  # XLA would fold the transposition into the product
    size = min(EVALUATED, len(features))
    steps = math.ceil(len(features) / size)

    def step(index: jax.Array, sums: jax.Array) -> jax.Array:
        # the last slice begins earlier, where it would reach beyond the rows; what it holds twice counts once
        start = jnp.minimum(index * size, len(features) - size)
        x, y = (jax.lax.dynamic_slice_in_dim(array, start, size) for array in (features, labels))
        place = start + jnp.arange(size)
        own = ((place >= index * size) & (place < real[0])).astype(jnp.float32)
        return sums + _softmax(_scores(class_major, x.astype(jnp.float32)), y, own, num_classes)[1]

    start = jax.lax.pcast(jnp.zeros(2, jnp.float32), DATA, to="varying")
    return jax.lax.psum(jax.lax.fori_loop(0, steps, step, start), DATA)


def lower_train(
    mesh: Mesh,
    rows_per_device: int,
    width: int,
    num_features: int,
    num_classes: int,
    steps: int | None,
    dtype: str = "float32",
    *,
    most_steps: int | None = None,
) -> jax.stages.Lowered:
    """`train` lowered for devices that may not be here.

    Args:
        mesh: axes `data` and `model`.
        rows_per_device: R.
        width: K, rows of a batch on one device at most.
        steps: S; None lowers the program that takes any number up to `most_steps`, as streaming does.
        dtype: of the features.
    """
    return train.lower(
        _abstract_state(mesh, num_features, num_classes),
        *_abstract_rows(mesh, rows_per_device, num_features, dtype),
        _abstract((steps or most_steps or 1, mesh.shape[DATA] * width), jnp.int32, mesh, BATCHES),
        _abstract((steps or most_steps or 1,), jnp.float32, mesh, NOWHERE),
        _abstract((), jnp.float32, mesh, NOWHERE),
        mesh=mesh,
        steps=steps,
    )


def lower_evaluate(
    mesh: Mesh, rows_per_device: int, num_features: int, num_classes: int, dtype: str = "float32"
) -> jax.stages.Lowered:
    """`evaluate` lowered for devices that may not be here."""
    return evaluate.lower(
        _abstract_state(mesh, num_features, num_classes)["params"],
        *_abstract_rows(mesh, rows_per_device, num_features, dtype),
        _abstract((mesh.shape[DATA],), jnp.int32, mesh, ROWS),
        mesh=mesh,
    )


def _abstract(shape: tuple[int, ...], dtype: Any, mesh: Mesh, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def _abstract_rows(mesh: Mesh, rows: int, num_features: int, dtype: str) -> tuple[jax.ShapeDtypeStruct, ...]:
    rows *= mesh.shape[DATA]
    return (
        _abstract((rows, num_features), jnp.dtype(dtype), mesh, ROWS),
        _abstract((rows,), jnp.int32, mesh, ROWS),
    )


def _abstract_state(mesh: Mesh, num_features: int, num_classes: int) -> Any:
    shapes = jax.eval_shape(lambda: LINEAR.init_state(num_features, num_classes, LINEAR.init_key(0)))
    return jax.tree.map(lambda leaf: _abstract(leaf.shape, leaf.dtype, mesh, _spec(leaf.shape, mesh)), shapes)
