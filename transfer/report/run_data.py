"""A run as a report reads it: what its workdir holds, and what it lacks, said in words instead of errors."""

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from etils import epath

from transfer.errors import TransferError
from transfer.evaluation import predictions as kept
from transfer.evaluation import runs
from transfer.evaluation.predictions import Predictions
from transfer.report.images import Images
from transfer.runtime.files import atomic, paths
from transfer.store import feature_files, skipped

HISTORY = "metrics.jsonl"
RESULT, CONFIG = "result.json", "config.json"


@dataclasses.dataclass
class RunData:
    """A run, done or not.

    Attributes:
        path: its workdir.
        given: the same as text.
        folder: where its rows are from: the workdir, or of a run over seeds the first seed's.
        name: what tells it apart from other runs of the report.
        config: `config.json` of `folder`; empty where there is none.
        result: `result.json`; empty where the run is not done.
        history: a line of metrics an epoch; empty for a head without epochs.
        predictions: of the validation rows; None where there are none, or none that this version reads.
        notes: lines for the reader: what is not shown, and why.
    """

    path: epath.Path
    given: str
    folder: epath.Path
    name: str
    config: dict[str, Any]
    result: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: Predictions | None
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, line: str) -> None:
        """Adds a line for the reader, once."""
        if line not in self.notes:
            self.notes.append(line)

    @property
    def slug(self) -> str:
        """The name as a folder or a file may have it."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "run"

    @property
    def class_names(self) -> list[str]:
        """A name for each class or label of the predictions; numbers where they have none."""
        found = self.predictions
        if found is None or found.kind == "values":
            return []
        return list(found.class_names) or [str(number) for number in range(found.num_outputs)]

    @cached_property
    def images(self) -> Images:
        """The images that the validation rows are of."""
        data = self.config.get("data")
        return Images(data if isinstance(data, dict) else None, self.note)

    def features(self, rows: np.ndarray) -> np.ndarray | None:
        """The features of some validation rows, int (n,), of the tap that the head is on: float32 (n, D).

        None where they cannot be had, which a note then says.
        """
        if self._features is None:
            return None
        found = np.asarray(self._features[rows]).astype(np.float32, copy=False)
        return found.reshape(len(found), -1)

    @cached_property
    def _features(self) -> Any:
        """What is indexed by rows."""
        if self.config.get("train") == "finetune":
            self.note("No map of features: a network that is trained end to end stores none.")
            return None
        if self.predictions is None:
            return None
        try:
            found = self._of_file() if self.result.get("tap") is None else self._of_store()
        except (TransferError, OSError) as error:
            self.note(f"No map of features: they cannot be read any more ({' '.join(str(error).split())[:200]}).")
            return None
        if found is not None and len(found) != len(self.predictions):
            self.note("No map of features: the stored rows are not those of the predictions any more.")
            return None
        return found

    def _of_store(self) -> Any:
        from transfer.store.store import FeatureStore

        folder = epath.Path(paths.expand(self.config.get("features") or self.folder / "features"))
        return FeatureStore.open(folder / "validation").tap(self.result["tap"])

    def _of_file(self) -> Any:
        """The validation file of a run on feature files, if it is the one that the run read."""
        head = self.config.get("head")
        target = head.get("target", "classes") if isinstance(head, dict) else "classes"
        words = str(self.result.get("dataset", "")).split(" ")
        # names of files may hold spaces
        splits = [(" ".join(words[:at]), " ".join(words[at:])) for at in range(1, len(words))]
        for training, validation in splits:
            if os.path.exists(training) and os.path.exists(validation):
                found = feature_files.read(validation, target)
                if feature_files.content_hash(*found) == self.config.get("validation"):
                    return found[0]
        self.note("No map of features: the file that they were in is not there any more, or another one is.")
        return None


def load(paths: Sequence[str]) -> list[RunData]:
    """The runs in workdirs, local or gs://, in that order, named by what their paths differ in.

    Raises:
        UsageError: a folder that is not there, is no run's, or is given twice.
        TransferError: a `config.json` or `result.json` that is damaged.
    """
    found = runs.named(paths)
    if len(found) == 1:  # one run has nothing to be told apart from
        path = found[0][0]
        return [_load(path, os.path.basename(path if "://" in path else os.path.abspath(path)) or path)]
    return [_load(path, name) for path, name in found]


def _load(path: str, name: str) -> RunData:
    folder, of_seeds = runs.opened(path)
    result, rows = _read(folder / RESULT), folder
    if of_seeds:
        rows = next((one for one in of_seeds.values() if (one / RESULT).exists()), next(iter(of_seeds.values())))
    run = RunData(folder, path, rows, name, _read(rows / CONFIG), result, [], None)
    if of_seeds:
        done = sum((one / RESULT).exists() for one in of_seeds.values())
        if not result:
            run.note(f"Not done: {done} of its seeds are, so far.")
        run.note(f"A run over {len(of_seeds)} seeds: rows, curves and images are those of {rows.name}.")
        run.result = result or _read(rows / RESULT)
    for line in _skipped(run.result):
        run.note(line)
    run.history = _history(run)
    if not run.result:
        run.note(f"Not done: {_progress(run)}. What is here is what there is so far.")
    else:
        run.predictions = _predictions(run)
    return run


def _skipped(result: dict[str, Any]) -> list[str]:
    """Lines about images that were left out; of a run over seeds those of the first."""
    runs = result.get("runs")
    try:
        found = (runs[0] if runs else result).get(skipped.KEY, {})
        return [skipped.line(split, facts) for split, facts in found.items()]
    except (KeyError, TypeError, AttributeError):  # somebody has written in the file
        return []


def _read(path: epath.Path) -> dict[str, Any]:
    return atomic.read_json(path) if path.exists() else {}


def _progress(run: RunData) -> str:
    of_way = run.config.get("finetune" if run.config.get("train") == "finetune" else "head")
    wanted = of_way.get("epochs") if isinstance(of_way, dict) else None
    return f"{len(run.history)} of {wanted} epochs have been trained" if wanted else "training has not ended"


def _history(run: RunData) -> list[dict[str, Any]]:
    """Those lines of `metrics.jsonl` that can be read: the last may be half a line, if the run was killed."""
    path = run.folder / HISTORY
    if not path.exists():
        return []
    found, damaged = [], 0
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            found.append(row)
        else:
            damaged += 1
    if damaged:
        run.note(f"{damaged} lines of {HISTORY} are damaged, and left out of the curves.")
    return found


def _predictions(run: RunData) -> Predictions | None:
    path = run.folder / kept.FILE
    if not path.exists():
        run.note(
            f"No {kept.FILE}, which the run's own command, given again, writes: nothing row by row is shown. "
            "An older version wrote this run."
        )
        return None
    try:
        return Predictions.read(path)
    except (TransferError, OSError) as error:
        run.note(f"Nothing row by row is shown: {' '.join(str(error).split())}")
        return None
