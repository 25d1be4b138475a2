"""Heads of `transfer.heads.programs` as estimators: all epochs compiled as one, and many heads side by side."""

from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval

from transfer.errors import RowsError, TransferError, UsageError
from transfer.heads import affine, gradient, scaling
from transfer.heads.dense import Dense
from transfer.heads.estimator import Grid, Head, Rows
from transfer.heads.gradient import Examples
from transfer.heads.layers import Params, all_layers, logits
from transfer.heads.optimisers import Rates
from transfer.heads.programs import Program, checked_hidden
from transfer.heads.targets import Targets

# Bytes of the widest layer's units, of all heads, that are computed at a time.
UNITS_BYTES = 256 << 20
# Bytes of weights, of their gradient and of two moments of each that train side by side.
TRAINED_BYTES = 1 << 30


class Units(NamedTuple):
    """Offset and scale of the values that a head is trained on: float64 (T,) each; the scale is 0 where none varies."""

    offset: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: Rows) -> "Units | None":
        """Mean and deviation of values; None for what has no unit."""
        if rows.targets.kind != "values":
            return None
        values = rows.targets.array.astype(np.float64)
        mean = np.average(values, axis=0, weights=rows.sample_weight)
        deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=rows.sample_weight))
        return cls(mean, np.where(deviation > 1e-6 * np.abs(values).max(axis=0), deviation, 0))


def _scaled_targets(units: Units | None, targets: Targets) -> np.ndarray:
    if units is None:
        return targets.array
    return ((targets.array - units.offset) / np.where(units.scale > 0, units.scale, 1)).astype(np.float32)


def _unscaled(units: Units | None, params: Params) -> Params:
    """The last layer in the units of the values as they were given; kernel (..., D, T) and bias (..., T)."""
    params = jax.device_get(params)
    if units is None:
        return params
    kernel, bias = params["kernel"] * units.scale, params["bias"] * units.scale + units.offset
    return {**params, "kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


class Trained(Head):
    """Base of the heads that gradient steps train: a subclass names its program, and has its settings as parameters.

    Values that a regressor learns are brought to mean 0 and deviation 1 for the length of the training, so that one
    learning rate suits them whatever their unit.

    After `fit`: `history_` and `n_iter_`, the epochs; of a linear head `coef_` (C, D) and `intercept_` (C,), of a
    perceptron `coefs_` (D, U) and `intercepts_` (U,) of each layer, as scikit-learn has them, float32.
    """

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = Rates._fields

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **Head._parameter_constraints,
        **dict.fromkeys(("epochs", "batch_size"), [Interval(Integral, 1, None, closed="left")]),
        "seed": [Interval(Integral, None, None, closed="neither")],
        "learning_rate": [Interval(Real, 0, np.inf, closed="neither")],
        "weight_decay": [Interval(Real, 0, np.inf, closed="left")],
        **dict.fromkeys(("dropout", "momentum"), [Interval(Real, 0, 1, closed="left")]),
    }

    # What trains the head; `train.py` drives that of a classifier epoch by epoch, checkpointed.
    program: ClassVar[Program]

    epochs: int
    seed: int
    shuffle: bool
    history_: dict[str, np.ndarray]
    n_iter_: int
    coef_: np.ndarray
    intercept_: np.ndarray
    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]

    def check_parameters(self) -> None:
        super().check_parameters()
        if "hidden" in self.program.defaults:
            checked_hidden(self._own_settings()["hidden"])

    def _own_settings(self) -> dict[str, Any]:
        """The settings of the program, as the parameters have them."""
        return {name: getattr(self, name) for name in self.program.defaults}

    def fit(  # type: ignore[override]
        self,
        X: ArrayLike,
        y: ArrayLike,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fits the head as `Head.fit` does.

        Args:
            X, y: as there.
            validation_data: (Xv, yv), measured after each epoch, in `history_`.
            sample_weight: as there, but that a row of weight 2 is in one batch, with twice the loss; a batch's loss is
                the sum of weighted losses over its rows, as Keras has it.

        Raises:
            RowsError, UsageError: as there.
            TransferError: training diverged.
        """
        self.check_parameters()
        if validation_data is not None and len(validation_data) != 2:
            raise UsageError(f"validation_data must be (features, labels), not {len(validation_data)} things")
        rows = self.prepare(X, y, sample_weight)
        self._train(rows, None if validation_data is None else self._held(*validation_data))
        return self

    def _fit(self, rows: Rows) -> None:
        self._train(rows, None)

    def _held(self, X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, Targets]:
        array = np.asarray(X)
        width = int(np.prod(array.shape[1:]))
        if array.ndim > 1 and width != self.n_features_in_:
            raise RowsError(f"validation features are {width} a row, training features {self.n_features_in_}")
        x = self._scaled(self._features(X, name="validation features"))
        return x, self._known(y, len(x), "validation labels")

    def _train(self, rows: Rows, held: tuple[np.ndarray, Targets] | None) -> None:
        units, validation = Units.of(rows), None
        if held is not None:
            validation = Examples.on_device(held[0], _scaled_targets(units, held[1]))
        rates = self.program.rates(self._own_settings())
        state, history = gradient.train_all(
            *self._start(rows), rates, _on_device(rows, units), validation, **self._compiled_for(rows)
        )
        self.history_ = {name: np.asarray(values) for name, values in _ordered(history).items()}
        self.n_iter_ = self.epochs
        if not np.isfinite(self.history_["loss"][-1]):
            raise TransferError(f"the loss is {self.history_['loss'][-1]}: training diverged; lower the learning_rate")
        self._keep(_unscaled(units, state["params"]))

    def _start(self, rows: Rows) -> tuple[gradient.State, int]:
        """The state before the first epoch, and the seed of the shuffles."""
        key = self.program.init_key(self.seed)
        shape = rows.x.shape[1], rows.targets.num_outputs
        return self.program.init_state(*shape, key, **self._own_settings()), self.seed

    def _compiled_for(self, rows: Rows) -> dict[str, Any]:
        method = self.program.method(self._own_settings(), shuffle=bool(self.shuffle), kind=rows.targets.kind)
        return {"epochs": self.epochs, "method": method}

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        """Heads at rates of their own, trained by one program on the same batches."""
        units, (start, seed) = Units.of(rows), self._start(rows)
        train, compiled_for = _on_device(rows, units), self._compiled_for(rows)
        parts = [
            _unscaled(units, gradient.train_many(start, seed, rates, train, **compiled_for))
            for rates in _groups(self._rates_of_all(grid), start["params"])
        ]
        number = len(next(iter(grid.values())))
        params = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)[:number]), *parts)
        return lambda x: _scores_of_many(params, x)

    def _rates_of_all(self, grid: Grid) -> Rates:
        """(H,) of each rate; None for one that is 0 in all of the heads."""
        number = len(next(iter(grid.values())))
        own = {name: value for name, value in self._own_settings().items() if name in Rates._fields}
        columns = {name: grid.get(name, [value] * number) for name, value in own.items()}
        return Rates(**{name: np.asarray(column, np.float32) for name, column in columns.items() if any(column)})

    def adopt(self, params: Params, *, classes: ArrayLike | None = None, scaler: scaling.Scaler | None = None) -> Self:
        """Makes this the head that a `program` has trained epoch by epoch, on one class a row.

        Args:
            params: of the program's state.
            classes: (C,) in sorted order; None: 0 ... C - 1.
            scaler: that the rows went through; None: none.
        """
        self.n_features_in_, outputs = all_layers(params)[0]["kernel"].shape[0], params["bias"].shape[0]
        self.kind_, self.scaler_ = "classes", scaler or scaling.fit(None, np.zeros((1, 1)))
        self.classes_ = np.arange(outputs) if classes is None else np.asarray(classes)
        self.n_iter_ = self.epochs
        self._keep(jax.device_get(params))
        return self

    def _keep(self, params: Params) -> None:
        """Sets the attributes that say what has been learned, in scikit-learn's layouts."""
        if "hidden" in self.program.defaults:
            self.coefs_ = [np.asarray(layer["kernel"]) for layer in all_layers(params)]
            self.intercepts_ = [np.asarray(layer["bias"]) for layer in all_layers(params)]
        else:
            self.coef_, self.intercept_ = np.asarray(params["kernel"].T), np.asarray(params["bias"])

    def _layers(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Kernels (D, U) and biases (U,) of each layer."""
        if "hidden" in self.program.defaults:
            return self.coefs_, self.intercepts_
        return [self.coef_.T], [self.intercept_]

    def _scores(self, x: np.ndarray) -> np.ndarray:
        *hidden, (kernel, bias) = zip(*self._layers(), strict=True)
        for of_units, threshold in hidden:
            x = np.maximum(affine.scores(x, of_units.T, threshold), 0)
        return affine.scores(x, kernel.T, bias)

    def dense(self) -> Dense:
        kernels, biases = ([array.astype(np.float64) for array in arrays] for arrays in self._layers())
        return Dense(kernels, biases)


def _on_device(rows: Rows, units: Units | None) -> Examples:
    return Examples.on_device(rows.x, _scaled_targets(units, rows.targets), rows.weight)


def _groups(rates: Rates, params: Params) -> Iterator[Rates]:
    """Rates of heads (H,), so many at a time that they fit, in groups of one size: the last repeats the last head."""
    number = len(np.asarray(rates.learning_rate))
    most = max(1, TRAINED_BYTES // (4 * sum(leaf.nbytes for leaf in jax.tree.leaves(params))))
    groups = -(-number // most)
    size = -(-number // groups)
    for start in range(0, number, size):
        places = np.minimum(np.arange(start, start + size), number - 1)
        yield Rates(*(None if rate is None else np.asarray(rate)[places] for rate in rates))  # type: ignore[arg-type]


def _ordered(history: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Those of the training rows first, and losses before scores."""
    return dict(sorted(history.items(), key=lambda item: (item[0].startswith("validation"), "loss" not in item[0])))


_many_logits = jax.jit(jax.vmap(logits, in_axes=(0, None)))


def _scores_of_many(params: Params, x: np.ndarray) -> np.ndarray:
    """(H, M, C) of rows (M, D), so many at a time that the units of all heads fit."""
    heads = params["bias"].shape[0]
    widest = max(layer["bias"].shape[-1] for layer in all_layers(params))
    size = max(1, UNITS_BYTES // (4 * heads * widest))
    return np.concatenate(
        [np.asarray(_many_logits(params, x[start : start + size])) for start in range(0, len(x), size)], axis=1
    )
