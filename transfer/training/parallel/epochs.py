"""Epochs of the published head over many devices, on rows that they hold or on rows that are read as training goes."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from transfer.errors import TransferError, UsageError
from transfer.heads.gradient import State
from transfer.heads.layers import Params
from transfer.training.parallel import sharded
from transfer.training.parallel.calls import EvaluateCall, TrainCall, Training, Validation
from transfer.training.parallel.placing import Placing, place_state
from transfer.training.parallel.prefetch import prefetched
from transfer.training.parallel.reader import Reader, Split
from transfer.training.parallel.resident import Resident, ResidentValidation
from transfer.training.parallel.shuffle import ORDERS, Chunks, default_window, permutation
from transfer.training.parallel.streamed import Streamed, StreamedValidation
from transfer.training.run import Part

# Rows of a chunk where the features come from no store.
CHUNK_ROWS = 64


class _Measured(NamedTuple):
    """Summed loss and right answers: float64 of the calls that have ended, arrays of one that may still be running."""

    ended: np.ndarray
    running: tuple[jax.Array, ...] = ()

    def total(self) -> np.ndarray:
        """Of all calls, when they have ended."""
        return sum((np.asarray(sums, np.float64) for sums in self.running), self.ended)

    def and_then(self, sums: jax.Array) -> "_Measured":
        """With one more call; waits for those before it, so that no more than two windows are on the devices."""
        return _Measured(self.total(), (sums,))


NOTHING = _Measured(np.zeros(2))


class Epochs:
    """The epochs of one head; see `make_epochs`. `transfer.training.loop.run_epochs` goes through them.

    Attributes:
        mesh: its devices.
        streams: whether rows are read as training goes.
    """

    def __init__(
        self, train: Training, validation: Validation | None, mesh: Mesh, learning_rate: float, seed: int
    ) -> None:
        self.mesh, self.streams = mesh, isinstance(train, Streamed)
        self._train, self._validation = train, validation
        self._rate, self._seed = np.float32(learning_rate), seed
        self._placing = Placing(mesh)

    @property
    def num_rows(self) -> int:
        """To train on."""
        return self._train.num_rows

    def place(self, state: State) -> State:
        """A state of `transfer.heads.linear.init_state` on the mesh."""
        return place_state(state, self.mesh)

    def __call__(self, state: State, index: int) -> tuple[State, dict[str, float]]:
        """Epoch `index` (from 0) of a placed state: the new state, and the metrics of `linear.make_epoch`'s epochs."""
        *_, last = self.parts(state, [index])
        assert last.metrics is not None
        return last.state, last.metrics()

    def parts(self, state: State, indices: Iterable[int], position: dict[str, Any] | None = None) -> Iterator[Part]:
        """The epochs `indices`, with every call a part.

        Args:
            state: placed.
            position: where in the first epoch to go on, as an earlier part had it; None: at its beginning.

        Raises:
            TransferError: the position is of another order of the rows; whatever reading rows raises.
        """
        done, measured = self._from(position)
        validated = NOTHING
        for index, call in prefetched(self._calls(indices, done)):
            if isinstance(call, TrainCall):
                taken = self._placing.from_blocks(
                    sharded.BATCHES, {place: call.taken[:, place] for place in self._placing.own}
                )
                state, sums = sharded.train(
                    state, *call.rows(), taken, call.counts, self._rate, mesh=self.mesh, steps=call.steps
                )
                done, measured = call.done, measured.and_then(sums)
            elif isinstance(call, EvaluateCall):
                validated = validated.and_then(self._evaluated(state["params"], call))
            else:
                state = {**state, "epoch": _next(state["epoch"])}
                yield Part(state, partial(self._metrics, measured, validated), None)
                done, measured, validated = 0, NOTHING, NOTHING
                continue
            yield Part(state, None, partial(self._position, index, done, measured))

    def validate(self, params: Params) -> dict[str, float]:
        """Loss and accuracy of placed weights on the rows to validate on."""
        validated = NOTHING
        for call in prefetched(self._validation.calls() if self._validation is not None else iter(())):
            validated = validated.and_then(self._evaluated(params, call))
        return self._validation_metrics(validated)

    def _evaluated(self, params: Params, call: EvaluateCall) -> jax.Array:
        real = self._placing.from_blocks(
            sharded.ROWS, {place: call.real[place : place + 1] for place in self._placing.own}
        )
        return sharded.evaluate(params, *call.rows(), real, mesh=self.mesh)

    def _calls(self, indices: Iterable[int], done: int) -> Iterator[tuple[int, TrainCall | EvaluateCall | None]]:
        """The calls of one epoch after the other, with its index; None is an epoch's end."""
        for index in indices:
            for train_call in self._train.calls(self._seed, index, done):
                yield index, train_call
            if self._validation is not None:
                for evaluate_call in self._validation.calls():
                    yield index, evaluate_call
            yield index, None
            done = 0

    def _metrics(self, measured: _Measured, validated: _Measured) -> dict[str, float]:
        loss, accuracy = measured.total() / self._train.num_rows
        return {"loss": float(loss), "accuracy": float(accuracy)} | self._validation_metrics(validated)

    def _validation_metrics(self, validated: _Measured) -> dict[str, float]:
        if self._validation is None:
            return {}
        loss, accuracy = validated.total() / self._validation.num_rows
        return {"validation_loss": float(loss), "validation_accuracy": float(accuracy)}

    @property
    def _order(self) -> dict[str, Any]:
        return {"batch_size": self._train.batch_size, **self._train.order}

    def _position(self, index: int, done: int, measured: _Measured) -> dict[str, Any]:
        return {"epoch": index, "batches": done, "sums": measured.total().tolist(), "order": self._order}

    def _from(self, position: dict[str, Any] | None) -> tuple[int, _Measured]:
        if position is None:
            return 0, NOTHING
        if position["order"] != self._order:
            raise TransferError(
                f"training stopped within an epoch whose rows were in the order {position['order']}, which is now "
                f"{self._order}; train on the same features with the same settings, or take another --workdir"
            )
        return position["batches"], _Measured(np.array(position["sums"]))


@jax.jit
def _next(epoch: jax.Array) -> jax.Array:
    return epoch + 1


def make_epochs(
    train: Split,
    validation: Split | None,
    num_classes: int,
    mesh: Mesh,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    *,
    seed: int = 0,
    order: str = "rows",
    chunk_rows: int = CHUNK_ROWS,
    window_rows: int | None = None,
    stream: bool = False,
    shuffle: bool = True,
) -> Epochs:
    """The published recipe over a mesh. The numbers are those of one device, up to the order of additions.

    Args:
        train, validation: features and labels, as arrays or as a store's.
        num_classes: above every label.
        mesh: of the axes `data` (rows) and `model` (classes).
        batch_size: rows a step; the last batch of an epoch has what is left.
        order: "rows" or "chunks", see `transfer.training.parallel.shuffle`.
        chunk_rows: rows of a chunk, for a store its `metadata["batch_size"]`: reading is by whole chunks.
        window_rows: rows of a window of chunks; None: as many as are 256 MiB of float32.
        stream: whether rows are read as training goes, instead of once; in the order "chunks" only.

    Raises TransferError for rows no head can use (when they are read), UsageError for a bad argument.
    """
    for name, value in (("batch_size", batch_size), ("chunk_rows", chunk_rows), ("window_rows", window_rows or 1)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    if order not in ORDERS:
        raise UsageError(f"order={order!r} is not one of {', '.join(ORDERS)}")
    if stream and order != "chunks":
        raise UsageError(f"rows are streamed in the order 'chunks' only, not {order!r}")
    if validation is not None and validation.num_features != train.num_features:
        raise TransferError(
            f"validation features are {validation.num_features} a row, training features {train.num_features}"
        )
    reader = Reader(train, num_classes)
    window_rows = window_rows or default_window(train.num_features)
    chunks = Chunks(reader.num_rows, chunk_rows, window_rows, shuffle)
    own: Training
    held: Validation | None = None
    if stream:
        own = Streamed(reader, mesh, batch_size, chunks)
    elif order == "chunks":
        own = Resident(reader, mesh, batch_size, chunks.rows, chunks.settings())
    else:
        settings = {"order": "rows", "num_rows": reader.num_rows, "shuffle": shuffle}
        rows_of = partial(permutation, reader.num_rows) if shuffle else lambda *_: np.arange(reader.num_rows)
        own = Resident(reader, mesh, batch_size, rows_of, settings)
    if validation is not None:
        checked = Reader(validation, num_classes, "validation ")
        held = (
            StreamedValidation(checked, mesh, chunk_rows, window_rows) if stream else ResidentValidation(checked, mesh)
        )
    return Epochs(own, held, mesh, learning_rate, seed)
