"""Targets: whatever labels are, they are classes, labels or values, or one clear line; losses against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

from transfer.errors import RowsError
from transfer.heads.targets import ACTIVATIONS, CRITERIA, Targets, of_classifier, of_known_classes, of_regressor

VALUES = st.one_of(
    st.integers(-(2**40), 2**40), st.booleans(), st.text(max_size=3), st.floats(width=32), st.none(), st.just(1j)
)
LISTS = st.one_of(
    st.lists(VALUES, min_size=1, max_size=8),
    *(
        st.lists(values, min_size=1, max_size=8)
        for values in (st.integers(-3, 3), st.text(max_size=2), st.booleans(), st.sampled_from([0.0, 0.5, -0.0]))
    ),
)


@settings(max_examples=200, deadline=None)
@given(values=LISTS, objects=st.booleans(), column=st.booleans())
def test_labels_are_classes_or_one_clear_line(values, objects, column):
    y = np.array(values, object) if objects else np.array(values)
    try:
        targets, classes = of_classifier(y[:, None] if column else y, len(values))
    except RowsError as error:
        assert "\n" not in str(error)
        return
    assert targets.kind == "classes" and targets.array.dtype == np.int32
    assert targets.num_outputs == len(classes) == len(set(classes.tolist()))
    assert (classes[targets.array] == y).all()
    again = of_known_classes(y, len(values), classes, "classes")
    np.testing.assert_array_equal(again.array, targets.array)
    np.testing.assert_array_equal(targets.to_matrix().argmax(axis=1), targets.array)


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_losses_and_what_scores_become(kind):
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(2, 9, 4)).astype(np.float32) * 5, random.integers(2, size=(9, 4))
    classes = np.arange(9) % 4
    targets = {"classes": classes.astype(np.int32), "labels": labels.astype(np.float32), "values": scores[0] + 1}[kind]
    found = np.asarray(CRITERIA[kind].losses(scores.swapaxes(-1, -2), targets))
    assert found.shape == (2, 9)
    for one, losses in zip(scores, found, strict=True):
        shares = np.asarray(ACTIVATIONS[kind](one))
        if kind == "classes":
            assert losses.mean() == pytest.approx(log_loss(classes, softmax(one.astype(np.float64), axis=1)), rel=1e-4)
            np.testing.assert_allclose(shares, softmax(one, axis=1), rtol=1e-5)
        elif kind == "labels":
            each = [log_loss(labels[:, i], expit(one[:, i].astype(np.float64)), labels=[0, 1]) for i in range(4)]
            assert losses.mean() == pytest.approx(sum(each), rel=1e-4)
            np.testing.assert_allclose(shares, expit(one), rtol=1e-5)
        else:
            np.testing.assert_allclose(losses, ((one - targets) ** 2).sum(axis=1) / 2, rtol=1e-5)
            np.testing.assert_array_equal(shares, one)


def test_huge_scores_have_finite_losses():
    scores = np.array([[1e30], [-1e30]], np.float32)
    assert np.isfinite(CRITERIA["classes"].losses(scores, np.array([1]))).all()
    assert np.isfinite(CRITERIA["labels"].losses(scores, np.array([[0.0, 1.0]]))).all()


KNOWN = {
    "class": (["a", "c"], np.array(["a", "b"]), "classes", "label 'c' is on no training row"),
    "columns": (np.eye(3), np.arange(2), "labels", "labels must be 0 or 1 in 2 columns"),
    "table": (np.eye(2), np.arange(2), "classes", "must be one label a row"),
    "text": (["a", "b"], np.arange(0), "values", "must be numbers"),
}


@pytest.mark.parametrize("y, classes, kind, message", KNOWN.values(), ids=KNOWN.keys())
def test_labels_of_other_rows(y, classes, kind, message):
    with pytest.raises(RowsError, match=message):
        of_known_classes(y, len(y), classes, kind)


def test_values_that_float32_does_not_hold():
    assert of_regressor([1, 2], 2).array.tolist() == [[1.0], [2.0]]
    assert isinstance(of_regressor(np.ones((2, 3)), 2), Targets)
    with pytest.raises(RowsError, match="beyond what float32 holds"):
        of_regressor([1e300, 1], 2)
