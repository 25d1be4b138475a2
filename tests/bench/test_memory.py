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


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 2_500_000_000)
    machine.require_host(2_500_000_000)
    with pytest.raises(machine.OutOfMemory, match=r"^2.5 GB are needed and 2.5 GB are free$"):
        machine.require_host(2_500_000_001)
    # where the system does not say what is free
    monkeypatch.setattr(machine, "available_memory", lambda: None)
    machine.require_host(10**15)
