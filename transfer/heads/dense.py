"""A head as a chain of dense layers: what other programs than ours can compute, and JAX can trace."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transfer.errors import UsageError
from transfer.heads.scaling import Scaler, unit_rows


class Dense(NamedTuple):
    """Layers with a ReLU between each and the next.

    Attributes:
        kernels: float64 (D, U) each.
        biases: float64 (U,) each.
        unit: whether rows are brought to unit norm first.
    """

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    unit: bool = False

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
