"""What all heads share: rows checked and scaled on the way in, scikit-learn's interface on the way out.

A head is a class of a few lines: parameters in `__init__`, and

    def _fit(self, rows: Rows) -> None: ...     # sets what it has learned, in attributes that end in "_"
    def _scores(self, x) -> (M, C) array: ...   # of scaled rows: logits, or the values of a regressor

`scaling` and `class_weight` are looked up among its parameters; a head need not have them.
"""

import functools
import itertools
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from transfer.errors import RowsError, UsageError
from transfer.heads import saving, targets
from transfer.heads import scaling as scalings
from transfer.heads.dense import Dense
from transfer.heads.rows import flat_features
from transfer.heads.targets import Targets

# Rows (M, ...) -> scores (H, M, C) of H heads.
Scores = Callable[[ArrayLike], np.ndarray]
Grid = Mapping[str, Sequence[Any]]


# `transfer.heads.targets.ACTIVATIONS` on the host: nothing to compile for each number of rows.
_PROBABILITIES = {"classes": functools.partial(softmax, axis=-1), "labels": expit}


class Rows(NamedTuple):
    """Rows to fit a head on.

    Attributes:
        x: float32 (N, D), scaled.
        targets: what they are to be.
        weight: float32 (N,), of each row's loss; None: 1.
    """

    x: np.ndarray
    targets: Targets
    weight: np.ndarray | None


class Head(BaseEstimator):
    """Base of `Probe` and `Regressor`; see the module.

    After `fit`: `n_features_in_`; `feature_names_in_` where X has names; `scaler_`, a `transfer.heads.scaling.Scaler`;
    `kind_`, a kind of `transfer.heads.targets`; and what the head has learned.
    """

    # Parameters of which `fit_many` trains several values in one program, where the head can.
    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ()
    # Values that a sweep tries where it is told nothing else, the strongest regularisation first.
    GRID: ClassVar[dict[str, tuple]] = {}

    kind_: str
    scaler_: scalings.Scaler
    n_features_in_: int

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fits the head to X (N, ...), numbers, flattened row by row, and y; see `Probe` and `Regressor` for y.

        Raises:
            RowsError: (a ValueError) rows that no head can use: none at all, NaN, infinity, another number of labels.
            UsageError: a parameter that is wrong.
        """
        self._check_parameters()
        self._fit(self.prepare(X, y))
        return self

    def _check_parameters(self) -> None:
        """Raises UsageError for a parameter that is wrong; a head adds its own."""
        scalings.check(getattr(self, "scaling", None))

    def _fit(self, rows: Rows) -> None:
        raise NotImplementedError

    def _scores(self, x: np.ndarray) -> ArrayLike:
        raise NotImplementedError

    def prepare(self, X: ArrayLike, y: ArrayLike | None) -> Rows:
        """Rows to fit on, checked and scaled; sets what they say of the head (`n_features_in_`, `classes_`, ...)."""
        x = self._features(X, reset=True)
        aimed = self._targets(y, len(x))
        self.kind_ = aimed.kind
        self.scaler_ = scalings.fit(getattr(self, "scaling", None), x)
        if line := scalings.dropped(self.scaler_):
            warnings.warn(line, scalings.DroppedColumns, stacklevel=3)
        return Rows(self._scaled(x), aimed, self._weight(aimed))

    def _targets(self, y: ArrayLike | None, num_rows: int) -> Targets:
        raise NotImplementedError

    def _weight(self, aimed: Targets) -> np.ndarray | None:
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
        except ValueError as error:
            raise RowsError(_one_line(error)) from error
        except TypeError as error:
            if "parse" not in str(error).lower():  # "sparse"
                raise
            raise RowsError(_one_line(error)) from error
        return flat_features(x, name)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return x if self.scaler_.name is None else np.asarray(scalings.apply(self.scaler_, x))

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

        Returns:
            The function from rows (M, ...) to scores float32 (H, M, C), in the order of the grid.

        Raises:
            UsageError: a parameter that the head does not have, columns of different lengths, or no setting.
        """
        settings = self._settings(grid)
        together = [name for name in grid if name in self.SIDE_BY_SIDE]
        fitted: list[tuple[list[int], Scores]] = []
        for places in _groups(settings, [name for name in grid if name not in together]):
            alone = clone(self).set_params(**settings[places[0]])
            alone._check_parameters()
            side_by_side = {name: [settings[place][name] for place in places] for name in together}
            fitted.append((places, alone._fit_side_by_side(X, y, side_by_side)))

        def scores(others: ArrayLike) -> np.ndarray:
            found: list[Any] = [None] * len(settings)
            for places, function in fitted:
                for place, values in zip(places, function(others), strict=True):
                    found[place] = values
            return np.stack(found)

        return scores

    def _settings(self, grid: Grid) -> list[dict[str, Any]]:
        """One dict for each of the H settings."""
        if unknown := grid.keys() - self.get_params().keys():
            raise UsageError(
                f"{type(self).__name__} has no parameter {', '.join(sorted(unknown))}; it takes: "
                f"{', '.join(sorted(self.get_params()))}"
            )
        lengths = {len(values) for values in grid.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise UsageError(f"a grid needs columns of one length, not {sorted(lengths)}")
        return [dict(zip(grid, values, strict=True)) for values in zip(*grid.values(), strict=True)]

    def _fit_side_by_side(self, X: ArrayLike, y: ArrayLike, grid: Grid) -> Scores:
        """Heads that differ in parameters of `SIDE_BY_SIDE` alone; an empty grid is this head."""
        many = getattr(self, "_fit_many", None)
        if many is None or not grid:
            settings = self._settings(grid) if grid else [{}]
            heads = [clone(self).set_params(**one).fit(X, y) for one in settings]
            return lambda others: np.stack([head.logits(others) for head in heads])
        function = many(self.prepare(X, y), grid)
        return lambda others: np.asarray(function(self._rows(others)), np.float32)

    def dense(self) -> Dense:
        """The head's scores of scaled rows as dense layers; UsageError for a head that is none."""
        raise UsageError(f"{type(self).__name__} is no chain of dense layers")

    def traced(self, x: jax.Array) -> jax.Array:
        """Probabilities (M, C) of rows as `fit` takes them, float32 (M, D), or the values; JAX can trace it.

        What a head of one's own that is no `dense` computes of scaled rows, `_traced_scores` says.
        """
        check_is_fitted(self)
        return targets.ACTIVATIONS[self.kind_](self._traced_scores(scalings.apply(self.scaler_, x)))

    def _traced_scores(self, x: jax.Array) -> jax.Array:
        """`_scores`, traceable."""
        return self.dense().scores(x)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the fitted head as one `.safetensors` file; see `transfer.heads.load`."""
        saving.save(self, path)


def _groups(settings: list[dict[str, Any]], names: list[str]) -> list[list[int]]:
    """Places of the settings that agree in `names`."""
    groups: dict[str, list[int]] = {}
    for place, setting in enumerate(settings):
        groups.setdefault(repr([setting[name] for name in names]), []).append(place)
    return list(groups.values())


def _one_line(error: Exception) -> str:
    return " ".join(itertools.takewhile(bool, map(str.strip, str(error).splitlines()))) or type(error).__name__


class Probe(ClassifierMixin, Head):
    """A classifier. Its `y` is (N,) or (N, 1), any numbers or text: one class a row; or (N, L) of 0 and 1: any of L.

    After `fit`, `classes_`: the C classes in sorted order, in the dtype of `y`; 0 ... L - 1 for labels.
    """

    classes_: np.ndarray

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags

    def _targets(self, y: ArrayLike | None, num_rows: int) -> Targets:
        aimed, self.classes_ = targets.of_classifier(y, num_rows)
        return aimed

    def _known(self, y: ArrayLike, num_rows: int, name: str = "labels") -> Targets:
        """Targets of other rows; RowsError for a label that is on no training row."""
        return targets.of_known_classes(y, num_rows, self.classes_, self.kind_, name)

    def _weight(self, aimed: Targets) -> np.ndarray | None:
        """Float32 (N,): the weight of each row's class, as scikit-learn weighs classes."""
        weights = getattr(self, "class_weight", None)
        if weights is None:
            return None
        if aimed.kind != "classes":
            raise UsageError("class_weight is for one class a row; rows that may have several labels take None")
        try:
            of_class = compute_class_weight(weights, classes=self.classes_, y=self.classes_[aimed.array])
        except ValueError as error:
            raise UsageError(f"class_weight={weights!r}: {_one_line(error)}") from error
        if not np.all(np.isfinite(of_class) & (of_class >= 0)):
            raise UsageError(f"class_weight={weights!r}: weights must be finite, and none below 0")
        if not of_class.any():
            raise UsageError(f"class_weight={weights!r}: no class that is there has any weight")
        return of_class.astype(np.float32)[aimed.array]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities (M, C) float32 of X (M, ...), columns as in `classes_`; of labels each its own."""
        logits = self.logits(X)  # first: it says so if nothing is fitted yet
        return _PROBABILITIES[self.kind_](logits)

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

    # Dimensions of the y that the head was fitted to.
    target_ndim_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _targets(self, y: ArrayLike | None, num_rows: int) -> Targets:
        aimed = targets.of_regressor(y, num_rows)
        self.target_ndim_ = np.asarray(y).ndim
        return aimed

    def _known(self, y: ArrayLike, num_rows: int, name: str = "targets") -> Targets:
        return targets.of_regressor(y, num_rows, name)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Values (M,) or (M, T) float64 of X (M, ...), as y was in `fit`."""
        values = self.logits(X).astype(np.float64)  # what scikit-learn's measures work in
        return values[:, 0] if self.target_ndim_ == 1 else values
