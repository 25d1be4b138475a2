"""What a head does where no setting is given: figures that were published with it hold only as long as this stands."""

import inspect

import pytest

from transfer.heads import HEADS

STEPS = dict(epochs=50, batch_size=256, seed=0, shuffle=True, weight_decay=0.0, scaling=None, class_weight=None)
DEFAULTS = {
    "knn": dict(n_neighbors=20, temperature=0.07, metric="cosine", scaling=None, class_weight=None),
    "linear": STEPS | dict(learning_rate=1e-3),
    "logistic": dict(C=1.0, scaling="standard", class_weight=None, tol=1e-5, max_iter=1000),
    "mlp": STEPS | dict(learning_rate=1e-3, hidden=(256,), dropout=0.5),
    "nearest_mean": dict(metric="l2", scaling=None),
    "ridge": dict(alpha=1.0, scaling=None, class_weight=None),
    "sgd": STEPS | dict(learning_rate=0.1, momentum=0.9),
}


@pytest.mark.parametrize("name", HEADS)
def test_defaults_stand(name: str) -> None:
    parameters = inspect.signature(HEADS[name]).parameters
    assert {key: parameter.default for key, parameter in parameters.items()} == DEFAULTS[name]
