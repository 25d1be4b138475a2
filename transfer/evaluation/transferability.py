"""How well features may serve a task, before any head is trained: LogME of the features, LEEP of a classifier.

Both rank backbones or taps for one task; neither is an accuracy.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from transfer.errors import TransferError
from transfer.evaluation.similarity import blocks, row_products, width

BLOCK_BYTES = 64 << 20
# A (D, D) or (N, N) product, whichever is smaller, of float64.
MOST_PRODUCT_BYTES = 4 << 30
# As in the published code: kept so that values can be compared digit by digit.
STEPS, TOLERANCE, EPSILON = 11, 1e-3, 1e-5


def logme(features: Any, targets: ArrayLike) -> float:
    """LogME: the mean over targets of the log evidence a row of a Bayesian linear model, at its best hyperparameters.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", by the fixed point of
    You et al. 2022, "Ranking and Tuning Pre-trained Models": the start, the stopping rule and the small constants of
    thuml/LogME's `LogME.fit`, whose values these are for features of full column rank. Where columns outnumber rows,
    that code leaves out the part of the evidence's determinant that belongs to the singular values of zero; here it is
    there, as in the first paper and its code (`LogME._fit_icml`). Features are taken as they are, without centring.

    Args:
        features: (N, ...) numbers; an array, or rows of a `FeatureStore`, which are read once, block by block, where
            rows outnumber columns.
        targets: (N,) labels of classes, any numbers or strings, each class against the rest; or (N, T) floating-point
            numbers, values for regression.

    Raises TransferError for NaN or infinity, another number of targets, no rows, features of zeros alone, or too many
    columns and rows alike.
    """
    columns, rows = np.asarray(targets), len(features)
    if rows == 0 or len(columns) != rows:
        raise TransferError(f"{rows} rows of features but {len(columns)} targets")
    if columns.ndim == 2 and columns.dtype.kind == "f":
        if not np.isfinite(columns).all():
            raise TransferError("targets have NaN or infinity")
        columns = columns.astype(np.float64)
    else:  # one column a class
        classes, index = np.unique(columns.reshape(rows, -1)[:, 0], return_inverse=True)
        columns = np.eye(len(classes))[index]
    eigenvalues, projected, rest = _spectrum(features, columns)
    if not len(eigenvalues):
        raise TransferError("LogME is not defined: all features are zero")
    return float(np.mean(_evidence(eigenvalues[:, None], projected, rest, rows)))


def _spectrum(features: Any, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared singular values (K,) that are not rounding; squares of the targets (K, T) along them, and beside (T,)."""
    rows, columns = len(features), width(features)
    if min(rows, columns) ** 2 * 8 > MOST_PRODUCT_BYTES:
        raise TransferError(
            f"LogME of {rows} rows by {columns} columns takes more than 4 GiB; take fewer rows (--rows)"
        )
    if rows >= columns:
        product, with_targets, start = np.zeros((columns, columns)), np.zeros((columns, targets.shape[1])), 0
        for block in _finite_blocks(features):
            product += block.T @ block
            with_targets += block.T @ targets[start : start + len(block)]
            start += len(block)
    else:
        whole = np.concatenate([block.astype(np.float32) for block in _finite_blocks(features)])
        product, with_targets = row_products(whole, 0.0, BLOCK_BYTES), targets
    values, vectors = np.linalg.eigh(product)
    # a product's rounding is that of its largest eigenvalue
    kept = values > values[-1] * max(rows, columns) * np.finfo(np.float64).eps
    components = vectors[:, kept].T @ with_targets
    values = values[kept]
    projected = components**2 / (values[:, None] if rows >= columns else 1)
    squares = np.einsum("nt,nt->t", targets, targets)
    return values, projected, np.maximum(squares - projected.sum(axis=0), 0)


def _finite_blocks(features: Any) -> Iterator[np.ndarray]:
    for block in blocks(features, max(1, BLOCK_BYTES // max(8 * width(features), 1))):
        if not np.isfinite(block).all():
            raise TransferError("features have NaN or infinity")
        yield block


def _evidence(sigma: np.ndarray, projected: np.ndarray, rest: np.ndarray, rows: int) -> np.ndarray:
    """Float64 (T,), log evidence a row of each target, all of them iterated side by side; of what `_spectrum` gives."""
    alpha, beta = np.ones(projected.shape[1]), np.ones(projected.shape[1])
    norm, residual = np.zeros_like(alpha), np.zeros_like(alpha)
    running = np.ones(len(alpha), bool)
    for _ in range(STEPS):
        ratio = alpha / beta
        gamma = (sigma / (sigma + ratio)).sum(axis=0)
        # those that have converged keep what they converged to
        norm = np.where(running, (sigma * projected / (ratio + sigma) ** 2).sum(axis=0), norm)
        residual = np.where(running, (projected / (1 + sigma / ratio) ** 2).sum(axis=0) + rest, residual)
        alpha = np.where(running, gamma / (norm + EPSILON), alpha)
        beta = np.where(running, (rows - gamma) / (residual + EPSILON), beta)
        running &= np.abs(alpha / beta - ratio) / ratio > TOLERANCE
        if not running.any():
            break
    determinant = np.log(alpha + beta * sigma).sum(axis=0) - len(sigma) * np.log(alpha)
    evidence = rows * np.log(beta) - determinant - beta * residual - alpha * norm - rows * np.log(2 * np.pi)
    return evidence / 2 / rows


def leep(probabilities: Any, labels: ArrayLike) -> float:
    """LEEP: the mean log-likelihood of the labels, as the source classifier's answers predict them by counting alone.

    Nguyen et al. 2020, "LEEP: A New Measure to Evaluate Transferability of Learned Representations"; `LEEP` of
    thuml/LogME. At most 0; higher is better.

    Args:
        probabilities: (N, Z) of the source's classes, rows that sum to 1: the softmax of a `logits` tap.
        labels: (N,) of the task, any numbers or strings.

    Raises TransferError for NaN, negative numbers, rows that do not sum to 1, or another number of labels.
    """
    source = np.asarray(probabilities, np.float64)
    if source.ndim != 2 or not (len(source) and source.shape[1]):
        raise TransferError(f"LEEP takes probabilities (N, classes), not of shape {source.shape}")
    if not (np.isfinite(source).all() and (source >= 0).all() and np.allclose(source.sum(axis=1), 1, atol=1e-3)):
        raise TransferError("LEEP takes probabilities: rows that sum to 1, without negative numbers or NaN")
    flat = np.ravel(labels)
    if len(flat) != len(source):
        raise TransferError(f"{len(source)} rows of probabilities but {len(flat)} labels")
    classes, index = np.unique(flat, return_inverse=True)
    joint = np.zeros((len(classes), source.shape[1]))
    np.add.at(joint, index, source)
    # a source class that no row is given has no share in any answer
    mass = joint.sum(axis=0)
    given_source = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    expected = np.einsum("nz,nz->n", source, given_source[index])
    return float(np.mean(np.log(expected)))
