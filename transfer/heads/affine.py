"""Scores of heads that are one matrix, in float64, so that a row's do not depend on the rows around it."""

import numpy as np

# Rows in float64 at a time.
_CHUNK = 8192


def scores(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, divisor: float = 1.0) -> np.ndarray:
    """Float32 (M, C): rows (M, D) times `kernel` (C, D), plus `bias` (C,), over `divisor`."""
    matrix, results = kernel.T.astype(np.float64), np.empty((len(x), len(kernel)), np.float32)
    for start in range(0, len(x), _CHUNK):
        some = x[start : start + _CHUNK].astype(np.float64)
        results[start : start + _CHUNK] = (some @ matrix + bias) / divisor
    return results
