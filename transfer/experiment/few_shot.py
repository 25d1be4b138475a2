"""The few-shot protocol: how accurate each head is on each tap, with so many training images a class, over seeds.

    config.few_shot = dict(per_class=(1, 5, 10, 25, None), seeds=5, heads=("ridge", "logistic"), select=True)

A seed draws the same rows for every tap and head, and those of fewer images a class are among those of more. They are
the rows that big_vision's `fewshot_lsr.py` draws of the same labels. All of a tap's rows that some cell needs are read
once. A cell, that is one accuracy, is kept in WORKDIR/shots.json, and the same command goes on with those that are
missing; what a cell is of includes every parameter of its head.
"""

import hashlib
import inspect
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer.data.splits import drawn_alike
from transfer.data.splits import per_class as draw
from transfer.errors import UsageError
from transfer.evaluation.selection import select
from transfer.experiment import head_settings
from transfer.experiment.head_data import Data
from transfer.heads.scaling import DroppedColumns
from transfer.report import few_shot_tables
from transfer.runtime import distributed, preemption
from transfer.runtime.files import atomic
from transfer.runtime.progress import Progress

FILE = "shots.json"
# A killed process loses no more than the cells of so many seconds.
SECONDS_BETWEEN_WRITES = 2.0
# Fewer rows a class than this, on average, leave nothing to choose settings by: a head then has its defaults.
FEWEST_TO_SELECT = 5
# Settings are chosen on so many held-out rows at least, in several divisions of the rows where one has fewer: of 5
# images a class one is held out, and ten rows alone would choose by luck.
FEWEST_HELD = 100
# More than are ever made, so that no two seeds divide alike.
DIVISIONS_OF_A_SEED = 1000


Rows = tuple[np.ndarray, np.ndarray]  # features (N, D), labels (N,)


class Protocol(NamedTuple):
    """The protocol that `config.few_shot` asks for.

    With `select` a head's settings are chosen (`transfer.evaluation.selection`, from the head's `GRID`) on held-out
    rows of the cell, where it has FEWEST_TO_SELECT of them a class; else they are its defaults. By accuracy, of equals
    by log-loss, averaged over several divisions until FEWEST_HELD rows were held out.
    """

    per_class: tuple[int | None, ...]  # numbers of training images a class; None: all of them
    seeds: int  # how many draws, by the seeds 0, 1, …; all images are drawn once
    heads: tuple[str, ...]  # names of `transfer.heads.HEADS`
    select: bool = False
    holdout: float = 0.2  # the share of the rows that is held out to choose by
    settings: Mapping[str, Mapping[str, Any]] = {}  # head -> parameters that differ from its defaults
    # head -> parameter -> values to choose among, where they differ from its `GRID`
    grids: Mapping[str, Mapping[str, Sequence[Any]]] = {}
    baselines: bool = False  # also measure raw pixels, and the same taps of the same network with random weights


class Cell(NamedTuple):
    """The coordinates of one accuracy; see `Protocol`."""

    tap: str
    head: str
    per_class: int | None
    seed: int


class Cells:
    """What has been measured so far: cells by what they are of, dicts of JSON values, in one file of the workdir.

    The file is made when the first cell is there. One of other rows, by their `identity`, is not gone on with.
    """

    def __init__(self, path: epath.Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._written, self._changed = time.monotonic(), False
        content: dict[str, Any] = atomic.read_json(path) if path.exists() else {"rows": identity}
        if content.get("rows") != identity:
            logging.warning("%s is of other rows; its cells are measured again", path)
            content = {}
        self._cells = {json.dumps(cell["of"], sort_keys=True): cell for cell in content.get("cells", [])}

    def get(self, of: dict[str, Any]) -> dict[str, Any] | None:
        """The measures of a cell; None where there are none yet."""
        return self._cells.get(json.dumps(of, sort_keys=True), {}).get("measured")

    def put(self, of: dict[str, Any], measured: dict[str, Any]) -> None:
        """Keeps a cell; it is in the file when `kept` ends, or before."""
        self._cells[json.dumps(of, sort_keys=True)] = {"of": of, "measured": measured}
        self._changed = True
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self._write()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Writes the file at the end, however that comes: Ctrl-C and errors too."""
        try:
            yield
        finally:
            if self._changed:
                self._write()

    def _write(self) -> None:
        """Writes all cells, whole or not at all."""
        lines = ",\n".join(json.dumps(cell) for cell in self._cells.values())
        atomic.write_text(self._path, f'{{"rows": {json.dumps(self._identity)}, "cells": [\n{lines}\n]}}\n')
        self._written, self._changed = time.monotonic(), False


def protocol_of(config: ConfigDict) -> Protocol | None:
    """The protocol that `config.few_shot` asks for; None where it is not set.

    Where it names no heads, as configs of earlier versions do, features are compared with the baselines by logistic
    regression.

    Raises UsageError for a protocol that cannot be run: unknown heads, parameters or fields, no seeds, no images.
    """
    if not config.get("few_shot"):
        return None
    given = {"seeds": 1, **config.few_shot.to_dict()}
    if "heads" not in given:
        given |= {"heads": ("logistic",), "baselines": True}
    if unknown := given.keys() - set(Protocol._fields):
        raise UsageError(
            f"config.few_shot has no field {', '.join(sorted(unknown))}; it has {', '.join(Protocol._fields)}"
        )
    for name in ("per_class", "heads"):
        value = given.get(name)
        given[name] = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    protocol = Protocol(**given)
    if protocol.seeds < 1 or not protocol.per_class or not protocol.heads:
        raise UsageError("config.few_shot needs at least one seed, one number of images a class and one head")
    if any(shots is not None and shots < 1 for shots in protocol.per_class):
        raise UsageError(f"config.few_shot.per_class={protocol.per_class}: at least one image a class, or None for all")
    if not 0 < protocol.holdout < 1:
        raise UsageError(f"config.few_shot.holdout={protocol.holdout} must lie between 0 and 1")
    for field, of_heads in (("settings", protocol.settings), ("grids", protocol.grids)):
        if strangers := set(of_heads) - set(protocol.heads):
            raise UsageError(f"config.few_shot.{field} of {', '.join(sorted(strangers))}, which is none of its heads")
        for head in protocol.heads:
            try:
                known = inspect.signature(head_settings.estimator(head, "classes")).parameters
            except UsageError as error:
                raise UsageError(f"config.few_shot.heads: {error}") from error
            head_settings.check_known(f"few_shot.{field}", head, of_heads.get(head, {}), known)
    for head, grid in protocol.grids.items():
        if empty := [name for name, values in grid.items() if not isinstance(values, (tuple, list)) or not values]:
            raise UsageError(f"config.few_shot.grids: {head} needs values of {empty[0]} to choose among, in a tuple")
    return protocol


def few_shot(protocol: Protocol, config: ConfigDict, workdir: epath.Path, data: Data) -> dict[str, Any]:
    """Runs the protocol on the taps of `data`; prints the tables and returns what they show, as JSON values.

    Of several processes all have to call it: they share the extraction of the baselines; the first does the rest, and
    the others return nothing.

    Returns:
        The protocol's fields, `num_validation`, and `rows`: for each tap, head and number of images a class the
        `mean` and `spread` (standard deviation) of its `accuracies`, `num_train` rows, `seconds` of all its cells, and
        what was `chosen` for each seed; `same_rows` where every seed draws the same, of which no spread is known: None.

    Raises:
        UsageError: a class has fewer images than are asked for; images were skipped that the baselines need.
        TransferError: features that no head can use.
    """
    labels, validation_labels = data.given(data.train), data.given(data.validation)
    # which features the rows have is what the workdir is bound to
    identity = [labels.tolist(), validation_labels.tolist(), list(data.train.ids[:]), list(data.validation.ids[:])]
    cells = Cells(workdir / FILE, hashlib.sha256(json.dumps(identity).encode()).hexdigest())
    taps = {tap: (data.train.taps[tap], data.validation.taps[tap]) for tap in data.train.taps}
    if protocol.baselines:
        # imported here, because a head on two feature files is trained before JAX's models could be imported
        from transfer.experiment.extract_features import PIXELS, RANDOM, baselines

        compared: dict[str, Any] = dict.fromkeys([PIXELS, *map(RANDOM.format, taps)])
        missing = any(cells.get(key) is None for key in _keys(protocol, compared).values())
        if distributed.broadcast(missing, "few-shot baselines"):
            compared = baselines(config, workdir, {"train": len(labels), "validation": len(validation_labels)})
        taps = {**compared, **taps}
    if not distributed.is_main():
        return {}
    result = measure(protocol, taps, labels, validation_labels, cells)
    distributed.print_once(few_shot_tables.text(result))
    return result


def measure(
    protocol: Protocol, taps: Mapping[str, Any], labels: np.ndarray, validation_labels: np.ndarray, cells: Cells
) -> dict[str, Any]:
    """Fills `cells` and sums them up, as `few_shot` returns it.

    Args:
        taps: name -> what reads rows (N, ...) of the (N,) `labels` and (M, ...) of the (M,) `validation_labels`; of a
            tap without missing cells anything.
    """
    keys = _keys(protocol, taps)
    draws = dict.fromkeys((cell.per_class, cell.seed) for cell in keys)
    drawn = {(n, seed): np.arange(len(labels)) if n is None else draw(labels, n, seed) for n, seed in draws}
    measured = {cell: cells.get(key) for cell, key in keys.items()}
    done = sum(measurement is not None for measurement in measured.values())
    with Progress("Few-shot", len(keys), "cells", done) as progress, cells.kept():
        for tap, rows in taps.items():
            missing = [cell for cell, measurement in measured.items() if cell.tap == tap and measurement is None]
            if not missing:
                continue
            needed = np.unique(np.concatenate([drawn[cell.per_class, cell.seed] for cell in missing]))
            x, xv = _read(rows[0], needed), _read(rows[1], np.arange(len(validation_labels)))
            for cell in missing:
                chosen = drawn[cell.per_class, cell.seed]
                train = x[np.searchsorted(needed, chosen)], labels[chosen]
                measured[cell] = measurement = _measured(cell, protocol, train, (xv, validation_labels))
                cells.put(keys[cell], measurement)
                preemption.begin()
                progress.update()
                if preemption.requested():
                    raise preemption.Preempted
    complete = {cell: measurement for cell, measurement in measured.items() if measurement is not None}
    _warn(protocol, complete)
    sizes = {"num_validation": len(validation_labels)}
    return {**_plain(protocol._asdict()), **sizes, "rows": _summary(complete, drawn)}


def _keys(protocol: Protocol, taps: Mapping[str, Any]) -> dict[Cell, dict[str, Any]]:
    """Every cell, and all that its accuracy depends on, as JSON values.

    Those of one shape are next to each other, so that what one has compiled the next one uses.
    """
    keys = {}
    for tap, shots, head in itertools.product(taps, protocol.per_class, protocol.heads):
        for seed in range(1 if shots is None else protocol.seeds):  # there is but one way to draw all
            cell = Cell(tap, head, shots, seed)
            parameters = _plain(_estimator(cell, protocol).get_params(deep=False))
            grid = _plain(_grid(cell, protocol))
            how = {"holdout": protocol.holdout, "fewest_held": FEWEST_HELD, "equals": "log_loss", "grid": grid}
            keys[cell] = {**cell._asdict(), "parameters": parameters, "select": how if protocol.select else None}
    return keys


def _estimator(cell: Cell, protocol: Protocol) -> Any:
    """The head of a cell, not fitted yet."""
    return head_settings.make(cell.head, "classes", dict(protocol.settings.get(cell.head, {})), cell.seed)


def _grid(cell: Cell, protocol: Protocol) -> Mapping[str, Sequence[Any]]:
    """The values among which settings of a cell's head are chosen."""
    return protocol.grids.get(cell.head) or getattr(_estimator(cell, protocol), "GRID", {})


def _plain(value: Any) -> Any:
    """The value as JSON has it; the text of what is neither number, text, list nor mapping."""
    return json.loads(json.dumps(value, default=repr))


def _read(rows: Any, needed: np.ndarray) -> np.ndarray:
    """Some rows of a tap in memory: float32 (n, D)."""
    values = np.asarray(rows[:] if len(needed) == len(rows) else rows[needed])
    return values.reshape(len(values), -1).astype(np.float32, copy=False)


def _measured(cell: Cell, protocol: Protocol, train: Rows, validation: Rows) -> dict[str, Any]:
    """Fits the head of a cell and measures it, as JSON values."""
    start, estimator, chosen = time.monotonic(), _estimator(cell, protocol), dict[str, Any]()
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
        "chosen": _plain(chosen),
        "seconds": round(time.monotonic() - start, 3),
        "warnings": list(dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)),
    }


def selected(
    estimator: Any, x: np.ndarray, y: np.ndarray, grid: Mapping[str, Sequence[Any]], holdout: float, seed: int
) -> tuple[Any, dict[str, Any]]:
    """The head fitted on all rows with the setting of the grid that is best on held-out rows, and that setting.

    Few rows are divided several times, since one division holds out too few of them to tell. The values of the grid
    begin with the strongest regularisation.
    """
    from sklearn.base import clone

    how = dict[str, Any](holdout=holdout, measure="accuracy")
    first = select({"": x}, y, estimator, grid, seed=seed, **how)
    divisions = [first]
    while sum(len(division.holdout_labels) for division in divisions) < FEWEST_HELD:
        further = DIVISIONS_OF_A_SEED * (seed + 1) + len(divisions)
        divisions.append(select({"": x}, y, estimator, grid, seed=further, **how))
    row = first.table[best_setting([division.table for division in divisions])]
    chosen = {name: row[name] for name in grid}
    if all(first.chosen[name] == value for name, value in chosen.items()):
        return first.probe, chosen
    return clone(estimator).set_params(**chosen).fit(x, y), chosen


def best_setting(divisions: list[list[dict[str, Any]]]) -> int:
    """The row of the tables with the highest mean accuracy, of equals the lowest mean log-loss, or the first.

    Few rows make many equals: of 45 penalties a dozen may be right on all of them, and the strongest may be so by luck.
    """
    accuracies = np.mean([[row["accuracy"] for row in table] for table in divisions], axis=0).round(9)
    losses = np.mean([[row.get("log_loss", 0.0) for row in table] for table in divisions], axis=0)
    # what is not a number is no reason to choose a setting, nor not to have any
    losses = np.nan_to_num(losses, nan=np.finfo(np.float64).max)
    return int(np.argmin(np.where(accuracies == accuracies.max(), losses, np.inf)))


def _warn(protocol: Protocol, measured: Mapping[Cell, dict[str, Any]]) -> None:
    """Logs lines for each head: cells that have warned, and settings at the edge of what was tried."""
    for head in protocol.heads:
        of_head = {cell: measures for cell, measures in measured.items() if cell.head == head}
        warned = [(cell, measures["warnings"][0]) for cell, measures in of_head.items() if measures.get("warnings")]
        if warned:
            (tap, _, shots, seed), message = warned[0]
            where = f"{tap}, {'all' if shots is None else shots} images a class, seed {seed}"
            logging.warning("%s: %d of %d cells, such as %s: %s", head, len(warned), len(of_head), where, message)
        grid = _grid(next(iter(of_head)), protocol)
        for line in at_edges(grid, [measures["chosen"] for measures in of_head.values()]):
            logging.warning("%s: %s", head, line)


def at_edges(grid: Mapping[str, Sequence[Any]], chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each parameter that a tenth of the cells, or more, chose at an end of what was tried."""
    for name, values in grid.items():
        numbers = sorted(value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool))
        of_cells = [settings[name] for settings in chosen if name in settings]
        for end in numbers[:1] + numbers[-1:] if len(numbers) > 2 else []:
            count = of_cells.count(end)
            if end != 0 and count and 10 * count >= len(of_cells):
                yield f"{name}={end:g}, an end of what was tried, was chosen in {count} of {len(of_cells)} cells"


def _summary(measured: Mapping[Cell, dict[str, Any]], drawn: Mapping[Any, np.ndarray]) -> list[dict[str, Any]]:
    """The rows of a result, each the cells of all seeds; see `few_shot`."""
    rows = []
    for (tap, shots, head), group in itertools.groupby(measured, lambda cell: (cell.tap, cell.per_class, cell.head)):
        cells = list(group)
        of_seeds = [measured[cell] for cell in cells]
        accuracies = [measures["accuracy"] for measures in of_seeds]
        same = drawn_alike(drawn[shots, cell.seed] for cell in cells)
        spread = round(statistics.stdev(accuracies), 6) if len(accuracies) > 1 else 0.0
        row = {"tap": tap, "head": head, "per_class": shots, "num_train": len(drawn[shots, 0])}
        rows.append(
            row
            | {
                "mean": round(statistics.fmean(accuracies), 6),
                "spread": None if same else spread,
                "same_rows": same,
                "accuracies": accuracies,
                "seconds": round(sum(measures["seconds"] for measures in of_seeds), 3),
                "chosen": [measures["chosen"] for measures in of_seeds],
            }
        )
    return rows
