"""What a run prints at its end: the settings that were tried, the taps, and the measures with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from transfer.evaluation.measures import MEASURES
from transfer.evaluation.selection import CHOICES, MORE_IS_BETTER
from transfer.runtime import distributed, tables

# Settings of a sweep that are printed, the best of them.
MOST_SHOWN = 5
# Measures in the line of a run, as far as what is predicted has them.
SHOWN = ("accuracy", "top_5_accuracy", "balanced_accuracy", "mean_average_precision", "rmse", "r2", "log_loss", "ece")
_OF_SETTINGS = tuple(dict.fromkeys(name for of_kind in CHOICES.values() for name in of_kind))


def print_summary(result: Mapping[str, Any]) -> None:
    """Prints the best settings on the held-out rows, a row for each of several taps, and the measures, as there are."""
    if "sweep" in result:
        distributed.print_once(_settings_table(result["sweep"]))
    if "taps" in result:
        distributed.print_once(_tap_table(result["taps"], result["sweep"]))
    if "measures" in result:
        distributed.print_once(f"validation: {line(result['measures'])}")
    if "temperature" in result:
        scaled = dict(result["temperature"])
        value = scaled.pop("value")
        distributed.print_once(f"with temperature {value:.3f} of the held-out rows: {line(scaled)}")


def line(measures: Mapping[str, Any]) -> str:
    """The measures that are shown, as `accuracy 0.9722 [0.9528, 0.9889], …`."""
    there = [name for name in SHOWN if name in measures]
    of_kind = next(of_kind for of_kind in MEASURES.values() if of_kind.keys() >= set(there))
    return ", ".join(f"{of_kind[name].title} {interval(measures[name])}" for name in there)


def interval(measure: Mapping[str, float | None]) -> str:
    """A value with the ends of its interval."""
    value, low, high = (measure[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "unknown" if value is None else f"{value:.4f}"
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _settings_table(sweep: Mapping[str, Any]) -> str:
    """The best settings, the chosen one first and marked."""
    measure, rows = sweep["measure"], sweep["table"]
    measures = [name for name in _OF_SETTINGS if name in rows[0]]
    varied = [name for name in rows[0] if name not in measures and len({str(row[name]) for row in rows}) > 1]
    sign = -1 if MORE_IS_BETTER[measure] else 1
    best = sorted(rows, key=lambda row: float("inf") if row[measure] is None else sign * row[measure])[:MOST_SHOWN]
    cells = [[*(_text(row[name]) for name in varied), *(_text(row[name], ".4f") for name in measures)] for row in best]
    marks = ["*", *[""] * (len(best) - 1)]
    tried = f"{len(rows)} settings" if len(rows) > 1 else "1 setting"
    head = f"{tried} on {sweep['num_holdout']} held-out rows, fitted on {sweep['num_fitted']}; * by {measure}:"
    table = tables.text([["", *varied, *measures], *([mark, *row] for mark, row in zip(marks, cells, strict=True))])
    return "\n".join([head, table, *(f"note: {note}" for note in sweep["notes"])])


def _tap_table(taps: Sequence[Mapping[str, Any]], sweep: Mapping[str, Any]) -> str:
    """A row for each tap, in the order that the config names them."""
    measure = sweep["measure"]
    shown = next(name for name in (measure, *taps[0]["validation"]) if name in taps[0]["validation"])
    lines = [["", "tap", "chosen", f"held-out {measure}", f"validation {shown}"]]
    for row in taps:
        own = ", ".join(f"{name}={_text(value)}" for name, value in row["settings"].items()) or "-"
        mark = "*" if row["tap"] == sweep["chosen"]["tap"] else ""
        lines.append([mark, row["tap"], own, _text(row["holdout"][measure], ".4f"), interval(row["validation"][shown])])
    return tables.text(lines)


def _text(value: Any, form: str = ".6g") -> str:
    """A cell of a table; "-" for what is unknown."""
    if value is None:
        return "-"
    return format(value, form) if isinstance(value, float) else str(value)
