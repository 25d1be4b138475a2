"""Heads of `transfer.heads.programs` as estimators: all epochs compiled as one, and many heads side by side."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval

from transfer.errors import RowsError, TransferError, UsageError
from transfer.heads import gradient
from transfer.heads.estimator import Grid, LinearHead, Rows
from transfer.heads.gradient import Examples, Params, Rates, all_layers, logits
from transfer.heads.programs import Program
from transfer.heads.scaling import Scaler
from transfer.heads.targets import Targets

# Bytes of the widest layer's units, of all heads, that are computed at a time.
UNITS_BYTES = 256 << 20
# Bytes of weights, of their gradient and of two moments of each that train side by side.
TRAINED_BYTES = 1 << 30


class Units(NamedTuple):
    """Offset and scale of the values that a head is trained on, float64 (T,) each; None of classes and labels."""

    offset: np.ndarray | None = None
    scale: np.ndarray | None = None  # 0 where no value varies

    @classmethod
    def of(cls, rows: Rows) -> "Units":
        """Mean and deviation of values."""
        if rows.targets.kind != "values":
            return cls()
        values = rows.targets.array.astype(np.float64)
        mean = np.average(values, axis=0, weights=rows.sample_weight)
        deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=rows.sample_weight))
        return cls(mean, np.where(deviation > 1e-6 * np.abs(values).max(axis=0), deviation, 0))

    def examples(self, x: np.ndarray, targets: Targets, weight: np.ndarray | None = None) -> Examples:
        """Rows on the device, their values brought to mean 0 and deviation 1."""
        array = targets.array
        if self.scale is not None:
            array = ((array - self.offset) / np.where(self.scale > 0, self.scale, 1)).astype(np.float32)
        return Examples.on_device(x, array, weight)

    def restore(self, params: Params) -> Params:
        """The last layer in the units of the values as they were given; kernel (..., D, T) and bias (..., T)."""
        params = jax.device_get(params)
        if self.scale is None:
            return params
        kernel, bias = params["kernel"] * self.scale, params["bias"] * self.scale + self.offset
        return {**params, "kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


@dataclass(eq=False, repr=False)
class Trained(LinearHead):
    """Base of the heads that gradient steps train: a subclass names its program, and has its settings as parameters.

    Values that a regressor learns are brought to mean 0 and deviation 1 for the length of the training, so that one
    learning rate suits them whatever their unit.

    After `fit`: `history_` and `n_iter_`, the epochs; of a linear head `coef_` (C, D) and `intercept_` (C,), float32.
    """

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = Rates._fields

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **LinearHead._parameter_constraints,
        **dict.fromkeys(("epochs", "batch_size"), [Interval(Integral, 1, None, closed="left")]),
        "seed": [Interval(Integral, None, None, closed="neither")],
        "learning_rate": [Interval(Real, 0, np.inf, closed="neither")],
        "weight_decay": [Interval(Real, 0, np.inf, closed="left")],
        **dict.fromkeys(("dropout", "momentum"), [Interval(Real, 0, 1, closed="left")]),
    }

    # What trains the head; `train.py` drives that of a classifier epoch by epoch, checkpointed.
    program: ClassVar[Program]

    epochs: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    shuffle: bool = True
    _: KW_ONLY
    weight_decay: float = 0.0
    scaling: str | None = None

    def fit(  # type: ignore[override]
        self,
        X: ArrayLike,
        y: ArrayLike,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fits the head as `Head.fit` does; TransferError where training diverges.

        Args:
            validation_data: (Xv, yv), measured after each epoch, in `history_`.
            sample_weight: as there, but that a row of weight 2 is in one batch, with twice the loss; a batch's loss is
                the sum of weighted losses over its rows, as Keras has it.
        """
        self.check_parameters()
        if validation_data is not None and len(validation_data) != 2:
            raise UsageError(f"validation_data must be (features, labels), not {len(validation_data)} things")
        rows = self.prepare(X, y, sample_weight)
        self._fit(rows, None if validation_data is None else self._validation_rows(*validation_data))
        return self

    def _validation_rows(self, X: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, Targets]:
        array = np.asarray(X)
        width = int(np.prod(array.shape[1:]))
        if array.ndim > 1 and width != self.n_features_in_:
            raise RowsError(f"validation features are {width} a row, training features {self.n_features_in_}")
        x = self._rows(X, "validation features")
        return x, self._known(y, len(x), "validation labels")

    def _fit(self, rows: Rows, validation_rows: tuple[np.ndarray, Targets] | None = None) -> None:
        units, start, train, static = self._prepared(rows)
        validation, rates = validation_rows and units.examples(*validation_rows), self.program.rates(self._settings())
        state, history = gradient.train_all(start, self.seed, rates, train, validation, **static)
        # those of the training rows first, and losses before scores
        names = sorted(history, key=lambda name: (name.startswith("validation"), "loss" not in name))
        self.history_ = {name: np.asarray(history[name]) for name in names}
        self.n_iter_ = self.epochs
        if not np.isfinite(self.history_["loss"][-1]):
            raise TransferError(f"the loss is {self.history_['loss'][-1]}: training diverged; lower the learning_rate")
        self._keep(units.restore(state["params"]))

    def _settings(self) -> dict[str, Any]:
        """The settings of the program, as the parameters have them."""
        return {name: getattr(self, name) for name in self.program.defaults}

    def _prepared(self, rows: Rows) -> tuple[Units, gradient.State, Examples, dict[str, Any]]:
        """The unit of values, the state before the first epoch, the rows on the device, and what is compiled for."""
        settings, units, shape = self._settings(), Units.of(rows), (rows.x.shape[1], rows.targets.num_outputs)
        state = self.program.init_state(*shape, self.program.init_key(self.seed), **settings)
        method = self.program.method(settings, shuffle=bool(self.shuffle), kind=rows.targets.kind)
        train = units.examples(rows.x, rows.targets, rows.weight)
        return units, state, train, {"epochs": self.epochs, "method": method}

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        """Heads at rates of their own, trained by one program on the same batches."""
        units, start, train, static = self._prepared(rows)
        number = len(next(iter(grid.values())))
        own = {name: value for name, value in self._settings().items() if name in Rates._fields}
        columns = {name: grid.get(name, [value] * number) for name, value in own.items()}
        # none where it is 0 in all of the heads
        rates = Rates(**{name: np.asarray(column, np.float32) for name, column in columns.items() if any(column)})
        # so many heads at a time that they fit, in groups of one size: the last repeats the last head
        most = max(1, TRAINED_BYTES // (4 * sum(leaf.nbytes for leaf in jax.tree.leaves(start["params"]))))
        size = -(-number // -(-number // most))
        parts = []
        for first in range(0, number, size):
            heads = np.minimum(np.arange(first, first + size), number - 1)
            of_heads = jax.tree.map(lambda rate, heads=heads: rate[heads], rates)
            parts.append(units.restore(gradient.train_many(start, self.seed, of_heads, train, **static)))
        params = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)[:number]), *parts)
        return lambda x: _scores_of_many(params, x)

    def adopt(self, params: Params, *, classes: ArrayLike | None = None, scaler: Scaler | None = None) -> Self:
        """Makes this the head that a `program` has trained epoch by epoch, on one class a row.

        Args:
            params: of the program's state.
            classes: (C,) in sorted order; None: 0 ... C - 1.
            scaler: that the rows went through; None: none.
        """
        self.n_features_in_, outputs = all_layers(params)[0]["kernel"].shape[0], params["bias"].shape[0]
        self.kind_, self.scaler_ = "classes", scaler or Scaler()
        self.classes_ = np.arange(outputs) if classes is None else np.asarray(classes)
        self.n_iter_ = self.epochs
        self._keep(jax.device_get(params))
        return self

    def _keep(self, params: Params) -> None:
        """Sets the attributes that say what has been learned, in scikit-learn's layouts."""
        self.coef_, self.intercept_ = np.asarray(params["kernel"].T), np.asarray(params["bias"])


_many_logits = jax.jit(jax.vmap(logits, in_axes=(0, None)))


def _scores_of_many(params: Params, x: np.ndarray) -> np.ndarray:
    """(H, M, C) of rows (M, D), so many at a time that the units of all heads fit."""
    heads = params["bias"].shape[0]
    widest = max(layer["bias"].shape[-1] for layer in all_layers(params))
    size = max(1, UNITS_BYTES // (4 * heads * widest))
    parts = [np.asarray(_many_logits(params, x[start : start + size])) for start in range(0, len(x), size)]
    return np.concatenate(parts, axis=1)
