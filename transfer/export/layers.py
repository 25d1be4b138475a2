"""The head of a run as plain dense layers, scaling folded in: what the formats of others hold."""

from typing import NamedTuple

import numpy as np

from transfer.errors import UsageError
from transfer.export.finished_run import Bound
from transfer.export.program import columns_of

ACTIVATIONS = {"classes": "softmax", "labels": "sigmoid", "values": "linear"}
# The logit of a class that the head has never seen: its probability is 0.
NEVER = -1e9


class Layers(NamedTuple):
    """Dense layers on rows of features, with a ReLU between each and the next.

    Attributes:
        kernels: float32 (D, U) each.
        biases: float32 (U,) each.
        unit: whether rows are brought to unit norm first; rows of zeros stay zeros.
        activation: "softmax", "sigmoid" or "linear", on the last.
    """

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    unit: bool
    activation: str

    @property
    def width(self) -> int:
        """Features of a row."""
        return len(self.kernels[0])


def layers_of(bound: Bound) -> Layers:
    """Raises UsageError for a run without a head of its own, and for a head that is no chain of dense layers."""
    if bound.head is None:
        raise UsageError(f"--workdir={bound.workdir} trained the network itself, which --format=stablehlo exports")
    if not hasattr(bound.head, "dense"):
        raise UsageError(f"--workdir={bound.workdir}: its head, {type(bound.head).__name__}, cannot be exported")
    try:
        dense = bound.head.dense().folded(bound.head.scaler_)
    except UsageError as error:
        raise UsageError(f"--workdir={bound.workdir}: {error}; --format=stablehlo holds any head") from error
    kernels, biases = [[array.astype(np.float32) for array in each] for each in (dense.kernels, dense.biases)]
    columns = columns_of(bound)
    if columns is not None:
        wide = np.zeros((len(kernels[-1]), len(bound.class_names)), np.float32)
        wide[:, columns] = kernels[-1]
        bias = np.full(len(bound.class_names), NEVER, np.float32)
        bias[columns] = biases[-1]
        kernels[-1], biases[-1] = wide, bias
    return Layers(kernels, biases, dense.unit, ACTIVATIONS[bound.kind])
