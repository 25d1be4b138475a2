"""The rehearsal at a toy's size: through the store, streamed and resident, towards the optimum that is known."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.on_demand import OnDemand

TOY = ["--rows=3001", "--validation_rows=500", "--features=24", "--classes=5", "--batch_size=64", "--epochs=4"]


@pytest.fixture
def imagenet_scale(monkeypatch):
    """The script, which imports what lies beside it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("imagenet_scale")


@pytest.mark.slow
@pytest.mark.parametrize("way", [[], ["--resident"]], ids=["streamed", "resident"])
def test_a_toy(way, imagenet_scale, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(imagenet_scale, "RADIUS", 2.0)
    output = tmp_path / "result.json"
    imagenet_scale.main([*TOY, *way, "--rate=0.01", f"--folder={tmp_path / 'made'}", f"--output={output}"])
    result = json.loads(output.read_text())
    above = [epoch["above_optimum"] for epoch in result["epochs"]]
    # about 100 parameters over 2 x 3,001 rows is what a finite training set costs: 0.02
    assert above == sorted(above, reverse=True) and -0.01 < above[-1] < 0.06
    assert result["store_bytes"]["train"] > 3001 * 24 * 2 and result["resident"] == bool(way)
    assert all(epoch["rows_per_second"] > 0 for epoch in result["epochs"])
    assert "above the optimum" in capsys.readouterr().out
    assert not list((tmp_path / "made").iterdir())


def test_what_is_made_is_decided_by_its_place_alone(imagenet_scale):
    one, other = (imagenet_scale.Made({"train": 600, "validation": 10}, 8, 3) for _ in range(2))
    np.testing.assert_array_equal(one.chunk("train", 256), other.chunk("train", 256))
    assert len(one.chunk("train", 512)) == 88
    assert not np.array_equal(one.chunk("train", 0), one.chunk("train", 256))
    ids = OnDemand(1_000_000_000, "{:09d}".format)
    assert ids[7] == "000000007" and ids[5:7] == ["000000005", "000000006"]


def test_no_head_is_better_than_the_known_one(imagenet_scale, monkeypatch):
    monkeypatch.setattr(imagenet_scale, "RADIUS", 1.5)
    made = imagenet_scale.Made({"train": 4000, "validation": 1}, 8, 4)
    x = np.concatenate([made.chunk("train", start) for start in range(0, 4000, 256)]).astype(np.float32)
    best = made.best()

    def loss(kernel, bias):
        scores = x @ kernel + bias
        own = scores[np.arange(4000), made.labels["train"]]
        return float(np.mean(np.log(np.exp(scores - own[:, None]).sum(axis=1))))

    least = loss(best["kernel"], best["bias"])
    random = np.random.default_rng(0)
    for _ in range(5):
        assert loss(best["kernel"] + 0.3 * random.normal(size=(8, 4)), best["bias"]) > least
    assert loss(0.7 * best["kernel"], best["bias"]) > least < loss(1.4 * best["kernel"], best["bias"])
