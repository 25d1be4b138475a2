"""What all heads share: rows checked and scaled on the way in, scikit-learn's interface on the way out.

A head is a class of a few lines: parameters, as a dataclass or in `__init__`, their `_parameter_constraints`, and

    def _fit(self, rows: Rows) -> None: ...     # sets what it has learned, in attributes that end in "_"
    def _scores(self, x) -> (M, C) array: ...   # of scaled rows: logits, or the values of a regressor

the second of which a `LinearHead` has already. `scaling` and `class_weight` are looked up among the parameters; a head
need not have them.
"""

import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils._param_validation import InvalidParameterError, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from transfer.errors import RowsError, UsageError
from transfer.heads import saving, targets
from transfer.heads import scaling as scalings
from transfer.heads.dense import Dense, linear_scores
from transfer.heads.targets import Targets, flat_features

# Rows (M, ...) -> scores (H, M, C) of H heads.
Scores = Callable[[ArrayLike], np.ndarray]
Grid = Mapping[str, Sequence[Any]]


class Rows(NamedTuple):
    """Rows to fit a head on."""

    x: np.ndarray  # float32 (N, D), scaled
    targets: Targets
    weight: np.ndarray | None  # float32 (N,), of each row's loss: its class's weight times its own; None: 1
    sample_weight: np.ndarray | None = None  # float64 (N,), its own, above 0: how many equal rows it is; None: 1


class Head(BaseEstimator):
    """Base of `Probe` and `Regressor`; see the module.

    Of the parameters, `scaling` is a name of `transfer.heads.scaling.SCALINGS`, fitted on the training rows, or None:
    features as they are; `class_weight` is None, "balanced" or {class: weight}, as in scikit-learn.

    After `fit`: `n_features_in_`; `feature_names_in_` where X has names; `scaler_`, a `transfer.heads.scaling.Scaler`;
    `kind_`, a kind of `transfer.heads.targets`; and what the head has learned.
    """

    # Parameters of which `fit_many` trains several values in one program, where the head can.
    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ()
    # Values that a sweep tries where it is told nothing else, the strongest regularisation first.
    GRID: ClassVar[dict[str, tuple]] = {}

    # As scikit-learn's own estimators have them; a head adds those of its parameters.
    _parameter_constraints: ClassVar[dict[str, list]] = {
        "scaling": [StrOptions(scalings.SCALINGS.keys()), None],
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    kind_: str
    scaler_: scalings.Scaler
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fits the head.

        Args:
            X: (N, ...) numbers, flattened row by row; dense, not of `scipy.sparse`.
            y: see `Probe` and `Regressor`.
            sample_weight: (N,), none below 0; None: 1. A row of weight 0 is as if it were not there, scaling and
                classes included, and one of weight 2 counts as two equal rows.

        Raises:
            RowsError: (a ValueError) rows that no head can use: none at all, NaN, infinity, another number of labels.
            UsageError: a parameter that is wrong.
        """
        self.check_parameters()
        self._fit(self.prepare(X, y, sample_weight))
        return self

    def check_parameters(self) -> None:
        """Raises UsageError, a line that begins with the parameter's name, for a parameter that is wrong."""
        try:
            self._validate_params()
        except InvalidParameterError as error:
            line = " ".join(str(error).split())
            raise UsageError(re.sub(r"^The '(\w+)' parameter of \w+ (must be .*)\. Got (.*) instead\.$",
                                    r"\1 \2, not \3", line)) from error  # fmt: skip

    def _fit(self, rows: Rows) -> None:
        raise NotImplementedError

    def _scores(self, x: np.ndarray) -> ArrayLike:
        raise NotImplementedError

    def prepare(self, X: ArrayLike, y: ArrayLike | None, sample_weight: ArrayLike | None = None) -> Rows:
        """Rows to fit on, checked and scaled; sets what they say of the head (`n_features_in_`, `classes_`, ...)."""
        x = self._features(X, reset=True)
        if sample_weight is not None:
            x, y, sample_weight = _with_weight(x, y, sample_weight)
        rows_targets = self._targets(y, len(x))
        self.kind_ = rows_targets.kind
        self.scaler_ = scalings.fit(getattr(self, "scaling", None), x, sample_weight)
        if line := scalings.dropped(self.scaler_):
            warnings.warn(line, scalings.DroppedColumns, stacklevel=3)
        weight = self._class_weight(rows_targets, sample_weight)
        if sample_weight is not None:
            weight = (sample_weight if weight is None else weight * sample_weight).astype(np.float32)
        return Rows(self._scaled(x), rows_targets, weight, sample_weight)

    def _targets(self, y: ArrayLike | None, num_rows: int) -> Targets:
        raise NotImplementedError

    def _known(self, y: ArrayLike, num_rows: int, name: str = "labels") -> Targets:
        """Targets of other rows; RowsError for a label that is on no training row."""
        return targets.of_known_classes(y, num_rows, getattr(self, "classes_", None), self.kind_, name)

    def _class_weight(self, rows_targets: Targets, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """The weight of each row's class, float32 (N,); None: 1."""
        return None

    def _features(self, X: Any, reset: bool = False, name: str = "features") -> np.ndarray:
        """X as float32 (N, D), finite, checked by scikit-learn too: names and number of columns."""
        if getattr(getattr(X, "dtype", None), "name", None) == "bfloat16":
            X = np.asarray(X).astype(np.float32)  # scikit-learn has not heard of it
        if getattr(X, "ndim", 0) > 2:
            X = np.asarray(X)
            X = X.reshape(len(X), math.prod(X.shape[1:]))
        if isinstance(X, np.ndarray) and X.ndim > 1 and len(X) == 0:
            return flat_features(X, name)  # says so in its own words
        try:
            x = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite=False)
        except (ValueError, TypeError) as error:
            if isinstance(error, TypeError) and "parse" not in str(error):  # "sparse"
                raise
            raise RowsError(_one_line(error)) from error
        return flat_features(x, name)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(scalings.apply(self.scaler_, x)) if self.scaler_.name else x

    def _rows(self, X: ArrayLike, name: str = "features") -> np.ndarray:
        """Other rows (M, ...) as the head sees them, float32 (M, D), scaled; `name` is for errors."""
        check_is_fitted(self)
        return self._scaled(self._features(X, name=name))

    def logits(self, X: ArrayLike) -> np.ndarray:
        """Scores (M, C) float32 of X (M, ...): a column a class, a label or a value, whatever their number."""
        return np.asarray(self._scores(self._rows(X)), np.float32)

    def fit_many(self, X: ArrayLike, y: ArrayLike, grid: Grid) -> Scores:
        """Fits one head for each of H settings; the head itself is left as it is.

        Args:
            X, y: as for `fit`.
            grid: parameter -> H values. Those of `SIDE_BY_SIDE` are trained in one program, where the head can; each
                combination of the others is one after another.

        Returns the function from rows (M, ...) to scores float32 (H, M, C), in the order of the grid. Raises UsageError
        for a parameter that the head does not have, columns of different lengths, or no setting.
        """
        if unknown := grid.keys() - self.get_params().keys():
            raise UsageError(
                f"{type(self).__name__} has no parameter {', '.join(sorted(unknown))}; it takes: "
                f"{', '.join(sorted(self.get_params()))}"
            )
        lengths = {len(values) for values in grid.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise UsageError(f"a grid needs columns of one length, not {sorted(lengths)}")
        groups: dict[str, list[int]] = {}  # of settings that one program can train
        settings = [dict(zip(grid, values, strict=True)) for values in zip(*grid.values(), strict=True)]
        for index, setting in enumerate(settings):
            clone(self).set_params(**setting).check_parameters()
            others = [value for name, value in setting.items() if name not in self.SIDE_BY_SIDE]
            groups.setdefault(repr(others), []).append(index)
        fitted = [self._fit_group(X, y, [settings[index] for index in group]) for group in groups.values()]
        order = np.argsort(list(itertools.chain(*groups.values())))
        return lambda rows: fitted[0](rows) if len(fitted) == 1 else np.concatenate([f(rows) for f in fitted])[order]

    def _fit_group(self, X: ArrayLike, y: ArrayLike, settings: list[dict[str, Any]]) -> Scores:
        """Heads that differ in parameters of `SIDE_BY_SIDE` alone."""
        head: Any = clone(self).set_params(**settings[0])
        grid = {name: [setting[name] for setting in settings] for name in settings[0] if name in self.SIDE_BY_SIDE}
        if not grid or not hasattr(head, "_fit_many"):
            heads = [clone(head).set_params(**setting).fit(X, y) for setting in settings]
            return lambda rows: np.stack([head.logits(rows) for head in heads])
        scores = head._fit_many(head.prepare(X, y), grid)
        return lambda rows: np.asarray(scores(head._rows(rows)), np.float32)

    def dense(self) -> Dense:
        """The head's scores of scaled rows as dense layers; UsageError for a head that is none."""
        raise UsageError(f"{type(self).__name__} is no chain of dense layers")

    def traced(self, x: jax.Array) -> jax.Array:
        """Probabilities (M, C) of rows as `fit` takes them, float32 (M, D), or the values; JAX can trace it."""
        check_is_fitted(self)
        return targets.ACTIVATIONS[self.kind_](self._traced_scores(scalings.apply(self.scaler_, x)))

    def _traced_scores(self, x: jax.Array) -> jax.Array:
        """`_scores`, traceable; for a head that is no `dense` to define."""
        return self.dense().scores(x)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the fitted head as one `.safetensors` file; see `transfer.heads.load`."""
        saving.save(self, path)


class LinearHead(Head):
    """Base of heads that are one matrix: `_fit` sets `coef_`, `intercept_` and, if it is not 1, `temperature_`."""

    coef_: np.ndarray  # float32 (C, D)
    intercept_: np.ndarray  # float32 (C,); the sum is divided by `temperature_`

    def _layer(self) -> tuple[np.ndarray, np.ndarray, float]:
        return self.coef_, self.intercept_, getattr(self, "temperature_", 1.0)

    def _scores(self, x: np.ndarray) -> ArrayLike:
        return linear_scores(x, *self._layer())

    def dense(self) -> Dense:
        return Dense.of(*self._layer())


def _with_weight(
    x: np.ndarray, y: ArrayLike | None, sample_weight: ArrayLike
) -> tuple[np.ndarray, ArrayLike | None, np.ndarray | None]:
    """The rows that have any weight, and their weights, float64; None where each has 1."""
    try:
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64)
    except ValueError as error:
        raise RowsError(f"sample_weight: {_one_line(error)}") from error
    if (weight < 0).any() or not weight.any():
        raise RowsError("sample_weight must be 0 or more, and above 0 for a row at least")
    kept = weight > 0
    if not kept.all() and y is not None and len(labels := np.asarray(y)) == len(x):  # else the check of labels says so
        x, y, weight = x[kept], labels[kept], weight[kept]
    return x, y, None if (weight == 1).all() else weight


def _one_line(error: Exception) -> str:
    return " ".join(itertools.takewhile(bool, map(str.strip, str(error).splitlines()))) or type(error).__name__


class Probe(ClassifierMixin, Head):
    """A classifier. Its `y` is (N,) or (N, 1), any numbers or text: one class a row; or (N, L) of 0 and 1: any of L.

    After `fit`, `classes_`: the C classes in sorted order, in the dtype of `y`; 0 ... L - 1 for labels.
    """

    classes_: np.ndarray

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _targets(self, y: ArrayLike | None, num_rows: int) -> Targets:
        of_rows, self.classes_ = targets.of_classifier(y, num_rows)
        return of_rows

    def _class_weight(self, rows_targets: Targets, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """The weight of each row's class, as scikit-learn has it; "balanced" by the weights of the classes' rows."""
        weights = getattr(self, "class_weight", None)
        if weights is None:
            return None
        if rows_targets.kind != "classes":
            raise UsageError("class_weight is for one class a row; rows that may have several labels take None")
        if isinstance(weights, str):
            rows_of_class = np.bincount(rows_targets.array, sample_weight)
            of_class = rows_of_class.sum() / (len(rows_of_class) * rows_of_class)
        else:
            try:
                of_class = compute_class_weight(weights, classes=self.classes_, y=self.classes_[rows_targets.array])
            except ValueError as error:
                raise UsageError(f"class_weight={weights!r}: {_one_line(error)}") from error
        if not np.all(np.isfinite(of_class) & (of_class >= 0)):
            raise UsageError(f"class_weight={weights!r}: weights must be finite, and none below 0")
        if not of_class.any():
            raise UsageError(f"class_weight={weights!r}: no class that is there has any weight")
        return of_class.astype(np.float32)[rows_targets.array]

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Scores float32 of X (M, ...) as scikit-learn shapes them: (M, C); (M,) for two classes, above 0 the second's.

        `predict_proba` is their softmax; of two classes and of labels their sigmoid.
        """
        logits = self.logits(X)
        return logits[:, 1] - logits[:, 0] if self.kind_ == "classes" and logits.shape[1] == 2 else logits

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities (M, C) float32 of X (M, ...), columns as in `classes_`; of labels each its own, float64."""
        logits = self.logits(X)
        # on the host nothing is compiled for each number of rows; float32 has nothing left between some labels' and 1
        return softmax(logits, axis=-1) if self.kind_ == "classes" else expit(logits.astype(np.float64))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Labels (M,) of X (M, ...), in the dtype of the labels that `fit` was given; int (M, L) of 0 and 1 for labels.

        The class of the highest score, the first one of equals; every label whose score is above 0.
        """
        logits = self.logits(X)
        if self.kind_ == "labels":
            return (logits > 0).astype(np.int64)
        return self.classes_[logits.argmax(axis=1)]


class Regressor(RegressorMixin, Head):
    """Predicts numbers. Its `y` is (N,) or (N, T), finite."""

    target_ndim_: int  # dimensions of the y that the head was fitted to

    def _targets(self, y: ArrayLike | None, num_rows: int) -> Targets:
        of_rows = targets.of_regressor(y, num_rows)
        self.target_ndim_ = np.asarray(y).ndim
        return of_rows

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Values (M,) or (M, T) float64 of X (M, ...), as y was in `fit`."""
        values = self.logits(X).astype(np.float64)  # what scikit-learn's measures work in
        return values[:, 0] if self.target_ndim_ == 1 else values
