"""What a head is trained and validated on: rows of one tap or several, their labels and ids, and what labels mean."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable
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

    def split(self, tap: str | None = None) -> Split:
        """The rows of a tap (None: the first) as a head reads them."""
        return Split(self.taps[tap or next(iter(self.taps))], self.labels)

    def held(self, tap: str) -> np.ndarray:
        """The features of a tap in memory: (N, ...) float32."""
        return np.asarray(self.taps[tap][:]).astype(np.float32, copy=False)


class Data(NamedTuple):
    """Both sides.

    Attributes:
        kind: "classes", "labels" or "values" (`transfer.heads.targets`).
        classes: what the user calls them, sorted, in their own dtype; 0 … L - 1 of labels; None of values.
        class_names: as texts, of classes and labels.
    """

    train: Labelled
    validation: Labelled
    kind: str
    classes: np.ndarray | None
    class_names: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        """C, L or T."""
        return len(self.classes) if self.classes is not None else self.train.labels.shape[1]

    def missing(self) -> str | None:
        """A line about classes that validate and that no training row is of; None where there are none."""
        if self.kind != "classes":
            return None
        trained, tested = (self._counts(side) for side in (self.train, self.validation))
        lost = np.flatnonzero((trained == 0) & (tested > 0))
        if not len(lost):
            return None
        names = ", ".join(printable(self.class_names[label]) for label in lost[:MOST_NAMED])
        more = " …" if len(lost) > MOST_NAMED else ""
        return f"{int(tested[lost].sum())} validation rows are of classes that no training row is of: {names}{more}"

    def _counts(self, side: Labelled) -> np.ndarray:
        """Rows of each class; whatever is no class is for the head to refuse."""
        labels = np.asarray(side.labels[:]).reshape(-1)
        return np.bincount(labels[(labels >= 0) & (labels < self.num_outputs)], minlength=self.num_outputs)

    def given(self, side: Labelled) -> np.ndarray:
        """The labels of a side as the user gave them, which is how an estimator is to learn them."""
        labels = np.asarray(side.labels[:])
        return self.classes[labels] if self.kind == "classes" and self.classes is not None else labels


def of_stores(stores: Mapping[str, "FeatureStore"], taps: Sequence[str]) -> Data:
    """Of the stores `train` and `validation`, whose labels are numbers of classes."""
    names = tuple(stores["train"].class_names)

    def side(store: "FeatureStore") -> Labelled:
        return Labelled({tap: store.tap(tap) for tap in taps}, store.label_rows, store.id_rows)

    return Data(side(stores["train"]), side(stores["validation"]), "classes", np.arange(len(names)), names)


def of_files(rows: Mapping[str, tuple[np.ndarray, np.ndarray]], kind: str) -> Data:
    """Of the arrays of two feature files, whose labels are any numbers or texts.

    Raises TransferError where one file's labels are text and the other's are not, or they have other columns.
    """
    train, validation = (labels for _, labels in (rows["train"], rows["validation"]))
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

    def side(split: str, labels: np.ndarray) -> Labelled:
        return Labelled({OF_FILE: rows[split][0]}, labels, [str(row) for row in range(len(labels))])

    return Data(side("train", train), side("validation", validation), kind, classes, names)
