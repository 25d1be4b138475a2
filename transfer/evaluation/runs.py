"""Runs as they lie in their workdirs, read for a comparison: done or not, over seeds or single, new or old."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from transfer.errors import UsageError, did_you_mean, similar
from transfer.evaluation import predictions as kept
from transfer.evaluation.intervals import wilson
from transfer.evaluation.measures import MEASURES
from transfer.evaluation.predictions import Predictions
from transfer.runtime.files import atomic, paths

# Files by which a folder is a run's.
FILES = ("config.json", "result.json")
# A value, and the ends of its interval.
Ends = tuple[float, float, float]
# Key of `result.json`: the epoch that is kept, where the validation images have chosen it.
KEPT = "kept_epoch"
KEPT_NOTE = "its epoch was chosen by the validation images, whose measures flatter it"
_SEED = re.compile(r"seed_(-?\d+)")


@dataclasses.dataclass
class Run:
    """A run."""

    path: str  # as it was given
    name: str  # the end of its path by which it differs from the others
    facts: dict[str, str]  # "model", "tap", "head", "rows", as text; "" where unknown
    # seed -> its predictions; of a single run under None; empty for a run that has none
    samples: dict[int | None, Predictions] = dataclasses.field(default_factory=dict)
    over_seeds: bool = False
    # measure -> its value and the ends of its interval, once a seed, where there are no predictions
    recorded: dict[str, list[Ends]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)  # what a reader should know


def load(paths: Sequence[str]) -> list[Run]:
    """The runs in folders, in that order.

    Raises UsageError for a folder that is not there, is no run's, or is given twice; TransferError for damaged files.
    """
    loaded = []
    for path, name in with_names(paths):
        folder, of_seeds = open_run(path)
        folders: Mapping[Any, epath.Path] = of_seeds if of_seeds else {None: folder}
        results = {seed: read_json(of_seed / "result.json") for seed, of_seed in folders.items()}
        config = read_json(next(iter(folders.values())) / "config.json")
        run = Run(path, name, facts(next(filter(None, results.values()), {}), config), over_seeds=bool(of_seeds))
        for seed, of_seed in folders.items():
            _add(run, of_seed, seed, results[seed])
        done = sum(map(bool, results.values()))
        if of_seeds and not read_json(folder / "result.json"):
            run.notes.append(f"not finished: {done} of its seeds are, so far")
        if of_seeds and run.samples and len(run.samples) < done:
            run.notes.append(f"{len(run.samples)} of its seeds have predictions, the others are left out")
        run.notes = list(dict.fromkeys(run.notes))
        loaded.append(run)
    return loaded


def with_names(paths: Sequence[str]) -> list[tuple[str, str]]:
    """(path, name) of each run, the name being what its path differs by; UsageError where one is given twice."""
    plain = [os.path.normpath(path) if "://" not in path else path.rstrip("/") for path in paths]
    for path in plain:
        if plain.count(path) > 1:
            raise UsageError(f"{path} is given {plain.count(path)} times; each run counts once")
    parts = [path.split("/") for path in plain]
    shared = min(len(os.path.commonprefix(parts)), *(len(names) - 1 for names in parts)) if len(parts) > 1 else 0
    return [(path, "/".join(names[shared:])) for path, names in zip(plain, parts, strict=True)]


def open_run(path: str) -> tuple[epath.Path, dict[int, epath.Path]]:
    """The folder of a run, and those of its seeds, if it is one over seeds; UsageError where there is no run."""
    folder = paths.open_path(path)
    if not folder.is_dir():
        parent = folder.parent
        if not parent.is_dir():
            raise UsageError(f"there is no run {path}; there is no folder {parent}")
        close = similar(folder.name, [child.name for child in parent.iterdir() if child.is_dir()])
        raise UsageError(f"there is no run {path}" + did_you_mean([str(parent / name) for name in close[:1]]))
    of_seeds = seeds(folder)
    if not of_seeds and not _is_run(folder):
        count = sum(child.is_dir() and _is_run(child) for child in folder.iterdir())
        inside = f"; {count} folders in it are runs: pass {path}/*" if count else ""
        raise UsageError(f"{path} is no run: no {' and no '.join(FILES)} in it{inside}")
    return folder, of_seeds


def seeds(folder: epath.Path) -> dict[int, epath.Path]:
    """The folders of a run over seeds, by seed; empty for any other."""
    matches = ((_SEED.fullmatch(child.name), child) for child in folder.iterdir())
    return dict(sorted((int(match[1]), child) for match, child in matches if match and _is_run(child)))


def _is_run(folder: epath.Path) -> bool:
    return any((folder / file).exists() for file in FILES)


def read_json(path: epath.Path) -> dict[str, Any]:
    """The content of a JSON file, empty where there is none; TransferError where it is damaged."""
    return atomic.read_json(path) if path.exists() else {}


def facts(result: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """The facts that tell runs apart, of the result or, where there is none yet, the config; "" where unknown."""
    head, model, data = (part if isinstance(part := config.get(key), dict) else {} for key in ("head", "model", "data"))
    tuned = config.get("train") == "finetune"
    known = {
        "model": result.get("model", model.get("name")),
        "tap": result.get("tap", None if tuned else config.get("tap")),
        "head": "finetune" if tuned else head.get("name"),
        "rows": result.get("num_validation"),
        "data": result.get("dataset", data.get("source")),
    }
    return {key: "" if value is None else str(value) for key, value in known.items()}


def kept_epoch(result: Mapping[str, Any]) -> str | None:
    """What it means that the validation images have chosen an epoch, in a line; None where they have not."""
    if KEPT not in result:
        return None
    return (
        f"Epoch {result[KEPT]} of {result.get('epochs')} was kept: the validation images chose it, so that their "
        "measures flatter it a little; images that chose nothing would tell."
    )


def temperature(result: Mapping[str, Any]) -> str:
    """What the temperature of a result means, without the measures that it gives."""
    value = result["temperature"]["value"]
    sure = "too sure" if value > 1 else "not sure enough" if value < 1 else "as sure as it should be"
    return (
        f"on held-out training rows the head is {sure}: its scores divided by {value:.3f} (the temperature, which "
        "changes no answer) would have"
    )


def planned_epochs(config: dict[str, Any]) -> int | None:
    """How many epochs the config asks for, where it does."""
    part = config.get("finetune" if config.get("train") == "finetune" else "head")
    return part.get("epochs") if isinstance(part, dict) else None


def _add(run: Run, folder: epath.Path, seed: int | None, result: dict[str, Any]) -> None:
    """Adds what one workdir holds to a run."""
    path, history = folder / kept.FILE, folder / "metrics.jsonl"
    if not result:
        done = len(history.read_text().splitlines()) if history.exists() else 0
        planned = planned_epochs(read_json(folder / "config.json"))
        epochs = (f", {done} of {planned} epochs" if planned else f", {done} epochs") if done else ""
        run.notes += [] if run.over_seeds else [f"not finished{epochs}: it is being trained, or was stopped"]
    elif path.exists():
        run.samples[seed] = Predictions.read(path)
        run.notes += [KEPT_NOTE] if KEPT in result else []
        run.facts["rows"] = str(len(run.samples[seed]))
    else:
        recorded = _recorded(result)
        for name, ends in recorded.items():
            run.recorded.setdefault(name, []).append(ends)
        source = "its numbers are those of result.json" if recorded else "result.json has no measures either"
        run.notes.append(f"no {kept.FILE}, and so no difference image by image ({source}); run its command again")


def _recorded(result: dict[str, Any]) -> dict[str, Ends]:
    """The measures that a result holds; of one from before there were any the accuracy, with Wilson's interval."""
    measures = result.get("measures")
    if isinstance(measures, dict):
        rows = {name: row for name, row in measures.items() if isinstance(row, dict)}
        ends = {name: tuple(row.get(key) for key in ("value", "low", "high")) for name, row in rows.items()}
        return {name: row for name, row in ends.items() if all(isinstance(end, int | float) for end in row)}  # type: ignore[misc]
    accuracy, count = result.get("validation_accuracy"), result.get("num_validation")
    if not isinstance(accuracy, int | float) or not isinstance(count, int) or not 0 <= accuracy <= 1:
        return {}
    low, high = wilson(np.array([accuracy * count]), np.array([count]))
    return {"accuracy": (float(accuracy), float(low[0]), float(high[0]))}


def kind_of(runs: Iterable[Run]) -> str:
    """The kind of target that all of the runs predict; UsageError where they do not predict the same."""
    kinds: dict[str, str] = {}
    for run in runs:
        if run.samples:
            kinds[run.path] = next(iter(run.samples.values())).kind
        elif run.recorded:  # by the measures that it has
            known = (kind for kind, measures in MEASURES.items() if run.recorded.keys() <= measures.keys())
            kinds[run.path] = next(known, "classes")
    if len(set(kinds.values())) > 1:
        first, *others = kinds
        other = next(path for path in others if kinds[path] != kinds[first])
        raise UsageError(f"{first} predicts {kinds[first]}, {other} {kinds[other]}; runs of one kind can be compared")
    return next(iter(kinds.values()), "classes")
