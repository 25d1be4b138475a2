"""Dense layers of a fitted head: in float64 on the host, and in a form that JAX can trace and other programs hold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transfer.errors import UsageError
from transfer.heads.scaling import Scaler, unit_rows

# Rows in float64 at a time.
_CHUNK = 8192


def linear_scores(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, divisor: float = 1.0) -> np.ndarray:
    """Float32 (M, C): rows (M, D) times `kernel` (C, D), plus `bias` (C,), over `divisor`."""
    # in float64, so that a row's scores do not depend on the rows around it
    matrix, scores = kernel.T.astype(np.float64), np.empty((len(x), len(kernel)), np.float32)
    for start in range(0, len(x), _CHUNK):
        rows = x[start : start + _CHUNK].astype(np.float64)
        scores[start : start + _CHUNK] = (rows @ matrix + bias) / divisor
    return scores


class Dense(NamedTuple):
    """Layers with a ReLU between each and the next."""

    kernels: list[np.ndarray]  # float64 (D, U) each
    biases: list[np.ndarray]  # float64 (U,) each
    unit: bool = False  # whether rows are brought to unit norm first

    @classmethod
    def of(cls, kernel: np.ndarray, bias: np.ndarray, divisor: float = 1.0, unit: bool = False) -> "Dense":
        """Makes one layer of a kernel (C, D), as scikit-learn has it, whose scores are divided by `divisor`."""
        return cls([kernel.T.astype(np.float64) / divisor], [bias.astype(np.float64) / divisor], unit)

    def scores(self, x: jax.Array) -> jax.Array:
        """Float32 (M, C) of scaled rows, float32 (M, D); traceable."""
        x = unit_rows(x) if self.unit else x
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = jax.nn.relu(x) if number else x
            x = jnp.dot(x, kernel.astype(np.float32), precision=jax.lax.Precision.HIGHEST) + bias.astype(np.float32)
        return x

    def folded(self, scaler: Scaler) -> "Dense":
        """The same layers for rows before `scaler`; UsageError where a norm between the two keeps them apart."""
        if scaler.name == "l2":
            return self._replace(unit=True)
        if scaler.mean is None or scaler.factors is None:
            return self
        if self.unit:
            raise UsageError(f"scaling={scaler.name!r} before a cosine is no dense layer; use --format=stablehlo")
        factors, mean = (np.asarray(array, np.float64) for array in (scaler.factors, scaler.mean))
        first = factors @ self.kernels[0] if factors.ndim == 2 else np.reshape(factors, (-1, 1)) * self.kernels[0]
        return Dense([first, *self.kernels[1:]], [self.biases[0] - mean @ first, *self.biases[1:]])
