"""Rows assigned to devices: every row once, on the device that has it, in the batch that it belongs to."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.training.parallel import batches


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
