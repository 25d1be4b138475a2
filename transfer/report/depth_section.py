"""The taps of a network from shallow to deep, and the settings of a head that were compared."""

import math
from typing import Any

from transfer.evaluation.measures import MEASURES
from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.svg import Chart
from transfer.report.templates import is_number, rendered

# Settings of a sweep that are listed, the best first.
MOST = 50
SEARCH = "Hyperparameter search"
# Of names that several kinds of predictions have, what classes have.
KNOWN = {name: measure for kind in ("values", "labels", "classes") for name, measure in MEASURES[kind].items()}


def section(run: RunData, options: Options) -> Section | None:
    """Accuracy over depth where there are several taps, and the table of the sweep where there was one."""
    depth, sweep = _depth(run.result.get("taps")), _sweep(run.result.get("sweep"))
    if depth is None and sweep is None:
        return None
    return Section("depth", "Taps and settings" if depth else SEARCH, rendered("depth.html", depth=depth, sweep=sweep))


def charts(run: RunData, options: Options) -> list[Chart]:
    """The measure of each tap, where there are several."""
    depth = _depth(run.result.get("taps"))
    return [depth["chart"]] if depth else []


def _depth(taps: Any) -> dict[str, Any] | None:
    """The first measure that there is of each tap, in the order of the config."""
    if not isinstance(taps, list) or len(taps) < 2 or not all(isinstance(row, dict) for row in taps):
        return None
    over_seeds = "mean" in taps[0]
    of_first = taps[0].get("mean" if over_seeds else "validation")
    name = next(iter(of_first), None) if isinstance(of_first, dict) else None
    if name not in KNOWN:
        return None
    rows = [{"tap": str(row.get("tap")), "size": row.get("num_features"), **_ends(row, name)} for row in taps]
    return {"title": KNOWN[name].title, "share": KNOWN[name].share, "rows": rows, "over_seeds": over_seeds,
            "chart": _chart(rows, KNOWN[name].title, KNOWN[name].share)}  # fmt: skip


def _ends(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The value of a measure and the ends of its interval, or over seeds of its spread; NaN for what is unknown."""
    of_measure = (row.get("validation") or {}).get(name) or {}
    if "mean" in row:
        value, spread = row["mean"].get(name, math.nan), row["spread"].get(name) or 0.0
        of_measure = {"value": value, "low": value - spread, "high": value + spread}
    ends = {key: of_measure.get(key) for key in ("value", "low", "high")}
    return {key: end if is_number(end) else math.nan for key, end in ends.items()}


def _chart(rows: list[dict[str, Any]], title: str, share: bool) -> Chart:
    values = [row[name] for row in rows for name in ("value", "low", "high")]
    frame = svg.Frame((-0.4, len(rows) - 0.6), svg.around(values), bottom=74, height=300)
    names = [svg.slanted(frame, place, row["tap"]) for place, row in enumerate(rows)]
    marks = [svg.line(frame, ((place, row["value"]) for place, row in enumerate(rows)), 1)]
    for place, row in enumerate(rows):
        marks.append(svg.whisker(frame, place, row["low"], row["high"], 1))
        if math.isfinite(row["value"]):
            marks.append(svg.dot(frame, place, row["value"], 1, row["tap"]))
    label = f"{title} by tap: " + ", ".join(f"{row['tap']} {row['value']:.4f}" for row in rows)
    marks = [svg.axes(frame, xticks=[], percent=share), *names, *marks]
    return Chart(f"{title[0].upper()}{title[1:]} by tap", frame, label, svg.joined(marks))


def _sweep(sweep: Any) -> dict[str, Any] | None:
    """The settings that were tried, the best first."""
    if not isinstance(sweep, dict) or not isinstance(sweep.get("table"), list) or not sweep["table"]:
        return None
    rows = [row for row in sweep["table"] if isinstance(row, dict)]
    names = list(rows[0]) if rows else []
    measure = str(sweep.get("measure"))
    chosen = sweep.get("chosen")
    chosen = chosen if isinstance(chosen, dict) else {}
    sign = -1 if measure not in KNOWN or KNOWN[measure].more else 1
    rows.sort(key=lambda row: sign * row[measure] if is_number(row.get(measure)) else math.inf)
    is_chosen = [all(row.get(name) == value for name, value in chosen.items()) for row in rows]
    return {
        "names": names,
        "rows": list(zip(is_chosen, rows, strict=True))[:MOST],
        "num": len(rows),
        "measure": measure,
        "held": sweep.get("num_holdout"),
        "notes": [str(note) for note in sweep.get("notes") or []],
    }
