"""Rows that are read as training goes: a window of whole chunks at a time, the next one ahead.

The chunks of a window are dealt out to the places along `data`; a process reads those of its own places and no other
row. One call trains on all batches that a window completes. What is left of it, less than a batch, waits at the places
that have it, and is part of the next window's first batch; so the batches are those of rows that are all in memory.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from transfer.training.parallel.calls import EvaluateCall, TrainCall, lengths, shares
from transfer.training.parallel.dealing import deal, rounded, usual_width, within_group
from transfer.training.parallel.placing import Placing
from transfer.training.parallel.reader import Piece, Reader, pieces
from transfer.training.parallel.sharded import ROWS
from transfer.training.parallel.shuffle import Chunks

# Of each own place: features (R, D), labels (R,).
Buffers = dict[int, tuple[np.ndarray, np.ndarray]]


class Left(NamedTuple):
    """Rows that wait for the next window, in the order of training.

    Attributes:
        owners: the place that has each.
        rows: of each own place its rows, features (n, D) and labels (n,), in that order.
    """

    owners: np.ndarray
    rows: Mapping[int, tuple[np.ndarray, np.ndarray]]


class Streamed:
    """Rows to train on, in the order of `chunks`; see `transfer.training.parallel.calls.Training`."""

    def __init__(self, reader: Reader, mesh: Mesh, batch_size: int, chunks: Chunks) -> None:
        self.num_rows, self.batch_size, self.order = reader.num_rows, batch_size, chunks.settings()
        self._reader, self._placing, self._chunks = reader, Placing(mesh), chunks
        # rows of a window at one place
        self._window_rows = math.ceil(chunks.most_chunks / self._placing.places) * chunks.chunk_rows
        self._usual = usual_width(batch_size, self._placing.places, batch_size)
        # most batches that a window completes
        self._steps = math.ceil(chunks.most_chunks * chunks.chunk_rows / batch_size) + 1

    def calls(self, seed: int, epoch: int, done: int) -> Iterator[TrainCall]:
        """See `calls.Training`; a call's rows are read before it is given, with its window."""
        window, skipped = self._start(seed, epoch, done)
        left = Left(np.empty(0, np.int64), {})
        for number in range(window, self._chunks.num_windows):
            owners, places, buffers = self._read(number, seed, epoch, left)
            waited = len(left.owners)
            owners, places = (np.delete(array, slice(waited, waited + skipped)) for array in (owners, places))
            skipped = 0
            last = number == self._chunks.num_windows - 1
            batches = math.ceil(len(owners) / self.batch_size) if last else len(owners) // self.batch_size
            trained = batches * self.batch_size
            left = self._left(owners[trained:], places[trained:], buffers)
            if batches:
                done += batches
                yield self._call(owners[:trained], places[:trained], buffers, done)

    def _start(self, seed: int, epoch: int, done: int) -> tuple[int, int]:
        """The window that has the first row that is still to be trained on, and how many rows before it it has."""
        rows, window = done * self.batch_size, 0
        while window < self._chunks.num_windows and rows >= (size := self._chunks.size(window, seed, epoch)):
            rows, window = rows - size, window + 1
        return window, rows

    def _read(self, number: int, seed: int, epoch: int, left: Left) -> tuple[np.ndarray, np.ndarray, Buffers]:
        """The rows that waited and those of a window: whose they are, where they lie there, and the rows themselves."""
        window, rows = self._chunks.window(number, seed, epoch), self._chunks.chunk_rows
        count = self._placing.places
        waiting = within_group(left.owners, count)
        # room for as many as wait usually; for more, where more do
        room = max(self._usual, rounded(int(waiting.max(initial=-1)) + 1))
        buffers: Buffers = {place: self._reader.buffers(self._window_rows + room) for place in self._placing.own}
        jobs = []
        for place, own in buffers.items():
            chunks = window.chunks[place::count]
            jobs.append((own, [self._piece(slot * rows, chunk) for slot, chunk in enumerate(chunks.tolist())]))
            for buffer, kept in zip(own, left.rows.get(place, ()), strict=False):
                buffer[self._window_rows : self._window_rows + len(kept)] = kept
        self._reader.fill(jobs)
        slot, row = window.slots // rows, window.slots % rows
        owners = np.concatenate([left.owners, slot % count])
        places = np.concatenate([self._window_rows + waiting, slot // count * rows + row])
        return owners, places, buffers

    def _piece(self, place: int, chunk: int) -> Piece:
        rows = self._chunks.chunk_rows
        return Piece(place, chunk * rows, min((chunk + 1) * rows, self.num_rows))

    def _left(self, owners: np.ndarray, places: np.ndarray, buffers: Buffers) -> Left:
        kept = {}
        for place, (features, labels) in buffers.items():
            own = places[owners == place]
            kept[place] = features[own], labels[own]
        return Left(owners, kept)

    def _call(self, owners: np.ndarray, places: np.ndarray, buffers: Buffers, done: int) -> TrainCall:
        taken, counts = deal(owners, places, self.batch_size, self._placing.places, self._usual)
        more = self._steps - len(counts)
        taken = np.pad(taken, ((0, more), (0, 0), (0, 0)), constant_values=-1)
        return TrainCall(partial(_put, self._placing, buffers), taken, np.pad(counts, (0, more)), None, done)


class StreamedValidation:
    """Rows to validate on, `window_rows` at a time; see `transfer.training.parallel.calls.Validation`."""

    def __init__(self, reader: Reader, mesh: Mesh, chunk_rows: int, window_rows: int) -> None:
        self.num_rows = reader.num_rows
        self._reader, self._placing, self._chunk_rows = reader, Placing(mesh), chunk_rows
        self._window_rows = min(max(1, window_rows // chunk_rows) * chunk_rows, self.num_rows)

    def calls(self) -> Iterator[EvaluateCall]:
        """See `transfer.training.parallel.calls.Validation`."""
        block, _ = shares(0, self._window_rows, self._placing.places)
        for start in range(0, self.num_rows, self._window_rows):
            stop = min(start + self._window_rows, self.num_rows)
            edges = [min(start + i * block, stop) for i in range(self._placing.places + 1)]
            blocks = list(zip(edges, edges[1:], strict=False))
            buffers: Buffers = {place: self._reader.buffers(block) for place in self._placing.own}
            self._reader.fill([(own, pieces(*blocks[place], self._chunk_rows)) for place, own in buffers.items()])
            yield EvaluateCall(partial(_put, self._placing, buffers), lengths(blocks))


def _put(placing: Placing, buffers: Buffers) -> tuple[jax.Array, jax.Array]:
    """Onto the devices; once, as the host lets go of them."""
    features = placing.from_blocks(ROWS, {place: own[0] for place, own in buffers.items()})
    labels = placing.from_blocks(ROWS, {place: own[1] for place, own in buffers.items()})
    buffers.clear()
    return features, labels
