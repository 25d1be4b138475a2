"""Lists of rows by device: every row once, on the device that has it, in the batch that it belongs to."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.training.parallel import dealing


@settings(max_examples=100, deadline=None)
@given(num_rows=st.integers(0, 200), batch_size=st.integers(1, 64), devices=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_row_is_dealt_to_its_owner(num_rows, batch_size, devices, seed):
    order = np.random.default_rng(seed).permutation(num_rows)
    block = max(1, -(-num_rows // devices))
    usual = dealing.usual_width(batch_size, devices, block)
    taken, counts = dealing.deal(order // block, order % block, batch_size, devices, usual)
    assert len(taken) == len(counts) == -(-num_rows // batch_size) and taken.shape[2] <= batch_size
    for step, batch in enumerate(taken):
        rows = [device * block + place for device, places in enumerate(batch) for place in places if place >= 0]
        assert sorted(rows) == sorted(order[step * batch_size : (step + 1) * batch_size])
        assert counts[step] == len(rows)


def test_widths_are_few():
    assert [dealing.rounded(n) for n in (0, 1, 2, 3, 4, 5, 7, 9, 13, 17, 25)] == [1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert dealing.usual_width(256, 1, 1000) == 256 and dealing.usual_width(256, 8, 3) == 3
    assert dealing.usual_width(256, 256, 5000) == 8 and dealing.usual_width(256, 8, 5000) == 64


def test_a_crowded_batch_widens_the_list():
    taken, _ = dealing.deal(np.zeros(64, int), np.arange(64), 32, 8, 8)
    assert taken.shape == (2, 8, 32)
