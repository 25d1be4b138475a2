"""What a head is trained and validated on: rows of one tap or several, their labels and ids, and what labels mean."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import logging

from transfer.data.layout import listed
from transfer.errors import TransferError
from transfer.runtime import distributed
from transfer.store import duplicates, feature_files
from transfer.training.parallel.reader import Split

if TYPE_CHECKING:
    from transfer.store.store import FeatureStore


class Labelled(NamedTuple):
    """Rows of one side: arrays, or what reads slices of rows as NumPy does."""

    taps: Mapping[str, Any]  # name -> features (N, ...)
    labels: Any  # (N,) indices into the classes; (N, L) of 0 and 1; (N, T) values
    ids: Any  # N texts
    content: Any = None  # int64 (N,), the checksum of each row's file; None where rows are of no files

    def split(self) -> Split:
        """The rows of the first tap as a head reads them."""
        return Split(next(iter(self.taps.values())), self.labels)

    @property
    def num_bytes(self) -> int:
        """Bytes of the first tap's features on a device."""
        rows = self.split()
        return len(rows.labels) * rows.num_features * rows.dtype.itemsize


class Data(NamedTuple):
    """Rows to train and to validate on, and what their labels mean."""

    train: Labelled
    validation: Labelled
    kind: str  # "classes", "labels" or "values" (`transfer.heads.targets`)
    classes: np.ndarray | None  # what the user calls them, sorted, in their own dtype; 0 … L - 1 of labels
    class_names: tuple[str, ...]  # as texts; of values too, where images have them
    chunk_rows: int = 64  # that are read at a time: the chunks of the stores

    @property
    def num_outputs(self) -> int:
        """How many scores a head gives a row: C classes, L labels or T values."""
        return len(self.classes) if self.classes is not None else self.train.labels.shape[1]

    def sizes(self) -> dict[str, int]:
        """The numbers of rows and of classes, as `result.json` has them."""
        counts = {"num_train": len(self.train.labels), "num_validation": len(self.validation.labels)}
        return {"num_classes": self.num_outputs, **counts}

    def misleading(self, what: str = "features") -> dict[str, Any]:
        """The facts in `result.json` on rows that make its measures say less than they seem to; each is logged.

        `what` is what the rows hold, in words.
        """
        train, validation = (
            duplicates.Rows(next(iter(side.taps.values())), side.ids, side.content)
            for side in (self.train, self.validation)
        )
        twins, untrained = duplicates.facts(train, validation, what), self.untrained_classes()
        for line in filter(None, (twins and duplicates.line(twins), untrained)):
            logging.warning("%s", line)
        facts = {duplicates.KEY: twins, "untrained_classes": untrained}
        return {key: fact for key, fact in facts.items() if fact}

    def print_shapes(self) -> None:
        """Prints a line for each side: the shapes of its taps and of its labels."""
        for side in (self.train, self.validation):
            distributed.print_once(" ".join(str(rows.shape) for rows in (*side.taps.values(), side.labels)))

    def untrained_classes(self) -> str | None:
        """A line about classes that validate and that no training row is of; None where there are none."""
        if self.kind != "classes":
            return None
        train, validation = (np.asarray(side.labels[:]).reshape(-1) for side in (self.train, self.validation))
        # what is no class is for the head to refuse
        rows = validation[np.isin(validation, np.arange(self.num_outputs)) & ~np.isin(validation, train)]
        if not len(rows):
            return None
        names = listed([self.class_names[label] for label in np.unique(rows)], 5)
        return f"{len(rows)} validation rows are of classes that no training row is of: {names}"

    def given(self, side: Labelled) -> np.ndarray:
        """The labels of a side as the user gave them, which is how an estimator is to learn them."""
        labels = np.asarray(side.labels[:])
        return self.classes[labels] if self.kind == "classes" and self.classes is not None else labels


def of_stores(stores: Mapping[str, "FeatureStore"], taps: Sequence[str]) -> Data:
    """Rows of the stores `train` and `validation`, whose classes and labels are numbers from 0."""
    kind, names = stores["train"].target, tuple(stores["train"].class_names)
    train, validation = (
        Labelled({tap: store.tap(tap) for tap in taps}, store.label_rows, store.id_rows, store.content)
        for store in (stores["train"], stores["validation"])
    )
    classes = None if kind == "values" else np.arange(len(names))
    return Data(train, validation, kind, classes, names, stores["train"].chunk_rows)


def read_files(files: Sequence[str], kind: str, chunk_rows: int) -> tuple[Data, dict[str, str]]:
    """Reads the feature files to train and to validate on, whose labels are any numbers or texts.

    Prints their names. Returns the rows, and a hash of those of each file.

    Raises TransferError where the labels of one are text and of the other not, or have other columns, and where other
    processes have read other rows.
    """
    distributed.print_once("Training file {}\nValidation file {}".format(*files))
    sides = dict(zip(("training", "validation"), (feature_files.read(path, kind) for path in files), strict=True))
    hashes = {name: feature_files.content_hash(*rows) for name, rows in sides.items()}
    for (name, digest), path in zip(hashes.items(), files, strict=True):
        differs = distributed.broadcast(digest, "rows") != digest
        reason = f"has --{name}_file={path}, whose rows are not those of process 0; give all processes the same files"
        distributed.fail_everywhere(reason if differs else "", "other rows")
    train, validation = (labels for _, labels in sides.values())
    classes = None
    if kind == "classes":
        if (train.dtype.kind == "U") != (validation.dtype.kind == "U"):
            raise TransferError(
                f"--training_file has labels of {train.dtype}, --validation_file of {validation.dtype}; make both alike"
            )
        classes = np.union1d(train, validation)
        train, validation = (np.searchsorted(classes, labels) for labels in (train, validation))
    elif train.shape[1:] != validation.shape[1:]:
        raise TransferError(
            f"--training_file has {train.shape[1]} {kind} a row, --validation_file {validation.shape[1]}"
        )
    elif kind == "labels":
        classes = np.arange(train.shape[1])
    names = tuple(str(name) for name in classes) if classes is not None else ()

    first, second = (
        Labelled({"features": features}, labels, [str(row) for row in range(len(labels))])
        for (features, _), labels in zip(sides.values(), (train, validation), strict=True)
    )
    return Data(first, second, kind, classes, names, chunk_rows), hashes
