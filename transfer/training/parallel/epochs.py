"""Epochs of the published head over many devices, on rows that they hold or on rows that are read as training goes."""

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from transfer.errors import TransferError, UsageError
from transfer.heads.gradient import Params, State
from transfer.runtime import preemption
from transfer.training.parallel import step
from transfer.training.parallel.batches import DataMesh, EvaluateChunk, Resident, RowBlocks, Streamed, TrainChunk
from transfer.training.parallel.reader import Reader, Split
from transfer.training.parallel.shuffle import Chunks, default_window, permutation
from transfer.training.run import Part, Position

T = TypeVar("T")
_END: Any = object()


class Sums(NamedTuple):
    """Summed loss and right answers: of the calls that have ended, and of one that may still be running."""

    ended: np.ndarray = np.zeros(2)
    running: np.ndarray | jax.Array = np.zeros(2)

    def total(self) -> np.ndarray:
        """Float64 (2,), the sums of all calls, when they have ended."""
        return self.ended + np.asarray(self.running, np.float64)

    def add(self, sums: jax.Array) -> "Sums":
        """The sums with one more call's; waits for the calls before it, so that few windows are on the devices."""
        return Sums(self.total(), sums)

    def means(self, num_rows: int, prefix: str = "") -> dict[str, float]:
        """Loss and accuracy of so many rows."""
        loss, accuracy = self.total() / num_rows
        return {f"{prefix}loss": float(loss), f"{prefix}accuracy": float(accuracy)}


class MeshTrainer:
    """Trains the published head over a mesh, by the numbers of one device up to the order of additions.

    It is a `transfer.training.run.Trainer`.

    Args:
        train, validation: features and labels, as arrays or as a store's.
        num_classes: above every label.
        mesh: of the axes `data` (rows) and `model` (classes).
        batch_size: rows a step; the last batch of an epoch has what is left.
        order: "rows" or "chunks", see `transfer.training.parallel.shuffle`.
        chunk_rows: rows of a chunk, for a store its `chunk_rows`: reading is by whole chunks.
        window_rows: rows of a window of chunks; None: as many as are 256 MiB of float32.
        stream: whether rows are read as training goes, instead of once; in the order "chunks" only.

    Raises TransferError for rows no head can use (when they are read), UsageError for a bad argument.
    """

    def __init__(
        self,
        train: Split,
        validation: Split | None,
        num_classes: int,
        mesh: Mesh,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        *,
        seed: int = 0,
        order: str = "rows",
        chunk_rows: int = 64,
        window_rows: int | None = None,
        stream: bool = False,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("chunk_rows", chunk_rows), ("window_rows", window_rows or 1)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if validation is not None and validation.num_features != train.num_features:
            raise TransferError(
                f"validation features are {validation.num_features} a row, training features {train.num_features}"
            )
        reader = Reader(train, num_classes)
        self.mesh, self.num_rows = mesh, reader.num_rows
        self._learning_rate, self._seed = np.float32(learning_rate), seed
        window_rows = window_rows or default_window(train.num_features)
        chunks = Chunks(self.num_rows, chunk_rows, window_rows)
        rows_of, settings = chunks.rows, dataclasses.asdict(chunks)
        if order == "rows":
            rows_of, settings = partial(permutation, self.num_rows), {"num_rows": self.num_rows}
        self._order = {"batch_size": batch_size, "order": order, **settings, "shuffle": True}
        self._train: Resident | Streamed = (
            Streamed(reader, mesh, batch_size, chunks) if stream else Resident(reader, mesh, batch_size, rows_of)
        )
        self._validation = None
        if validation is not None:
            windows = (window_rows, chunk_rows) if stream else ()
            self._validation = RowBlocks(Reader(validation, num_classes, "validation "), DataMesh(mesh), *windows)

    def shard_state(self, state: State) -> State:
        """A state of `LINEAR.init_state` on the mesh."""
        return step.shard_state(state, self.mesh)

    def __call__(self, state: State, indices: Iterable[int], position: Position | None = None) -> Iterator[Part]:
        """Trains the epochs `indices` of a sharded state; every chunk of rows is a part.

        Raises:
            TransferError: the position is of another order of the rows; whatever reading rows raises.
        """
        done, sums, validation_sums = 0, Sums(), Sums()
        if position is not None:
            if position["order"] != self._order:
                raise TransferError(
                    f"training stopped within an epoch whose rows were in the order {position['order']}, which is now "
                    f"{self._order}; train on the same features with the same settings, or take another --workdir"
                )
            done, sums = position["batches"], Sums(np.array(position["sums"]))
        for index, chunk in prefetched(self._chunks(indices, done)):
            if isinstance(chunk, TrainChunk):
                rate, steps = self._learning_rate, chunk.num_steps
                state, new = step.train(state, chunk.batches, rate, mesh=self.mesh, num_steps=steps)
                done, sums = chunk.batches_done, sums.add(new)
            elif chunk is not None:
                validation_sums = validation_sums.add(step.evaluate(state["params"], *chunk, mesh=self.mesh))
            else:
                state = {**state, "epoch": _next(state["epoch"])}
                yield Part(state, partial(self._metrics, sums, validation_sums), None)
                done, sums, validation_sums = 0, Sums(), Sums()
                continue
            del chunk  # its rows may be many, and the next ones are there soon
            yield Part(state, None, partial(self._position, index, done, sums))

    def epoch(self, state: State, index: int) -> tuple[State, dict[str, float]]:
        """Epoch `index` (from 0) of a sharded state: the new state, and metrics as those of `Program.make_epoch`."""
        *_, last = self(state, [index])
        assert last.metrics is not None
        return last.state, last.metrics()

    def validate(self, params: Params) -> dict[str, float]:
        """Loss and accuracy of sharded weights on the rows to validate on, which there have to be."""
        assert self._validation is not None
        sums = Sums()
        for chunk in prefetched(self._validation.chunks()):
            sums = sums.add(step.evaluate(params, *chunk, mesh=self.mesh))
        return sums.means(self._validation.num_rows, "validation_")

    def _chunks(self, indices: Iterable[int], done: int) -> Iterator[tuple[int, TrainChunk | EvaluateChunk | None]]:
        """The chunks of one epoch after the other, with its index; None is an epoch's end."""
        for index in indices:
            yield from ((index, chunk) for chunk in self._train.chunks(self._seed, index, done))
            if self._validation is not None:
                yield from ((index, chunk) for chunk in self._validation.chunks())
            yield index, None
            done = 0

    def _metrics(self, sums: Sums, validation_sums: Sums) -> dict[str, float]:
        of_validation = validation_sums.means(self._validation.num_rows, "validation_") if self._validation else {}
        return sums.means(self.num_rows) | of_validation

    def _position(self, index: int, done: int, sums: Sums) -> Position:
        return {"epoch": index, "batches": done, "sums": sums.total().tolist(), "order": self._order}


@jax.jit
def _next(epoch: jax.Array) -> jax.Array:
    return epoch + 1


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one made by a thread while the one before is worked on; one is held, not asked for yet.

    An error of the iterator is raised where its item was due. Closing it waits for the item that is being made, unless
    this process is asked to end.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        coming = pool.submit(next, items, _END)
        while True:
            item = coming.result()
            if item is _END:
                return
            coming = pool.submit(next, items, _END)
            yield item
            del item  # it may be large, and the next one is there already
    finally:
        pool.shutdown(wait=not preemption.requested())
