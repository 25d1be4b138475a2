"""Fits a head in one go: one that has no epochs, one whose settings are chosen first, and one for each of several taps.

From the config and the rows to `result.json`. All rows are in the memory of one process.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from transfer.errors import TransferError
from transfer.evaluation import scores
from transfer.evaluation.scores import Scores
from transfer.evaluation.selection import CHOICES, MORE_IS_BETTER, Selection, fit_setting, measured, select
from transfer.experiment import evaluate_head, head_settings, results, workdirs
from transfer.experiment.head_data import Data, Labelled
from transfer.runtime import distributed, tables
from transfer.runtime.progress import waiting
from transfer.store import skipped

# Settings of a sweep that are printed, the best of them.
MOST_SHOWN = 5


class Fitted(NamedTuple):
    """A head on the features of one tap.

    Attributes:
        tap: which.
        head: the fitted estimator.
        validation: its scores of the rows to validate on.
    """

    tap: str
    head: Any
    validation: Scores


class _Taps(Mapping[str, np.ndarray]):
    """Features (N, D) by tap, in memory while they are made use of."""

    def __init__(self, side: Labelled) -> None:
        self._side = side

    def __getitem__(self, tap: str) -> np.ndarray:
        held = self._side.held(tap)
        return held.reshape(len(held), -1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._side.taps)

    def __len__(self) -> int:
        return len(self._side.taps)


def fit(
    config: ConfigDict,
    workdir: epath.Path,
    data: Data,
    facts: Mapping[str, Any],
    bound: ConfigDict,
) -> dict[str, Any]:
    """Fits the config's head, chosen among the settings of `config.sweep` and the taps; writes and returns the result.

    What is chosen is chosen on rows held out of the training rows. The validation rows are evaluated once, by the head
    that was then fitted on all training rows.

    Args:
        config: resolved (`transfer.experiment.head_settings`).
        facts, bound: as for `transfer.experiment.train_head.fit`.

    Raises:
        TransferError: validation rows of classes that no training row is of; whatever the head says of its rows.
    """
    for side in (data.train, data.validation):
        distributed.print_once(" ".join(str(rows.shape) for rows in (*side.taps.values(), side.labels)))
    if lost := data.missing():
        raise TransferError(f"{lost}; drop those rows, or train on some of each class")
    asked, before = _asked(config), results.read(workdir)
    if before.get("asked") == asked and evaluate_head.is_there(workdir):
        distributed.print_once("Already fitted; nothing to do.")
        if skipped.KEY in facts and skipped.KEY not in before:  # fitted by an earlier version
            before |= {skipped.KEY: facts[skipped.KEY]}
            results.write(workdir, before)
        print_summary(before)
        return before
    result = _result(config, workdir, data, facts) | {"asked": asked}
    workdirs.record(bound, workdir, workdirs.OF_TRAINING)
    results.write(workdir, result)
    print_summary(result)
    return result


def _asked(config: ConfigDict) -> dict[str, Any]:
    """All of the config that the result depends on, beside the rows: JSON values."""
    sweep = {**config.get("sweep", {}), "grid": head_settings.grid(config)}
    chooses = head_settings.chooses(config)
    asked = {
        "head": config.head.name,
        "target": config.head.get("target", "classes"),
        "settings": head_settings.own(config),
        "seed": config.seed,
        "tap": config.get("tap"),
        "sweep": {key: sweep[key] for key in head_settings.CHOICE if key in sweep} if chooses else None,
    }
    return json.loads(json.dumps(asked, default=str))


def _result(config: ConfigDict, workdir: epath.Path, data: Data, facts: Mapping[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    name, own = config.head.name, head_settings.own(config)
    estimator = head_settings.make(name, data.kind, own, config.seed)
    labels, taps = data.given(data.train), _Taps(data.train)
    selection, chosen = None, {}
    if head_settings.chooses(config):
        selection = _selected(config, taps, estimator, labels)
        chosen = dict(selection.chosen)
        tap, head = chosen.pop("tap"), selection.probe
    else:
        tap = next(iter(taps))
        with waiting(f"fitting {name} on {len(labels)} rows"):
            head = estimator.fit(taps[tap], labels)
    winner = _on_validation(data, tap, head)
    seconds = time.monotonic() - start
    result = {**facts, **({} if facts.get("tap") is None else {"tap": tap})}
    result |= {f"num_{split}": len(side.labels) for split, side in zip(("train", "validation"), data[:2], strict=True)}
    result |= {"num_classes": data.num_outputs} | _losses(data, winner)
    result |= {
        "epochs": {**own, **chosen}.get("epochs"),
        "seconds_train": round(seconds, 3),
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
        "head": name,
        "settings": {**own, **chosen},
    }
    result |= evaluate_head.of_scores(workdir, [winner.validation], data)
    if selection is not None:
        result |= _choice(data, selection, winner)
        result |= _by_tap(data, estimator, selection, tap, result["measures"])
    evaluate_head.keep(workdir, head)
    return result


def _selected(config: ConfigDict, taps: _Taps, estimator: Any, labels: np.ndarray) -> Selection:
    sweep = config.sweep
    choice = dict(holdout=sweep.holdout, seed=sweep.seed, measure=sweep.measure)
    return select(taps, labels, estimator, head_settings.grid(config), **choice)


def _on_validation(data: Data, tap: str, head: Any) -> Fitted:
    return Fitted(tap, head, scores.of(head, _Taps(data.validation)[tap], data.classes, data.kind))


def _losses(data: Data, winner: Fitted) -> dict[str, float | None]:
    """Loss and accuracy of both sides, those that the head has: None of the others."""
    found: dict[str, float | None] = {}
    training = scores.of(winner.head, _Taps(data.train)[winner.tap], data.classes, data.kind)
    for split, of_rows, side in (("train", training, data.train), ("validation", winner.validation, data.validation)):
        values = measured(of_rows, np.asarray(side.labels[:]), data.kind)
        loss = "rmse" if data.kind == "values" else "log_loss"
        found[f"{split}_loss"] = _rounded(values.get(loss))
        found[f"{split}_accuracy"] = _rounded(values.get("accuracy"))
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 6)


def _choice(data: Data, selection: Selection, winner: Fitted) -> dict[str, Any]:
    """What `result.json` says of the sweep, and of the temperature that the held-out rows give."""
    held = selection.holdout_labels
    if data.kind == "classes" and data.classes is not None:
        held = np.searchsorted(data.classes, held)
    sweep = {
        "chosen": selection.chosen,
        "measure": selection.measure,
        "num_fitted": selection.num_fitted,
        "num_holdout": len(held),
        "notes": list(selection.notes),
        "table": [_finite(row) for row in selection.table],
    }
    if not selection.best[winner.tap].probable:
        return {"sweep": sweep}
    return {"sweep": sweep} | evaluate_head.calibrated(winner.validation, selection.holdout_scores, held, data)


def _by_tap(
    data: Data, estimator: Any, selection: Selection, winner: str, measures: Mapping[str, Any]
) -> dict[str, Any]:
    """Of several taps what the best setting of each is worth on the validation rows, fitted on all training rows."""
    if len(selection.best) < 2:
        return {}
    rows, train, labels = [], _Taps(data.train), data.given(data.train)
    for tap, best in selection.best.items():
        of_tap = measures
        if tap != winner:
            other = _on_validation(data, tap, fit_setting(estimator, best.settings, train[tap], labels))
            of_tap = evaluate_head.summarised(other.validation, data)
        shown = {name: of_tap[name] for name in evaluate_head.SHOWN if name in of_tap}
        size = math.prod(data.train.taps[tap].shape[1:])
        rows.append(
            {
                "tap": tap,
                "num_features": size,
                "settings": best.settings,
                "holdout": _finite(best.measures),
                "validation": shown,
            }
        )
    return {"taps": rows}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it, numbers to six digits."""
    return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in row.items()}


def print_summary(result: Mapping[str, Any]) -> None:
    """Prints the best settings on the held-out rows, a curve over several taps, and the validation rows' measures."""
    if "sweep" in result:
        for text in (*_table(result["sweep"]), *_curve(result)):
            distributed.print_once(text)
    evaluate_head.print_summary(result)
    if "temperature" in result:
        scaled = result["temperature"]
        rest = evaluate_head.line({name: value for name, value in scaled.items() if name != "value"})
        distributed.print_once(f"with temperature {scaled['value']:.3f} of the held-out rows: {rest}")


def _table(sweep: Mapping[str, Any]) -> list[str]:
    """The best settings, the chosen one first and marked."""
    measure, more = sweep["measure"], MORE_IS_BETTER[sweep["measure"]]
    rows = sweep["table"]
    known = [name for name in MEASURES_SHOWN if name in rows[0]]
    names = [name for name in rows[0] if name not in known and (name == "tap" or len({str(r[name]) for r in rows}) > 1)]
    if len({row.get("tap") for row in rows}) == 1 and "tap" in names:
        names.remove("tap")
    order = sorted(range(len(rows)), key=lambda place: _last(rows[place][measure], more))
    lines = [["", *names, *known]]
    for rank, place in enumerate(order[:MOST_SHOWN]):
        lines.append(
            ["*" if rank == 0 else "", *(_text(rows[place][name]) for name in names)]
            + [_text(rows[place][name], ".4f") for name in known]
        )
    tried = f"{len(rows)} settings" if len(rows) > 1 else "1 setting"
    head = f"{tried} on {sweep['num_holdout']} held-out rows, fitted on {sweep['num_fitted']}; * by {measure}:"
    return [head, tables.text(lines), *(f"note: {note}" for note in sweep["notes"])]


MEASURES_SHOWN = tuple(dict.fromkeys(name for of_kind in CHOICES.values() for name in of_kind))


def _last(value: float | None, more: bool) -> float:
    if value is None:
        return float("inf")
    return -value if more else value


def _text(value: Any, form: str = ".6g") -> str:
    if value is None:
        return "-"
    return format(value, form) if isinstance(value, float) else str(value)


def _curve(result: Mapping[str, Any]) -> list[str]:
    """A row for each tap, in the order that the config names them."""
    if "taps" not in result:
        return []
    rows = result["taps"]
    measure = result["sweep"]["measure"]
    shown = next(name for name in (measure, *rows[0]["validation"]) if name in rows[0]["validation"])
    lines = [["", "tap", "chosen", f"held-out {measure}", f"validation {shown}"]]
    for row in rows:
        own = ", ".join(f"{name}={_text(value)}" for name, value in row["settings"].items()) or "-"
        mark = "*" if row["tap"] == result["sweep"]["chosen"]["tap"] else ""
        held = _text(row["holdout"][measure], ".4f")
        lines.append([mark, row["tap"], own, held, evaluate_head.interval(row["validation"][shown])])
    return [tables.text(lines)]
