"""What a reader sees first and last: how good the run is, how sure that is, what it was, and how to run it again."""

import json
from typing import Any

import numpy as np

from transfer import config as defaults
from transfer.evaluation import runs
from transfer.evaluation.measures import MEASURES
from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.templates import Section, count, is_number, output_names, rendered

# What a tile says of a measure: its title, longer than that of a table's column, and what it is.
MEANINGS = {
    "accuracy": ("accuracy", "share of the images that are classified correctly"),
    "top_5_accuracy": ("top-5 accuracy", "the true class is among the five most likely"),
    "balanced_accuracy": ("balanced accuracy", "mean of the classes' recalls: every class counts alike"),
    "log_loss": ("log-loss", "cross-entropy: lower is better; confident errors cost most"),
    "ece": ("calibration error (ECE)", "mean gap between confidence and accuracy; even a calibrated model shows some"),
    "mean_average_precision": ("mean average precision", "how well each label ranks the images"),
    "rmse": ("RMSE", "root mean squared error, in the unit of the values"),
    "r2": ("R²", "share of the variance that is explained"),
}
# The same, where an image may have several labels.
OF_LABELS = {"accuracy": ("all right", "share of the images of which every label is right")}
# Measures of runs that have no "measures": name in result.json -> as it is called there.
PLAIN = {"validation_accuracy": "accuracy", "validation_loss": "log_loss"}
# Facts of `result.json` -> what a reader calls them.
FACTS = {
    "weights_sha256": "weights, SHA-256",
    "revision": "weights, commit",
    "device": "device",
    "jax_version": "JAX",
    "seconds_extract": "seconds to extract features",
    "seconds_train": "seconds to train",
    "epochs": "epochs",
    "best_epoch": "best epoch",
}
# Entries of a list that are shown: a thousand classes are no reading, and the page has them elsewhere.
SHORTENED = 40


def section(run: RunData) -> Section:
    """Measures as tiles, and the facts in a line."""
    of_seeds, start = run.result.get("runs"), run.config.get("seed")
    first = start if isinstance(start, int) else 0
    seeds = [
        {"seed": first + place, **{key: seed.get(key) for key in (*PLAIN, "seconds_train")}}
        for place, seed in enumerate(of_seeds if isinstance(of_seeds, list) else [])
        if isinstance(seed, dict)
    ]
    html = rendered("overview.html", tiles=_tiles(run), facts=_facts(run), seeds=seeds, done=bool(run.result))
    return Section("overview", "Summary", html)


def _tiles(run: RunData) -> list[dict[str, Any]]:
    """The measures of the run with their intervals; over seeds with their spreads; else what its last epoch says."""
    kind = _kind(run)
    known = {name: measure for of_kind in MEASURES.values() for name, measure in of_kind.items()}
    known |= MEASURES[kind]
    meanings = MEANINGS | (OF_LABELS if kind == "labels" else {})
    measures, spread = run.result.get("measures"), run.result.get("spread")
    of_last = run.result or (run.history[-1] if run.history else {})
    rows: list[dict[str, Any]] = [{"name": name, "value": of_last.get(key)} for key, name in PLAIN.items()]
    if isinstance(spread, dict):
        rows = [row | {"spread": spread.get(key)} for row, key in zip(rows, PLAIN, strict=True)]
        rows = [row for row in rows if is_number(row["spread"])]
    elif isinstance(measures, dict):
        listed = [row | {"name": name} for name, row in measures.items() if name in known and isinstance(row, dict)]
        rows = [row for row in listed if is_number(row.get("value"))] or rows
    tiles = []
    for row in rows:
        if is_number(row["value"]):
            title, meaning = meanings.get(row["name"], (known[row["name"]].title, ""))
            if row["name"] == "accuracy":
                meaning += _majority(run)
            ends = (row.get("low"), row.get("high"))
            low, high = ends if all(map(is_number, ends)) else (None, None)
            tile = {"title": title, "meaning": meaning, "share": known[row["name"]].share, "value": row["value"]}
            tiles.append(tile | {"low": low, "high": high, "spread": row.get("spread")})
    return tiles


def _kind(run: RunData) -> str:
    """The kind of thing that a run predicts: `classes`, `labels` or `values`."""
    return "classes" if run.predictions is None else run.predictions.kind


def _majority(run: RunData) -> str:
    """What predicting nothing but the most frequent class would give, as the end of a sentence; empty where unknown."""
    predictions = run.predictions
    if predictions is None or predictions.kind != "classes":
        return ""
    rows = np.bincount(predictions.labels, minlength=predictions.num_outputs)
    name = output_names(predictions)[int(rows.argmax())]
    return f"; always “{svg.short(name)}” would be right in {100 * rows.max() / len(predictions):.1f} %"


def _facts(run: RunData) -> list[tuple[str, str]]:
    """The run in a few facts, for readers who read no further."""
    result, known = run.result, runs.facts(run.result, run.config)
    tuned = known["head"] == "finetune"
    numbers = {key: value for key, value in result.items() if is_number(value)}
    counts = {"training images": "num_train", "validation images": "num_validation", _kind(run): "num_classes"}
    times = {"seconds_extract": "to extract features", "seconds_train": "to train"}
    facts = {
        "network": known["model"],
        "tap": known["tap"],
        "head": "" if tuned else result.get("head") or known["head"],
        "trained layers": (run.config.get("unfreeze") or "all") if tuned else "",
        "data": known["data"],
        **{title: count(numbers[key]) for title, key in counts.items() if key in numbers},
        "time": ", ".join(f"{duration(numbers[key])} {verb}" for key, verb in times.items() if numbers.get(key, 0) > 0),
        "device": result.get("device") or "",
    }
    return [(name, str(value)) for name, value in facts.items() if value != ""]


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f}\u202fs"
    minutes = seconds / 60
    return f"{minutes:.1f}\u202fmin" if minutes < 120 else f"{minutes / 60:.1f}\u202fh"


def settings_section(run: RunData) -> Section:
    """What was run, so that it can be run again: settings that differ from the defaults, versions, both files."""
    facts = [(name, str(run.result[key])) for key, name in FACTS.items() if run.result.get(key) not in (None, "")]
    config, result = (
        json.dumps(value, indent=2, ensure_ascii=False) if value else ""
        for value in (run.config, _shortened(run.result))
    )
    values = {"workdir": str(run.path), "changed": _changed(run.config), "config": config, "result": result}
    return Section("setup", "Settings and versions", rendered("setup.html", facts=facts, **values))


def _changed(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(setting, its value, its default) of those that differ."""
    if "model" not in config:  # a run on feature files keeps only what its head is
        return []
    usual = defaults.flat(json.loads(defaults.default().to_json_best_effort()))
    return [
        (name, json.dumps(value, ensure_ascii=False), json.dumps(usual[name]) if name in usual else "")
        for name, value in defaults.flat(config).items()
        if value != usual.get(name)
    ]


def _shortened(value: Any) -> Any:
    """The value with long lists cut, and an entry that says so."""
    if isinstance(value, dict):
        return {key: _shortened(part) for key, part in value.items()}
    if isinstance(value, list):
        cut = [_shortened(part) for part in value[:SHORTENED]]
        return cut + [f"… {len(value) - SHORTENED} more"] * (len(value) > SHORTENED)
    return value
