"""What a head is trained and validated on: rows of one tap or several, their labels and ids, and what labels mean."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transfer.errors import TransferError
from transfer.runtime import distributed
from transfer.runtime.files.untrusted import printable
from transfer.store import feature_files
from transfer.training.parallel.reader import Split

if TYPE_CHECKING:
    from transfer.store.store import FeatureStore

# Tap of rows that come from a file.
OF_FILE = "features"
MOST_NAMED = 5


class Labelled(NamedTuple):
    """Rows of one side: arrays, or what reads slices of rows as NumPy does.

    Attributes:
        taps: name -> features (N, ...).
        labels: (N,) indices into the classes; (N, L) of 0 and 1; (N, T) values.
        ids: N texts, `ids[start:stop]`.
    """

    taps: Mapping[str, Any]
    labels: Any
    ids: Any

    def split(self) -> Split:
        """The rows of the first tap as a head reads them."""
        return Split(next(iter(self.taps.values())), self.labels)

    @property
    def num_bytes(self) -> int:
        """Bytes of the first tap's features on a device."""
        rows = self.split()
        return len(rows.labels) * row_bytes(rows.features.shape[1:], rows.dtype.name)


class Data(NamedTuple):
    """Rows to train and to validate on, and what their labels mean.

    Attributes:
        kind: "classes", "labels" or "values" (`transfer.heads.targets`).
        classes: what the user calls them, sorted, in their own dtype; 0 … L - 1 of labels; None of values.
        class_names: as texts, of classes and labels.
        chunk_rows: rows that are read at a time: the batches of the stores.
    """

    train: Labelled
    validation: Labelled
    kind: str
    classes: np.ndarray | None
    class_names: tuple[str, ...]
    chunk_rows: int = 64

    @property
    def num_outputs(self) -> int:
        """How many scores a head gives a row: C classes, L labels or T values."""
        return len(self.classes) if self.classes is not None else self.train.labels.shape[1]

    def sizes(self) -> dict[str, int]:
        """The numbers of rows and of classes, as `result.json` has them."""
        counts = {"num_train": len(self.train.labels), "num_validation": len(self.validation.labels)}
        return {"num_classes": self.num_outputs, **counts}

    def print_shapes(self) -> None:
        """Prints a line for each side: the shapes of its taps and of its labels."""
        for side in (self.train, self.validation):
            distributed.print_once(" ".join(str(rows.shape) for rows in (*side.taps.values(), side.labels)))

    def untrained_classes(self) -> str | None:
        """A line about classes that validate and that no training row is of; None where there are none."""
        if self.kind != "classes":
            return None
        counts = []
        for side in (self.train, self.validation):
            labels = np.asarray(side.labels[:]).reshape(-1)
            known = labels[(labels >= 0) & (labels < self.num_outputs)]  # what is no class is for the head to refuse
            counts.append(np.bincount(known, minlength=self.num_outputs))
        lost = np.flatnonzero((counts[0] == 0) & (counts[1] > 0))
        if not len(lost):
            return None
        names = ", ".join(printable(self.class_names[label]) for label in lost[:MOST_NAMED])
        more = " …" if len(lost) > MOST_NAMED else ""
        return f"{int(counts[1][lost].sum())} validation rows are of classes that no training row is of: {names}{more}"

    def given(self, side: Labelled) -> np.ndarray:
        """The labels of a side as the user gave them, which is how an estimator is to learn them."""
        labels = np.asarray(side.labels[:])
        return self.classes[labels] if self.kind == "classes" and self.classes is not None else labels


def row_bytes(shape: Sequence[int], dtype: str) -> int:
    """Bytes of a row of features on a device."""
    return math.prod(shape) * (2 if dtype == "bfloat16" else 4)


def of_stores(stores: Mapping[str, "FeatureStore"], taps: Sequence[str]) -> Data:
    """Rows of the stores `train` and `validation`, whose labels are numbers of classes."""
    names = tuple(stores["train"].class_names)

    def side(store: "FeatureStore") -> Labelled:
        return Labelled({tap: store.tap(tap) for tap in taps}, store.label_rows, store.id_rows)

    chunk_rows = stores["train"].metadata["batch_size"]
    return Data(side(stores["train"]), side(stores["validation"]), "classes", np.arange(len(names)), names, chunk_rows)


def read_files(files: Sequence[str], kind: str, chunk_rows: int) -> tuple[Data, dict[str, str]]:
    """Reads the feature files to train and to validate on, whose labels are any numbers or texts.

    Returns the rows, and a hash of those of each file.

    Raises TransferError where the labels of one are text and of the other not, or have other columns, and where other
    processes have read other rows.
    """
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

    def side(name: str, labels: np.ndarray) -> Labelled:
        return Labelled({OF_FILE: sides[name][0]}, labels, [str(row) for row in range(len(labels))])

    return Data(side("training", train), side("validation", validation), kind, classes, names, chunk_rows), hashes
