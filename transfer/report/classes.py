"""Recall and precision of each class or label with intervals, and the error of each value."""

from collections.abc import Callable
from typing import Any

import numpy as np

from transfer.evaluation.intervals import wilson
from transfer.evaluation.measures import value
from transfer.evaluation.predictions import Predictions
from transfer.report import svg
from transfer.report.confusion import confusion
from transfer.report.run_data import RunData
from transfer.report.templates import Section, is_number, output_names, rendered, valid_text

ENDS = ("value", "low", "high")
# Of more classes the worst come first, since nobody looks for them by their place.
IN_ORDER = 25


def of_classes(predictions: Predictions) -> list[dict[str, Any]]:
    """A row for each class: "name", "rows", "value" (recall), "low", "high", "precision", and "taken": (name, rows).

    `taken` is what most of its wrong rows were predicted as. What no row tells of is None.
    """
    counted, titles = confusion(predictions), output_names(predictions)
    hits = np.bincount(predictions.labels[predictions.right], minlength=len(titles))
    taken: dict[int, tuple[str, int]] = {}
    wrong = counted.mistakes()
    for a, p, n in zip(wrong.actual.tolist(), wrong.predicted.tolist(), wrong.count.tolist(), strict=True):
        taken.setdefault(a, (titles[p], n))
    rows = _with_intervals(titles, hits, counted.rows, counted.said)
    return [row | {"taken": taken.get(i)} for i, row in enumerate(rows)]


def of_labels(predictions: Predictions) -> list[dict[str, Any]]:
    """A row for each label, as `of_classes` has of a class, with F1 as "f1" in place of `taken`."""
    has, said = predictions.labels > 0, predictions.scores > 0
    hits, rows, saying = (has & said).sum(axis=0), has.sum(axis=0), said.sum(axis=0)
    f1 = [2 * h / (r + s) if r + s else None for h, r, s in zip(hits, rows, saying, strict=True)]
    of_each = _with_intervals(output_names(predictions), hits, rows, saying)
    return [row | {"f1": value} for row, value in zip(of_each, f1, strict=True)]


def _with_intervals(titles: list[str], hits: Any, rows: Any, said: Any) -> list[dict[str, Any]]:
    """Recall with Wilson's interval, and precision, of hits among the rows of each class and those predicted as it."""
    low, high = wilson(hits, rows)
    known = [dict(zip(ENDS, ends, strict=True)) for ends in zip(hits / np.maximum(rows, 1), low, high, strict=True)]
    return [
        {"name": title, "rows": int(rows[i]), **(known[i] if rows[i] else dict.fromkeys(ENDS))}
        | {"precision": hits[i] / said[i] if said[i] else None}
        for i, title in enumerate(titles)
    ]


def of_values(predictions: Predictions) -> list[dict[str, Any]]:
    """A row for each target: "rmse" and "r2"; its name is its number."""
    lines = []
    for i, title in enumerate(output_names(predictions)):
        alone = Predictions.of_logits(predictions.scores[:, [i]], predictions.labels[:, [i]], kind="values")
        lines.append({"name": title, "rows": len(predictions), **{key: value(alone, key) for key in ("rmse", "r2")}})
    return lines


_ROWS: dict[str, Callable[[Predictions], list[dict[str, Any]]]] = {
    "classes": of_classes,
    "labels": of_labels,
    "values": of_values,
}
TITLES = {"classes": "Accuracy by class", "labels": "Results by label", "values": "Results by value"}
# Bars of the chart: of more classes the worst.
MOST_BARS = 40


def section(run: RunData) -> Section | None:
    """A table with bars; of a run without predictions what result.json has of its classes."""
    kind = "classes" if run.predictions is None else run.predictions.kind
    rows = _recorded(run.result) if run.predictions is None else _ROWS[kind](run.predictions)
    if not rows:
        return None
    drawn = [] if run.predictions is None or kind == "values" else [row for row in rows if row["value"] is not None]
    lowest_first = kind != "values" and len(rows) > IN_ORDER
    if lowest_first:
        rows.sort(key=lambda row: (row["value"] is None, row["value"]))
    html = rendered("classes.html", rows=rows, kind=kind, worst_first=lowest_first, written=run.predictions is None)
    return Section("classes", TITLES[kind], html, charts=lambda: [_chart(drawn)] if drawn else [])


def _chart(every: list[dict[str, Any]]) -> svg.Chart:
    """The recall of each class or label with its interval; of many the worst."""
    rows = every if len(every) <= MOST_BARS else sorted(every, key=lambda row: row["value"])[:MOST_BARS]
    title = "Recall, with 95 % intervals" + f": the lowest {len(rows)} of {len(every)}" * (len(rows) < len(every))
    label = "Recall by class: " + ", ".join(f"{row['name']} {row['value']:.1%}" for row in rows)
    bars = [(row["name"], row["value"], row["low"], row["high"]) for row in rows]
    return svg.row_chart(title, label, bars, "recall")


def _recorded(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `per_class` in result.json, where a run has it and it is what it should be."""
    measures = result.get("measures")
    listed = measures.get("per_class") if isinstance(measures, dict) else None
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    if not all(is_number(row.get(name)) and 0 <= row[name] <= 1 for row in rows for name in ENDS) or rows != listed:
        return []
    return [
        {"name": valid_text(row.get("class", "")), "rows": row.get("rows", 0), "precision": None}
        | {name: row[name] for name in ENDS}
        for row in rows
    ]
