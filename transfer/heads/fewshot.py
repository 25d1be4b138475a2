"""Few-shot accuracy over many seeds, all heads trained side by side under `vmap`: how feature sets are compared."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from transfer.data.splits import per_class as choose_rows
from transfer.errors import TransferError, UsageError
from transfer.heads import scaling as scalings
from transfer.heads.logistic import Logistic
from transfer.heads.rows import flat_features, flat_labels
from transfer.heads.scaling import SCALINGS


class Head(Protocol):
    """Trains on features (n, D) float32 and labels (n,) int32; returns the function from rows (m, D) to scores.

    Pure JAX, and hashable (a frozen dataclass): it runs under `vmap` and is compiled once for equal settings.
    """

    def __call__(
        self, features: jax.Array, labels: jax.Array, num_classes: int, key: jax.Array
    ) -> Callable[[jax.Array], jax.Array]: ...


def accuracy_by_seed(
    features: ArrayLike,
    labels: ArrayLike,
    per_class: int,
    seeds: int | Sequence[int],
    validation_features: ArrayLike,
    validation_labels: ArrayLike,
    *,
    head: Head | None = None,
    scaling: str | None = "columns",
) -> np.ndarray:
    """Validation accuracy of a head trained on `per_class` rows a class, once for each seed: (S,) float32.

    The defaults let no feature set win by its scale, its width or the optimiser's patience: rows are standardised
    and brought to unit norm, and the head is logistic regression at its optimum, with one penalty for all. A fixed
    number of Adam steps would favour large features instead: they move the logits more. "columns" is the usual
    standardisation, but it also blows up columns that hardly vary, such as the border pixels of digits; "whole"
    leaves the columns' proportions alone. A baseline should be quoted at the better of the two.

    Args:
        features, labels: (N, ...) numbers and (N,) or (N, 1) labels, from which each seed draws its rows. A seed
            draws the same rows whatever the features, so accuracies of two feature sets may be compared in pairs.
        seeds: how many (0, 1, ...), or which.
        validation_features, validation_labels: one fixed set for all seeds.
        head: a `Head`; None is `Logistic()`.
        scaling: "columns" or "whole", by each seed's own training rows; None trains on the features as given.

    Holds S copies of the validation rows. Raises TransferError for rows that no head can use, a class with
    fewer than `per_class` rows, and validation labels that are not among the labels; UsageError for another
    scaling.
    """
    if scaling is not None and scaling not in SCALINGS:
        raise UsageError(f"scaling={scaling!r} is unknown; there is: {', '.join(SCALINGS)}, None")
    x, xv = flat_features(features), flat_features(validation_features, "validation features")
    if x.shape[1] != xv.shape[1]:
        raise TransferError(f"validation features are {xv.shape[1]} a row, training features {x.shape[1]}")
    y, yv = flat_labels(labels, len(x)), flat_labels(validation_labels, len(xv), "validation labels")
    classes, y_index = np.unique(y, return_inverse=True)
    if not (known := np.isin(yv, classes)).all():
        raise TransferError(f"validation label {yv[~known][0].item()!r} is on no training row")
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    if len(seeds) == 0:
        raise UsageError("few-shot accuracy needs at least one seed")
    rows = np.stack([choose_rows(y_index, per_class, seed) for seed in seeds])
    x_seeds, xv_seeds = _scaled(x[rows], xv, scaling)
    keys = jax.vmap(jax.random.key)(np.asarray(seeds))
    yv_index = np.searchsorted(classes, yv)
    return np.asarray(_accuracies(x_seeds, y_index[rows], keys, xv_seeds, yv_index, head or Logistic(), len(classes)))


@functools.partial(jax.jit, static_argnames="scaling")
def _scaled(features: jax.Array, validation_features: jax.Array, scaling: str | None) -> tuple[jax.Array, jax.Array]:
    """(S, n, D), (m, D) -> (S, n, D), (S, m, D): the validation rows as each seed's training rows scale them."""
    return jax.vmap(lambda x: standardised(x, validation_features, scaling))(features)


# Apart from the scaling, so that every scaling of one width shares a compilation.
@functools.partial(jax.jit, static_argnames=("head", "num_classes"))
def _accuracies(
    features: jax.Array,
    labels: jax.Array,
    keys: jax.Array,
    validation_features: jax.Array,
    validation_labels: jax.Array,
    head: Head,
    num_classes: int,
) -> jax.Array:
    """(S, n, D), (S, n), (S,) keys, (S, m, D), (m,) -> (S,)."""

    def one(x: jax.Array, y: jax.Array, key: jax.Array, xv: jax.Array) -> jax.Array:
        scores = head(x, y, num_classes, key)(xv)
        return jnp.mean(scores.argmax(axis=-1) == validation_labels)

    return jax.vmap(one)(features, labels, keys, validation_features)


def standardised(features: jax.Array, others: jax.Array, scaling: str | None) -> tuple[jax.Array, jax.Array]:
    """(n, D) and (m, D), both as the scaling that the first teaches has them. Pure JAX."""
    if scaling is None:
        return features, others
    scaler = scalings.fit(scaling, features)
    return scalings.apply(scaler, features), scalings.apply(scaler, others)
