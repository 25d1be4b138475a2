"""Every head is a scikit-learn estimator, as scikit-learn's own checks have it."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from transfer import heads
from transfer.heads.estimator import Head

NAMES = [f"{heads.camel(name)}{ending}" for name in heads.HEADS for ending in ("Probe", "Regressor")]
CLASSES = [getattr(heads, name) for name in NAMES if hasattr(heads, name)]


@parametrize_with_checks([head() for head in CLASSES if issubclass(head, Head)])
def test_as_scikit_learn_has_it(estimator, check):
    check(estimator)
