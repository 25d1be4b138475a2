"""The registry finds heads by their files and imports nothing before it is asked."""

import subprocess
import sys

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
