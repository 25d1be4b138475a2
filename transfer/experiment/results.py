"""`result.json`: what a run was, on what, and how it ended; and what of it is printed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from transfer.config import IN_FILE
from transfer.evaluation import runs
from transfer.evaluation.measures import MEASURES
from transfer.evaluation.selection import CHOICES, MORE_IS_BETTER
from transfer.runtime import distributed, tables
from transfer.runtime.files import atomic
from transfer.training.run import Run

FILE = "result.json"
# How training was done, whatever a later command that trains nothing would do.
HOW = ("device", "jax_version", "num_devices", "streamed")
# Settings of a sweep that are printed, the best of them.
MOST_SHOWN = 5
# Measures in the line of a run, as far as what is predicted has them.
SHOWN = ("accuracy", "top_5_accuracy", "balanced_accuracy", "mean_average_precision", "rmse", "r2", "log_loss", "ece")


def facts(config: ConfigDict, model: Any, tap: str | None = None, seconds: float = 0.0) -> dict[str, Any]:
    """The facts that are known before training: the model, its weights, the data; `seconds` of extraction."""
    network = {"model": config.model.name, "weights_sha256": getattr(model, "weights_sha256", None)}
    choices = {f"weights_{name}": config.model[name] for name in IN_FILE if config.model.get(name)}
    if revision := getattr(model, "revision", None):
        choices["revision"] = revision
    return {**network, **choices, "tap": tap, "dataset": config.data.source, "seconds_extract": seconds}


def of_training(known: Mapping[str, Any], measured: Mapping[str, Any], epochs: int | None, seconds: float) -> dict:
    """The facts of a run, its measures at the end, how long it has trained, and on what device."""
    how = {"device": jax.devices()[0].device_kind, "jax_version": jax.__version__}
    return {**known, **measured, "epochs": epochs, "seconds_train": round(seconds, 3), **how}


def of_run(run: Run, known: Mapping[str, Any], before: Mapping[str, Any], keep: str = "last") -> dict[str, Any]:
    """The facts, the epoch of `run` that is kept, "last" or "best", and the best one.

    Where the run has come no further than the result `before` says, training was done as that says.
    """
    kept, best = run.history[run.kept_epoch(keep) - 1], run.history[run.best_epoch - 1]
    measured = {
        "train_loss": kept["loss"],
        "train_accuracy": kept["accuracy"],
        "validation_loss": kept["validation_loss"],
        "validation_accuracy": kept["validation_accuracy"],
        "best_validation_accuracy": best["validation_accuracy"],
        "best_epoch": run.best_epoch,
    }
    if keep == "best":
        measured[runs.KEPT] = run.best_epoch
    result = of_training(known, measured, run.epoch, run.seconds)
    return result if trained(run, before) else result | {key: before[key] for key in HOW if key in before}


def trained(run: Run, before: Mapping[str, Any]) -> bool:
    """Whether `run` has come to another epoch than the result that was there says."""
    return before.get("epochs") != run.epoch


def read(workdir: epath.Path) -> dict[str, Any]:
    """The result in `workdir`, empty if there is none yet."""
    path = workdir / FILE
    return atomic.read_json(path) if path.exists() else {}


def write(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Writes the result into `workdir`, atomically, unless it is there; of several processes the first does."""
    if distributed.is_main() and read(workdir) != json.loads(json.dumps(result)):
        atomic.write_text(workdir / FILE, json.dumps(result, indent=2) + "\n")


def print_summary(result: Mapping[str, Any]) -> None:
    """Prints the best settings on the held-out rows, a row for each of several taps, and the measures, as there are."""
    if "sweep" in result:
        distributed.print_once(_choice(result["sweep"], result.get("taps", [])))
    if line := runs.kept_epoch(result):
        distributed.print_once(line)
    if "measures" in result:
        distributed.print_once(f"validation: {_line(result['measures'])}")
        if most := result["measures"].get("majority"):
            distributed.print_once(f"to compare with: always {most['class']!r} has accuracy {most['value']:.4f}")
    if "temperature" in result:
        distributed.print_once(f"{runs.temperature(result)}: {_line(result['temperature'])}")


def _line(measures: Mapping[str, Any]) -> str:
    """The measures that are shown, as `accuracy 0.9722 [0.9528, 0.9889], …`."""
    there = [name for name in SHOWN if name in measures]
    of_kind = next(of_kind for of_kind in MEASURES.values() if of_kind.keys() >= set(there))
    return ", ".join(f"{of_kind[name].title} {_interval(measures[name])}" for name in there)


def _interval(measure: Mapping[str, float | None]) -> str:
    """A value with the ends of its interval."""
    value, low, high = (measure[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "unknown" if value is None else f"{value:.4f}"
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _choice(sweep: Mapping[str, Any], taps: Sequence[Mapping[str, Any]]) -> str:
    """A table of the settings, and of several taps one; where nothing but a tap is chosen, the latter alone."""
    tried = len(sweep["table"])
    settings = f"{tried} settings" if tried > 1 else "1 setting"
    rows = f"{sweep['num_holdout']} held-out rows, fitted on {sweep['num_fitted']}"
    head = f"{settings} on {rows}; * by {sweep['measure']}:"
    of_settings = [_settings_table(sweep)] if tried > len(taps) else []
    of_taps, notes = [_tap_table(taps, sweep)] if taps else [], [f"note: {note}" for note in sweep["notes"]]
    return "\n".join([head, *of_settings, *notes, *of_taps])


def _settings_table(sweep: Mapping[str, Any]) -> str:
    """The best settings, the chosen one first and marked."""
    measure, rows = sweep["measure"], sweep["table"]
    measures = list(dict.fromkeys(name for of_kind in CHOICES.values() for name in of_kind if name in rows[0]))
    varied = [name for name in rows[0] if name not in measures and len({str(row[name]) for row in rows}) > 1]
    sign = -1 if MORE_IS_BETTER[measure] else 1
    best = sorted(rows, key=lambda row: float("inf") if row[measure] is None else sign * row[measure])[:MOST_SHOWN]
    cells = [[*(_text(row[name]) for name in varied), *(_text(row[name], ".4f") for name in measures)] for row in best]
    return tables.text([["", *varied, *measures], *(["" if i else "*", *row] for i, row in enumerate(cells))])


def _tap_table(taps: Sequence[Mapping[str, Any]], sweep: Mapping[str, Any]) -> str:
    """A row for each tap, in the order that the config names them."""
    measure = sweep["measure"]
    shown = next(name for name in (measure, *taps[0]["validation"]) if name in taps[0]["validation"])
    lines = [["", "tap", "chosen", f"held-out {measure}", f"validation {shown}"]]
    for row in taps:
        own = ", ".join(f"{name}={_text(value)}" for name, value in row["settings"].items()) or "-"
        mark = "*" if row["tap"] == sweep["chosen"]["tap"] else ""
        measures = _text(row["holdout"][measure], ".4f"), _interval(row["validation"][shown])
        lines.append([mark, row["tap"], own, *measures])
    return tables.text(lines)


def _text(value: Any, form: str = ".6g") -> str:
    """A cell of a table; "-" for what is unknown."""
    if value is None:
        return "-"
    return format(value, form) if isinstance(value, float) else str(value)
