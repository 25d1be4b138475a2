"""The few-shot protocol: how accurate each head is on each tap, with so many training images a class, over seeds.

    config.few_shot = dict(per_class=(1, 5, 10, 25, None), seeds=5, heads=("ridge", "logistic"), select=True)

A seed draws the same rows for every tap and head, and those of fewer images a class are among those of more. They are
the rows that big_vision's `fewshot_lsr.py` draws of the same labels. All of a tap's rows that some cell needs are read
once. A cell, that is one accuracy, is kept in WORKDIR/shots.json, and the same command goes on with those that are
missing; what a cell is of includes every parameter of its head.
"""

import hashlib
import inspect
import json
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer.data.splits import drawn_alike
from transfer.data.splits import per_class as draw
from transfer.errors import UsageError
from transfer.experiment import head_settings
from transfer.experiment.few_shot.cells import Cells
from transfer.experiment.few_shot.selection import FEWEST_HELD, FEWEST_TO_SELECT, at_edges, selected
from transfer.experiment.head_data import Data
from transfer.heads.scaling import DroppedColumns
from transfer.report import few_shot_tables
from transfer.runtime import preemption
from transfer.runtime.progress import Progress
from transfer.training.loop import say

FILE = "shots.json"


class Protocol(NamedTuple):
    """`config.few_shot`, where it names heads.

    Attributes:
        per_class: numbers of training images a class; None: all of them.
        seeds: how many draws, by the seeds 0, 1, …; all images are drawn once.
        heads: names of `transfer.heads.HEADS`.
        select: whether a head's settings are chosen (`transfer.evaluation.selection`, from the head's `GRID`) on
            held-out rows of the cell, where it has FEWEST_TO_SELECT of them a class; else they are its defaults. By
            accuracy, of equals by log-loss, averaged over several divisions until FEWEST_HELD rows were held out.
        holdout: the share of the rows that is held out to choose by.
        settings: head -> parameters that differ from its defaults.
        grids: head -> parameter -> values to choose among, where they differ from its `GRID`.
        baselines: also measure raw pixels, and the same taps of the same network with random weights.
    """

    per_class: tuple[int | None, ...]
    seeds: int
    heads: tuple[str, ...]
    select: bool = False
    holdout: float = 0.2
    settings: Mapping[str, Mapping[str, Any]] = {}
    grids: Mapping[str, Mapping[str, Sequence[Any]]] = {}
    baselines: bool = False


class Cell(NamedTuple):
    """What one accuracy is of; see `Protocol`."""

    tap: str
    head: str
    per_class: int | None
    seed: int


class Rows(NamedTuple):
    """Both sides of a tap, `train[rows]` and `validation[:]` (N, ...)."""

    train: Any
    validation: Any


def is_protocol(config: ConfigDict) -> bool:
    """Whether `config.few_shot` asks for this protocol; where it names no heads, for `baselines`."""
    return bool(config.get("few_shot")) and "heads" in config.few_shot


def check(config: ConfigDict) -> None:
    """Raises UsageError for a protocol that cannot be run: unknown heads, parameters or fields, no seeds, no images."""
    if is_protocol(config):
        _protocol(config)


def few_shot(config: ConfigDict, workdir: epath.Path, data: Data) -> dict[str, Any]:
    """Runs `config.few_shot` on the taps of `data`; prints the tables and returns what they show, as JSON values.

    Returns:
        The protocol's fields, `num_validation`, and `rows`: for each tap, head and number of images a class the
        `mean` and `spread` (standard deviation) of its `accuracies`, `num_train` rows, `seconds` of all its cells, and
        what was `chosen` for each seed; `same_rows` where every seed draws the same, of which no spread is known: None.

    Raises:
        UsageError: see `check`; and a class with fewer images than are asked for.
        TransferError: features that no head can use.
    """
    protocol = _protocol(config)
    if data.kind != "classes":
        raise UsageError(f"config.few_shot draws images of each class; config.head.target={data.kind} has none")
    taps = {tap: Rows(data.train.taps[tap], data.validation.taps[tap]) for tap in data.train.taps}
    if protocol.baselines:
        taps = {**_baselines(config, workdir, data), **taps}
    labels, validation_labels = data.given(data.train), data.given(data.validation)
    cells = Cells(workdir / FILE, _identity(labels, validation_labels, data))
    result = measure(protocol, taps, labels, validation_labels, cells)
    say(few_shot_tables.text(result))
    return result


def measure(
    protocol: Protocol, taps: Mapping[str, Rows], labels: np.ndarray, validation_labels: np.ndarray, cells: Cells
) -> dict[str, Any]:
    """Fills `cells` and sums them up, as `few_shot` returns it.

    Args:
        taps: name -> rows of the (N,) `labels` and (M,) `validation_labels`.
    """
    drawn = {
        (shots, seed): np.arange(len(labels)) if shots is None else draw(labels, shots, seed)
        for shots in protocol.per_class
        for seed in _seeds(protocol, shots)
    }
    plan = [_of(cell, protocol) for tap in taps for cell in _cells(protocol, tap)]
    done = sum(cells.get(of) is not None for of in plan)
    with Progress("Few-shot", len(plan), "cells", done) as progress, cells.kept():
        for tap, rows in taps.items():
            missing = [cell for cell in _cells(protocol, tap) if cells.get(_of(cell, protocol)) is None]
            if not missing:
                continue
            needed = np.unique(np.concatenate([drawn[cell.per_class, cell.seed] for cell in missing]))
            x, xv = _read(rows.train, needed), _read(rows.validation, np.arange(len(validation_labels)))
            for cell in missing:
                chosen = drawn[cell.per_class, cell.seed]
                train = x[np.searchsorted(needed, chosen)], labels[chosen]
                cells.put(_of(cell, protocol), _measured(cell, protocol, train, (xv, validation_labels)))
                progress.update()
                if preemption.requested():
                    raise preemption.Preempted
    _warn(protocol, taps, cells)
    return _summary(protocol, taps, cells, drawn, len(validation_labels))


def _protocol(config: ConfigDict) -> Protocol:
    given = config.few_shot.to_dict()
    if unknown := given.keys() - set(Protocol._fields):
        raise UsageError(
            f"config.few_shot has no field {', '.join(sorted(unknown))}; it has {', '.join(Protocol._fields)}"
        )
    for name in ("per_class", "heads"):
        if not isinstance(given.get(name), (tuple, list)):
            given[name] = (given.get(name),)
        given[name] = tuple(given[name])
    protocol = Protocol(**{"seeds": 1, **given})
    if protocol.seeds < 1 or not protocol.per_class or not protocol.heads:
        raise UsageError("config.few_shot needs at least one seed, one number of images a class and one head")
    if any(shots is not None and shots < 1 for shots in protocol.per_class):
        raise UsageError(f"config.few_shot.per_class={protocol.per_class}: at least one image a class, or None for all")
    if not 0 < protocol.holdout < 1:
        raise UsageError(f"config.few_shot.holdout={protocol.holdout} must lie between 0 and 1")
    _check_settings(protocol)
    return protocol


def _check_settings(protocol: Protocol) -> None:
    for field, of_heads in (("settings", protocol.settings), ("grids", protocol.grids)):
        if strangers := set(of_heads) - set(protocol.heads):
            raise UsageError(f"config.few_shot.{field} of {', '.join(sorted(strangers))}, which is none of its heads")
        for head in protocol.heads:
            try:
                known = inspect.signature(head_settings.estimator(head, "classes")).parameters
            except UsageError as error:
                raise UsageError(f"config.few_shot.heads: {error}") from error
            if unknown := set(of_heads.get(head, {})) - set(known):
                raise UsageError(
                    f"config.few_shot.{field}: {head} takes no {', '.join(unknown)}; it takes {', '.join(known)}"
                )
    for head, grid in protocol.grids.items():
        if empty := [name for name, values in grid.items() if not isinstance(values, (tuple, list)) or not values]:
            raise UsageError(f"config.few_shot.grids: {head} needs values of {empty[0]} to choose among, in a tuple")


def _identity(labels: np.ndarray, validation_labels: np.ndarray, data: Data) -> str:
    """A hash of the rows' ids and labels; which features they have is what the workdir is bound to."""
    content = [labels.tolist(), validation_labels.tolist(), list(data.train.ids[:]), list(data.validation.ids[:])]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _baselines(config: ConfigDict, workdir: epath.Path, data: Data) -> dict[str, Rows]:
    from transfer.experiment.few_shot.baselines import baselines

    found = {name: Rows(split["train"], split["validation"]) for name, split in baselines(config, workdir).items()}
    if any(len(rows.train) != len(data.train.labels) for rows in found.values()):
        raise UsageError("config.few_shot.baselines takes every image, none skipped; use config.on_error=raise")
    return found


def _seeds(protocol: Protocol, shots: int | None) -> range:
    """There is but one way to draw all."""
    return range(1 if shots is None else protocol.seeds)


def _cells(protocol: Protocol, tap: str) -> Iterator[Cell]:
    """Those of one shape next to each other, so that what one has compiled the next one uses."""
    for shots in protocol.per_class:
        for head in protocol.heads:
            yield from (Cell(tap, head, shots, seed) for seed in _seeds(protocol, shots))


def _estimator(cell: Cell, protocol: Protocol) -> Any:
    return head_settings.make(cell.head, "classes", dict(protocol.settings.get(cell.head, {})), cell.seed)


def _grid(cell: Cell, protocol: Protocol) -> Mapping[str, Sequence[Any]]:
    return protocol.grids.get(cell.head) or getattr(_estimator(cell, protocol), "GRID", {})


def _of(cell: Cell, protocol: Protocol) -> dict[str, Any]:
    """All that an accuracy depends on, as JSON values."""
    estimator = _estimator(cell, protocol)
    parameters = {key: _plain(value) for key, value in estimator.get_params(deep=False).items()}
    grid = {key: _plain(values) for key, values in _grid(cell, protocol).items()}
    how = {"holdout": protocol.holdout, "fewest_held": FEWEST_HELD, "equals": "log_loss", "grid": grid}
    return {**cell._asdict(), "parameters": parameters, "select": how if protocol.select else None}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _read(rows: Any, needed: np.ndarray) -> np.ndarray:
    """float32 (n, D)."""
    found = np.asarray(rows[:] if len(needed) == len(rows) else rows[needed])
    return found.reshape(len(found), -1).astype(np.float32, copy=False)


def _measured(
    cell: Cell,
    protocol: Protocol,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    start = time.monotonic()
    estimator = _estimator(cell, protocol)
    chosen: dict[str, Any] = {}
    enough = len(train[1]) >= FEWEST_TO_SELECT * len(np.unique(train[1]))
    # hundreds of cells may warn of the same: they keep it, and `_warn` says it once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DroppedColumns)  # of one image a class no column varies that others have
        if protocol.select and enough and (grid := _grid(cell, protocol)):
            fitted, chosen = selected(estimator, *train, grid, protocol.holdout, cell.seed)
        else:
            fitted = estimator.fit(*train)
        accuracy = float(np.mean(fitted.predict(validation[0]) == validation[1]))
    return {
        "accuracy": round(accuracy, 6),
        "num_train": len(train[1]),
        "chosen": {key: _plain(value) for key, value in chosen.items()},
        "seconds": round(time.monotonic() - start, 3),
        "warnings": list(dict.fromkeys(" ".join(str(one.message).split()) for one in caught)),
    }


def _warn(protocol: Protocol, taps: Mapping[str, Rows], cells: Cells) -> None:
    """Lines for each head: cells that have warned, and settings at the edge of what was tried."""
    for head in protocol.heads:
        of_head = [cell for tap in taps for cell in _cells(protocol, tap) if cell.head == head]
        found = [(cell, cells.get(_of(cell, protocol)) or {}) for cell in of_head]
        warned = [(cell, one["warnings"][0]) for cell, one in found if one.get("warnings")]
        if warned:
            (tap, _, shots, seed), message = warned[0]
            where = f"{tap}, {'all' if shots is None else shots} images a class, seed {seed}"
            logging.warning("%s: %d of %d cells, such as %s: %s", head, len(warned), len(of_head), where, message)
        for line in at_edges(_grid(of_head[0], protocol), [one["chosen"] for _, one in found]):
            logging.warning("%s: %s", head, line)


def _summary(
    protocol: Protocol, taps: Mapping[str, Rows], cells: Cells, drawn: Mapping[Any, np.ndarray], num_validation: int
) -> dict[str, Any]:
    rows = []
    for tap in taps:
        for shots in protocol.per_class:
            same = drawn_alike(drawn[shots, seed] for seed in _seeds(protocol, shots))
            for head in protocol.heads:
                found = [
                    cells.get(_of(Cell(tap, head, shots, seed), protocol)) or {} for seed in _seeds(protocol, shots)
                ]
                accuracies = [one["accuracy"] for one in found]
                spread = round(statistics.stdev(accuracies), 6) if len(accuracies) > 1 else 0.0
                rows.append(
                    {
                        "tap": tap,
                        "head": head,
                        "per_class": shots,
                        "num_train": len(drawn[shots, 0]),
                        "mean": round(statistics.fmean(accuracies), 6),
                        "spread": None if same else spread,
                        "same_rows": same,
                        "accuracies": accuracies,
                        "seconds": round(sum(one["seconds"] for one in found), 3),
                        "chosen": [one["chosen"] for one in found],
                    }
                )
    return {**_plain(protocol._asdict()), "num_validation": num_validation, "rows": rows}
