"""Calibration against the values of published code, which `golden/make_calibration.py` recorded."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from transfer.errors import RowsError
from transfer.evaluation.calibration import bins_of, expected_calibration_error, reliability, temperature
from transfer.evaluation.measures import value
from transfer.evaluation.predictions import Predictions

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_calibration import CASES, probabilities, rows  # noqa: E402

RECORD = json.loads((GOLDEN / "calibration.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_ece_is_that_of_published_code(name):
    logits, labels = rows(name)
    given = probabilities(logits)
    for bins in ("10", "15"):
        found = expected_calibration_error(given.max(axis=1), given.argmax(axis=1) == labels, int(bins))
        for code in ("ece_torchmetrics", "ece_netcal"):
            assert found == pytest.approx(RECORD["cases"][name][code][bins], abs=1e-6), code
    assert value(Predictions.of_logits(logits, labels), "ece") == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_temperature_is_at_the_minimum(name):
    logits, labels = rows(name)
    found = temperature(logits, labels)

    def loss(t):
        given = probabilities(logits.astype(np.float64) / t)
        return -np.log(given[np.arange(len(labels)), labels]).sum()

    best = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9})
    assert loss(found) <= best.fun + 1e-9 and found == pytest.approx(best.x, rel=1e-5)


def test_temperature_of_labels():
    random = np.random.default_rng(1)
    scores = 4 * random.standard_normal((400, 3))
    labels = random.random(scores.shape) < 1 / (1 + np.exp(-scores / 2.5))
    assert temperature(scores, labels, "labels") == pytest.approx(2.5, rel=0.2)


@pytest.mark.parametrize(
    "logits, labels",
    [
        (np.eye(3), [0, 1, 2]),
        (np.zeros((3, 2)), [0, 0, 0]),
        ([[0.0, -np.inf], [1.0, -np.inf]], [1, 1]),
    ],
    ids=["all right", "all alike", "all impossible"],
)
def test_nothing_to_learn_a_temperature_from(logits, labels):
    assert temperature(logits, labels) == 1.0


def test_a_temperature_is_not_beyond_its_bounds():
    worse_than_none, nearly_all_right = [[1.0, 0.0]] * 3, [[0.01, 0.0]] * 3 + [[1e-6, 0.0]]
    assert temperature(worse_than_none, [1, 1, 1]) == pytest.approx(100, rel=1e-6)
    assert temperature(nearly_all_right, [0, 0, 0, 1]) == pytest.approx(0.01, rel=1e-6)


def test_temperature_with_a_class_that_the_head_does_not_know():
    logits, labels = rows("sure")
    wide = np.concatenate([logits, np.full((len(logits), 1), -np.inf)], axis=1)
    assert temperature(wide, labels) == temperature(logits, labels)
    for wrong, others in ((logits * np.nan, labels), (logits + np.inf, labels), (logits, labels[:3]), (logits[0], 1)):
        shapes = f"{np.shape(wrong)}, and labels {np.shape(wrong)[:1]}, not {np.shape(others)}"
        with pytest.raises(RowsError, match=re.escape(f"a temperature needs logits (N, C) without NaN, not {shapes}")):
            temperature(wrong, others)


def test_reliability():
    found = reliability([0.0, 0.2, 0.21, 1.0], [True, False, True, True], bins=5)
    assert found.rows.tolist() == [2, 1, 0, 0, 1]
    np.testing.assert_allclose(found.confidence, [0.1, 0.21, np.nan, np.nan, 1])
    np.testing.assert_allclose(found.accuracy, [0.5, 1, np.nan, np.nan, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confidences_on_an_edge_are_in_the_bin_below(dtype):
    edges = np.linspace(0, 1, 16).astype(dtype)
    assert bins_of(edges).tolist() == [0, *range(15)]
