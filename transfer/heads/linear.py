"""The published head, Flatten -> Dense -> softmax under Adam, as one jitted program whose epoch is a `lax.scan`.

The recipe is that of the Keras lab this project carries on (`feature_extraction.py`): Glorot-uniform kernel, zero
bias, Adam with Keras' defaults, sparse categorical cross-entropy, a fresh shuffle each epoch, the last partial
batch kept. Features and labels stay on the device and are arguments of the program, never constants in it.

A state holds kernels as the field does, (D, C). Training turns them to (C, D), "upright", for the length of its
loops, and scores to (C, N): with few classes XLA's CPU product for the gradient is 8 times faster so (a step of 256
rows: 0.10 ms instead of 0.48 at 512 features, 0.44 instead of 2.07 at 2,048), and so is a softmax whose inner loop
runs over rows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from transfer.errors import TransferError, UsageError
from transfer.heads.rows import class_indices, flat_features

# {"params": {"kernel" (D, C), "bias" (C,)}, "opt_state": optax's own, "epoch": int32, epochs done so far}
State = dict[str, Any]
Params = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

# Epochs whose heads are validated by one product hold at most so many bytes of scores, or of kernels.
VALIDATION_BYTES = 8 << 20
MOST_VALIDATED = 16

METRICS = ("loss", "accuracy", "validation_loss", "validation_accuracy")

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults; optax's epsilon would be 1e-8


def keras_adam(learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Adam where Keras puts epsilon: beside the square root of the second moment *before* its bias correction.

    Keras (and section 2 of Kingma & Ba, "epsilon hat") steps by `lr sqrt(c2)/c1 m / (sqrt(v) + eps)`, with
    `c = 1 - beta^t`; optax by `lr (m/c1) / (sqrt(v/c2) + eps)`. The two are one where optax's epsilon is
    `eps / sqrt(c2)`: 32 times larger at the first step, equal after a few thousand. So that is its schedule.
    The learning rate is no part of the state, so that a sweep may trace it.
    """

    def epsilon(count: jax.Array) -> jax.Array:
        return EPSILON / jnp.sqrt(1 - BETA_2 ** (count + 1))

    adam = optax.inject_hyperparams(optax.scale_by_adam, static_args=("b1", "b2", "eps_root"))
    return optax.chain(adam(b1=BETA_1, b2=BETA_2, eps=epsilon), optax.scale_by_learning_rate(learning_rate))


def logits(params: Params, features: jax.Array) -> jax.Array:
    """(N, D) float32 -> (N, C) float32. Full precision everywhere: a head is bound by memory, not by arithmetic."""
    return jnp.dot(features, params["kernel"], precision=jax.lax.Precision.HIGHEST) + params["bias"]


def init_key(seed: ArrayLike) -> jax.Array:
    """Key of a seed's first weights. The shuffles fold an epoch's number into the same seed; this number is none."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))


@functools.partial(jax.jit, static_argnames=("num_features", "num_classes"))
def init_state(num_features: int, num_classes: int, key: jax.Array) -> State:
    """Fresh state of a head of `num_features` inputs: a plain pytree of arrays, as Orbax wants it. Pure JAX."""
    kernel = jax.nn.initializers.glorot_uniform()(key, (num_features, num_classes), jnp.float32)
    params = {"kernel": kernel, "bias": jnp.zeros(num_classes, jnp.float32)}
    return {"params": params, "opt_state": keras_adam(0.0).init(params), "epoch": jnp.zeros((), jnp.int32)}


# (D, C) kernels, and their moments, to (C, D) and back; vectors and numbers stay as they are.
_turned = functools.partial(jax.tree.map, jnp.transpose)


def _scores(upright: Params, features: jax.Array) -> jax.Array:
    """Kernel (..., C, D), bias (..., C); (N, D) -> (..., C, N): `logits`, one column a row."""
    kernel = upright["kernel"]
    flat = kernel.reshape(-1, kernel.shape[-1])
    product = jax.lax.dot_general(flat, features, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
    return product.reshape(*kernel.shape[:-1], len(features)) + upright["bias"][..., None]


def train_epoch(
    state: State,
    features: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    learning_rate: ArrayLike,
    *,
    batch_size: int,
    shuffle: bool = True,
) -> tuple[State, Metrics]:
    """One pass over `features` (N, D), `labels` (N,) int32 in the order that `key` shuffles them into. Pure JAX.

    The last batch keeps its N mod batch_size rows: padded to the one shape and masked, its loss the mean over the
    real ones. Loss and accuracy are those of each batch before its step, over all rows, as Keras' `fit` reports them.
    """
    optimiser = keras_adam(learning_rate)
    rows, real = _batches(len(features), batch_size, key if shuffle else None)

    def step(carry: tuple[Any, Any], batch: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Any], jax.Array]:
        params, opt_state = carry
        taken, weight = batch
        x, y = (rows.at[taken].get(mode="promise_in_bounds") for rows in (features, labels))

        def mean_loss(params: Any) -> tuple[jax.Array, jax.Array]:
            sums = _weighted_sums(_scores(params, x), y, weight)
            return sums[0] / weight.sum(), sums

        gradients, sums = jax.grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), sums

    upright, sums = jax.lax.scan(step, _turned((state["params"], state["opt_state"])), (rows, real))
    params, opt_state = _turned(upright)
    loss, accuracy = sums.sum(axis=0) / len(features)
    new_state = {"params": params, "opt_state": opt_state, "epoch": state["epoch"] + 1}
    return new_state, {"loss": loss, "accuracy": accuracy}


def _batches(num_rows: int, batch_size: int, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Row numbers and weights (1 real, 0 padding) of every batch, both (steps, batch)."""
    batch_size = min(batch_size, num_rows)
    steps = -(-num_rows // batch_size)
    order = jnp.arange(num_rows) if key is None else jax.random.permutation(key, num_rows)
    order = jnp.pad(order, (0, steps * batch_size - num_rows))
    real = (jnp.arange(steps * batch_size) < num_rows).astype(jnp.float32)
    return order.reshape(steps, batch_size), real.reshape(steps, batch_size)


def _weighted_sums(scores: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """(..., C, N) scores -> (2, ...): summed cross-entropy and number of right answers of the rows with weight 1."""
    of_label = jnp.arange(scores.shape[-2])[:, None] == labels
    losses = jax.nn.logsumexp(scores, axis=-2) - jnp.sum(jnp.where(of_label, scores, 0), axis=-2)
    right = (scores.argmax(axis=-2) == labels).astype(jnp.float32)
    return jnp.stack([jnp.sum(weight * losses, axis=-1), jnp.sum(weight * right, axis=-1)])


def evaluate(params: Params, features: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy over all rows. Pure JAX."""
    # the barrier keeps XLA from folding the transposition into the product, which undoes what it is for
    return _evaluate(jax.lax.optimization_barrier(_turned(params)), features, labels)


def _evaluate(upright: Params, features: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for kernel (..., C, D), bias (..., C): (...) each."""
    loss, right = _weighted_sums(_scores(upright, features), labels, jnp.ones(len(features)))
    return loss / len(features), right / len(features)


def epoch_with_validation(
    state: State,
    index: ArrayLike,
    seed: ArrayLike,
    learning_rate: ArrayLike,
    train: tuple[jax.Array, jax.Array],
    validation: tuple[jax.Array, jax.Array] | None,
    *,
    batch_size: int,
    shuffle: bool = True,
) -> tuple[State, Metrics]:
    """Epoch `index` (from 0), then the validation rows. Its shuffle depends on (seed, index) alone. Pure JAX."""
    key = jax.random.fold_in(jax.random.key(seed), index)
    state, metrics = train_epoch(state, *train, key, learning_rate, batch_size=batch_size, shuffle=shuffle)
    if validation is not None:
        loss, accuracy = evaluate(state["params"], *validation)
        metrics |= {"validation_loss": loss, "validation_accuracy": accuracy}
    return state, metrics


_jitted_epoch = jax.jit(epoch_with_validation, static_argnames=("batch_size", "shuffle"))
# A program of its own: nothing waits for it, so that the next epoch may begin beside it.
_jitted_evaluate = jax.jit(evaluate)


@functools.partial(jax.jit, static_argnames=("epochs", "batch_size", "shuffle"))
def train_all(
    state: State,
    seed: ArrayLike,
    learning_rate: ArrayLike,
    train: tuple[jax.Array, jax.Array],
    validation: tuple[jax.Array, jax.Array] | None,
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool = True,
) -> tuple[State, Metrics]:
    """`epochs` epochs as one program, a scan of scans; metrics are (epochs,) each.

    The heads of several epochs are validated by one product, which reads the rows once for all of them.
    """

    def epoch(state: State, index: jax.Array) -> tuple[State, tuple[Metrics, Params]]:
        state, metrics = epoch_with_validation(
            state, index, seed, learning_rate, train, None, batch_size=batch_size, shuffle=shuffle
        )
        return state, (metrics, _turned(state["params"]) if validation else {})

    def block(state: State, indices: jax.Array) -> tuple[State, Metrics]:
        state, (metrics, upright) = jax.lax.scan(epoch, state, indices)
        if validation is not None:
            metrics["validation_loss"], metrics["validation_accuracy"] = _evaluate(upright, *validation)
        return state, metrics

    size = 1 if validation is None else _validated_at_once(epochs, state["params"]["kernel"], len(validation[0]))
    state, metrics = jax.lax.scan(block, state, jnp.arange(epochs).reshape(-1, size))
    return state, jax.tree.map(jnp.ravel, metrics)


def _validated_at_once(epochs: int, kernel: jax.Array, num_rows: int) -> int:
    """The largest divisor of `epochs` within the limits."""
    width, classes = kernel.shape
    limit = min(MOST_VALIDATED, VALIDATION_BYTES // (kernel.dtype.itemsize * classes * max(num_rows, width)))
    return max(size for size in range(1, max(limit, 1) + 1) if epochs % size == 0)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The published recipe as a few-shot head (`transfer.heads.fewshot.Head`)."""

    epochs: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __call__(
        self, features: jax.Array, labels: jax.Array, num_classes: int, key: jax.Array
    ) -> Callable[[jax.Array], jax.Array]:
        """Fits (n, D) and (n,) int32; returns the function from (m, D) to logits (m, num_classes)."""
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max)
        state = init_state(features.shape[1], num_classes, init_key(seed))
        state, _ = train_all(
            state, seed, self.learning_rate, (features, labels), None, epochs=self.epochs, batch_size=self.batch_size
        )
        return lambda rows: logits(state["params"], rows)


def make_epoch(
    features: ArrayLike,
    labels: ArrayLike,
    validation_features: ArrayLike | None,
    validation_labels: ArrayLike | None,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    *,
    seed: int = 0,
    shuffle: bool = True,
) -> Callable[[State, int], tuple[State, Metrics]]:
    """Puts the rows on the device once and returns `epoch(state, index) -> (state, metrics)`, jitted.

    Args:
        features: (N, ...) numbers, flattened row by row.
        labels: (N,) or (N, 1) whole numbers from 0.
        validation_features, validation_labels: the same; both None: no validation.
        batch_size: rows a step; the last batch of an epoch has what is left.
        seed: with the index of the epoch it decides the shuffle, so that a resumed run goes on bit for bit.

    Metrics are float32 scalars on the device: `loss`, `accuracy` and, with validation rows, `validation_loss`,
    `validation_accuracy`. Raises TransferError for rows no head can use, UsageError for a bad argument; `epoch`
    raises TransferError if the state is of another width or has fewer classes than the labels.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}")
    train = _on_device(features, labels, "")
    validation = None
    if validation_features is not None:
        validation = _on_device(validation_features, validation_labels, "validation ")
    shapes = [
        (pair[0].shape[1], int(np.asarray(pair[1]).max()) + 1) for pair in (train, validation) if pair is not None
    ]

    def epoch(state: State, index: int) -> tuple[State, Metrics]:
        width, classes = state["params"]["kernel"].shape
        for found, needed in shapes:
            if found != width:
                raise TransferError(f"the head takes {width} features a row, but rows have {found}")
            if needed > classes:
                raise TransferError(f"labels reach {needed - 1}, but the head has {classes} classes, from 0")
        state, metrics = _jitted_epoch(
            state, index, seed, learning_rate, train, None, batch_size=batch_size, shuffle=shuffle
        )
        if validation is not None:
            loss, accuracy = _jitted_evaluate(state["params"], *validation)
            metrics |= {"validation_loss": loss, "validation_accuracy": accuracy}
        return state, metrics

    return epoch


def make_epochs(*args: Any, **settings: Any) -> Any:
    """The same recipe over several devices, and on rows that are streamed; see `transfer.heads.epochs.make_epochs`."""
    from transfer.heads import epochs

    return epochs.make_epochs(*args, **settings)


def _on_device(features: ArrayLike, labels: ArrayLike | None, which: str) -> tuple[jax.Array, jax.Array]:
    x = flat_features(features, f"{which}features")
    return jnp.asarray(x), jnp.asarray(class_indices(labels, len(x), np.iinfo(np.int32).max, f"{which}labels"))
