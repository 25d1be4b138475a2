"""What heads are given, checked: features, and what they learn to say of a row, one class, several labels, or values.

With the loss and the metric of each of the three. Anything wrong is one clear line.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from transfer.errors import RowsError


class Targets(NamedTuple):
    """The targets of rows: classes (one of C a row, softmax), labels (any of L a row, sigmoid), or T values a row."""

    kind: str  # "classes", "labels" or "values"
    # int32 (N,), indices into the sorted classes; float32 (N, L) of 0 and 1; or float32 (N, T)
    array: np.ndarray
    num_outputs: int  # C, L or T

    def rows(self, which: np.ndarray) -> "Targets":
        """The targets of some rows, int (n,)."""
        return self._replace(array=self.array[which])

    def to_matrix(self, which: Any = slice(None)) -> np.ndarray:
        """Float32 (n, C) of some rows, a slice or int (n,): classes one-hot, labels and values as they are."""
        if self.kind != "classes":
            return self.array[which]
        return (self.array[which, None] == np.arange(self.num_outputs)).astype(np.float32)


class Criterion(NamedTuple):
    """The loss and the measure of a kind of targets, in pure JAX.

    Scores are class-major, (..., C, N), a column a row, as they are while a head trains (`transfer.heads.gradient`).
    """

    score: str  # name of the metric that says how good the head is
    # scores and a `Targets.array` -> the loss of each row (..., N)
    losses: Callable[[jax.Array, jax.Array], jax.Array]
    # scores, a `Targets.array` and its variance (C,) -> each row's part in the metric (..., N), their mean
    parts: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _cross_entropy(scores: jax.Array, classes: jax.Array) -> jax.Array:
    of_label = jnp.arange(scores.shape[-2])[:, None] == classes
    return jax.nn.logsumexp(scores, axis=-2) - jnp.sum(jnp.where(of_label, scores, 0), axis=-2)


def _explained(scores: jax.Array, values: jax.Array, variance: jax.Array) -> jax.Array:
    varies = variance[:, None] > 0
    return 1 - jnp.mean((scores - values.T) ** 2 / jnp.where(varies, variance[:, None], 1), axis=-2)


# The share of right classes, that of right labels, and the share of the variance that is explained, R squared.
CRITERIA: Mapping[str, Criterion] = {
    "classes": Criterion(
        "accuracy", _cross_entropy, lambda scores, classes, _: (scores.argmax(axis=-2) == classes).astype(jnp.float32)
    ),
    "labels": Criterion(
        "accuracy",
        lambda scores, labels: jnp.sum(jax.nn.softplus(scores) - labels.T * scores, axis=-2),
        lambda scores, labels, _: jnp.mean((scores > 0) == (labels.T > 0), axis=-2, dtype=jnp.float32),
    ),
    "values": Criterion("r2", lambda scores, values: jnp.sum((scores - values.T) ** 2, axis=-2) / 2, _explained),
}

# Kind -> what a head's scores (..., C) are turned into: probabilities, or the values as they are. Pure JAX.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "classes": jax.nn.softmax,
    "labels": jax.nn.sigmoid,
    "values": lambda scores: scores,
}


def flat_features(features: ArrayLike, name: str = "features") -> np.ndarray:
    """Returns `features` (N, ...) as float32 (N, D); raises RowsError if empty, not numbers or not finite."""
    array = np.asarray(features)
    if array.ndim == 0 or len(array) == 0:
        raise RowsError(f"{name} are empty: there is no row to work on")
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise RowsError(f"{name} must be numbers, not {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused below
        array = array.reshape(len(array), -1).astype(np.float32, copy=False)
    if array.shape[1] == 0:
        raise RowsError(f"{name} are empty: a row has no value")
    bad = rows_not_finite(array)
    if len(bad):
        raise RowsError(f"{name} have NaN or infinity in {len(bad)} of {len(array)} rows, first in row {bad[0]}")
    return array


def rows_not_finite(features: np.ndarray) -> np.ndarray:
    """The numbers of the rows of float32 (N, D) that hold NaN or infinity: int (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        # one multi-threaded pass without an array of truths; huge values overflow it, and are looked at one by one
        if np.isfinite(np.vdot(features, features)):
            return np.empty(0, np.int64)
    return np.flatnonzero(~np.isfinite(features).all(axis=1))


def are_whole(labels: np.ndarray) -> bool:
    """Whether labels are integers, or floats without a fraction."""
    return labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and bool(np.all(labels == np.floor(labels))))


def flat_labels(labels: ArrayLike | None, num_rows: int, name: str) -> np.ndarray:
    """Returns `labels` (N,) or (N, 1) as (N,), their dtype kept; raises RowsError if N is not `num_rows`."""
    if labels is None:
        raise RowsError(f"{num_rows} rows of features but no {name}")
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise RowsError(f"{name} must be one label a row, (N,) or (N, 1), not of shape {array.shape}")
    if len(array) != num_rows:
        raise RowsError(f"{num_rows} rows of features but {len(array)} {name}: the two must be of one length")
    return array


def of_classifier(y: ArrayLike | None, num_rows: int) -> tuple[Targets, np.ndarray]:
    """Targets of a classifier's `y`, and the C classes in sorted order (in the dtype of `y`) or 0 ... L - 1.

    Args:
        y: (N,) or (N, 1), numbers, strings or booleans: one class a row; or (N, L) of 0 and 1, L > 1: any of L labels.

    Raises RowsError where `y` is missing, of another length, not finite, or looks like a regression's.
    """
    labels = _finite(y, num_rows, "labels")
    if labels.ndim == 2:
        if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
            raise RowsError(
                f"labels of shape {labels.shape} must be 0 or 1, one column a label. Unknown label type: "
                "several values a row are a regressor's"
            )
        return Targets("labels", labels.astype(np.float32), labels.shape[1]), np.arange(labels.shape[1])
    classes, indices = np.unique(labels, return_inverse=True)
    if classes.dtype.kind == "f" and 2 * len(classes) > len(labels) and np.any(classes != np.floor(classes)):
        # halves and the like may be classes; measurements, which hardly ever repeat, are not
        raise RowsError(
            f"{len(classes)} different fractions on {len(labels)} rows are no classes. Unknown label type: "
            "continuous; take a regressor"
        )
    return Targets("classes", indices.astype(np.int32), len(classes)), classes


def of_known_classes(
    y: ArrayLike, num_rows: int, classes: np.ndarray | None, kind: str, name: str = "labels"
) -> Targets:
    """Targets of more rows for a head that is fitted; RowsError where one has a label that the head does not know."""
    if kind == "values" or classes is None:
        return of_regressor(y, num_rows, name)
    labels = _finite(y, num_rows, name)
    if kind == "labels":
        if labels.shape != (num_rows, len(classes)) or not np.isin(labels, (0, 1)).all():
            raise RowsError(f"{name} must be 0 or 1 in {len(classes)} columns, not of shape {labels.shape}")
        return Targets(kind, labels.astype(np.float32), len(classes))
    if labels.ndim == 2:
        raise RowsError(f"{name} must be one label a row, (N,) or (N, 1), not of shape {labels.shape}")
    if not (known := np.isin(labels, classes)).all():
        raise RowsError(f"{name.removesuffix('s')} {labels[~known][0].item()!r} is on no training row")
    return Targets(kind, np.searchsorted(classes, labels).astype(np.int32), len(classes))


def of_regressor(y: ArrayLike | None, num_rows: int, name: str = "targets") -> Targets:
    """Targets of a regressor's `y`: (N,) or (N, T) finite numbers; RowsError for anything else."""
    values = _finite(y, num_rows, name)
    if values.dtype.kind not in "biuf":
        raise RowsError(f"{name} of a regressor must be numbers, not {values.dtype}")
    with np.errstate(over="ignore"):
        values = values.reshape(num_rows, -1).astype(np.float32)
    if not np.isfinite(values).all():
        raise RowsError(f"{name} reach beyond what float32 holds: infinity")
    return Targets("values", values, values.shape[1])


def _finite(y: ArrayLike | None, num_rows: int, name: str) -> np.ndarray:
    """`y` as (N,) or (N, L > 1), numbers or text; RowsError where something is missing."""
    if y is None:
        raise RowsError(
            f"{num_rows} rows of features but no {name}: the head requires y to be passed, but the target y is None"
        )
    array = np.asarray(y)
    if array.dtype.kind == "c":
        raise RowsError(f"{name} are complex numbers. Complex data not supported")
    if array.ndim == 2 and array.shape[1] > 1:
        if len(array) != num_rows:
            raise RowsError(f"{num_rows} rows of features but {len(array)} {name}: the two must be of one length")
    else:
        array = flat_labels(array, num_rows, name)
    values = array.ravel().tolist() if array.dtype.kind == "O" else []
    if not all(isinstance(value, str) for value in values):  # text stays objects, which is how pandas hands it over
        if any(isinstance(value, str) or not np.isscalar(value) for value in values):
            kinds = ", ".join(sorted({type(value).__name__ for value in values}))
            raise RowsError(
                f"{name} must be all numbers or all text, not a mixture of {kinds}. Unknown label type: unknown"
            )
        array = np.array(values).reshape(array.shape)
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        rows = np.flatnonzero(~finite.reshape(num_rows, -1).all(axis=1))
        raise RowsError(f"{name} have NaN or infinity in {len(rows)} of {num_rows} rows, first in row {rows[0]}")
    return array
