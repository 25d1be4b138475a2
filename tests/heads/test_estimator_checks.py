"""Every head is a scikit-learn estimator, as scikit-learn's own checks have it; and rows that say little."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.heads.every_head import CLASSES, quick
from transfer.heads.estimator import Regressor

pytestmark = [pytest.mark.usefixtures("compiled_quickly"), pytest.mark.slow]


# Not to 1e-7 as scikit-learn asks; `test_sample_weight.py` says to what.
WEIGHTS = "check_sample_weight_equivalence_on_dense_data"
NOT_TO_1E_7 = {
    "LogisticProbe": "its optimum is float32's, to a tolerance",
    "NearestMeanProbe": "its means are float32",
    "LinearProbe": "its steps are float32",
    "LinearRegressor": "its steps are float32",
} | {
    f"{name}{ending}": "a batch's loss is over its rows, and rows that repeat make other batches"
    for name in ("Sgd", "Mlp")
    for ending in ("Probe", "Regressor")
}


def expected_to_fail(estimator):
    reason = NOT_TO_1E_7.get(type(estimator).__name__)
    return {} if reason is None else {WEIGHTS: reason}


@parametrize_with_checks([quick(name) for name in CLASSES], expected_failed_checks=expected_to_fail)
def test_as_scikit_learn_has_it(estimator, check):
    check(estimator)


LITTLE = {
    "one row": (np.arange(4.0)[None], [7]),
    "equal rows, more columns than rows, classes of text": (np.full((3, 4), 1e4), ["b", "a", "c"]),
}


@pytest.mark.parametrize("x, y", LITTLE.values(), ids=LITTLE.keys())
@pytest.mark.parametrize("name", CLASSES)
def test_rows_that_say_little_have_an_answer(name, x, y):
    head = quick(name)
    classes = np.unique(y)
    if isinstance(head, Regressor):
        y = np.arange(len(y)) + 5.0
        assert np.isfinite(head.fit(x, y).predict(x)).all()
        return
    head = clone(head).set_params(scaling="standard").fit(x, y)
    np.testing.assert_array_equal(head.classes_, classes)
    np.testing.assert_allclose(head.predict_proba(x), np.full((len(x), len(classes)), 1 / len(classes)), atol=0.02)
    assert set(head.predict(x)) <= set(classes.tolist())
