"""Fits a head in one go: one that has no epochs, one whose settings are chosen first, and one for each of several taps.

All rows are in the memory of one process.
"""

import json
import math
import time
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from transfer.errors import TransferError
from transfer.evaluation.predictions import Scores
from transfer.evaluation.selection import Selection, fit_setting, measured, select
from transfer.experiment import results
from transfer.experiment.evaluate_head import calibrated, evaluate, is_evaluated, save_estimator, summarised
from transfer.experiment.head_data import Data, Labelled
from transfer.experiment.head_settings import HeadSettings
from transfer.runtime import distributed
from transfer.runtime.progress import waiting
from transfer.store import duplicates, skipped


class _Taps(UserDict[str, Any]):
    """Features float32 (N, D) by tap, in memory while they are made use of."""

    def __getitem__(self, tap: str) -> np.ndarray:
        rows = np.asarray(self.data[tap][:])
        return rows.reshape(len(rows), -1).astype(np.float32, copy=False)


def fit_head(
    head: HeadSettings, data: Data, workdir: epath.Path, known: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Fits the head, chosen among the settings of its grid and the taps; keeps it and its predictions in the workdir.

    What is chosen is chosen on rows held out of the training rows. The validation rows are evaluated once, by the head
    that was then fitted on all training rows.

    Returns the result, which says what is `known` besides, and whether the head was fitted now: the result `before`
    stays where the same was asked for. Raises TransferError for validation rows of classes that no training row is of.
    """
    if lost := data.untrained_classes():
        raise TransferError(f"{lost}; drop those rows, or train on some of each class")
    # all of the config that the result depends on, beside the rows
    asked = {name: getattr(head, name) for name in ("name", "target", "settings", "seed", "tap")}
    asked["sweep"] = {**head.choice, "grid": head.grid} if head.chooses else None
    asked = json.loads(json.dumps({"head": asked.pop("name"), **asked}, default=str))
    if before.get("asked") == asked and is_evaluated(workdir, before):
        distributed.print_once("Already fitted; nothing to do.")
        # an earlier version did not say what misleads
        misleading = (skipped.KEY, skipped.LEFT_OUT, duplicates.KEY)
        return {**{key: known[key] for key in misleading if key in known}, **before}, False

    start = time.monotonic()
    estimator, labels, taps = head.estimator(), data.given(data.train), _Taps(data.train.taps)
    selection, chosen = None, {}
    if head.chooses:
        selection = select(taps, labels, estimator, head.grid, **head.choice)
        chosen = dict(selection.chosen)
        tap, fitted = chosen.pop("tap"), selection.probe
    else:
        tap = next(iter(taps))
        with waiting(f"fitting {head.name} on {len(labels)} rows"):
            fitted = estimator.fit(taps[tap], labels)
    validation = _scores(fitted, data, data.validation, tap)
    seconds = time.monotonic() - start
    settings = {**head.settings, **chosen}
    facts = {**known, **({} if head.tap is None else {"tap": tap})}
    losses = _losses("train", _scores(fitted, data, data.train, tap), data.train, data.kind)
    losses |= _losses("validation", validation, data.validation, data.kind)
    result = results.of_training(facts, losses, settings.get("epochs"), seconds)
    result |= {"head": head.name, "settings": settings, **evaluate(workdir, [validation], data)}
    if selection is not None:
        result |= _choice(data, selection, validation)
        if len(selection.best) > 1:
            result["taps"] = _by_tap(data, estimator, selection, result["measures"])
    save_estimator(workdir, fitted)
    return result | {"asked": asked}, True


def _scores(fitted: Any, data: Data, side: Labelled, tap: str) -> Scores:
    """The scores of a fitted head for the rows of a side."""
    return Scores.of(fitted, _Taps(side.taps)[tap], data.classes, data.kind)


def _losses(split: str, of_rows: Scores, side: Labelled, kind: str) -> dict[str, float | None]:
    """Loss and accuracy of a side, those that the head has: None of the others."""
    values = _finite(measured(of_rows, np.asarray(side.labels[:]), kind))
    loss, accuracy = values.get("rmse" if kind == "values" else "log_loss"), values.get("accuracy")
    rounded = {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
    return {name: None if value is None else round(value, 6) for name, value in rounded.items()}


def _choice(data: Data, selection: Selection, validation: Scores) -> dict[str, Any]:
    """The facts in `result.json` on the sweep, and on the temperature that the held-out rows give."""
    held = selection.holdout_labels
    sweep = {
        "chosen": selection.chosen,
        "measure": selection.measure,
        "num_fitted": selection.num_fitted,
        "num_holdout": len(held),
        "notes": list(selection.notes),
        "table": [_finite(row) for row in selection.table],
    }
    if not selection.best[selection.chosen["tap"]].probable:
        return {"sweep": sweep}
    targets = np.searchsorted(data.classes, held) if data.kind == "classes" and data.classes is not None else held
    return {"sweep": sweep} | calibrated(validation, selection.holdout_scores, targets, data)


def _by_tap(data: Data, estimator: Any, selection: Selection, measures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measures of each tap's best setting on the validation rows, fitted on all training rows."""
    rows, train, labels = [], _Taps(data.train.taps), data.given(data.train)
    for tap, best in selection.best.items():
        of_tap = measures
        if tap != selection.chosen["tap"]:
            other = fit_setting(estimator, best.settings, train[tap], labels)
            of_tap = summarised(_scores(other, data, data.validation, tap), data)
        rows.append(
            {
                "tap": tap,
                "num_features": math.prod(data.train.taps[tap].shape[1:]),
                "settings": best.settings,
                "holdout": _finite(best.measures),
                "validation": {name: of_tap[name] for name in results.SHOWN if name in of_tap},
            }
        )
    return rows


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as JSON has it: None for what is not finite."""
    return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in row.items()}
