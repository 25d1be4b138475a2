"""The published head as a scikit-learn estimator; all epochs run as one jitted program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from transfer.errors import TransferError, UsageError
from transfer.heads import linear
from transfer.heads.rows import flat_features, flat_labels


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Softmax on features, trained by Adam: the published recipe where nothing else is asked for.

    Args:
        epochs: passes over the rows.
        batch_size: rows a step; an epoch's last batch has what is left.
        learning_rate: of Adam, constant. The recipe's 1e-3 suits features of about unit size.
        seed: of the first weights and of each epoch's shuffle.
        shuffle: False keeps the order of the rows.

    After `fit`: `classes_` (C,) the labels in sorted order; `coef_` (C, D) and `intercept_` (C,) float32;
    `n_features_in_`, D; `history_`, metric name -> float32 (epochs,), as `transfer.heads.linear.train_epoch`
    defines them, the validation's only if `fit` was given such rows.
    """

    # What `train.py` drives epoch by epoch, checkpointed: `init_key`, `init_state` and `make_epoch`.
    program = linear

    def __init__(
        self,
        epochs: int = 50,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.seed = seed
        self.shuffle = shuffle

    def fit(
        self, X: ArrayLike, y: ArrayLike, validation_data: tuple[ArrayLike, ArrayLike] | None = None
    ) -> "LinearProbe":
        """Trains on X (N, ...) and labels y (N,) or (N, 1): any numbers or strings.

        `validation_data` = (Xv, yv) is measured after each epoch. Raises TransferError for rows that no head can
        use (none at all, NaN or infinity, another number of labels), UsageError for a bad parameter.
        """
        self._check_parameters()
        x = flat_features(X)
        self.classes_, y_index = np.unique(flat_labels(y, len(x)), return_inverse=True)
        train = (jnp.asarray(x), jnp.asarray(y_index, jnp.int32))
        validation = None
        if validation_data is not None:
            validation = self._validation(*validation_data, width=x.shape[1])
        state, history = linear.train_all(
            linear.init_state(x.shape[1], len(self.classes_), linear.init_key(self.seed)),
            self.seed,
            self.learning_rate,
            train,
            validation,
            epochs=self.epochs,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
        )
        # scikit-learn's layout of a linear model's weights
        self.coef_, self.intercept_ = np.asarray(state["params"]["kernel"].T), np.asarray(state["params"]["bias"])
        self.n_features_in_ = x.shape[1]
        self.history_ = {name: np.asarray(history[name]) for name in linear.METRICS if name in history}
        return self

    def _check_parameters(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")

    def _validation(self, X: ArrayLike, y: ArrayLike, width: int) -> tuple[jax.Array, jax.Array]:
        x = flat_features(X, "validation features")
        if x.shape[1] != width:
            raise TransferError(f"validation features are {x.shape[1]} a row, training features {width}")
        labels = flat_labels(y, len(x), "validation labels")
        if not (known := np.isin(labels, self.classes_)).all():
            raise TransferError(f"validation label {labels[~known][0].item()!r} is on no training row")
        return jnp.asarray(x), jnp.asarray(np.searchsorted(self.classes_, labels), jnp.int32)

    def logits(self, X: ArrayLike) -> np.ndarray:
        """Logits (N, C) float32 of X (N, ...), columns as in `classes_`."""
        check_is_fitted(self)
        x = flat_features(X)
        if x.shape[1] != self.n_features_in_:
            raise TransferError(f"the head takes {self.n_features_in_} features a row, but rows have {x.shape[1]}")
        params: dict[str, Any] = {"kernel": jnp.asarray(self.coef_.T), "bias": jnp.asarray(self.intercept_)}
        return np.asarray(linear.logits(params, jnp.asarray(x)))

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities (N, C) float32 of X (N, ...), columns as in `classes_`."""
        return np.asarray(jax.nn.softmax(jnp.asarray(self.logits(X))))

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Labels (N,) of X (N, ...), in the dtype of the labels that `fit` was given."""
        best = self.logits(X).argmax(axis=1)  # first: it says so if nothing is fitted yet
        return self.classes_[best]
