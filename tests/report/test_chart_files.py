"""The charts as files: which there are, that they hold what the page holds, and that text comes out right."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from etils import epath
from made_runs import made_run, of_classes
from PIL import Image

from transfer.__main__ import main
from transfer.errors import TransferError, UsageError
from transfer.evaluation.predictions import Predictions
from transfer.report import chart_files, confusion, page, svg
from transfer.report.run_data import load
from transfer.report.templates import output_names

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


@pytest.fixture
def draw(tmp_path):
    """Draws a run's charts into a folder, in some formats; returns their paths by name."""

    def run(workdir, *formats, folder="plots"):
        (found,) = load([str(workdir)])
        written = chart_files.draw(page.sections(found), epath.Path(tmp_path / folder), formats)
        return {path.name: path for path in written}

    return run


EXPECTED = [
    ("classes", 2, {"curves", "confusion", "classes", "threshold", "reliability"}),
    ("classes", 300, {"curves", "confusion", "classes", "reliability"}),
    ("labels", 3, {"curves", "classes", "reliability"}),
    ("values", 2, {"curves", "reliability"}),
]


@pytest.mark.parametrize(("kind", "outputs", "expected"), EXPECTED)
def test_draws_what_the_run_has(tmp_path, draw, kind, outputs, expected):
    written = draw(workdir_of(tmp_path, kind, outputs), "svg")
    assert {path.stem for path in written.values()} == expected
    for path in written.values():
        root = ElementTree.fromstring(path.read_text("utf-8"))
        assert float(root.get("width")) > 300 and "var(" not in path.read_text("utf-8")
        # whatever has a colour of its own kind has a rule for it
        marks = {frozenset(one.get("class").split()) for one in root.iter() if one.get("class")}
        assert marks and all(re.search(r"\.s[1-8]\b", f".{'.'.join(sorted(one))}") for one in marks if "line" in one)


def test_every_chart_of_a_run_of_train_py(trained, draw):
    written = draw(trained, "svg")
    assert {path.stem for path in written.values()} >= {"curves", "confusion", "classes", "reliability", "map", "shots"}
    (run,) = load([str(trained)])
    html = page.page([run])
    curve = re.search(r'<path class="line s1"[^>]*>', written["curves.svg"].read_text())[0]
    assert curve in html, "the file holds the page's own chart"
    points = written["map.svg"].read_text().count('class="dot') - len(output_names(run.predictions))
    assert points == len(run.predictions)


def test_png_and_pdf_show_the_text_and_the_colours(tmp_path, draw):
    pytest.importorskip("vl_convert")
    written = draw(workdir_of(tmp_path, few_shot=SHOTS), "png", "pdf")
    assert {path.name for path in written.values()} >= {"shots.png", "shots.pdf", "confusion.png"}
    for name, path in written.items():
        if name.endswith(".pdf"):
            content = path.read_bytes()
            assert content.startswith(b"%PDF") and b"/Font" in content
            continue
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        title = pixels[46:68, 40:200].min(axis=2)
        assert title.min() < 60 and 0.02 < (title < 128).mean() < 0.5, "its title is written"
        assert (abs(pixels - (0x00, 0x72, 0xB2)).sum(axis=2) < 9).any() or name not in ("curves.png", "shots.png")


def test_the_same_run_gives_the_same_bytes_and_foreign_files_are_kept(tmp_path, draw):
    pytest.importorskip("vl_convert")
    workdir = workdir_of(tmp_path)
    written = draw(workdir, "svg", "png", "pdf")
    before = {path: path.read_bytes() for path in written.values()}
    draw(workdir, "svg", "png", "pdf")
    after = {path: path.read_bytes() for path in written.values()}
    for path, content in before.items():
        assert content == after[path] or (path.suffix == ".pdf" and len(content) == len(after[path]))
    written["curves.png"].write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=r"curves\.png is there already"):
        draw(workdir, "png")
    assert written["curves.png"].read_bytes() == b"somebody's"


@pytest.mark.parametrize("classes", [4, 40, 700])
def test_the_matrix_holds_what_happened(classes):
    predictions = of_classes(classes, 900)
    (chart,) = confusion.section(made_run(predictions)).charts()
    squares = sum(path.count("M") for path in re.findall(r'<path class="cell[^>]* d="([^"]*)"', chart.marks))
    assert squares == len(confusion.confusion(predictions).count)
    assert chart.marks.count("<text") == (2 + 2 * classes if classes <= 40 else 2) + (squares if classes == 4 else 0)
    assert max(chart.frame.width, chart.frame.height) < 800


def test_names_are_written_letter_by_letter(tmp_path, draw):
    text = draw(workdir_of(tmp_path, few_shot=SHOTS), "svg")["confusion.svg"].read_text()
    assert "$x_0$ &lt;b&gt;é&lt;/b&gt;" in text


def test_long_names_keep_both_ends():
    cut = {svg.short(f"a class of many words, number {i}") for i in range(12)}
    assert len(cut) == 12 and all(len(name) == 18 for name in cut)


def test_titles_and_legends_are_inside(tmp_path):
    frame = svg.Frame((0, 1), (0, 1), 200, 100)
    legend = [(svg.swatch(i), f"a name of some length {i}") for i in range(1, 9)]
    text = chart_files.document([svg.Chart("A title that is wider than the picture", frame, "", "", legend)] * 3)
    root = ElementTree.fromstring(text)
    words = [one for one in root.iter("{http://www.w3.org/2000/svg}text") if one.get("class") == ""]
    assert len(words) == 24
    assert max(float(one.get("x")) + 7 * len(one.text) for one in words) < float(root.get("width")) / 2


def test_the_verb_draws(tmp_path, capsys):
    workdir_of(tmp_path)
    assert main(["report", str(tmp_path), "--plots", str(tmp_path / "p"), "--plot_format", "svg"]) == 0
    assert "confusion.svg" in {path.name for path in (tmp_path / "p").iterdir()}
    assert "Plots: curves.svg" in capsys.readouterr().out


def test_without_the_library_svg_is_written_and_png_is_one_line(tmp_path, monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    workdir = workdir_of(tmp_path)
    assert draw(workdir, "svg")
    with pytest.raises(TransferError, match=r"\.\[plots\]"):
        draw(workdir, "png", folder="other")
    assert not (tmp_path / "other").exists()
