"""How well each class, label or value is told: a bar for each, with its interval."""

from collections.abc import Callable
from typing import Any

import numpy as np

from transfer.evaluation.intervals import wilson
from transfer.evaluation.measures import value
from transfer.evaluation.predictions import Predictions
from transfer.report import names, svg
from transfer.report.confusion import confusion
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.svg import Chart
from transfer.report.templates import rendered

KEY = "classes"
# Of more classes the worst come first, since nobody looks for them by their place.
IN_ORDER = 25


def of_classes(predictions: Predictions) -> list[dict[str, Any]]:
    """Of each class: "name", "rows", "value", "low", "high" (recall and its interval), "precision", "taken" for what.

    `taken` is (name, rows) of what most of the wrong rows were said to be. What no row tells of is None.
    """
    found = confusion(predictions)
    titles = names.of_outputs(predictions)
    right = np.bincount(predictions.labels[predictions.right], minlength=len(titles))
    low, high = wilson(right, found.rows)
    taken: dict[int, tuple[str, int]] = {}
    wrong = found.mistakes()
    for a, p, n in zip(wrong.actual.tolist(), wrong.predicted.tolist(), wrong.count.tolist(), strict=True):
        taken.setdefault(a, (titles[p], n))
    return [
        {
            "name": titles[i],
            "rows": int(found.rows[i]),
            "value": right[i] / found.rows[i] if found.rows[i] else None,
            "low": low[i] if found.rows[i] else None,
            "high": high[i] if found.rows[i] else None,
            "precision": right[i] / found.said[i] if found.said[i] else None,
            "taken": taken.get(i),
        }
        for i in range(len(titles))
    ]


def of_labels(predictions: Predictions) -> list[dict[str, Any]]:
    """Of each label: of the rows that have it the share where it was said, and its interval; precision; F1 as "f1"."""
    titles = names.of_outputs(predictions)
    has, said = predictions.labels > 0, predictions.scores > 0
    hits, rows, saying = (has & said).sum(axis=0), has.sum(axis=0), said.sum(axis=0)
    low, high = wilson(hits, rows)
    return [
        {
            "name": titles[i],
            "rows": int(rows[i]),
            "value": hits[i] / rows[i] if rows[i] else None,
            "low": low[i] if rows[i] else None,
            "high": high[i] if rows[i] else None,
            "precision": hits[i] / saying[i] if saying[i] else None,
            "f1": 2 * hits[i] / (rows[i] + saying[i]) if rows[i] + saying[i] else None,
        }
        for i in range(len(titles))
    ]


def of_values(predictions: Predictions) -> list[dict[str, Any]]:
    """Of each target: "rmse" and "r2"; its name is its number."""
    return [
        {"name": title, "rows": len(predictions)}
        | {name: value(_one_target(predictions, i), name) for name in ("rmse", "r2")}
        for i, title in enumerate(names.of_outputs(predictions))
    ]


def _one_target(predictions: Predictions, index: int) -> Predictions:
    return Predictions.of_logits(
        predictions.scores[:, [index]], predictions.labels[:, [index]], list(predictions.ids), kind="values"
    )


_ROWS: dict[str, Callable[[Predictions], list[dict[str, Any]]]] = {
    "classes": of_classes,
    "labels": of_labels,
    "values": of_values,
}
TITLES = {"classes": "Accuracy by class", "labels": "Results by label", "values": "Results by value"}
# Bars of the chart: of more classes the worst.
MOST_BARS = 40


def section(run: RunData, options: Options) -> Section | None:
    """A table with bars; of a run without predictions what result.json says of its classes."""
    if run.predictions is not None:
        kind = run.predictions.kind
        rows = _ROWS[kind](run.predictions)
    else:
        kind, rows = "classes", _written(run.result)
    if not rows:
        return None
    worst_first = kind != "values" and len(rows) > IN_ORDER
    for place, row in enumerate(rows):
        row["place"] = place
    if worst_first:
        rows.sort(key=lambda row: (row["value"] is None, row["value"]))
    html = rendered("classes.html", rows=rows, kind=kind, worst_first=worst_first, written=run.predictions is None)
    return Section(KEY, TITLES[kind], html, None)


def charts(run: RunData, options: Options) -> list[Chart]:
    """The recall of each class or label with its interval; of many the worst."""
    if run.predictions is None or run.predictions.kind == "values":
        return []
    every = [row for row in _ROWS[run.predictions.kind](run.predictions) if row["value"] is not None]
    rows = every if len(every) <= MOST_BARS else sorted(every, key=lambda row: row["value"])[:MOST_BARS]
    title = "Recall, with 95 % intervals" + f": the lowest {len(rows)} of {len(every)}" * (len(rows) < len(every))
    label = "Recall by class: " + ", ".join(f"{row['name']} {row['value']:.1%}" for row in rows)
    bars = [(row["name"], row["value"], row["low"], row["high"]) for row in rows]
    return [Chart(title, *svg.horizontal_bars(bars, "recall", label), classes="bars")]


def _written(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `per_class` in result.json, where a run has it and it is what it should be."""
    measures = result.get("measures")
    listed = measures.get("per_class") if isinstance(measures, dict) else None
    if not isinstance(listed, list):
        return []
    found = []
    for row in listed:
        if not isinstance(row, dict) or not all(_share(row.get(name)) for name in ("value", "low", "high")):
            return []
        shown = {"name": names.shown(row.get("class", "")), "rows": row.get("rows", 0)}
        found.append(shown | {name: row[name] for name in ("value", "low", "high")} | {"precision": None})
    return found


def _share(number: Any) -> bool:
    return isinstance(number, int | float) and 0 <= number <= 1
