"""Heads fitted in one go: the whole of what `result.json` then says, every value of it computed anew."""

import json

import jax
import numpy as np
import pytest
from etils import epath
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, mean_squared_error

import transfer
from transfer import config as settings
from transfer.evaluation.predictions import Predictions
from transfer.experiment.fit_head import fit_head
from transfer.experiment.head_data import Data, Labelled
from transfer.experiment.head_settings import resolve_head

CLASSES = np.array([3, 5, 8])


def side(random, rows, labels_of, taps):
    y = random.integers(0, 3, rows)
    x = (random.normal(size=(rows, 2, 2, 1)) + y[:, None, None, None]).astype(np.float32)
    arrays = {"flat": x[:, :1] * 3, "deep": x}
    return Labelled({tap: arrays[tap] for tap in taps}, labels_of(y), [f"image {row}" for row in range(rows)])


def data_of(*taps, kind="classes", labels_of=lambda y: y):
    random = np.random.default_rng(0)
    classes = CLASSES if kind == "classes" else None
    sides = (side(random, rows, labels_of, taps) for rows in (60, 30))
    return Data(*sides, kind, classes, ("3", "5", "8") if kind == "classes" else ())


def head_of(tap, sweep=None, **own):
    config = settings.default()
    config.tap, config.seed = tap, 4
    config.head.update({"name": "ridge", **own})
    config.sweep.update(sweep or {})
    return resolve_head(config)


def features(data, side, tap):
    rows = getattr(data, side).taps[tap]
    return rows.reshape(len(rows), -1)


def values_of(measures):
    """The values of measures without their intervals, as the report's tests look at those."""
    return {name: measure["value"] for name, measure in measures.items() if isinstance(measure, dict)}


def expected_measures(probe, data, tap, side="validation"):
    y, x = getattr(data, side).labels, features(data, side, tap)
    return {
        "accuracy": accuracy_score(CLASSES[y], probe.predict(x)),
        "balanced_accuracy": balanced_accuracy_score(CLASSES[y], probe.predict(x)),
        "log_loss": log_loss(y, probe.predict_proba(x).astype(np.float64)),
    }


SETTINGS = {"scaling": None, "class_weight": None}
HOW = {"device": jax.devices()[0].device_kind, "jax_version": jax.__version__}


def test_the_result_of_a_sweep_over_taps(tmp_path):
    data, workdir = data_of("flat", "deep"), epath.Path(tmp_path)
    head = head_of("flat, deep", {"alpha": (0.1, 10.0), "measure": "log_loss", "holdout": 0.2, "seed": 9})
    result, fitted = fit_head(head, data, workdir, {"model": "m", "skipped": 1}, {})
    x = {tap: features(data, "train", tap) for tap in ("flat", "deep")}
    grid = {"alpha": (0.1, 10.0)}
    selection = transfer.sweep(
        x, CLASSES[data.train.labels], head.estimator(), grid, holdout=0.2, seed=9, measure="log_loss"
    )
    chosen = selection.chosen["tap"]
    assert chosen == "deep", "the second one"
    measured = {
        tap: expected_measures(
            transfer.heads.RidgeProbe(**best.settings).fit(x[tap], CLASSES[data.train.labels]), data, tap
        )
        for tap, best in selection.best.items()
    }
    train = expected_measures(selection.probe, data, chosen, "train")
    table = json.loads(json.dumps(selection.table))
    assert fitted and result.pop("seconds_train") >= 0
    assert values_of(result.pop("measures")).items() >= rounded(measured[chosen]).items()
    temperature = result.pop("temperature")
    assert list(temperature) == ["value", "log_loss", "ece"]
    taps = result.pop("taps")
    assert [set(values_of(row["validation"])) for row in taps] == [{*measured[chosen], "ece"}] * 2
    for row in taps:
        assert values_of(row.pop("validation")).items() >= rounded(measured[row["tap"]]).items()
    assert taps == [
        {"tap": tap, "num_features": width, "settings": best.settings, "holdout": best.measures}
        for (tap, best), width in zip(selection.best.items(), (2, 4), strict=True)
    ]
    assert result == {
        "model": "m",
        "skipped": 1,
        "tap": "deep",
        "train_loss": pytest.approx(train["log_loss"], abs=2e-6),
        "train_accuracy": pytest.approx(train["accuracy"], abs=1e-6),
        "validation_loss": pytest.approx(measured[chosen]["log_loss"], abs=2e-6),
        "validation_accuracy": pytest.approx(measured[chosen]["accuracy"], abs=1e-6),
        "epochs": None,
        **HOW,
        "head": "ridge",
        "settings": {"alpha": selection.chosen["alpha"], **SETTINGS},
        "sweep": {
            "chosen": selection.chosen,
            "measure": "log_loss",
            "num_fitted": 48,
            "num_holdout": 12,
            "notes": list(selection.notes),
            "table": table,
        },
        "asked": {
            "head": "ridge",
            "target": "classes",
            "settings": {"alpha": 1.0, **SETTINGS},
            "seed": 4,
            "tap": "flat, deep",
            "sweep": {"holdout": 0.2, "seed": 9, "measure": "log_loss", "grid": {"alpha": [0.1, 10.0]}},
        },
    }
    saved = transfer.heads.load(workdir / "head.safetensors")
    np.testing.assert_array_equal(saved.coef_, selection.probe.coef_)
    assert saved.classes_.tolist() == [3, 5, 8]
    assert Predictions.read(workdir / "predictions.npz").ids.tolist() == data.validation.ids


def rounded(measures):
    return {name: pytest.approx(value, abs=2e-6) for name, value in measures.items()}


def test_the_result_of_a_head_of_values(tmp_path):
    data = data_of("deep", kind="values", labels_of=lambda y: np.stack([y, 3.0 - y], axis=1).astype("f4"))
    result, fitted = fit_head(head_of("deep", target="values"), data, epath.Path(tmp_path), {"model": "m"}, {})
    x, xv = (features(data, side, "deep") for side in ("train", "validation"))
    probe = transfer.heads.RidgeRegressor().fit(x, data.train.labels)
    assert fitted and result.pop("seconds_train") >= 0
    assert set(values_of(result.pop("measures"))) == {"rmse", "r2"}
    losses = [np.sqrt(mean_squared_error(y, probe.predict(x))) for x, y in ((x, data.train.labels), (xv, data[1][1]))]
    assert result == {
        "model": "m",
        "tap": "deep",
        "train_loss": pytest.approx(losses[0], abs=2e-6),
        "train_accuracy": None,
        "validation_loss": pytest.approx(losses[1], abs=2e-6),
        "validation_accuracy": None,
        "epochs": None,
        **HOW,
        "head": "ridge",
        "settings": {"alpha": 1.0, "scaling": None},
        "asked": {
            "head": "ridge",
            "target": "values",
            "settings": {"alpha": 1.0, "scaling": None},
            "seed": 4,
            "tap": "deep",
            "sweep": None,
        },
    }


def test_what_was_fitted_before_stays(tmp_path, capsys):
    """Where the same is asked for, and predictions and measures are there; what was skipped is of this command."""
    data, workdir = data_of("deep"), epath.Path(tmp_path)
    result, _ = fit_head(head_of("deep"), data, workdir, {"model": "m"}, {})
    capsys.readouterr()
    before = json.loads(json.dumps(result))
    again = fit_head(head_of("deep"), data, workdir, {"model": "other", "skipped": {"train": 1}}, before)
    assert again == ({"skipped": {"train": 1}, **before}, False)
    assert fit_head(head_of("deep"), data, workdir, {"model": "m"}, before) == (before, False)
    assert capsys.readouterr().out == "Already fitted; nothing to do.\n" * 2
    older = {name: value for name, value in before.items() if name != "measures"}
    for other in (head_of("deep", alpha=2.0), head_of("flat"), head_of("deep", {"alpha": (1.0,)})):
        assert fit_head(other, data, workdir, {"model": "m"}, before)[1]
    assert fit_head(head_of("deep"), data, workdir, {"model": "m"}, older)[1]
    (workdir / "predictions.npz").unlink()
    assert fit_head(head_of("deep"), data, workdir, {"model": "m"}, before)[1]
