"""Settings are chosen on held-out training rows, side by side where a head can, and the best is fitted on all rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

import transfer
from transfer.errors import RowsError, UsageError
from transfer.evaluation import selection
from transfer.evaluation.predictions import Scores

RANDOM = np.random.default_rng(0)
Y = RANDOM.integers(0, 3, 90)
X = (RANDOM.normal(size=(90, 4)) + Y[:, None]).astype(np.float32)
NOISE = RANDOM.normal(size=(90, 5)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), fraction=st.floats(0.01, 0.99), seed=st.integers(0))
def test_each_class_keeps_a_row(sizes, fraction, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if max(sizes) == 1:
        with pytest.raises(RowsError, match="none can be held out"):
            selection.split(labels, "classes", fraction, seed)
        return
    kept, held = selection.split(labels, "classes", fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert set(labels[kept]) == set(labels)
    assert len(held) == min(max(1, round(fraction * len(labels))), len(labels) - len(sizes))
    share = len(held) / len(labels)
    for label, size in enumerate(sizes):
        count = np.sum(labels[held] == label)
        assert count <= size - 1
        if all(fraction * n <= n - 1 for n in sizes):
            assert abs(count - share * size) <= 1


def test_the_split_is_its_seed_s():
    one, other = (selection.split(Y, "classes", 0.2, seed)[1] for seed in (0, 1))
    np.testing.assert_array_equal(one, selection.split(Y.astype(str), "classes", 0.2, 0)[1])
    assert set(one) != set(other)


class Diverges(LogisticRegression):
    """Whose scores are no numbers with a large C."""

    def logits(self, rows):
        return np.full((len(rows), 3), np.nan if self.C > 1 else 0.0)


def test_a_head_that_diverged_is_never_chosen():
    # always class 0, which more of the held-out rows may be of than of what the other head finds
    labels = np.where(np.arange(90) < 80, 0, Y)
    found = transfer.sweep(X, labels, Diverges(), {"C": [10.0, 1.0]})
    assert found.chosen == {"C": 1.0}
    assert all(np.isnan(found.table[0][name]) for name in ("accuracy", "log_loss"))


@pytest.mark.parametrize("labels", [Y, np.array(["c", "a", "b"])[Y], Y * 7 - 3], ids=["0..", "text", "apart"])
def test_the_chosen_one_is_the_best_row_of_the_table_fitted_on_all(labels):
    found = transfer.sweep(
        {"noise": NOISE, "signal": X}, labels, LogisticRegression(), {"C": [1e-4, 1.0], "fit_intercept": [True, False]}
    )
    assert found.chosen["tap"] == "signal" and found.chosen["C"] == 1.0
    assert len(found.table) == 8 and found.num_fitted == 81 and len(found.holdout_labels) == 9
    best = max(row["accuracy"] for row in found.table)
    first = next(row for row in found.table if row["accuracy"] == best)
    assert {name: first[name] for name in found.chosen} == found.chosen
    own = {name: value for name, value in found.chosen.items() if name != "tap"}
    expected = LogisticRegression(**own).fit(X, labels)
    np.testing.assert_array_equal(found.probe.coef_, expected.coef_)
    kept, held = selection.split(labels, "classes", 0.1, 0)
    alone = LogisticRegression(**own).fit(X[kept], labels[kept])
    np.testing.assert_allclose(found.holdout_scores, alone.predict_log_proba(X[held]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.holdout_labels, labels[held])


def test_features_of_any_shape():
    """One number a row, columns, or maps: the same rows, the same choice."""
    grid = {"C": [1e-3, 1.0]}
    for shaped, columns in ((X[:, 0], X[:, :1]), (X.reshape(90, 2, 1, 2), X)):
        found, expected = (transfer.sweep(features, Y, LogisticRegression(), grid) for features in (shaped, columns))
        assert found.table == expected.table
        np.testing.assert_array_equal(found.probe.coef_, expected.probe.coef_)


def test_of_equals_the_first_is_chosen():
    found = transfer.sweep(X, Y, LogisticRegression(), {"C": [5.0, 0.5, 1.0], "tol": (1e-4, 1e-5)}, seed=3)
    ties = [row["C"] for row in found.table if row["accuracy"] == max(r["accuracy"] for r in found.table)]
    assert found.chosen["C"] == ties[0] and "tap" not in found.chosen and "tap" not in found.table[0]


def test_without_a_grid_only_the_tap_is_chosen():
    found = transfer.sweep({"noise": NOISE, "signal": X}, Y, LogisticRegression(), {}, measure="log_loss")
    assert found.chosen == {"tap": "signal"} and [row["tap"] for row in found.table] == ["noise", "signal"]


@pytest.mark.parametrize(
    "grid, told",
    [
        ([1e-9, 1e-8, 10.0], True),
        ([10.0, 1e-9, 1e-8], True),
        ([1e-9, 10.0], False),  # nothing between
        ([1e-9, 1.0, 1.1, 1.2], False),  # as good further inside
    ],
)
def test_an_edge_is_told(grid, told):
    notes = transfer.sweep(X, Y, LogisticRegression(), {"C": grid}).notes
    edge = "the chosen C=10 is at the edge of what was tried, 1e-09 to 10: there may be better beyond"
    assert (edge in notes) == told
    assert len(notes) == told or len(grid) == 4


def test_equal_settings_are_told():
    found = transfer.sweep(X, Y, LogisticRegression(), {"C": [1.0, 1.001, 1.002]})
    assert found.notes == ("3 settings are equal by accuracy, the first is taken; measure=log_loss tells them apart",)
    by_loss = transfer.sweep(X, Y, LogisticRegression(), {"C": [0.01, 1.0, 100.0]}, measure="log_loss")
    assert by_loss.notes == () and by_loss.chosen == {"C": 1.0}


@pytest.mark.parametrize(
    "estimator, grid, measures",
    [
        (RidgeClassifier(), {"alpha": [10.0, 1.0]}, {"accuracy", "balanced_accuracy"}),
        (LinearSVC(), {"C": [0.1, 1.0]}, {"accuracy", "balanced_accuracy"}),
        (KNeighborsClassifier(), {"n_neighbors": [9, 3]}, {"accuracy", "balanced_accuracy", "log_loss"}),
    ],
)
def test_any_estimator_of_scikit_learn(estimator, grid, measures):
    found = transfer.sweep(X, Y, estimator, grid)
    assert set(found.table[0]) == set(grid) | measures
    assert found.probe.score(X, Y) > 0.7


def test_values_and_labels():
    values = X @ [1.0, 2.0, 0.0, -1.0] + 3
    found = transfer.sweep(X, values, Ridge(), {"alpha": [1e4, 1e-3]})
    assert found.chosen == {"alpha": 1e-3} and found.table[1]["r2"] > 0.99
    labels = (X[:, :3] > 1).astype(int)
    found = transfer.sweep(X, labels, KNeighborsClassifier(), {"n_neighbors": [50, 3]}, holdout=0.4)
    assert found.chosen == {"n_neighbors": 3} and found.holdout_scores.shape == (36, 3)


BAD = {
    "unknown head": (dict(head="lienar"), UsageError, "unknown head 'lienar'"),
    "no estimator": (dict(head=3), UsageError, "not a int"),
    "unknown parameter": (dict(grid={"K": [1]}), UsageError, "LogisticRegression takes no K; it takes C"),
    "no values": (dict(grid={"C": []}), UsageError, r"C=\[\] should be several values"),
    "one value": (dict(grid={"C": 3.0}), UsageError, "C=3.0 should be several values"),
    "share": (dict(holdout=1.0), UsageError, "between 0 and 1"),
    "unknown measure": (dict(measure="f1"), UsageError, "'f1' is not one of accuracy"),
    "no probabilities": (dict(head=RidgeClassifier(), grid={}, measure="log_loss"), UsageError, "gives no prob"),
    "rows": (dict(y=Y[:5]), RowsError, r"features of shape \(90, 4\) but 5 labels: the two must be of one length"),
    "a number": (dict(features=3.0), RowsError, r"features of shape \(\) but 90 labels"),
    "no column": (dict(features=X[:, :0], head="ridge", grid=None), RowsError, "Found array with 0 feature"),
    "no row": (dict(features=X[:0], y=Y[:0]), RowsError, "0 rows, of no class two: none can be held out"),
    "rows of one class each": (dict(features=X[:3], y=[1, 2, 3]), RowsError, "none can be held out"),
    "no tap": (dict(features={}), UsageError, "at least one tap"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case):
    given, error, message = BAD[case]
    arguments = {"features": X, "y": Y, "head": LogisticRegression(), "grid": {"C": [1.0]}} | given
    with pytest.raises(error, match=message):
        transfer.sweep(**arguments)


class Means:
    """What a user may write: no base, no probabilities."""

    def fit(self, X, y):
        self.labels = np.unique(y)
        self.means = np.stack([X[y == label].mean(0) for label in self.labels])
        return self

    def predict(self, X):
        return self.labels[((X[:, None] - self.means) ** 2).sum(-1).argmin(1)]


def test_scores_of_a_head_that_only_predicts():
    head = Means().fit(X, Y)
    found = Scores.of(head, X[:, :, None], np.arange(3))
    assert not found.ranked and not found.probable
    np.testing.assert_array_equal(found.values.argmax(1), head.predict(X))


class Signs:
    """One that only says which labels a row has."""

    def predict(self, X):
        return (X > 1).astype(int)


def test_scores_of_labels_that_are_only_predicted():
    found = Scores.of(Signs(), X, np.arange(4), "labels")
    assert found.values.dtype == np.float32 and not found.ranked and not found.probable
    np.testing.assert_array_equal(found.values, np.where(X > 1, 0.5, -0.5))


def test_scores_have_a_column_for_every_class():
    some = Y < 2
    head = LogisticRegression().fit(X[some], Y[some])
    found = Scores.of(head, X, np.arange(-1, 3)).values
    assert found.shape == (90, 4) and np.isneginf(found[:, [0, 3]]).all()
    np.testing.assert_allclose(found[:, 1:3], head.predict_log_proba(X), rtol=1e-5)
    with pytest.raises(RowsError, match="knows the class 1"):
        Scores.of(head, X, np.array([0, 2]))
