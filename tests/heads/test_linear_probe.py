"""LinearProbe as scikit-learn expects an estimator to behave, and as the epoch program's twin."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from transfer.errors import TransferError, UsageError
from transfer.heads import linear
from transfer.heads.linear_probe import LinearProbe

METRICS = ("loss", "accuracy", "validation_loss", "validation_accuracy")
LABELS = {
    "whole numbers with gaps": np.array([-3, 0, 7, 8, 100, 101, 102, 500, 501, 999]),
    "strings": np.array([f"class {letter}" for letter in "abcdefghij"]),
    "fractions": np.arange(10) / 4,
}


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    return (features / 16).astype(np.float32).reshape(-1, 1, 1, 64), labels


@pytest.fixture(scope="module")
def fitted(digits):
    x, y = digits
    return LinearProbe(learning_rate=1e-2).fit(x[:1000], y[:1000], (x[1000:], y[1000:]))


def test_it_learns_and_its_history_says_so(digits, fitted):
    x, y = digits
    assert fitted.score(x[1000:], y[1000:]) > 0.9
    assert {name: len(values) for name, values in fitted.history_.items()} == dict.fromkeys(METRICS, 50)
    assert fitted.history_["validation_accuracy"][-1] == pytest.approx(fitted.score(x[1000:], y[1000:]))
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0] / 4
    assert list(LinearProbe(epochs=1).fit(x[:20], y[:20]).history_) == ["loss", "accuracy"]


def test_it_is_the_epoch_program_run_to_the_end(digits, fitted):
    x, y = digits
    epoch = linear.make_epoch(x[:1000], y[:1000], x[1000:], y[1000:], learning_rate=1e-2)
    state = linear.init_state(64, 10, linear.init_key(0))
    for index in range(50):
        state, metrics = epoch(state, index)
    for name in METRICS:
        np.testing.assert_allclose(metrics[name], fitted.history_[name][-1], rtol=1e-4)
    np.testing.assert_allclose(state["params"]["kernel"].T, fitted.coef_, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("names", LABELS.values(), ids=LABELS.keys())
def test_labels_may_be_anything_that_sorts(digits, fitted, names):
    x, y = digits
    probe = clone(fitted).fit(x[:1000], names[y[:1000], None], (x[1000:], names[y[1000:]]))
    np.testing.assert_array_equal(probe.classes_, names)
    np.testing.assert_array_equal(probe.predict(x[1000:]), names[fitted.predict(x[1000:])])
    np.testing.assert_array_equal(probe.history_["validation_loss"], fitted.history_["validation_loss"])


def test_probabilities_are_the_softmax_of_the_logits(digits, fitted):
    x, _ = digits
    probabilities, logits = fitted.predict_proba(x), fitted.logits(x)
    np.testing.assert_allclose(logits, x.reshape(-1, 64) @ fitted.coef_.T + fitted.intercept_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_array_equal(fitted.predict(x), probabilities.argmax(axis=1))


def test_parameters_clone_and_pickle(digits, fitted):
    x, _ = digits
    parameters = {"epochs": 3, "batch_size": 7, "learning_rate": 0.5, "seed": 9, "shuffle": False}
    parameters |= {"weight_decay": 0.1, "scaling": "l2", "class_weight": "balanced"}
    assert clone(LinearProbe(**parameters)).get_params() == parameters
    assert LinearProbe().set_params(**parameters).get_params() == parameters
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).logits(x), fitted.logits(x))


def test_it_works_inside_scikit_learn(digits):
    x, two = digits[0].reshape(-1, 64)[:1600], digits[1][:1600] % 2
    pipeline = make_pipeline(StandardScaler(), LinearProbe(epochs=10).set_params(learning_rate=1e-2))
    assert cross_val_score(pipeline, x, two, cv=2, scoring="roc_auc").min() > 0.9


def test_the_seed_decides_and_equal_seeds_agree(digits, fitted):
    x, y = digits
    again, other = (clone(fitted).set_params(seed=s).fit(x[:1000], y[:1000], (x[1000:], y[1000:])) for s in (0, 1))
    np.testing.assert_array_equal(fitted.coef_, again.coef_)
    assert not np.allclose(fitted.coef_, other.coef_)


X, Y = np.eye(4, dtype=np.float32), np.arange(4)
BAD = {
    "NaN": (X * np.nan, Y, None, "features have NaN or infinity in 4 of 4 rows, first in row 0"),
    "lengths": (X, Y[:3], None, "4 rows of features but 3 labels"),
    "empty": (X[:0], Y[:0], None, "features are empty"),
    "validation NaN": (X, Y, (X - np.inf, Y), "validation features have NaN or infinity"),
    "validation width": (X, Y, (X[:, :3], Y), "validation features are 3 a row, training features 4"),
    "validation lengths": (X, Y, (X, Y[:1]), "4 rows of features but 1 validation labels"),
    "validation label": (X, Y, (X, Y + 1), "validation label 4 is on no training row"),
}


@pytest.mark.parametrize(("x", "y", "validation", "message"), BAD.values(), ids=BAD.keys())
def test_bad_rows_are_one_clear_line(x, y, validation, message):
    with pytest.raises(TransferError, match=message):
        LinearProbe().fit(x, y, validation)


def test_bad_use_is_one_clear_line(fitted):
    with pytest.raises(UsageError, match=r"epochs must be an int in the range \[1, inf\), not 0"):
        LinearProbe(epochs=0).fit(X, Y)
    with pytest.raises(UsageError, match=r"batch_size must be an int in the range \[1, inf\), not -2"):
        LinearProbe(batch_size=-2).fit(X, Y)
    with pytest.raises(TransferError, match="X has 4 features, but LinearProbe is expecting 64"):
        fitted.predict(X)
    with pytest.raises(NotFittedError):
        LinearProbe().predict(X)
