"""Peaks of memory are those of a row, and what cannot fit is refused beforehand."""

import numpy as np
import pytest

from transfer.bench import memory

BLOCK = 200 * 2**20


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="the peak can be set back on Linux only")
def test_the_peak_is_of_what_was_held_since():
    before = memory.Peak()
    np.ones(BLOCK, np.uint8)
    high = before.bytes()
    after = memory.Peak().bytes()
    assert high - after > 0.9 * BLOCK


def test_what_does_not_fit_is_refused():
    available = memory.available_memory()
    if available is None:
        pytest.skip("the system does not say what is free")
    memory.require_host(available // 4)
    with pytest.raises(memory.OutOfMemory, match="GB are needed and .* GB are free"):
        memory.require_host(available * 4)
