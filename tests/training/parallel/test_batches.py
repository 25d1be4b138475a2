"""Rows assigned to devices: every row once, on the device that has it, in the batch that it belongs to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.runtime import devices
from transfer.training.parallel import batches
from transfer.training.parallel.reader import Reader, Split
from transfer.training.parallel.shuffle import Chunks


@settings(max_examples=100, deadline=None)
@given(num_rows=st.integers(1, 200), batch_size=st.integers(1, 64), devices=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_row_is_assigned_to_the_device_that_has_it(num_rows, batch_size, devices, seed):
    order = np.random.default_rng(seed).permutation(num_rows)
    block = -(-num_rows // devices)
    width = batches.usual_width(batch_size, devices, block)
    indices, sizes = batches.assign_rows_to_devices(order // block, order % block, batch_size, devices, width)
    assert len(indices) == len(sizes) == -(-num_rows // batch_size) and indices.shape[2] <= batch_size
    for step, batch in enumerate(indices):
        rows = [device * block + index for device, local in enumerate(batch) for index in local if index >= 0]
        assert sorted(rows) == sorted(order[step * batch_size : (step + 1) * batch_size])
        assert sizes[step] == len(rows)


def test_widths_are_few():
    assert [batches.rounded_width(n) for n in (0, 1, 2, 3, 4, 5, 7, 9, 13, 17)] == [1, 1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert batches.rounded_width(25) == 32
    assert batches.usual_width(256, 1, 1000) == 256 and batches.usual_width(256, 8, 3) == 3
    assert batches.usual_width(256, 256, 5000) == 8 and batches.usual_width(256, 8, 5000) == 64


def test_rows_lie_in_a_batch_in_the_order_of_training():
    devices, local = [1, 0, 1, 1, 0, 0, 0], [5, 0, 4, 3, 2, 1, 9]
    indices, sizes = batches.assign_rows_to_devices(np.array(devices), np.array(local), 3, 2, 1)
    assert indices.tolist() == [[[0, -1], [5, 4]], [[2, 1], [3, -1]], [[9, -1], [-1, -1]]]
    assert indices.dtype == np.int32 and sizes.dtype == np.float32 and sizes.tolist() == [3, 3, 1]


def test_a_crowded_batch_widens_the_list():
    indices, _ = batches.assign_rows_to_devices(np.zeros(64, int), np.arange(64), 32, 8, 8)
    assert indices.shape == (2, 8, 32)


class Recorded:
    """Rows whose only feature is their number, which takes down what is read of them."""

    dtype = np.dtype(np.float32)

    def __init__(self, rows):
        self.shape, self.read = (rows, 1), []

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        self.read += range(rows.start, rows.stop)
        return np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]


@pytest.mark.parametrize("batch_size", [4, 5, 21, 30])
@pytest.mark.parametrize("streamed", [False, True], ids=["resident", "streamed"])
def test_an_epoch_goes_on_behind_any_batch(streamed, batch_size, monkeypatch):
    """Every row once, in the order of the epoch, in batches of which the last has what is left; no more is read."""
    monkeypatch.setattr(batches, "MOST_BATCHES", 2)
    order, mesh, features = Chunks(21, 4, 8), devices.head_mesh(), Recorded(21)
    reader = Reader(Split(features, np.arange(21) % 3), 3)
    if streamed:
        rows = batches.Streamed(reader, mesh, batch_size, order)
    else:
        rows = batches.Resident(reader, mesh, batch_size, order.rows)
        assert sorted(features.read) == list(range(21)), "every row is read once"
    epoch, windows = order.rows(3, 1), np.cumsum([order.size(window, 3, 1) for window in range(order.num_windows)])
    whole = [epoch[start : start + batch_size].tolist() for start in range(0, 21, batch_size)]
    for done in range(len(whole)):
        features.read.clear()
        trained, ends = [], []
        for (x, y, indices, sizes), num_steps, after in rows.chunks(3, 1, done):
            real = np.asarray(sizes) > 0
            assert real.any() and num_steps == (None if streamed else len(sizes))
            for batch, size in zip(np.asarray(indices)[real], np.asarray(sizes)[real], strict=True):
                local = batch[batch >= 0]
                trained.append(np.asarray(x)[local, 0].astype(int).tolist())
                assert len(local) == size and np.asarray(y)[local].tolist() == [row % 3 for row in trained[-1]]
            ends.append((done + len(trained), after))
        assert trained == whole[done:] and all(by_count == after for by_count, after in ends)
        skipped = epoch[: max((int(end) for end in windows if end <= done * batch_size), default=0)]
        assert sorted(features.read) == (sorted(set(range(21)) - set(skipped)) if streamed else [])


@pytest.mark.parametrize(
    "window_rows, windows", [(None, [21]), (8, [8, 8, 5]), (11, [8, 8, 5]), (3, [4] * 5 + [1]), (99, [21])]
)
def test_rows_to_validate_on_come_once_and_in_their_order(window_rows, windows):
    features = Recorded(21)
    reader, mesh = Reader(Split(features, np.arange(21) % 3), 3), batches.DataMesh(devices.head_mesh())
    blocks = batches.RowBlocks(reader, mesh, window_rows, *([4] if window_rows else []))
    assert features.read == ([] if window_rows else list(range(21)))
    for times in (1, 2):
        rows, counts = [], []
        for x, y, (count,) in blocks.chunks():
            counts.append(int(count))
            rows += np.asarray(x)[:count, 0].astype(int).tolist()
            assert np.asarray(y)[:count].tolist() == [row % 3 for row in rows[-count:]]
            assert len(x) == max(windows), "one program serves all windows"
        assert counts == windows and rows == list(range(21))
        assert sorted(features.read) == sorted([*range(21)] * (times if window_rows else 1))
