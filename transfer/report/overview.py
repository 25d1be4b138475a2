"""The first thing a reader sees: how good the run is, how sure that is, and what it was."""

from typing import Any, NamedTuple

from transfer.evaluation.measures import MEASURES
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import count, is_number, rendered

# What a reader wants to know of a measure.
MEANINGS = {
    "accuracy": "how many rows are right",
    "top_5_accuracy": "the right class is among the five likeliest",
    "balanced_accuracy": "accuracy where every class counts alike",
    "log_loss": "lower is better; it punishes being sure and wrong",
    "ece": "calibration error: how far confidence is off; chance alone makes some, which its interval does not test",
    "mean_average_precision": "how well each label ranks the rows",
    "rmse": "typical error, in the unit of the values",
    "r2": "share of the variance that is explained",
}
# Measures of runs that have no "measures": name in result.json -> as it is called there.
PLAIN = {"validation_accuracy": "accuracy", "validation_loss": "log_loss"}


class Tile(NamedTuple):
    """A measure: its value with the ends of its interval, or with the spread over seeds."""

    title: str
    value: float
    share: bool
    meaning: str
    low: float | None = None
    high: float | None = None
    spread: float | None = None


def section(run: RunData, options: Options) -> Section:
    """Measures as tiles, and the facts in a line."""
    runs = run.result.get("runs")
    seeds = runs if isinstance(runs, list) else []
    html = rendered(
        "overview.html",
        tiles=_tiles(run),
        facts=_facts(run),
        seeds=_seeds(seeds, run.config.get("seed")),
        done=bool(run.result),
    )
    return Section("overview", "At a glance", html)


def _tiles(run: RunData) -> list[Tile]:
    known = {name: measure for of_kind in MEASURES.values() for name, measure in of_kind.items()}
    if run.predictions is not None:
        known |= MEASURES[run.predictions.kind]
    spread, measures = run.result.get("spread"), run.result.get("measures")
    if isinstance(spread, dict):
        return [
            Tile(known[name].title, run.result[key], known[name].share, MEANINGS[name], spread=spread[key])
            for key, name in PLAIN.items()
            if is_number(run.result.get(key)) and is_number(spread.get(key))
        ]
    rows = measures if isinstance(measures, dict) else {}
    tiles = [
        Tile(known[name].title, one["value"], known[name].share, MEANINGS.get(name, ""), *_ends(one))
        for name, one in rows.items()
        if name in known and isinstance(one, dict) and is_number(one.get("value"))
    ]
    if tiles:
        return tiles
    last = run.result or (run.history[-1] if run.history else {})
    return [
        Tile(known[name].title, last[key], known[name].share, MEANINGS[name])
        for key, name in PLAIN.items()
        if is_number(last.get(key))
    ]


def _ends(one: dict[str, Any]) -> tuple[float | None, float | None]:
    low, high = one.get("low"), one.get("high")
    return (low, high) if is_number(low) and is_number(high) else (None, None)


def _facts(run: RunData) -> list[tuple[str, str]]:
    """What was run, for who reads no further."""
    result, config = run.result, run.config
    data, model = _dict(config.get("data")), _dict(config.get("model"))
    tuned = config.get("train") == "finetune"
    head = result.get("head") or _dict(config.get("head")).get("name")
    found = {
        "network": result.get("model") or model.get("name"),
        "features": None if tuned else result.get("tap") or config.get("tap"),
        "head": "trained end to end" if tuned and not config.get("unfreeze") else head if not tuned else None,
        "trained layers": config.get("unfreeze") if tuned else None,
        "data": result.get("dataset") or data.get("source"),
        "trained on": _rows(result.get("num_train")),
        "validated on": _rows(result.get("num_validation")),
        "classes": count(result["num_classes"]) if is_number(result.get("num_classes")) else None,
        "time": _time(result),
        "device": result.get("device"),
    }
    return [(name, str(value)) for name, value in found.items() if value not in (None, "")]


def _rows(value: Any) -> str | None:
    return f"{count(value)} rows" if is_number(value) else None


def _time(result: dict[str, Any]) -> str | None:
    parts = [
        f"{duration(result[key])} {verb}"
        for key, verb in (("seconds_extract", "to extract"), ("seconds_train", "to train"))
        if is_number(result.get(key)) and result[key] > 0
    ]
    return ", ".join(parts) or None


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f}\u202fs"
    minutes = seconds / 60
    return f"{minutes:.1f}\u202fmin" if minutes < 120 else f"{minutes / 60:.1f}\u202fh"


def _seeds(runs: list[Any], first: Any) -> list[dict[str, Any]]:
    """What each seed came to."""
    rows = []
    for place, one in enumerate(runs):
        if isinstance(one, dict):
            name = first + place if isinstance(first, int) else place
            rows.append({"seed": name, **{key: one.get(key) for key in (*PLAIN, "seconds_train")}})
    return rows


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
