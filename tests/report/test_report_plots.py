"""The charts as files: what is in them, for runs of every kind."""

import json
import sys

import numpy as np
import pytest
from etils import epath
from PIL import Image

from transfer.__main__ import main
from transfer.errors import TransferError
from transfer.evaluation.predictions import Predictions
from transfer.report import plots
from transfer.report.run_data import load

pytest.importorskip("matplotlib")
SHOTS = {
    "heads": ["ridge"],
    "rows": [
        {"head": "ridge", "tap": tap, "per_class": count, "mean": 0.5, "spread": 0.1}
        for tap in ("block1", "block2")
        for count in (1, 5, None)
    ],
}


def workdir_of(folder, kind="classes", outputs=3, rows=40, **result):
    """A run's files, with names that would be formulas or tags."""
    random = np.random.default_rng(0)
    labels = random.integers(0, outputs, rows) if kind == "classes" else random.integers(0, 2, (rows, outputs))
    titles = [f"$x_{i}$ <b>é</b>" for i in range(outputs)] if kind != "values" else ()
    logits = random.normal(size=(rows, outputs))
    Predictions.of_logits(logits, labels, kind=kind, class_names=titles).write(folder / "predictions.npz")
    history = [{"epoch": n, "loss": 1 / n, "accuracy": 0.5, "validation_loss": 1.0} for n in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    (folder / "config.json").write_text(json.dumps({"train": "finetune"}))
    (folder / "result.json").write_text(json.dumps({"epochs": 3, **result}))
    return folder


EXPECTED = [
    ("classes", 3, {"curves", "confusion", "classes", "reliability"}),
    ("classes", 300, {"curves", "confusion", "classes", "reliability"}),
    ("labels", 3, {"curves", "classes", "reliability"}),
    ("values", 2, {"curves"}),
]


@pytest.mark.parametrize(("kind", "outputs", "expected"), EXPECTED)
def test_draws_what_the_run_has(tmp_path, kind, outputs, expected):
    (run,) = load([str(workdir_of(tmp_path, kind, outputs))])
    written = plots.draw(run, epath.Path(tmp_path / "plots"))
    assert {path.stem for path in written} == expected
    for path in written:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[0] > 300 and pixels.std() > 3


def test_every_format_with_names_as_they_are(tmp_path):
    (run,) = load([str(workdir_of(tmp_path, few_shot=SHOTS))])
    plots.draw(run, epath.Path(tmp_path / "plots"), ("svg", "pdf"))
    assert (tmp_path / "plots" / "curves.pdf").read_bytes().startswith(b"%PDF")
    text = (tmp_path / "plots" / "confusion.svg").read_text()
    assert "$x_0$ &lt;b&gt;é&lt;/b&gt;" in text
    assert "block2" in (tmp_path / "plots" / "shots.svg").read_text()
    before = {path: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    plots.draw(run, epath.Path(tmp_path / "plots"), ("svg", "pdf"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "plots").iterdir()}


def test_confusion_shows_the_shares(tmp_path):
    (run,) = load([str(workdir_of(tmp_path))])
    shown = plots.confusion(run).axes[0].images[0].get_array()
    found = run.predictions
    for actual in range(3):
        said = found.top[found.labels == actual, 0]
        assert np.allclose(shown[actual], [(said == k).mean() for k in range(3)])


def test_the_verb_draws(tmp_path, capsys):
    workdir_of(tmp_path)
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "p"), "--plot_format", "png,svg"]) == 0
    assert {"confusion.png", "confusion.svg"} <= {path.name for path in (tmp_path / "p").iterdir()}
    assert "Plots: curves.png" in capsys.readouterr().out


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (run,) = load([str(workdir_of(tmp_path))])
    with pytest.raises(TransferError, match=r"\.\[plots\]"):
        plots.draw(run, epath.Path(tmp_path / "plots"))
