"""The taps of a network from shallow to deep, and the settings of a head that were compared."""

import math
from typing import Any

from transfer.evaluation.measures import MEASURES
from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.templates import Section, is_number, rendered

# Settings of a sweep that are listed, the best first.
MOST = 50
SEARCH = "Hyperparameter search"
# Of names that several kinds of predictions have, what classes have.
KNOWN = {name: measure for kind in ("values", "labels", "classes") for name, measure in MEASURES[kind].items()}


def section(run: RunData) -> Section | None:
    """Accuracy over depth where there are several taps, and the table of the sweep where there was one."""
    depth, sweep = _depth(run.result.get("taps")), _sweep(run.result.get("sweep"))
    if depth and sweep:
        tried = {str(row.get("tap")): {"chosen": chosen, "tried": row.get(sweep["measure"])}
                 for chosen, row in sweep["rows"]}  # fmt: skip
        if len(sweep["rows"]) == len(tried) and tried.keys() == {row["tap"] for row in depth["rows"]}:
            # nothing but the tap was chosen: one table says both
            depth |= {"rows": [row | tried[row["tap"]] for row in depth["rows"]], "choice": sweep}
            sweep = None
    if depth is None and sweep is None:
        return None
    html, charts = rendered("depth.html", depth=depth, sweep=sweep), [depth["chart"]] if depth else []
    return Section("depth", "Taps and settings" if depth else SEARCH, html, charts=lambda: charts)


def _depth(taps: Any) -> dict[str, Any] | None:
    """The first measure that there is of each tap, in the order of the config."""
    if not isinstance(taps, list) or len(taps) < 2 or not all(isinstance(row, dict) for row in taps):
        return None
    over_seeds = "mean" in taps[0]
    of_first = taps[0].get("mean" if over_seeds else "validation")
    name = next(iter(of_first), None) if isinstance(of_first, dict) else None
    if name not in KNOWN:
        return None
    known = {"chosen": False, "tried": None}
    rows = [{"tap": str(row.get("tap")), "size": row.get("num_features"), **_ends(row, name), **known} for row in taps]
    title, share, names = KNOWN[name].title, KNOWN[name].share, [row["tap"] for row in rows]
    points = [(place, row["value"], row["low"], row["high"]) for place, row in enumerate(rows)]
    label = f"{title} by tap: " + ", ".join(f"{row['tap']} {row['value']:.4f}" for row in rows)
    chart = svg.line_chart(f"{title[0].upper()}{title[1:]} by tap", label, names, [("", points)], "tap", share)
    depth = {"title": title, "share": share, "rows": rows, "over_seeds": over_seeds, "chart": chart}
    return depth | {"choice": None}


def _ends(row: dict[str, Any], name: str) -> dict[str, Any]:
    """The value of a measure and the ends of its interval, or over seeds of its spread; NaN for what is unknown."""
    of_measure = (row.get("validation") or {}).get(name) or {}
    if "mean" in row:
        value, spread = row["mean"].get(name, math.nan), row["spread"].get(name) or 0.0
        of_measure = {"value": value, "low": value - spread, "high": value + spread}
    ends = {key: of_measure.get(key) for key in ("value", "low", "high")}
    return {key: end if is_number(end) else math.nan for key, end in ends.items()}


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
