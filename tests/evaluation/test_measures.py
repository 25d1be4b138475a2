"""Measures against scikit-learn's, with rows that count more often than once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from transfer.evaluation.measures import MEASURES, applicable, value
from transfer.evaluation.predictions import Predictions

N = 60


def predictions(kind, seed, width=7, ties=False):
    random = np.random.default_rng(seed)
    scores = random.standard_normal((N, width)).astype(np.float32)
    if ties:
        scores = np.round(scores)
    labels = {
        "classes": random.integers(width, size=N),
        "labels": random.random((N, width)) < 0.3,
        "values": scores + random.standard_normal((N, width)),
    }[kind]
    return Predictions.of_logits(scores, labels, kind=kind), scores, labels.astype(np.float32)


def softmax(scores):
    powers = np.exp(scores.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def _mean_average_precision(scores, labels, counts):
    there = (labels * counts[:, None]).any(axis=0)
    return np.mean(
        [
            metrics.average_precision_score(labels[:, i], scores[:, i], sample_weight=counts)
            for i in np.flatnonzero(there)
        ]
    )


def _ece(scores, labels, counts):
    given, right = softmax(scores).max(axis=1), scores.argmax(axis=1) == labels
    bins = np.ceil(given * 15).astype(int)
    gaps = [abs(np.sum((counts * (given - right))[bins == place])) for place in range(16)]
    return sum(gaps) / counts.sum()


# kind -> measure -> scikit-learn's, of scores, labels and how often each row counts
THEIRS = {
    "classes": {
        "accuracy": lambda s, y, w: metrics.accuracy_score(y, s.argmax(axis=1), sample_weight=w),
        # scikit-learn breaks ties by the order of classes: here against the right one
        "top_5_accuracy": lambda s, y, w: metrics.top_k_accuracy_score(
            y,
            s.astype(np.float64) - 1e-6 * (y[:, None] == np.arange(s.shape[1])),
            k=5,
            sample_weight=w,
            labels=np.arange(s.shape[1]),
        ),
        "balanced_accuracy": lambda s, y, w: metrics.balanced_accuracy_score(
            y[w > 0], s.argmax(axis=1)[w > 0], sample_weight=w[w > 0]
        ),
        "log_loss": lambda s, y, w: metrics.log_loss(y, softmax(s), sample_weight=w, labels=np.arange(s.shape[1])),
        "ece": _ece,
    },
    "labels": {
        "mean_average_precision": _mean_average_precision,
        "accuracy": lambda s, y, w: metrics.accuracy_score(y > 0, s > 0, sample_weight=w),
        "log_loss": lambda s, y, w: np.mean(
            [metrics.log_loss(y[:, i], 1 / (1 + np.exp(-s[:, i])), sample_weight=w) for i in range(s.shape[1])]
        ),
    },
    "values": {
        "rmse": lambda s, y, w: metrics.root_mean_squared_error(y, s, sample_weight=w),
        "r2": lambda s, y, w: metrics.r2_score(y, s, sample_weight=w),
    },
}


def test_every_measure_has_one_to_compare_with():
    assert {kind: set(found) for kind, found in THEIRS.items()} == {k: set(found) for k, found in MEASURES.items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind, name", [(kind, name) for kind, found in THEIRS.items() for name in found])
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**16), st.booleans())
def test_measures_are_scikit_learn_s(kind, name, seed, ties):
    found, scores, labels = predictions(kind, seed, ties=ties and kind != "values")
    counts = np.random.default_rng(seed).integers(0, 4, (3, N)).astype(np.float64)
    counts[0] = 1
    ours = MEASURES[kind][name].of(found)(counts)
    theirs = [THEIRS[kind][name](scores, labels, row) for row in counts]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert value(found, name) == pytest.approx(ours[0])


@pytest.mark.parametrize(
    "labels, scores, expected",
    [([2.0, 2.0], [2.0, 2.0], 1.0), ([2.0, 2.0], [1.0, 2.0], 0.0), ([0.0, 1e-9], [0.0, 0.0], -1.0)],
)
def test_r2_of_values_that_hardly_vary(labels, scores, expected):
    assert value(Predictions.of_logits(scores, labels, kind="values"), "r2") == pytest.approx(expected)


APPLIES = {
    "few classes": ({"width": 5}, {}, {"accuracy", "balanced_accuracy", "log_loss", "ece"}),
    "no probabilities": ({}, {"probable": False}, {"accuracy", "top_5_accuracy", "balanced_accuracy"}),
    "no order": ({}, {"probable": False, "ranked": False}, {"accuracy", "balanced_accuracy"}),
}


@pytest.mark.parametrize("shape, others, expected", APPLIES.values(), ids=APPLIES)
def test_what_is_not_defined_is_left_out(shape, others, expected):
    _, scores, labels = predictions("classes", 0, **shape)
    assert set(applicable(Predictions.of_logits(scores, labels, **others))) == expected


def test_labels_that_no_row_has_are_left_out():
    scores = np.array([[1.0, 2.0], [0.0, 3.0]])
    found = Predictions.of_logits(scores, [[1, 0], [0, 0]], kind="labels")
    assert value(found, "mean_average_precision") == 1.0
    none = Predictions.of_logits(scores, np.zeros((2, 2)), kind="labels")
    assert "mean_average_precision" not in applicable(none)
