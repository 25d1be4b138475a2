"""Every head is a scikit-learn estimator, as scikit-learn's own checks have it."""

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from transfer import heads
from transfer.heads.estimator import Head, Regressor

NAMES = [f"{heads.camel(name)}{ending}" for name in heads.HEADS for ending in ("Probe", "Regressor")]
CLASSES = [getattr(heads, name) for name in NAMES if hasattr(heads, name)]
# Compilation is what the checks take, of a program for each shape: these are quick to compile, and to run.
QUICK = {"shuffle": False, "dropout": 0.0}


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    """Without the passes that make programs fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def quick(head):
    """The head with what is quick, where it has such parameters."""
    return head.set_params(**{name: value for name, value in QUICK.items() if name in head.get_params()})


@parametrize_with_checks([quick(head()) for head in CLASSES if issubclass(head, Head)])
def test_as_scikit_learn_has_it(estimator, check):
    check(estimator)


LITTLE = {
    "one row": (np.arange(4.0)[None], [7]),
    "equal rows, more columns than rows, classes of text": (np.full((3, 4), 1e4), ["b", "a", "c"]),
}


@pytest.mark.parametrize("x, y", LITTLE.values(), ids=LITTLE.keys())
@pytest.mark.parametrize("head", [quick(head()) for head in CLASSES if issubclass(head, Head)], ids=repr)
def test_rows_that_say_little_have_an_answer(head, x, y):
    classes = np.unique(y)
    if isinstance(head, Regressor):
        y = np.arange(len(y)) + 5.0
        assert np.isfinite(head.fit(x, y).predict(x)).all()
        return
    head = clone(head).set_params(scaling="standard").fit(x, y)
    np.testing.assert_array_equal(head.classes_, classes)
    np.testing.assert_allclose(head.predict_proba(x), np.full((len(x), len(classes)), 1 / len(classes)), atol=0.02)
    assert set(head.predict(x)) <= set(classes.tolist())
