"""What any fitted estimator says of rows, in one form: ours, scikit-learn's, and a user's that can only `predict`."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transfer.errors import RowsError

# Below it a probability of an estimator's counts as it: what is impossible has no logarithm.
SMALLEST = float(np.finfo(np.float32).tiny)


class Scores(NamedTuple):
    """Scores of M rows.

    Attributes:
        values: float32 (M, C): logits of C classes or L labels (up to a constant a row), or T values.
        ranked: whether they put the classes in order; where not, the highest is the prediction and the rest is 0.
        probable: whether softmax (of labels sigmoid) makes probabilities of them.
    """

    values: np.ndarray
    ranked: bool = True
    probable: bool = True


def of(estimator: Any, rows: ArrayLike, classes: np.ndarray | None, kind: str = "classes") -> Scores:
    """Scores of `rows` (M, ...) by a fitted estimator.

    Args:
        estimator: a head of ours (it has `logits`), or any with `predict`; `predict_proba` and `decision_function`
            are made use of.
        classes: the C classes in sorted order; a column each, also of classes that the estimator was not fitted on,
            which get -inf. Of labels: any L.
        kind: "classes", "labels" or "values" (`transfer.heads.targets`).

    Raises RowsError for an estimator that knows a class that is not among them.
    """
    if hasattr(estimator, "logits"):
        scores = Scores(np.asarray(estimator.logits(rows), np.float32))
    else:
        array = np.asarray(rows)
        scores = _of_others(estimator, array.reshape(len(array), -1).astype(np.float32, copy=False), kind)
    if kind != "classes" or classes is None:
        return scores
    own = np.asarray(getattr(estimator, "classes_", classes))
    if len(own) == len(classes) and (own == classes).all():
        return scores
    if not np.isin(own, classes).all():
        raise RowsError(f"the head knows the class {own[~np.isin(own, classes)][0].item()!r}, which the data has not")
    values = np.full((len(scores.values), len(classes)), -np.inf, np.float32)
    values[:, np.searchsorted(classes, own)] = scores.values
    return scores._replace(values=values)


def _of_others(estimator: Any, rows: np.ndarray, kind: str) -> Scores:
    """Scores of rows float32 (M, D) by an estimator that is not ours."""
    if kind == "values":
        return Scores(np.asarray(estimator.predict(rows), np.float32).reshape(len(rows), -1))
    if hasattr(estimator, "predict_proba"):
        probability = estimator.predict_proba(rows)
        if isinstance(probability, list):  # of several labels: one (M, 2) a label
            probability = np.stack([of_label[:, -1] for of_label in probability], axis=1)
        likely: np.ndarray = np.maximum(np.asarray(probability, np.float64), SMALLEST)
        if kind == "labels":
            return Scores((np.log(likely) - np.log(np.maximum(1 - likely, SMALLEST))).astype(np.float32))
        return Scores(np.log(likely).astype(np.float32))
    if hasattr(estimator, "decision_function"):
        values: np.ndarray = np.asarray(estimator.decision_function(rows), np.float32)
        if values.ndim == 1:
            values = np.stack([-values, values], axis=1) / 2
        return Scores(values, probable=False)
    predicted = np.asarray(estimator.predict(rows))
    if kind == "labels":
        return Scores(predicted.astype(np.float32) - 0.5, ranked=False, probable=False)
    own = np.asarray(getattr(estimator, "classes_", np.unique(predicted)))
    return Scores((predicted[:, None] == own).astype(np.float32), ranked=False, probable=False)
