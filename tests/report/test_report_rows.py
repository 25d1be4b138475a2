"""What a report says row by row and class by class, against scikit-learn and against the images themselves."""

import base64
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_runs import ODD, made_run, of_classes, of_labels, of_values
from PIL import Image
from sklearn.metrics import precision_score, recall_score

from transfer.evaluation.calibration import expected_calibration_error
from transfer.evaluation.predictions import KINDS, Predictions
from transfer.evaluation.summary import per_class
from transfer.report import classes, curves, images, mistakes, page, probabilities, run_data

OF_KIND: dict[str, Callable[[], Predictions]] = {
    "classes": lambda: of_classes(4, 200, names=ODD),
    "labels": of_labels,
    "values": of_values,
}


def keys(predictions: Predictions | None, **result: Any) -> list[str]:
    return [section.key for section in page.sections(made_run(predictions, **result))]


def test_classes_are_those_of_the_result_and_of_scikit_learn() -> None:
    predictions = of_classes(9, 300)
    found = classes.of_classes(predictions)
    for row, known in zip(found, per_class(predictions), strict=True):
        assert (row["name"], row["rows"]) == (known["class"], known["rows"])
        assert [row[name] for name in ("value", "low", "high")] == pytest.approx(
            [known[name] for name in ("value", "low", "high")], abs=1e-6
        )
    precision = precision_score(predictions.labels, predictions.top[:, 0], average=None)
    assert [row["precision"] for row in found] == pytest.approx(precision.tolist())
    for number, row in enumerate(found):
        wrong = predictions.top[(predictions.labels == number) & ~predictions.right, 0]
        assert row["taken"] == (str(np.bincount(wrong).argmax()), np.bincount(wrong).max())


def test_labels_are_those_of_scikit_learn() -> None:
    predictions = of_labels()
    found = classes.of_labels(predictions)
    said = predictions.scores > 0
    assert [r["value"] for r in found] == pytest.approx(recall_score(predictions.labels, said, average=None).tolist())
    assert [r["precision"] for r in found] == pytest.approx(
        precision_score(predictions.labels, said, average=None).tolist()
    )
    assert all(row["low"] < row["value"] < row["high"] for row in found)


def test_values_each_have_their_error() -> None:
    predictions = of_values(targets=3)
    squares = ((predictions.scores.astype(np.float64) - predictions.labels) ** 2).mean(axis=0)
    assert [row["rmse"] for row in classes.of_values(predictions)] == pytest.approx(np.sqrt(squares).tolist(), rel=1e-5)


def test_classes_without_rows_have_no_bar() -> None:
    predictions = Predictions.of_logits(np.eye(3)[[0, 0, 1]], [0, 0, 0])
    found = classes.of_classes(predictions)
    assert [row["value"] for row in found] == [pytest.approx(2 / 3), None, None]
    assert [row["precision"] for row in found] == [1, 0, None]
    assert "no images" in classes.section(made_run(predictions)).html  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_bins_make_the_calibration_error(kind: str) -> None:
    confidence, right = probabilities.believed(OF_KIND[kind]())
    bins = probabilities.bins(confidence, right)
    gaps = [abs(b["confidence"] - b["accuracy"]) * b["rows"] for b in bins if b["rows"]]
    assert sum(gaps) / len(confidence) == pytest.approx(expected_calibration_error(confidence, right))
    assert all(b["from"] <= b["confidence"] <= b["to"] and b["low"] <= b["accuracy"] <= b["high"]
               for b in bins if b["rows"])  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_some_images_are_right_and_some_wrong(kind: str) -> None:
    predictions = OF_KIND[kind]()
    made = mistakes.some(made_run(predictions))
    assert made is not None
    cards = re.findall(r'<li( class="hit")?>.*?<span class="id" title="([^"]*)"', made.html, re.DOTALL)
    rows = [predictions.ids.tolist().index(html.unescape(id_)) for _, id_ in cards]
    if kind == "values":
        assert len(rows) == 4 and "of the 120, drawn by chance" in made.html
        return
    assert [bool(hit) for hit, _ in cards] == predictions.right[rows].tolist() == [True] * 8 + [False] * 4
    right = int(predictions.right.sum())
    counts = f"8 of the {right} images that are classified correctly, then 4 of the {len(predictions) - right} that"
    assert counts in made.html
    assert made.html == mistakes.some(made_run(predictions)).html, "the seed decides"


def test_without_images_none_are_shown() -> None:
    run = made_run(of_classes(3, 20))
    vars(run)["images"] = SimpleNamespace(get=lambda ids, side: [None] * len(ids))
    assert mistakes.some(run) is None


def test_pairs_are_the_rows_that_were_confused() -> None:
    predictions = of_classes(5, 400)
    found = mistakes.confused(predictions)
    for actual, predicted, rows in found:
        assert (predictions.labels[rows] == actual).all() and (predictions.top[rows, 0] == predicted).all()
        assert (np.diff(predictions.probability[rows, 0]) <= 0).all()
    counts = [len(rows) for *_, rows in found]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_errors_come_first(kind: str) -> None:
    predictions = OF_KIND[kind]()
    rows = mistakes.worst(predictions, 10)
    assert len(rows) == 10
    if kind == "classes":
        wrong = np.sort(predictions.probability[~predictions.right, 0])[::-1]
        assert (predictions.probability[rows, 0] == wrong[:10]).all()
    elif kind == "labels":
        margin = np.where(predictions.labels > 0, -predictions.scores, predictions.scores).max(axis=1)
        assert margin[rows].tolist() == np.sort(margin)[::-1][:10].tolist() and (margin[rows] > 0).all()
    else:
        off = (np.abs(predictions.scores - predictions.labels) / predictions.labels.std(axis=0)).max(axis=1)
        assert off[rows].tolist() == np.sort(off)[::-1][:10].tolist()


SHOWN = {
    "classes": ["overview", "confusion", "classes", "reliability", "pairs", "errors"],
    "labels": ["overview", "classes", "reliability", "errors"],
    "values": ["overview", "classes", "reliability", "errors"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_what_makes_sense(kind: str) -> None:
    assert [key for key in keys(OF_KIND[kind]()) if key in SHOWN["classes"]] == SHOWN[kind]


def test_scores_that_are_no_probabilities_and_in_no_order() -> None:
    predictions = of_classes(6, 100, ranked=False, probable=False)
    found = keys(predictions)
    assert "reliability" not in found and {"confusion", "classes", "pairs", "errors"} <= set(found)
    text = "".join(section.html for section in page.sections(made_run(predictions)))
    assert "no probabilities" in text
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", text), re.IGNORECASE)


def test_all_right_shows_no_errors() -> None:
    found = keys(Predictions.of_logits(np.eye(3), [0, 1, 2]))
    assert {"confusion", "classes", "reliability"} <= set(found) and not {"pairs", "errors"} & set(found)


def test_without_predictions_the_result_says_what_it_knows() -> None:
    rows = [{"class": ODD[0], "rows": 5, "value": 0.8, "low": 0.4, "high": 0.9}]
    assert "classes" in keys(None, measures={"per_class": rows})
    html = classes.section(made_run(None, measures={"per_class": rows})).html  # type: ignore[union-attr]
    assert "80.0" in html and "<script>" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize("damaged", [3, "x", [1], [{"class": "a"}], [{"value": 2, "low": 0, "high": 1}], {}])
def test_damaged_results_are_left_out(damaged: Any) -> None:
    assert "classes" not in keys(None, measures={"per_class": damaged})


@pytest.mark.parametrize(
    ("epochs", "drawn", "listed"),
    [(100, 100, 100), (101, 101, 51), (400, 400, 81), (401, 201, 81), (402, 202, 82), (991, 331, 100), (1, 1, 1)],
)
def test_of_many_epochs_some_are_shown_and_the_last(epochs: int, drawn: int, listed: int) -> None:
    run = made_run(None)
    run.history = [{"epoch": n, "loss": 1 / n, "accuracy": 0.5} for n in range(1, epochs + 1)]
    made = curves.section(run)
    assert made is not None
    for chart in made.data["charts"]:
        assert len(chart["epochs"]) == drawn and (chart["epochs"][0], chart["epochs"][-1]) == (1, epochs)
    rows = re.findall(r'<th scope="row">(\d+)</th>', made.html)
    assert len(rows) == listed and rows[-1] == str(epochs)
    assert ("of some of the epochs" in made.html) == (epochs > 100)


TAP = {"tap": "a", "num_features": 3, "validation": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}}
TABLE = [{"alpha": 1, "accuracy": 0.5}]
SECTIONS: list[tuple[dict[str, Any], bool]] = [
    ({"taps": [TAP, TAP]}, True),
    ({"taps": [TAP]}, False),
    ({"taps": [TAP, 3]}, False),
    ({"taps": {"a": TAP, "b": TAP}}, False),
    ({"taps": [{**TAP, "validation": {}}, TAP]}, False),
    ({"taps": [{**TAP, "validation": {"unheard of": 1}}, TAP]}, False),
    ({"sweep": {"table": TABLE}}, True),
    ({"sweep": {"table": TABLE}, "taps": [TAP, TAP]}, True),
    ({"sweep": {"table": []}}, False),
    ({"sweep": {"table": 3}}, False),
    ({"sweep": TABLE}, False),
    ({"taps": [TAP, TAP], "sweep": 3}, True),
]


def test_where_nothing_but_the_tap_was_chosen_one_table_says_both() -> None:
    taps = [TAP, {**TAP, "tap": "b"}]
    table = [{"tap": "a", "log_loss": 0.75}, {"tap": "b", "log_loss": 0.5}]
    sweep = {"table": table, "measure": "log_loss", "chosen": {"tap": "b"}, "num_holdout": 30, "notes": ["so so"]}
    (one,) = (made for made in page.sections(made_run(None, taps=taps, sweep=sweep)) if made.key == "depth")
    assert one.html.count("<table") == 1 and "so so" in one.html
    assert "✓ marks the tap that was chosen, by log_loss on 30 held-out training images" in one.html
    cells = re.findall(r'<tr( class="chosen")?><th scope="row">([^<]*)</th>.*?<td>([\d.]+)</td></tr>', one.html)
    assert cells == [("", "a", "0.75"), (' class="chosen"', "b ✓", "0.5")]
    both = made_run(None, taps=taps, sweep={**sweep, "table": [{**row, "C": C} for row in table for C in (1, 2)]})
    (one,) = (made for made in page.sections(both) if made.key == "depth")
    assert one.html.count("<table") == 2


def test_a_temperature_is_explained() -> None:
    temperature = {"value": 1.0833, "log_loss": {"value": 0.31}, "ece": {"value": 0.0123}}
    for of_result, said in ((temperature, True), ({}, False), ({"value": "?"}, False), (3, False)):
        made = probabilities.reliability(made_run(of_classes(4, 100), temperature=of_result))
        sentence = (
            "find the head too sure: divided by a temperature of 1.083, which changes no answer, its scores have a "
            "log-loss of 0.3100 and an ECE of 1.23\u202f% on the validation images."
        )
        assert made is not None and (sentence in made.html) == said


MISLEADING: dict[str, tuple[dict[str, Any], str]] = {
    "twins": (
        {"duplicates": {"images": 2, "of": 9, "by": "file", "first": [["a", "a"], ["b", "c"]]}},
        "2 of 9 validation images are training images too, by the same file: a, b (= c); the measures on them",
    ),
    "untrained": ({"untrained_classes": "3 validation rows are of classes …: cat"}, "3 validation rows are of classes"),
    "not validated": (
        {"measures": {"classes_without_rows": ["cat", "dog"]}}, "No validation image is of cat, dog: nothing is known"
    ),
    "majority": (
        {"measures": {"accuracy": {"low": 0.96}, "majority": {"class": "always ok", "value": 0.97}}},
        "Always predicting “always ok” would be right as often as this run may be: in 97.0% of the images.",
    ),
    "better than that": ({"measures": {"accuracy": {"low": 0.98}, "majority": {"class": "x", "value": 0.97}}}, ""),
    "kept": ({"kept_epoch": 3, "epochs": 9}, "Epoch 3 of 9 was kept: the validation images chose it"),
    "left out": (
        {"left_out": ["folder:a: left out of 'train': 12 .txt, 3 .mp4"]},
        "folder:a: left out of 'train': 12 .txt, 3 .mp4",
    ),
    "damaged": ({"duplicates": 3, "measures": {"majority": 5}}, ""),
}  # fmt: skip


@pytest.mark.parametrize("result, said", MISLEADING.values(), ids=MISLEADING)
def test_what_misleads_is_said_at_the_top(result: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result))
    (run,) = run_data.load([str(tmp_path)])
    notes = [line for line in run.notes if "predictions.npz" not in line]
    assert len(notes) == bool(said) and "".join(notes).startswith(said)
    assert html.escape(said, quote=False) in html.unescape(page.page([run]))


@pytest.mark.parametrize(("result", "there"), SECTIONS)
def test_taps_and_settings_are_shown_where_there_are_several(result: dict[str, Any], there: bool) -> None:
    assert ("depth" in keys(None, **result)) == there


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [390, 1280])
def test_every_kind_fits_the_screen(kind: str, width: int, tmp_path: Path, watched: Any) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.page([made_run(OF_KIND[kind]())]), "utf-8")
    opened = watched(path, width)
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    assert opened.evaluate("report.problems.length") == 0
    if kind != "values":
        assert opened.locator("#classes-0 tbody th").all_inner_texts() == list(ODD)


def test_names_filter_the_classes(tmp_path: Path, watched: Any) -> None:
    path = tmp_path / "report.html"
    names = [f"sign {i}" for i in range(43)]
    path.write_text(page.page([made_run(of_classes(43, 900, names=names))]), "utf-8")
    opened = watched(path)
    shown = opened.locator("#classes-0 tbody tr:visible b").all_inner_texts()
    shares = [float(text.split("\u202f")[0]) for text in shown]
    assert len(shares) == 43 and shares == sorted(shares), "the worst come first"
    opened.locator("#classes-0 .filter").fill("SIGN 1")
    assert opened.locator("#classes-0 tbody tr:visible").count() == 11
    assert opened.locator("#classes-0 .found").inner_text() == "11 of 43"
    opened.locator("#classes-0 thead button").first.click()
    assert opened.locator("#classes-0 tbody tr:visible th").first.inner_text() == "sign 1"


def pixels(address: str) -> np.ndarray:
    kind, text = address.split(",", 1)
    assert kind in ("data:image/jpeg;base64", "data:image/png;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def test_the_images_are_those_of_the_rows(trained: Path) -> None:
    run = run_data.load([str(trained)])[0]
    assert run.predictions is not None and not run.predictions.right.all(), "three epochs leave some errors"
    made = mistakes.largest(run)
    shown = re.findall(r'<img src="([^"]+)"[^>]* alt="([^"]+)"', str(made.html))  # type: ignore[union-attr]
    rows = mistakes.worst(run.predictions)
    assert [alt for _, alt in shown] == run.predictions.ids[rows].tolist()
    wanted = run.images.get([alt for _, alt in shown], mistakes.SIDE_OF_ERROR)
    for (address, _), image in zip(shown, wanted, strict=True):
        assert np.abs(pixels(address) - image).mean() < 4


def test_tiles_of_a_sheet_do_not_bleed() -> None:
    random = np.random.default_rng(0)
    flat = [np.full((48, 48, 3), colour, np.uint8) for colour in random.integers(0, 256, (11, 3))]
    flat[4] = None  # type: ignore[call-overload]
    made = images.sheet(flat, 48)
    assert made is not None
    whole = pixels(made.address)
    for place, image in enumerate(flat):
        top, left = place // made.columns * 48, place % made.columns * 48
        found = whole[top : top + 48, left : left + 48]
        assert np.abs(found - (128 if image is None else image)).max() <= 6
    assert images.sheet([None, None], 48) is None and images.address(None) is None
    with pytest.raises(ValueError, match="20 pixels would bleed"):
        images.sheet(flat, 20)
