"""Peaks of memory are those of a row, and what cannot fit is refused beforehand."""

import numpy as np
import pytest

from transfer.bench import machine

BLOCK = 200 * 2**20


@pytest.mark.skipif(not machine.CLEAR.exists(), reason="the peak can be set back on Linux only")
def test_the_peak_is_of_what_was_held_since():
    before = machine.Peak()
    np.ones(BLOCK, np.uint8)
    high = before.bytes()
    after = machine.Peak().bytes()
    assert high - after > 0.9 * BLOCK


def test_what_does_not_fit_is_refused():
    available = machine.available_memory()
    if available is None:
        pytest.skip("the system does not say what is free")
    machine.require_host(available // 4)
    with pytest.raises(machine.OutOfMemory, match="GB are needed and .* GB are free"):
        machine.require_host(available * 4)
