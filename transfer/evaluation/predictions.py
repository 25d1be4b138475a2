"""What a fitted estimator says of rows, and of that what is small enough to keep: all measures are computed from it.

`Scores` are those of any estimator: ours, scikit-learn's, and a user's that can only `predict`. `Predictions` go with
labels into a file of the run: of classes the five likeliest and the likelihood of the right one; of labels and values
everything.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath
from numpy.typing import ArrayLike

from transfer.errors import RowsError, TransferError
from transfer.runtime.files import archives, atomic
from transfer.runtime.files.archives import Archive
from transfer.runtime.files.untrusted import prefix_errors

FILE = "predictions.npz"
FORMAT = 1
KINDS = ("classes", "labels", "values")
# Classes that are kept of each row.
MOST = 5
# What is said to be impossible (its logit is -inf) and happens counts as this probability, so that a mean over rows
# stays a number; the loss of what is only unlikely, below the other number, is what training has.
SMALLEST = float(np.finfo(np.float32).tiny)
IMPOSSIBLE = float(np.finfo(np.float32).max) / 2
# Names of files that are not UTF-8 keep their bytes.
ODD = "surrogateescape"
# Logits that are looked at together.
BLOCK = 1 << 22


class Scores(NamedTuple):
    """Scores of M rows."""

    values: np.ndarray  # float32 (M, C): logits of C classes or L labels (up to a constant a row), or T values
    ranked: bool = True  # whether they order the classes; where not, the highest is the prediction and the rest is 0
    probable: bool = True  # whether softmax (of labels sigmoid) makes probabilities of them

    @classmethod
    def of(cls, estimator: Any, rows: ArrayLike, classes: np.ndarray | None, kind: str = "classes") -> "Scores":
        """Scores of `rows` (M, ...) by a fitted estimator.

        Args:
            estimator: a head of ours (it has `logits`), or any with `predict`; `predict_proba` and `decision_function`
                are made use of.
            classes: the C classes in sorted order; a column each, also of classes that the estimator was not fitted on,
                which get -inf. Of labels: any L.
            kind: "classes", "labels" or "values" (`transfer.heads.targets`).

        Raises RowsError for an estimator that knows a class that is not among them.
        """
        if hasattr(estimator, "logits"):
            scores = cls(np.asarray(estimator.logits(rows), np.float32))
        else:
            array = np.asarray(rows)
            scores = _scores_of_others(estimator, array.reshape(len(array), -1).astype(np.float32, copy=False), kind)
        if kind != "classes" or classes is None:
            return scores
        own = np.asarray(getattr(estimator, "classes_", classes))
        if len(own) == len(classes) and (own == classes).all():
            return scores
        if not np.isin(own, classes).all():
            raise RowsError(
                f"the head knows the class {own[~np.isin(own, classes)][0].item()!r}, which the data has not"
            )
        values = np.full((len(scores.values), len(classes)), -np.inf, np.float32)
        values[:, np.searchsorted(classes, own)] = scores.values
        return scores._replace(values=values)


def _scores_of_others(estimator: Any, rows: np.ndarray, kind: str) -> Scores:
    """Scores of rows float32 (M, D) by an estimator that is not ours."""
    if kind == "values":
        return Scores(np.asarray(estimator.predict(rows), np.float32).reshape(len(rows), -1))
    if hasattr(estimator, "predict_proba"):
        probability = estimator.predict_proba(rows)
        if isinstance(probability, list):  # of several labels: one (M, 2) a label
            probability = np.stack([of_label[:, -1] for of_label in probability], axis=1)
        likely: np.ndarray = np.maximum(np.asarray(probability, np.float64), SMALLEST)
        if kind == "labels":
            return Scores((np.log(likely) - np.log(np.maximum(1 - likely, SMALLEST))).astype(np.float32))
        return Scores(np.log(likely).astype(np.float32))
    if hasattr(estimator, "decision_function"):
        values: np.ndarray = np.asarray(estimator.decision_function(rows), np.float32)
        if values.ndim == 1:
            values = np.stack([-values, values], axis=1) / 2
        return Scores(values, probable=False)
    predicted = np.asarray(estimator.predict(rows))
    if kind == "labels":
        return Scores(predicted.astype(np.float32) - 0.5, ranked=False, probable=False)
    own = np.asarray(getattr(estimator, "classes_", np.unique(predicted)))
    return Scores((predicted[:, None] == own).astype(np.float32), ranked=False, probable=False)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions for N rows; `of_logits` makes them. Arrays of another kind are of shape (N, 0).

    Attributes:
        kind: "classes" (one of C a row), "labels" (any of L) or "values" (T numbers).
        ids: N names of the rows, all different, of text.
        labels: what is right: int32 (N,) of classes, float32 (N, L) of 0 and 1, or float32 (N, T).
        scores: of labels float32 (N, L), logits; of values float32 (N, T), what was predicted.
        top: of classes int32 (N, K), the K = min(5, C) of the highest logits, highest first, of equals the lowest.
        probability: of classes float32 (N, K), theirs.
        nll: of classes float32 (N,), less the logarithm of the right one's probability; 87.3 where it is impossible.
        num_outputs: C, L or T.
        ranked: whether the scores put classes or labels in order; where not, K is 1.
        probable: whether they make probabilities; where not, `probability` and `nll` are NaN.
        class_names: C, L or T names, or none.
        rivals: of classes int32 (N,), how many others have as high a score as the right one, or a higher; where it is
            not given, the right one's place in `top`, which says the same where no scores are equal.
    """

    kind: str
    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    top: np.ndarray
    probability: np.ndarray
    nll: np.ndarray
    num_outputs: int
    ranked: bool = True
    probable: bool = True
    class_names: tuple[str, ...] = ()
    rivals: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.rivals is None:
            object.__setattr__(self, "rivals", _places(self.labels, self.top))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def right(self) -> np.ndarray:
        """Bool (N,): whether the likeliest class is the right one; of labels, whether all of them are."""
        if self.kind == "classes":
            return self.top[:, 0] == self.labels
        return ((self.scores > 0) == (self.labels > 0)).all(axis=1)

    def rows(self, which: np.ndarray) -> "Predictions":
        """Those of some rows, int (n,), in that order."""
        of_rows = {name: getattr(self, name)[which] for name in ARRAYS}
        return dataclasses.replace(self, **of_rows)

    @classmethod
    def of_logits(
        cls,
        logits: ArrayLike,
        labels: ArrayLike,
        ids: Sequence[str] | None = None,
        *,
        kind: Literal["classes", "labels", "values"] | str = "classes",
        ranked: bool = True,
        probable: bool = True,
        class_names: Sequence[Any] = (),
    ) -> "Predictions":
        """Predictions from the outputs of a head.

        Args:
            logits: (N, C); -inf for a class that the head does not know. Of values what was predicted, (N, T) or (N,).
            labels: as `Targets.array`: (N,) indices of classes below C; (N, L) of 0 and 1; (N, T) or (N,) numbers.
            ids: of the rows; None: their numbers, "0" ... .
            ranked, probable: as `Scores` has them.
            class_names: the C or L names; anything that `str` makes text of.

        Raises RowsError for no rows, unlike many, ids that repeat, NaN, and labels that are no class.
        """
        outputs, truth = np.asarray(logits, np.float32), np.asarray(labels)
        if kind == "values":
            outputs, truth = outputs.reshape(len(outputs), -1), truth.reshape(len(truth), -1)
        names = np.asarray([str(i) for i in (range(len(outputs)) if ids is None else ids)])
        _check(kind, outputs, truth, names)
        truth = truth.astype(np.int32 if kind == "classes" else np.float32)
        arrays: dict[str, Any] = {name: np.empty((len(outputs), 0), dtype) for name, dtype in OF_CLASSES.items()}
        arrays["scores"] = outputs
        if kind == "classes":
            arrays = _of_classes(outputs, truth, min(MOST, outputs.shape[1]) if ranked else 1, probable)
        facts = {"num_outputs": outputs.shape[1], "ranked": ranked, "probable": probable and kind != "values"}
        return cls(kind=kind, ids=names, labels=truth, class_names=tuple(map(str, class_names)), **facts, **arrays)

    @classmethod
    def concatenate(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Those of several parts of the rows, one after another; RowsError where ids repeat, or parts are unlike."""
        if not parts or len({(part.kind, part.num_outputs, part.ranked, part.probable) for part in parts}) > 1:
            raise RowsError("parts of predictions are of one kind and as many outputs, and there is at least one")
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        if len(np.unique(joined["ids"])) != len(joined["ids"]):
            raise RowsError("ids of rows repeat; each row of predictions needs its own")
        return dataclasses.replace(parts[0], **joined)

    def write(self, path: Any) -> None:
        """Writes an `.npz` file, whole or not at all; OSError where it cannot be."""
        facts = np.asarray([FORMAT, self.num_outputs, self.ranked, self.probable], np.int64)
        names = np.asarray([name.encode("utf-8", ODD) for name in self.class_names] or [], np.bytes_)
        arrays: dict[str, Any] = {"kind": np.asarray(self.kind.encode()), "facts": facts, "class_names": names}
        arrays |= {name: getattr(self, name) for name in ARRAYS}
        arrays["ids"] = np.char.encode(self.ids, "utf-8", ODD)
        with atomic.writing(path) as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Any) -> "Predictions":
        """Reads what `write` wrote; TransferError, naming the file, for anything else, OSError where there is none."""
        with epath.Path(path).open("rb") as stream, prefix_errors(path), archives.open_zip(stream) as archive:  # type: ignore[arg-type]
            return _read(archive)


# The fields of predictions of classes alone, and those that have an entry for each row; files had all but the last of
# them from the first.
OF_CLASSES = {"top": np.int32, "probability": np.float32, "nll": np.float32, "rivals": np.int32}
ARRAYS = ("ids", "labels", "scores", *OF_CLASSES)


def _check(kind: str, outputs: np.ndarray, truth: np.ndarray, ids: np.ndarray) -> None:
    if kind not in KINDS:
        raise RowsError(f"predictions of kind {kind!r} are not known; {', '.join(KINDS)} are")
    if outputs.ndim != 2 or not outputs.size:
        raise RowsError(f"predictions need scores of shape (N, C), not {outputs.shape}")
    wanted = outputs.shape[:1] if kind == "classes" else outputs.shape
    if truth.shape != wanted or len(ids) != len(outputs):
        raise RowsError(f"scores {outputs.shape}, labels {truth.shape} and {len(ids)} ids are not of the same rows")
    if len(np.unique(ids)) != len(ids):
        raise RowsError("ids of rows repeat; each row of predictions needs its own")
    with np.errstate(invalid="ignore"):
        bad = np.isnan(outputs) | (outputs == np.inf)
    if bad.any() or (kind == "values" and not np.isfinite(outputs).all()):
        raise RowsError(f"scores have NaN or infinity, first in row {np.flatnonzero(bad.any(axis=1))[:1]}")
    if kind == "classes" and not ((truth >= 0) & (truth < outputs.shape[1]) & (truth == np.floor(truth))).all():
        raise RowsError(f"labels run from {truth.min()} to {truth.max()}, but scores are of {outputs.shape[1]} classes")
    if kind == "labels" and not np.isin(truth, (0, 1)).all():
        raise RowsError("labels must be 0 or 1, one column a label")


def _of_classes(logits: np.ndarray, labels: np.ndarray, most: int, probable: bool) -> dict[str, np.ndarray]:
    """The highest of each row, their probabilities and the loss, some rows at a time."""
    count, width = logits.shape
    top, probability = np.empty((count, most), np.int32), np.full((count, most), np.nan, np.float32)
    nll, rivals = np.full(count, np.nan, np.float32), np.empty(count, np.int32)
    step = max(1, BLOCK // width)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        # so that -inf can mark those that are taken, and a row of nothing but -inf is one of equals
        block = np.maximum(logits[rows], np.finfo(np.float32).min)
        here = np.arange(len(block))
        rivals[rows] = (block >= block[here, labels[rows], None]).sum(axis=1) - 1
        with np.errstate(over="ignore"):
            block -= block.max(axis=1, keepdims=True)
        if probable:
            total = np.log(np.exp(block).sum(axis=1, dtype=np.float64))
            loss = total - block[here, labels[rows]]
            nll[rows] = np.where(loss < IMPOSSIBLE, loss, -np.log(SMALLEST))
        np.maximum(block, np.finfo(np.float32).min, out=block)
        for rank in range(most):
            likeliest = block.argmax(axis=1)
            top[rows, rank] = likeliest
            if probable:
                probability[rows, rank] = np.exp(block[here, likeliest] - total)
            block[here, likeliest] = -np.inf
    none = np.empty((count, 0), np.float32)
    return {"scores": none, "top": top, "probability": probability, "nll": nll, "rivals": rivals}


def _places(labels: np.ndarray, top: np.ndarray) -> np.ndarray:
    """How many classes are above the right one in `top` (N, K), K where it is none of them."""
    if not top.shape[1]:
        return np.empty((len(top), 0), np.int32)
    hits = top == labels[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), top.shape[1]).astype(np.int32)


def _read(archive: Archive) -> Predictions:
    names, needed = {*archive.array_names()}, {*ARRAYS[:-1], "kind", "facts", "class_names"}
    if missing := needed - names:
        raise TransferError(f"no predictions of a run: {', '.join(sorted(missing))} missing")
    arrays = {name: archive.array(name) for name in sorted(needed | ({"rivals"} & names))}
    facts = arrays.pop("facts")
    if facts.dtype.kind != "i" or facts.shape != (4,) or facts[0] != FORMAT:
        raise TransferError(f"predictions of another format than {FORMAT}; a newer version wrote them?")
    try:
        kind = arrays.pop("kind").item().decode()
        class_names = tuple(name.decode("utf-8", ODD) for name in arrays.pop("class_names").tolist())
        arrays["ids"] = np.char.decode(arrays["ids"], "utf-8", ODD)
    except (AttributeError, TypeError, ValueError) as error:
        raise TransferError("its names are not text; it is damaged") from error
    made = Predictions(kind, num_outputs=int(facts[1]), ranked=bool(facts[2]), probable=bool(facts[3]), **arrays,
                       class_names=class_names)  # fmt: skip
    _check_whole(made)
    return made


def _check_whole(made: Predictions) -> None:
    """Raises TransferError unless the arrays are those of one set of rows, and their numbers what they should be."""
    n, outputs = made.ids.shape[0] if made.ids.ndim == 1 else 0, made.num_outputs
    shapes: Mapping[str, tuple[int, ...]]
    shapes = dict.fromkeys(("labels", "scores"), (n, outputs)) | dict.fromkeys(OF_CLASSES, (n, 0))
    if of_classes := made.kind == "classes":
        top = n, min(MOST, outputs) if made.ranked else 1
        shapes = {"labels": (n,), "scores": (n, 0), "top": top, "probability": top, "nll": (n,), "rivals": (n,)}
    numbers = all(getattr(made, name).dtype.kind in "if" for name in shapes)
    if made.kind not in KINDS or not n or not numbers or len(np.unique(made.ids)) != n:
        raise TransferError("its arrays are not predictions of rows; it is damaged")
    for name, shape in shapes.items():
        if getattr(made, name).shape != shape:
            raise TransferError(f"{name} has shape {getattr(made, name).shape}, not {shape}; it is damaged")
    if of_classes:
        indices = [made.labels, made.top, made.rivals]
        if not all(array.dtype.kind == "i" and ((array >= 0) & (array < outputs)).all() for array in indices):
            raise TransferError(f"its classes are not below {outputs}; it is damaged")
        shares = made.probability
        finite = not made.probable or (np.isfinite(made.nll).all() and ((shares >= 0) & (shares <= 1.001)).all())
    else:
        impossible = np.isneginf(made.scores) if made.kind == "labels" else False
        finite = (np.isfinite(made.scores) | impossible).all() and np.isfinite(made.labels).all()
    if not finite:
        raise TransferError("its numbers are not those of predictions; it is damaged")
    if len(made.class_names) not in (0, outputs):
        raise TransferError(f"it names {len(made.class_names)} of {outputs} classes; it is damaged")
