"""The registry finds heads by their files and imports nothing before it is asked."""

import subprocess
import sys

import numpy as np
import pytest

import transfer
from transfer import heads
from transfer.errors import UsageError
from transfer.heads import HEADS


def test_every_head_is_an_estimator_with_the_published_defaults_at_hand():
    assert "linear" in HEADS
    for name, head in HEADS.items():
        assert head.__name__ == f"{heads.camel(name)}Probe" and getattr(heads, head.__name__) is head
        assert {"fit", "predict", "score", "get_params"} <= set(dir(head))
    parameters = HEADS["linear"]().get_params()
    assert (parameters["epochs"], parameters["batch_size"], parameters["learning_rate"]) == (50, 256, 1e-3)
    assert transfer.LinearProbe is HEADS["linear"]


# What a head is without any parameter, but for what trained heads have of their program, and what a sweep tries.
DEFAULTS = {
    "KnnProbe": {"n_neighbors": 20, "temperature": 0.07, "metric": "cosine", "scaling": None, "class_weight": None},
    "KnnRegressor": {"n_neighbors": 5, "temperature": None, "metric": "l2", "scaling": None},
    "LinearProbe": {"epochs": 50, "batch_size": 256, "learning_rate": 1e-3, "scaling": None, "class_weight": None},
    "LinearRegressor": {"learning_rate": 1e-2, "scaling": "standard"},
    "LogisticProbe": {"C": 1.0, "scaling": "standard", "class_weight": None, "tol": 1e-5, "max_iter": 1000},
    "MlpProbe": {"hidden": (256,), "dropout": 0.5, "learning_rate": 1e-3, "scaling": None, "class_weight": None},
    "MlpRegressor": {"hidden": (256,), "dropout": 0.0, "learning_rate": 1e-3, "scaling": "standard"},
    "NearestMeanProbe": {"metric": "l2", "scaling": None},
    "RidgeProbe": {"alpha": 1.0, "scaling": None, "class_weight": None},
    "RidgeRegressor": {"alpha": 1.0, "scaling": None},
    "SgdProbe": {"learning_rate": 0.1, "momentum": 0.9, "scaling": None, "class_weight": None},
    "SgdRegressor": {"learning_rate": 1e-2, "momentum": 0.9, "scaling": "standard"},
}
TRAINED = {"epochs": 50, "batch_size": 256, "seed": 0, "shuffle": True, "weight_decay": 0.0}


@pytest.mark.parametrize("name, defaults", DEFAULTS.items())
def test_defaults(name, defaults):
    trained = TRAINED if name.startswith(("Linear", "Mlp", "Sgd")) else {}
    assert getattr(heads, name)().get_params() == trained | defaults


def test_what_a_sweep_tries():
    """DINOv2's 45 penalties and 13 learning rates, powers of ten, and the strongest regularisation first."""
    assert {name: head.GRID for name, head in HEADS.items() if head.GRID} == {
        "knn": {"n_neighbors": (200, 100, 50, 20, 10, 5, 1)},
        "linear": {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)},
        "logistic": {"C": tuple(np.logspace(-6, 5, 45).tolist())},
        "mlp": {"dropout": (0.75, 0.5, 0.25, 0.0), "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)},
        "ridge": {"alpha": tuple(np.logspace(6, -4, 11).tolist())},
        "sgd": {"learning_rate": (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)},
    }


def test_an_unknown_head_is_one_clear_line_that_names_the_known():
    with pytest.raises(UsageError, match="unknown head 'nearest'; there is: .*linear"):
        HEADS["nearest"]
    with pytest.raises(AttributeError, match="NearestProbe"):
        transfer.heads.NearestProbe  # noqa: B018


def test_camel_case_regressors_and_programs():
    assert heads.NearestMeanProbe is HEADS["nearest_mean"]
    assert heads.RidgeRegressor is heads.regressor("ridge") and heads.find_program("ridge") is None
    with pytest.raises(UsageError, match="head 'nearest_mean' is a classifier and learns no values"):
        heads.regressor("nearest_mean")
    with pytest.raises(AttributeError):
        heads.NearestMeanRegressor  # noqa: B018
    with pytest.raises(UsageError, match="config.head.name='ridge' has no program for train.py"):
        heads.program("ridge")


def test_listing_heads_and_the_training_loop_leave_scikit_learn_alone():
    code = "import sys, transfer.heads as heads; list(heads.HEADS); assert not {'jax', 'sklearn'} & set(sys.modules)\n"
    code += "heads.linear.make_epoch; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
