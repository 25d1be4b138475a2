"""The base of all heads, by the smallest head there is: rows in, scores out, and one clear line for anything else."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from scipy import sparse
from sklearn.utils.class_weight import compute_sample_weight

from transfer.errors import RowsError, TransferError, UsageError
from transfer.heads import NearestMeanProbe, RidgeProbe, ridge_probe, temperature
from transfer.heads.estimator import Probe, Regressor
from transfer.heads.targets import Targets


class Correlation(Probe):
    """Scores: products with the sums of the targets' rows, times `scale`."""

    SIDE_BY_SIDE = ("scale",)

    def __init__(self, scale=1.0, shift=0.0, scaling=None, class_weight=None):
        self.scale = scale
        self.shift = shift
        self.scaling = scaling
        self.class_weight = class_weight

    def _fit(self, rows):
        wide = 2 * rows.targets.to_matrix() - 1
        self.coef_ = rows.x.T @ (wide if rows.weight is None else wide * rows.weight[:, None])

    def _scores(self, x):
        return x @ self.coef_ * self.scale + self.shift


class Together(Correlation):
    """Fits all scales in one go."""

    def _fit_many(self, rows, grid):
        self._fit(rows)
        return lambda x: np.stack([x @ self.coef_ * scale + self.shift for scale in grid["scale"]])


class Mean(Regressor):
    """The mean of the targets, for every row."""

    def _fit(self, rows):
        self.mean_ = rows.targets.array.mean(axis=0)

    def _scores(self, x):
        return np.broadcast_to(self.mean_, (len(x), len(self.mean_)))


X = np.random.default_rng(0).normal(size=(30, 2, 2)).astype(np.float32)
LABELS = X[:, 0, 0] > 0
NAMES = {
    "text": np.where(LABELS, "yes", "no"),
    "objects": np.where(LABELS, "yes", "no").astype(object),
    "booleans": LABELS,
    "gaps": np.where(LABELS, 7, -3),
    "halves": np.where(LABELS, 0.5, 0.0),
    "a column": np.where(LABELS, 7, -3)[:, None],
}


@pytest.mark.parametrize("y", NAMES.values(), ids=NAMES.keys())
def test_classes_are_anything_that_sorts(y):
    head = Correlation().fit(X, y)
    np.testing.assert_array_equal(head.classes_, np.unique(y))
    assert (head.predict(X) == y.ravel()).mean() > 0.8 and head.predict(X).dtype == head.classes_.dtype
    assert head.logits(X).shape == (30, 2) and head.logits(X).dtype == np.float32
    np.testing.assert_allclose(head.predict_proba(X).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(head._known(y[:3], 3).array, LABELS[:3])


def test_several_labels_a_row():
    y = np.stack([LABELS, ~LABELS, np.ones(30)], axis=1)
    head = Correlation(scaling="standard").fit(X, y)
    assert head.kind_ == "labels" and head.classes_.tolist() == [0, 1, 2]
    assert head.predict(X).shape == (30, 3) and (head.predict(X)[:, :2] == y[:, :2]).mean() > 0.8
    probabilities = head.predict_proba(X)
    np.testing.assert_array_equal(probabilities > 0.5, head.predict(X))
    np.testing.assert_array_equal(head._known(y, 30).array, y)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 3)])
def test_values(shape):
    y = np.arange(np.prod(shape)).reshape(shape)
    head = Mean().fit(X, y)
    assert head.predict(X).shape == shape and head.logits(X).shape == (30, shape[-1] if len(shape) > 1 else 1)
    assert head.score(X, y) == pytest.approx(0)


def test_one_class_and_one_row():
    head = Correlation(scaling="standard").fit(X[:1], ["only"])
    assert head.predict(X).tolist() == ["only"] * 30 and head.predict_proba(X).tolist() == [[1.0]] * 30


def test_features_in_bfloat16():
    rounded = X.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(
        Correlation().fit(rounded, LABELS).coef_, Correlation().fit(rounded.astype(np.float32), LABELS).coef_
    )


@pytest.mark.parametrize("weights", ["balanced", {False: 2, True: 0.5}, {True: 3}])
def test_classes_weigh_as_in_scikit_learn(weights):
    rows = Correlation(class_weight=weights).prepare(X[:7], LABELS[:7])
    np.testing.assert_allclose(rows.weight, compute_sample_weight(weights, LABELS[:7]), rtol=1e-6)


@pytest.mark.parametrize("head", [Correlation(), Together()])
def test_many_heads_are_those_fitted_one_by_one(head):
    grid = {"scale": [1, 2, 3, 4], "shift": [5.0, 6.0, 5.0, 6.0], "scaling": ["l2", None, None, None]}
    scores = head.fit_many(X, LABELS, grid)(X[:5])
    assert scores.shape == (4, 5, 2)
    for place, found in enumerate(scores):
        alone = type(head)(**{name: values[place] for name, values in grid.items()}).fit(X, LABELS)
        np.testing.assert_array_equal(found, alone.logits(X[:5]))
    assert head.fit_many(X, LABELS, {"shift": [1.0]})(X).shape == (1, 30, 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sample_weight", [None, np.array([3.0, 1.0, 0.5])])
@pytest.mark.parametrize("kind, outputs", [("classes", 2), ("classes", 5), ("labels", 1), ("labels", 3)])
def test_the_temperature_of_scores_that_are_all_right_is_that_of_platts_targets(kind, outputs, sample_weight):
    """The probability of a right class is 1 less (C - 1) / C parts in n + 1, of a label 1 less half a part."""
    gap, count = 2.5, 3 if sample_weight is None else sample_weight.sum()
    array = np.arange(3, dtype=np.int32) % outputs if kind == "classes" else np.eye(3, outputs, dtype=np.float32)
    right = Targets(kind, array, outputs)
    scores = gap * (right.to_matrix() - (0 if kind == "classes" else 0.5)) * (1 if kind == "classes" else 2)
    found = temperature.fit(scores, right, sample_weight, sample_weight)
    assert gap / found == pytest.approx(np.log((outputs if kind == "classes" else 2) * count + 1), rel=2e-3)


@pytest.mark.parametrize("head", [NearestMeanProbe(), NearestMeanProbe("cosine"), RidgeProbe()])
def test_rows_times_classes_are_never_in_memory_together(head, monkeypatch):
    """Float32 (N, C) would be 40 MB; coefficients are 64 kB for each of their copies."""
    monkeypatch.setattr(temperature, "MAX_SCORES", 1 << 16)
    monkeypatch.setattr(ridge_probe, "_CHUNK", 64)
    x, y = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32), np.arange(5000) % 2000
    tracemalloc.start()
    head.fit(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6 and head.temperature_ > 0


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.coo_array])
def test_sparse_rows_are_refused_in_one_clear_line(form):
    rows = form(X.reshape(30, 4))
    head = Correlation().fit(X.reshape(30, 4), LABELS)
    for call in (lambda: Correlation().fit(rows, LABELS), lambda: head.predict(rows)):
        with pytest.raises(RowsError, match=r"Sparse data was passed.* '\.toarray\(\)'") as caught:
            call()
        assert "\n" not in str(caught.value)


ONE = np.ones(30)
BAD = {
    "NaN": (Correlation(), X * np.nan, LABELS, "features have NaN or infinity in 30 of 30 rows, first in row 0"),
    "beyond float32": (Correlation(), X * np.float64(1e300), LABELS, "NaN or infinity"),
    "lengths": (Correlation(), X, LABELS[:3], "30 rows of features but 3 labels"),
    "no labels": (Correlation(), X, None, "30 rows of features but no labels"),
    "nothing": (Correlation(), X[:0], LABELS[:0], "features are empty"),
    "a row alone": (Correlation(), X[0, 0], [1], "Reshape your data"),
    "text": (Correlation(), X.astype(str).reshape(30, 4) + "a", LABELS, "could not convert|numeric"),
    "labels that are NaN": (Correlation(), X, ONE * np.nan, "labels have NaN or infinity in 30 of 30 rows"),
    "a regression's": (Correlation(), X, X[:, 0, 0], "30 different fractions .* Unknown label type"),
    "several values": (Correlation(), X, X[:, 0], "must be 0 or 1, one column a label"),
    "mixed": (Correlation(), X, np.array([1, "a"] * 15, object), "not a mixture of int, str"),
    "complex": (Correlation(), X, ONE * 1j, "Complex data not supported"),
    "infinite values": (Mean(), X, ONE * np.inf, "targets have NaN or infinity"),
    "text as values": (Mean(), X, NAMES["text"], "must be numbers"),
    "values of another length": (Mean(), X, np.ones((29, 2)), "30 rows of features but 29 targets"),
}


@pytest.mark.parametrize("head, x, y, message", BAD.values(), ids=BAD.keys())
def test_bad_rows_are_one_clear_line(head, x, y, message):
    with pytest.raises(RowsError, match=message) as caught:
        head.fit(x, y)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TransferError)


USES = {
    "scaling": (
        Correlation(scaling="minmax"),
        {},
        "scaling must be a str among {'standard', 'l2', .*} or None, not 'minmax'",
    ),
    "weights": (Correlation(class_weight={"maybe": 1}), {}, "class_weight=.*maybe"),
    "negative weights": (Correlation(class_weight={True: -1}), {}, "none below 0"),
    "parameter": (Correlation(), {"k": [1]}, "Correlation has no parameter k; it takes: class_weight, scale"),
    "columns": (Correlation(), {"scale": [1], "shift": [1, 2]}, "columns of one length, not"),
    "no setting": (Correlation(), {"scale": []}, "columns of one length"),
}


@pytest.mark.parametrize("head, grid, message", USES.values(), ids=USES.keys())
def test_bad_use_is_one_clear_line(head, grid, message):
    with pytest.raises(UsageError, match=message):
        head.fit_many(X, LABELS, grid) if grid else head.fit(X, LABELS)


def test_other_rows_must_fit():
    head = Correlation().fit(X, LABELS)
    with pytest.raises(RowsError, match="X has 3 features, but Correlation is expecting 4 features"):
        head.predict(X.reshape(30, 4)[:, :3])
    with pytest.raises(RowsError, match="label 'maybe' is on no training row"):
        Correlation().fit(X, NAMES["text"])._known(["yes", "maybe"], 2)
