"""Few-shot accuracy over many seeds, all heads trained side by side under `vmap`: how feature sets are compared."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from transfer.errors import TransferError
from transfer.heads.logistic import Logistic
from transfer.heads.rows import flat_features, flat_labels


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
    standardise: bool = True,
) -> np.ndarray:
    """Validation accuracy of a head trained on `per_class` rows a class, once for each seed: (S,) float32.

    The defaults let no feature set win by its scale, its width or the optimiser's patience: rows are standardised
    and brought to unit norm (`standardised`), and the head is logistic regression at its optimum, with one
    penalty for all. A fixed number of Adam steps would favour large features instead: they move the logits more.

    Args:
        features, labels: (N, ...) numbers and (N,) or (N, 1) labels, from which each seed draws its rows. A seed
            draws the same rows whatever the features, so accuracies of two feature sets may be compared in pairs.
        seeds: how many (0, 1, ...), or which.
        validation_features, validation_labels: one fixed set for all seeds.
        head: a `Head`; None is `Logistic()`.
        standardise: by mean and deviation of each seed's own training rows; False trains on the features as given.

    Holds S copies of the validation rows. Raises TransferError for rows that no head can use, a class with
    fewer than `per_class` rows, and validation labels that are not among the labels.
    """
    # Imported here so that heads can be used without the data road.
    from transfer.data.splits import per_class as choose_rows

    x, xv = flat_features(features), flat_features(validation_features, "validation features")
    if x.shape[1] != xv.shape[1]:
        raise TransferError(f"validation features are {xv.shape[1]} a row, training features {x.shape[1]}")
    y, yv = flat_labels(labels, len(x)), flat_labels(validation_labels, len(xv), "validation labels")
    classes, y_index = np.unique(y, return_inverse=True)
    if not (known := np.isin(yv, classes)).all():
        raise TransferError(f"validation label {yv[~known][0]!r} is on no training row")
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    rows = np.stack([choose_rows(y_index, per_class, seed) for seed in seeds])
    keys = jax.vmap(jax.random.key)(np.asarray(seeds))
    yv_index = np.searchsorted(classes, yv)
    return np.asarray(
        _accuracies(x[rows], y_index[rows], keys, xv, yv_index, head or Logistic(), len(classes), standardise)
    )


@functools.partial(jax.jit, static_argnames=("head", "num_classes", "standardise"))
def _accuracies(
    features: jax.Array,
    labels: jax.Array,
    keys: jax.Array,
    validation_features: jax.Array,
    validation_labels: jax.Array,
    head: Head,
    num_classes: int,
    standardise: bool,
) -> jax.Array:
    """(S, n, D), (S, n), (S,) keys, (m, D), (m,) -> (S,)."""

    def one(x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        xv = validation_features
        if standardise:
            x, xv = standardised(x, xv)
        scores = head(x, y, num_classes, key)(xv)
        return jnp.mean(scores.argmax(axis=-1) == validation_labels)

    return jax.vmap(one)(features, labels, keys)


def standardised(features: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both (n, D) and (m, D) less the mean of the first's columns, over their deviation and the root of the width.

    The first then has rows of unit norm (root mean square) whatever its width, so that one L2 penalty means the
    same for 64 pixels and for 2,048 features. A column that does not vary in the first becomes 0 in both.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > 1e-6 * jnp.abs(features).max(axis=0)
    width = jnp.maximum(varies.sum(), 1)
    scale = jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0) / jnp.sqrt(width)
    return (features - mean) * scale, (others - mean) * scale
