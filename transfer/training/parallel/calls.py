"""What a head over many devices is trained and validated on, as calls of the programs in
`transfer.training.parallel.sharded`.

`transfer.training.parallel.resident` keeps all rows on the devices, `transfer.training.parallel.streamed` reads a
window of them at a time. Both give the same batches for the same order, seed and epoch.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np


class TrainCall(NamedTuple):
    """One call of `sharded.train`.

    Attributes:
        rows: gives the features and labels on the devices, and puts them there where they are not.
        taken, counts: see `transfer.training.parallel.dealing.deal`.
        steps: as `train` takes it.
        done: batches of the epoch that are done after it.
    """

    rows: Callable[[], tuple[jax.Array, jax.Array]]
    taken: np.ndarray
    counts: np.ndarray
    steps: int | None
    done: int


class EvaluateCall(NamedTuple):
    """One call of `sharded.evaluate`; `real` is int32 (places,)."""

    rows: Callable[[], tuple[jax.Array, jax.Array]]
    real: np.ndarray


class Training(Protocol):
    """Rows to train on.

    Attributes:
        num_rows: N.
        batch_size: rows of a step.
        order: what the order of the rows depends on beside the seed and the epoch, JSON values.
    """

    num_rows: int
    batch_size: int
    order: dict[str, Any]

    def calls(self, seed: int, epoch: int, done: int) -> Iterator[TrainCall]:
        """The calls of an epoch of which `done` batches are done already."""
        ...


class Validation(Protocol):
    """Rows to validate on; `num_rows` of them."""

    num_rows: int

    def calls(self) -> Iterator[EvaluateCall]:
        """All of the rows."""
        ...


def shares(start: int, stop: int, places: int) -> tuple[int, list[tuple[int, int]]]:
    """Rows [start, stop) in equal blocks, one behind the other: their length, and (start, stop) of each place.

    The last blocks may be shorter, or empty.
    """
    block = max(1, -(-(stop - start) // places))
    edges = [min(start + i * block, stop) for i in range(places + 1)]
    return block, list(zip(edges, edges[1:], strict=False))


def lengths(blocks: list[tuple[int, int]]) -> np.ndarray:
    """int32 (places,): rows of each block."""
    return np.array([stop - start for start, stop in blocks], np.int32)
