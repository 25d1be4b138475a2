"""A run as a report reads it: what its workdir holds, and what it lacks, said in words instead of errors."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from transfer.data.layout import listed
from transfer.errors import TransferError
from transfer.evaluation import predictions as kept
from transfer.evaluation import runs
from transfer.evaluation.predictions import Predictions
from transfer.report.images import Images
from transfer.runtime.files import paths
from transfer.store import duplicates, feature_files, skipped

HISTORY = "metrics.jsonl"
RESULT, CONFIG = "result.json", "config.json"


# Names of classes that a note lists.
MOST_NAMED = 10
MAPS = ("pca", "tsne", "none")


class Options(NamedTuple):
    """The reader's choices.

    Attributes:
        map: how the features are drawn in two dimensions, one of MAPS.
        seed: of what is drawn by chance: which rows of many, where t-SNE begins.
    """

    map: str = "pca"
    seed: int = 0


DEFAULTS = Options()


@dataclasses.dataclass
class RunData:
    """A run, finished or not.

    Attributes:
        path: its workdir.
        given: the same as text.
        folder: where its rows are from: the workdir, or of a run over seeds the first seed's.
        name: what tells it apart from other runs of the report.
        config: `config.json` of `folder`; empty where there is none.
        result: `result.json`; empty where the run is not finished.
        history: a line of metrics an epoch; empty for a head without epochs.
        predictions: of the validation rows; None where there are none, or none that this version reads.
        notes: lines for the reader: what is not shown, and why.
        options: how it is shown.
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
    options: Options = DEFAULTS

    def note(self, line: str) -> None:
        """Adds a line for the reader, once."""
        if line not in self.notes:
            self.notes.append(line)

    @property
    def slug(self) -> str:
        """The name as a folder or a file may have it."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "run"

    @cached_property
    def images(self) -> Images:
        """The images that the validation rows are of."""
        data = self.config.get("data")
        return Images(data if isinstance(data, dict) else None, self.note)

    def ids(self, rows: np.ndarray | list[int]) -> list[str]:
        """The ids of some validation rows, of a run that has predictions."""
        assert self.predictions is not None
        return [str(id_) for id_ in self.predictions.ids[rows]]

    def thumbnails(self, rows: np.ndarray | list[int], side: int) -> list[np.ndarray | None]:
        """The images of some validation rows, uint8 (side, side, 3); None for one that is gone, which a note says."""
        return self.images.get(self.ids(rows), side)

    def features(self, rows: np.ndarray) -> np.ndarray | None:
        """The features of some validation rows, int (n,), of the tap that the head is on: float32 (n, D).

        None where they are gone, which a note then says.
        """
        if self._features is None:
            return None
        features = np.asarray(self._features[rows]).astype(np.float32, copy=False)
        return features.reshape(len(features), -1)

    @cached_property
    def _features(self) -> Any:
        """An array, or something that is indexed by rows as one."""
        if self.predictions is None:
            return None
        if self.config.get("train") == "finetune":
            self.note("No feature map: a fine-tuned network stores no features.")
            return None
        try:
            if self.result.get("tap") is None:
                features = self._of_file()
            else:
                from transfer.store.store import FeatureStore

                folder = epath.Path(paths.expand(self.config.get("features") or self.folder / "features"))
                features = FeatureStore.open(folder / "validation").tap(self.result["tap"])
        except (TransferError, OSError) as error:
            self.note(f"No feature map: the features cannot be read ({' '.join(str(error).split())[:200]}).")
            return None
        if features is not None and len(features) != len(self.predictions):
            self.note("No feature map: the stored features are not those of the predictions any more.")
            return None
        return features

    def _of_file(self) -> Any:
        """The validation file of a run on feature files, if it is the one that the run read."""
        head = self.config.get("head")
        target = head.get("target", "classes") if isinstance(head, dict) else "classes"
        words = str(self.result.get("dataset", "")).split(" ")
        # names of files may hold spaces
        for at in range(1, len(words)):
            training, validation = " ".join(words[:at]), " ".join(words[at:])
            if os.path.exists(training) and os.path.exists(validation):
                contents = feature_files.read(validation, target)
                if feature_files.content_hash(*contents) == self.config.get("validation"):
                    return contents[0]
        self.note("No feature map: the feature file of the run is gone or has changed.")
        return None


def load(paths: Sequence[str], options: Options = DEFAULTS) -> list[RunData]:
    """The runs in workdirs, local or gs://, in that order, named by what their paths differ in.

    Raises:
        UsageError: a folder that is not there, is no run's, or is given twice.
        TransferError: a `config.json` or `result.json` that is damaged.
    """
    named = runs.with_names(paths)
    if len(named) == 1:  # one run has nothing to be told apart from
        path = named[0][0]
        named = [(path, os.path.basename(path if "://" in path else os.path.abspath(path)) or path)]
    return [_load(path, name, options) for path, name in named]


def _load(path: str, name: str, options: Options) -> RunData:
    folder, of_seeds = runs.open_run(path)
    result, rows, notes = runs.read_json(folder / RESULT), folder, []
    if of_seeds:
        done = [seed for seed in of_seeds.values() if (seed / RESULT).exists()]
        rows = next(iter(done or of_seeds.values()))
        if not result:
            notes.append(f"Not finished: {len(done)} of {len(of_seeds)} seeds are, so far.")
        notes.append(f"A run over {len(of_seeds)} seeds: curves, images and predictions are those of {rows.name}.")
        result = result or runs.read_json(rows / RESULT)
    notes += _misleading(result)
    run = RunData(folder, path, rows, name, runs.read_json(rows / CONFIG), result, [], None, notes, options)
    run.history = _history(run)
    if result:
        run.predictions = _predictions(run)
        run.notes += [line] if (line := runs.kept_epoch(result)) else []
    else:
        planned = runs.planned_epochs(run.config)
        epochs = f"{len(run.history)} of {planned} epochs are trained" if planned else "training has not ended"
        run.note(f"Not finished: {epochs}. The report shows what there is so far.")
    return run


def _misleading(result: dict[str, Any]) -> list[str]:
    """Lines about what makes the measures say less than they seem to; of a run over seeds those of the first."""
    of_seeds = result.get("runs")
    lines: list[str] = []
    with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):  # somebody has written in the file
        first = of_seeds[0] if of_seeds else result
        lines += map(str, first.get(skipped.LEFT_OUT, ()))
        lines += [skipped.line(split, of_split) for split, of_split in first.get(skipped.KEY, {}).items()]
        lines += [duplicates.line(first[duplicates.KEY])] if duplicates.KEY in first else []
        lines += [f"{first['untrained_classes']}."] if "untrained_classes" in first else []
        measures = first.get("measures", {})
        if unseen := measures.get("classes_without_rows"):
            lines.append(f"No validation image is of {listed(unseen, MOST_NAMED)}: nothing is known of them.")
        if "majority" in measures and measures["accuracy"]["low"] <= measures["majority"]["value"]:
            most = measures["majority"]
            lines.append(
                f"Always predicting “{most['class']}” would be right as often as this run may be: in "
                f"{most['value']:.1%} of the images."
            )
    return lines


def _history(run: RunData) -> list[dict[str, Any]]:
    """Those lines of `metrics.jsonl` that can be read: the last may be half a line, if the run was killed."""
    path, rows = run.folder / HISTORY, []
    lines = path.read_bytes().decode("utf-8", "replace").splitlines() if path.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(row := json.loads(line), dict):
                rows.append(row)
    if len(rows) < len(lines):
        run.note(f"{len(lines) - len(rows)} damaged lines of {HISTORY} are left out of the curves.")
    return rows


def _predictions(run: RunData) -> Predictions | None:
    path = run.folder / kept.FILE
    why = f"there is no {kept.FILE}, as an older version wrote this run. Its command, run again, writes one."
    if path.exists():
        try:
            return Predictions.read(path)
        except (TransferError, OSError) as error:
            why = " ".join(str(error).split())
    run.note(f"No results image by image: {why}")
    return None
