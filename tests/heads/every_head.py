"""Every head of the registry, by class name, and what makes them quick to try: their time goes into compilation."""

from transfer import heads
from transfer.heads.estimator import Head

NAMES = [f"{heads.camel(name)}{ending}" for name in heads.HEADS for ending in ("Probe", "Regressor")]
# Those that share our base.
CLASSES = {name: getattr(heads, name) for name in NAMES if issubclass(getattr(heads, name, object), Head)}
# Neither a sort nor random numbers to compile.
QUICK = {"shuffle": False, "dropout": 0.0}


def quick(name, **parameters):
    """The head with what is quick, where it has such parameters."""
    head = CLASSES[name]()
    known = {key: value for key, value in (QUICK | parameters).items() if key in head.get_params()}
    return head.set_params(**known)
