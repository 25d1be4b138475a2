"""The published head, Flatten -> Dense -> softmax under Adam, as one jitted program whose epoch is a `lax.scan`.

The recipe is that of the Keras lab this project carries on (`feature_extraction.py`): Glorot-uniform kernel, zero
bias, Adam with Keras' defaults, sparse categorical cross-entropy, a fresh shuffle each epoch, the last partial
batch kept. `transfer.heads.gradient` has the steps.
"""

import functools
from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from transfer.heads import gradient
from transfer.heads.gradient import Method, Metrics, Rows, State
from transfer.heads.layers import Params, init_key, logits
from transfer.heads.optimisers import Rates, keras_adam, rates_of

__all__ = [
    "METRICS",
    "Metrics",
    "Params",
    "State",
    "evaluate",
    "init_key",
    "init_state",
    "keras_adam",
    "logits",
    "make_epoch",
    "train_all",
]

# Its epochs may go over many devices, and its rows be streamed: `transfer.training.parallel.epochs.make_epochs`.
OVER_DEVICES = True
METRICS = ("loss", "accuracy", "validation_loss", "validation_accuracy")


@functools.partial(jax.jit, static_argnames=("num_features", "num_classes"))
def init_state(num_features: int, num_classes: int, key: jax.Array) -> State:
    """Fresh state of a head of `num_features` inputs: a plain pytree of arrays, as Orbax wants it. Pure JAX."""
    return gradient.init_state(num_features, num_classes, key)


def evaluate(params: Params, features: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy and accuracy over all rows, (N, D) and int32 (N,). Pure JAX."""
    return gradient.evaluate(params, Rows(features, labels))


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
    """`epochs` epochs of the recipe as one program; rows are features (N, D) and classes int32 (N,). Pure JAX."""
    held = None if validation is None else Rows(*validation)
    method = Method(batch_size, shuffle)
    return gradient.run(state, seed, Rates(learning_rate), Rows(*train), held, epochs=epochs, method=method)


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
    weight_decay: float = 0.0,
    class_weight: ArrayLike | None = None,
    kind: str = "classes",
) -> Callable[[State, int], tuple[State, Metrics]]:
    """Puts the rows on the device once and returns `epoch(state, index) -> (state, metrics)`, jitted.

    Args:
        features: (N, ...) numbers, flattened row by row.
        labels: (N,) or (N, 1) whole numbers from 0; see `kind`.
        validation_features, validation_labels: the same; both None: no validation.
        batch_size: rows a step; the last batch of an epoch has what is left.
        learning_rate: of Adam, constant.
        seed: with the index of the epoch it decides the shuffle, so that a resumed run goes on bit for bit.
        weight_decay: of the kernel, beside Adam's step (AdamW, `learning_rate * weight_decay` a step).
        class_weight: (C,), the weight of each class in the training loss; None: 1.
        kind: "classes"; "labels": (N, L) of 0 and 1 under a sigmoid each; "values": (N,) or (N, T) numbers under half
            the squared error.

    Metrics are float32 scalars on the device: `loss`, `accuracy` (for values `r2`) and, with validation rows,
    `validation_loss`, `validation_accuracy`. Raises TransferError for rows no head can use, UsageError for a bad
    argument; `epoch` raises TransferError if the state is of another width or of another number of outputs.
    """
    method = Method(batch_size, shuffle, kind)
    rows = (features, labels, validation_features, validation_labels)
    rates = rates_of(learning_rate, weight_decay)
    return gradient.make_epoch(*gradient.split(*rows, kind, class_weight), rates, method, seed)
