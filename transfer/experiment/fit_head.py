"""Fits a head in one go: one that has no epochs, one whose settings are chosen first, and one for each of several taps.

All rows are in the memory of one process.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from transfer.errors import TransferError
from transfer.evaluation import scores
from transfer.evaluation.scores import Scores
from transfer.evaluation.selection import Selection, fit_setting, measured, select
from transfer.experiment import results
from transfer.experiment.evaluate_head import calibrated, evaluate, is_evaluated, save_estimator, summarised
from transfer.experiment.head_data import Data, Labelled
from transfer.experiment.head_settings import HeadSettings
from transfer.experiment.print_summary import SHOWN
from transfer.runtime import distributed
from transfer.runtime.progress import waiting
from transfer.store import skipped


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
        rows = np.asarray(self._side.taps[tap][:])
        return rows.reshape(len(rows), -1).astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._side.taps)

    def __len__(self) -> int:
        return len(self._side.taps)


def fit_head(
    head: HeadSettings, data: Data, workdir: epath.Path, known: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """Fits the head, chosen among the settings of its grid and the taps; keeps it and its predictions in the workdir.

    What is chosen is chosen on rows held out of the training rows. The validation rows are evaluated once, by the head
    that was then fitted on all training rows.

    Args:
        known: what the result says besides.
        before: the result that is there, which stays where the same was asked for.

    Returns:
        The result, and whether the head was fitted now.

    Raises TransferError for validation rows of classes that no training row is of, and whatever the head says.
    """
    if lost := data.untrained_classes():
        raise TransferError(f"{lost}; drop those rows, or train on some of each class")
    asked = _asked(head)
    if before.get("asked") == asked and is_evaluated(workdir, before):
        distributed.print_once("Already fitted; nothing to do.")
        # an earlier version did not say what was skipped
        return {skipped.KEY: known[skipped.KEY], **before} if skipped.KEY in known else dict(before), False

    start = time.monotonic()
    estimator, labels, taps = head.estimator(), data.given(data.train), _Taps(data.train)
    selection, chosen = None, {}
    if head.chooses:
        selection = select(taps, labels, estimator, head.grid, **head.choice)
        chosen = dict(selection.chosen)
        winner = _on_validation(data, chosen.pop("tap"), selection.probe)
    else:
        tap = next(iter(taps))
        with waiting(f"fitting {head.name} on {len(labels)} rows"):
            winner = _on_validation(data, tap, estimator.fit(taps[tap], labels))
    seconds = time.monotonic() - start
    settings = {**head.settings, **chosen}
    facts = {**known, **({} if head.tap is None else {"tap": winner.tap})}
    result = results.of_training(facts, _losses(data, winner), settings.get("epochs"), seconds)
    result |= {"head": head.name, "settings": settings, **evaluate(workdir, [winner.validation], data)}
    if selection is not None:
        result |= _choice(data, selection, winner)
        if len(selection.best) > 1:
            result["taps"] = _by_tap(data, estimator, selection, winner.tap, result["measures"])
    save_estimator(workdir, winner.head)
    return result | {"asked": asked}, True


def _asked(head: HeadSettings) -> dict[str, Any]:
    """All of the config that the result depends on, beside the rows: JSON values."""
    asked = {
        "head": head.name,
        "target": head.target,
        "settings": head.settings,
        "seed": head.seed,
        "tap": head.tap,
        "sweep": {**head.choice, "grid": head.grid} if head.chooses else None,
    }
    return json.loads(json.dumps(asked, default=str))


def _on_validation(data: Data, tap: str, head: Any) -> Fitted:
    """A fitted head with its scores of the validation rows."""
    return Fitted(tap, head, scores.of(head, _Taps(data.validation)[tap], data.classes, data.kind))


def _losses(data: Data, winner: Fitted) -> dict[str, float | None]:
    """Loss and accuracy of both sides, those that the head has: None of the others."""
    losses = {}
    training = scores.of(winner.head, _Taps(data.train)[winner.tap], data.classes, data.kind)
    for split, of_rows, side in (("train", training, data.train), ("validation", winner.validation, data.validation)):
        values = _finite(measured(of_rows, np.asarray(side.labels[:]), data.kind))
        for name, measure in (("loss", "rmse" if data.kind == "values" else "log_loss"), ("accuracy", "accuracy")):
            value = values.get(measure)
            losses[f"{split}_{name}"] = None if value is None else round(value, 6)
    return losses


def _choice(data: Data, selection: Selection, winner: Fitted) -> dict[str, Any]:
    """What `result.json` says of the sweep, and of the temperature that the held-out rows give."""
    held = selection.holdout_labels
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
    targets = np.searchsorted(data.classes, held) if data.kind == "classes" and data.classes is not None else held
    return {"sweep": sweep} | calibrated(winner.validation, selection.holdout_scores, targets, data)


def _by_tap(
    data: Data, estimator: Any, selection: Selection, winner: str, measures: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What the best setting of each tap is worth on the validation rows, fitted on all training rows."""
    rows, train, labels = [], _Taps(data.train), data.given(data.train)
    for tap, best in selection.best.items():
        of_tap = measures
        if tap != winner:
            other = _on_validation(data, tap, fit_setting(estimator, best.settings, train[tap], labels))
            of_tap = summarised(other.validation, data)
        rows.append(
            {
                "tap": tap,
                "num_features": math.prod(data.train.taps[tap].shape[1:]),
                "settings": best.settings,
                "holdout": _finite(best.measures),
                "validation": {name: of_tap[name] for name in SHOWN if name in of_tap},
            }
        )
    return rows


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as JSON has it: None for what is not finite."""
    return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in row.items()}
