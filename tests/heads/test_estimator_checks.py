"""Every head is a scikit-learn estimator, as scikit-learn's own checks have it."""

import jax
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from transfer import heads
from transfer.heads.estimator import Head

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
