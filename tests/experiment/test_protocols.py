"""Every protocol of `configs/` in full on the digits: what it chooses and keeps, and that a second run does nothing."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from etils import epath

import transfer.heads
from transfer import experiment
from transfer.evaluation.predictions import Predictions
from transfer.experiment import fit_head
from transfer.store.store import FeatureStore

CONFIGS = Path(__file__).parents[2] / "configs"
# config -> (taps of which one is chosen: low bits differ between machines, and one held-out image may decide;
# settings that are tried; least accuracy on the validation images)
PROTOCOLS = {
    "dinov2_knn": (("block3:flatten",), 4, 0.96),
    "dinov2_logistic": (("block3:flatten",), 45, 0.95),
    "kornblith_logistic": (("block3:flatten",), 45, 0.97),
    "dinov2_linear": (("block4:flatten", "block3:flatten"), 4 * 13, 0.95),
    "layerwise": (("block4:avg", "block3:avg"), 5 * 11, 0.95),
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A folder of stores for each set of taps, which protocols share."""
    root = tmp_path_factory.mktemp("features")
    return lambda taps: str(root / taps.replace(",", "+").replace(":", "_"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol(name, extracted, tmp_path, capsys, monkeypatch):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    config.features = extracted(config.tap)
    workdir = tmp_path / name
    result = experiment.train(config, epath.Path(workdir))
    printed = capsys.readouterr().out
    taps, tried, least = PROTOCOLS[name]

    sweep, measures = result["sweep"], result["measures"]
    assert result["tap"] == sweep["chosen"]["tap"] in taps
    assert len(sweep["table"]) == tried and sweep["num_fitted"] + sweep["num_holdout"] == result["num_train"] == 1437
    assert sweep["num_holdout"] == round(config.sweep.holdout * 1437)
    best = max(row["accuracy"] for row in sweep["table"])
    first = next(row for row in sweep["table"] if row["accuracy"] == best)
    assert {key: first[key] for key in sweep["chosen"]} == sweep["chosen"]
    assert measures["accuracy"]["value"] == result["validation_accuracy"] >= least
    assert measures["accuracy"]["low"] <= measures["accuracy"]["value"] <= measures["accuracy"]["high"]
    assert "validation: accuracy " in printed and f"{tried} settings on" in printed

    store = FeatureStore.open(f"{config.features}/validation")
    predictions = Predictions.read(workdir / "predictions.npz")
    np.testing.assert_array_equal(predictions.labels, store.labels)
    assert predictions.ids.tolist() == store.ids
    head = transfer.heads.load(workdir / "head.safetensors")
    np.testing.assert_array_equal(head.predict(store.tap(result["tap"])[:]), predictions.top[:, 0])

    def not_again(*arguments, **more):
        raise AssertionError("chosen again")

    monkeypatch.setattr(fit_head, "select", not_again)
    assert experiment.train(config, epath.Path(workdir)) == json.loads((workdir / "result.json").read_text())
    again = capsys.readouterr().out
    assert "nothing to do" in again and printed.splitlines()[-2] in again


@pytest.mark.slow
def test_a_curve_over_depth(extracted, tmp_path):
    """Of each tap its own setting; the one that is chosen is the first on the held-out images, not on the others."""
    config = runpy.run_path(str(CONFIGS / "layerwise.py"))["get_config"]()
    config.features = extracted(config.tap)
    result = experiment.train(config, epath.Path(tmp_path / "run"))
    taps = result["taps"]
    assert [row["tap"] for row in taps] == config.tap.split(",")
    assert [row["num_features"] for row in taps] == [16, 32, 64, 128, 128]
    by_holdout = max(taps, key=lambda row: row["holdout"]["accuracy"])
    assert by_holdout["tap"] == result["tap"] and all(set(row["settings"]) == {"alpha"} for row in taps)
    values = [row["validation"]["accuracy"]["value"] for row in taps]
    assert values[0] < values[3] > values[4]


@pytest.mark.slow
def test_a_curve_over_seeds(tmp_path, capsys):
    config = runpy.run_path(str(CONFIGS / "layerwise.py"))["get_config"]()
    config.seeds, config.tap, config.sweep.grid = 2, "block1:avg,block2:avg", None
    config.data.update(train_per_class=10, validation_per_class=10)
    result = experiment.train(config, epath.Path(tmp_path / "run"))
    for tap, (one, other) in zip(
        result["taps"], zip(*(run["taps"] for run in result["runs"]), strict=True), strict=True
    ):
        values = [row["validation"]["accuracy"]["value"] for row in (one, other)]
        assert tap["tap"] == one["tap"] == other["tap"]
        assert tap["mean"]["accuracy"] == pytest.approx(np.mean(values), abs=1e-6)
        assert tap["spread"]["accuracy"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert f"block2:avg  {result['taps'][1]['mean']['accuracy']:.4f}" in capsys.readouterr().out
