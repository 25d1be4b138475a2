"""The whole text of reports of small runs, as kept in `tests/golden/report/`: every word, number and place in a chart.

After a change that is meant, `python tests/report/test_report_golden.py` writes the files again; read their diff.
"""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import ODD, made_run

from transfer.evaluation.predictions import Predictions
from transfer.report import chart_files, page, svg
from transfer.report.run_data import Options, RunData, load

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
CONFIG = {
    "model": {"name": "vgg11", "dtype": "float32"},
    "tap": "block3:avg",
    "seed": 7,
    "head": {"learning_rate": 0.25},
    "data": {"source": "digits"},
}
LONG = "a name of twenty-six lette"


def waves(*shape: int) -> np.ndarray:
    """Numbers between -3 and 3 that look like chance, and are the same on every machine."""
    return np.round(3 * np.sin(1.7 * np.arange(1, np.prod(shape) + 1) ** 1.3), 3).reshape(shape)


def of_labels(rows: int, labels: int) -> Predictions:
    return Predictions.of_logits(waves(rows, labels), waves(rows, labels)[::-1] > 1, kind="labels")


def of_values(rows: int, values: int) -> Predictions:
    return Predictions.of_logits(
        waves(rows, values), waves(rows, values) + 0.3 * waves(rows, values)[::-1], kind="values"
    )


def of_classes(classes: int, rows: int, **settings: Any) -> Predictions:
    return Predictions.of_logits(waves(rows, classes), np.arange(rows) * 3 % 7 % classes, **settings)


SHOTS_OF_HEADS = {
    "seeds": 2,
    "select": True,
    "heads": ["ridge", "knn"],
    "rows": [
        {"tap": tap, "head": head, "per_class": count, "mean": 0.5 + 0.031 * i, "spread": 0.01 * i, "same_rows": i == 5}
        for i, (head, tap, count) in enumerate(
            (head, tap, count)
            for head, taps in (("ridge", ("block1", LONG, "fc2")), ("knn", ("fc2",)))
            for tap in taps
            for count in (1, None)
        )
    ],
}
BASELINES = {
    "seeds": 3,
    "select": False,
    "baselines": True,
    "heads": ["logistic"],
    "rows": [
        {"tap": name, "head": "logistic", "per_class": 10, "mean": mean, "spread": spread, "same_rows": False}
        for name, mean, spread in (("pretrained", 0.913, 0.021), ("random", 0.5, None), (f"{LONG}rs", 0.987, 0.04))
    ],
}
HISTORY = [
    {"epoch": n, "loss": 2 / n, "accuracy": 1 - 0.7 / n, "validation_loss": 2.5 / n, "validation_accuracy": 1 - 0.8 / n}
    for n in (1, 2, 3, 4)
]
HISTORY[2]["validation_loss"] = float("nan")
MEASURES = {
    "accuracy": {"value": 0.9125, "low": 0.85, "high": 0.9512},
    "top_5_accuracy": {"value": 0.99},
    "log_loss": {"value": 0.31234, "low": 0.2, "high": float("inf")},
    "unheard of": {"value": 1},
    **{name: {"value": 0.1} for name in ("balanced_accuracy", "ece", "mean_average_precision", "rmse", "r2")},
}
FACTS = {
    "measures": MEASURES,
    "model": "vgg11",
    "tap": "block3:avg",
    "head": "linear",
    "dataset": "digits",
    "num_train": 12345,
    "num_validation": 24,
    "num_classes": 4,
    "weights_sha256": "0f" * 4,
    "device": "cpu",
    "jax_version": "0.10",
    "seconds_extract": 119.94,
    "seconds_train": 7260.0,
    "epochs": 4,
    "best_epoch": 3,
}
TAPS = [
    {"tap": tap, "num_features": 512, "validation": {"accuracy": {"value": value, "low": value - 0.1, "high": high}}}
    for tap, value, high in (("block1:avg", 0.4, 0.52), ("block2:avg", 0.75, 0.83), (LONG, 0.7, None))
]
SWEEP = {
    "measure": "log_loss",
    "num_holdout": 30,
    "chosen": {"alpha": 10.0},
    "notes": ["alpha is at the end of its range"],
    "table": [{"alpha": 0.1, "log_loss": 0.9}, {"alpha": 10.0, "log_loss": 0.7}, {"alpha": 5.0, "log_loss": None}],
}
TAPS_OF_SEEDS = [
    {"tap": "block1:avg", "num_features": 64, "mean": {"accuracy": 0.5, "rmse": 1}, "spread": {"accuracy": 0.03}},
    {"tap": "block2:avg", "num_features": 128, "mean": {"accuracy": 0.625}, "spread": {"accuracy": None}},
    {"tap": "block3:avg", "num_features": 256, "mean": {}, "spread": {}},
]
SWEEP_OF_SEEDS = {
    "measure": "accuracy",
    "table": [{"k": k, "weights": "uniform", "accuracy": 0.2 + k % 7 / 10} for k in range(1, 54)],
    "chosen": {"k": 6, "weights": "uniform"},
}
SHOTS = {"few_shot": SHOTS_OF_HEADS, "taps": TAPS, "sweep": SWEEP}
SEEDS = {
    "few_shot": BASELINES,
    "taps": TAPS_OF_SEEDS,
    "sweep": SWEEP_OF_SEEDS,
    "spread": {"validation_accuracy": 0.0213, "validation_loss": 0.03},
    "validation_accuracy": 0.875,
    "validation_loss": 0.4,
    "runs": [{"validation_accuracy": 0.86, "validation_loss": 0.5, "seconds_train": 3}, {"validation_accuracy": 0.89}],
}


def made(predictions: Predictions | None, history: Any = (), features: Any = None, **result: Any) -> RunData:
    run = made_run(predictions, features, Options("none" if features is None else "pca", seed=1), **result)
    run.config, run.history = CONFIG, list(history)
    return run


def tuned() -> RunData:
    """A fine-tuned network in its first epochs, all of whose layers are trained."""
    run = made(None, HISTORY[:2])
    run.config = {"train": "finetune", "model": {"name": "resnet18"}, "seed": None, "unfreeze": None}
    return run


def written(run: RunData, *keys: str) -> str:
    """The whole page, or sections of it by their keys, and the charts that are only in files."""
    sections = [section for section in page.sections(run) if not keys or section.key in keys]
    html = page.page([run], [sections])
    lone = [chart for section in sections for chart in section.charts() if str(chart.marks) not in html]
    html = html.partition("<main")[2] if keys else html
    return plain(html + chart_files.document(lone, "Of the run") if lone else html)


def plain(html: str) -> str:
    """The text without scripts, style, images, the date and the lines that only end an element; an element a line."""
    html = re.sub(r"<style>.*?</style>|<script>.*?</script>|sha256-[^&]*|Made [-\d: ]*", "", html, flags=re.S)
    html = re.sub(r'(data:image)/[^"]*', r"\1", html)
    html = re.sub(r"\d+\.\d{7,}", lambda digits: f"{float(digits[0]):.6f}", html)
    lines = re.sub(r"\s*\n\s*", "\n", re.sub(r"(?<=>)(?=<)", "\n", html)).strip().split("\n")
    return "".join(f"{line}\n" for line in lines if not re.fullmatch(r"</\w+>", line))


def put(folder: Path, rows: int, shift: float, first: int = 0) -> None:
    """A finished run with predictions of images from the number `first` on."""
    folder.mkdir(parents=True)
    scores, ids = waves(rows, 3) + shift * np.eye(3)[np.arange(rows) % 3], [str(first + row) for row in range(rows)]
    Predictions.of_logits(scores, np.arange(rows) % 3, ids).write(folder / "predictions.npz")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "result.json").write_text(json.dumps({"model": "vgg11", "dataset": "digits"}))


def compared(folder: Path) -> str:
    """The comparison of two runs, of another number of rows of which most are the same."""
    put(folder / "first", 30, 0)
    put(folder / f"{LONG} too long", 24, 2)
    return comparison(folder)


def compared_over_seeds(folder: Path) -> str:
    """Runs over seeds, which have spreads and no rows in common."""
    for name, shift in (("first", 0), ("second", 1.5)):
        for seed in range(3):
            put(folder / name / f"seed_{seed}", 20, shift + seed / 4, 1000 * bool(shift))
        results = {"seeds": 3, "runs": [{}, {}, {}], "model": "vgg11", "dataset": "digits"}
        (folder / name / "result.json").write_text(json.dumps(results))
    return comparison(folder)


def comparison(folder: Path) -> str:
    runs = load([str(path) for path in sorted(folder.iterdir())], Options(map="none"))
    return plain(page.page(runs, [[], []]).partition("<main")[2].replace(f"{folder}/", ""))


def file_of_charts() -> str:
    """A file of three charts: with a title wider than it, with a legend of several lines, without a title."""
    lines = [(f"{LONG} {i}", [(0, 0.5, 0.4, 0.6), (1, 0.1 * i, 0.5, 0.5)]) for i in range(5)]
    charts = [
        svg.row_chart(f"{LONG}, longer than its picture is wide: {LONG}", "l", [("a", 1, 0.5, 2)], "x", (0, 2), False),
        svg.line_chart("Lines", "l", ["one", "other"], lines, "x"),
        svg.row_chart("", "l", [("a", 0.25, 0.125, 0.5), ("b", 0, 0, 0.25)], "x"),
    ]
    return plain(chart_files.document(charts, "All of them"))


PAGES: dict[str, Callable[[Path], str]] = {
    "page": lambda _: written(made(of_classes(4, 14, class_names=ODD), HISTORY, waves(14, 5), **FACTS)),
    "shots": lambda _: written(
        made(of_classes(2, 12), HISTORY[:1], best_epoch=1, **SHOTS), "threshold", "curves", "shots", "depth"
    ),
    "labels": lambda _: written(made(of_labels(12, 3), (), waves(12, 4)), "classes", "reliability", "errors", "map"),
    "values": lambda _: written(made(of_values(9, 2), (), waves(9, 4)), "classes", "reliability", "errors", "map"),
    "seeds": lambda _: written(made(None, **SEEDS), "overview", "depth", "shots"),
    "tuned": lambda _: written(tuned(), "overview"),
    "comparison": compared,
    "comparison_of_seeds": compared_over_seeds,
    "file": lambda _: file_of_charts(),
    "marks": lambda _: plain(svg.joined(svg.swatch(series) for series in range(1, 10))),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_what_it_said(name: str, tmp_path: Path) -> None:
    assert PAGES[name](tmp_path) == (GOLDEN / f"{name}.html").read_text("utf-8")


if __name__ == "__main__":
    for name, make in PAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            (GOLDEN / f"{name}.html").write_text(make(Path(folder)), "utf-8")
