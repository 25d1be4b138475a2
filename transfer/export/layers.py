"""The head of a run as plain dense layers, scaling folded in, which the formats of others can hold."""

from typing import NamedTuple

import numpy as np

from transfer.errors import UsageError
from transfer.export.finished_run import FinishedRun
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
        class_names: the C or L names of the outputs; none of values.
    """

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    unit: bool
    activation: str
    class_names: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of features of a row."""
        return len(self.kernels[0])


def layers_of(run: FinishedRun) -> Layers:
    """The dense layers of a run's head; UsageError where the run has no head, or one of another kind."""
    if run.head is None:
        raise UsageError(f"--workdir={run.workdir} trained the network itself, which --format=stablehlo exports")
    if not hasattr(run.head, "dense"):
        raise UsageError(f"--workdir={run.workdir}: its head, {type(run.head).__name__}, cannot be exported")
    try:
        dense = run.head.dense().folded(run.head.scaler_)
    except UsageError as error:
        raise UsageError(f"--workdir={run.workdir}: {error}; --format=stablehlo holds any head") from error
    kernels, biases = [[array.astype(np.float32) for array in each] for each in (dense.kernels, dense.biases)]
    columns = columns_of(run)
    if columns is not None:
        wide = np.zeros((len(kernels[-1]), len(run.class_names)), np.float32)
        wide[:, columns] = kernels[-1]
        bias = np.full(len(run.class_names), NEVER, np.float32)
        bias[columns] = biases[-1]
        kernels[-1], biases[-1] = wide, bias
    return Layers(kernels, biases, dense.unit, ACTIVATIONS[run.kind], tuple(run.class_names))
