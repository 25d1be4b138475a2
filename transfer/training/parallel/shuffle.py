"""The order in which an epoch takes the rows: a function of the seed and the epoch alone, the same on any machine.

"rows" permutes all rows, which is the published recipe; it needs them all at hand. "chunks" is for rows that are read
from a store as training goes: its chunks are shuffled, then the rows inside a window of several chunks, so that a
window is all that must be in memory. Whatever holds the rows, and however many devices, the order is the same.
"""

import dataclasses

import jax
import numpy as np

ORDERS = ("rows", "chunks")
# A window of chunks holds so many bytes of features, counted as float32, unless a number of rows is asked for.
WINDOW_BYTES = 256 << 20
# Rounds of the Feistel network that shuffles chunks; four make a pseudo-random permutation of a good mixing function.
ROUNDS = 6


def permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Order "rows": int (N,), all rows, shuffled on the host as `transfer.heads.gradient` does on the device."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to know its accelerator only
        host = jax.local_devices()[0]
    with jax.default_device(host):
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        return np.asarray(jax.random.permutation(key, num_rows))


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Order "chunks". Holds no array of all rows, nor of all chunks."""

    num_rows: int  # N, at least 1
    chunk_rows: int  # of a chunk; the last chunk has what is left
    window_rows: int  # at most so many are in a window, but one chunk at least

    @property
    def num_chunks(self) -> int:
        """The number of chunks of the whole data set."""
        return -(-self.num_rows // self.chunk_rows)

    @property
    def num_windows(self) -> int:
        """The number of windows of an epoch, whose numbers of chunks differ by one at most."""
        return -(-self.num_chunks // max(1, self.window_rows // self.chunk_rows))

    @property
    def most_chunks(self) -> int:
        """The number of chunks that a window has at most."""
        return -(-self.num_chunks // self.num_windows)

    def chunks(self, window: int, seed: int, epoch: int) -> np.ndarray:
        """int64 (n,): the chunks of a window."""
        start, stop = (edge * self.num_chunks // self.num_windows for edge in (window, window + 1))
        return _shuffled(np.arange(start, stop), self.num_chunks, _words(seed, epoch, 0, ROUNDS))

    def size(self, window: int, seed: int, epoch: int) -> int:
        """The number of rows of a window."""
        chunks = self.chunks(window, seed, epoch)
        return int(np.minimum(self.chunk_rows, self.num_rows - chunks * self.chunk_rows).sum())

    def window(self, window: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 (n,): the chunks of a window; int64 (rows,): its rows in the order of training, as slots.

        Row `r` of the `i`th chunk is the slot `i * chunk_rows + r`; a short last chunk leaves some empty.
        """
        chunks = self.chunks(window, seed, epoch)
        rows = chunks[:, None] * self.chunk_rows + np.arange(self.chunk_rows)
        slots = np.flatnonzero(rows.reshape(-1) < self.num_rows)
        return chunks, slots[np.argsort(_words(seed, epoch, window + 1, len(slots)), kind="stable")]

    def rows(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (N,): the whole epoch, for rows that are all at hand."""
        size, windows = self.chunk_rows, (self.window(number, seed, epoch) for number in range(self.num_windows))
        return np.concatenate([chunks[slots // size] * size + slots % size for chunks, slots in windows])


def default_window(num_features: int) -> int:
    """Rows of a window where none are asked for; the same whatever type the features are stored in."""
    return max(1, WINDOW_BYTES // (4 * num_features))


def _words(seed: int, epoch: int, stream: int, count: int) -> np.ndarray:
    """uint64 (count,): random words. A bit generator's raw output is the same in every version of NumPy."""
    return np.random.Philox(np.random.SeedSequence([seed % 2**64, epoch, stream])).random_raw(count)


def _shuffled(numbers: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """The numbers that a pseudo-random permutation of [0, size) maps `numbers` to.

    A Feistel network permutes the numbers of an even number of bits; what falls outside of [0, size) goes round again.
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    values, outside = numbers.astype(np.uint64), np.ones(len(numbers), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        values[outside] = left << half | right
        outside = values >= size
    return values.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """uint64 -> uint64: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
