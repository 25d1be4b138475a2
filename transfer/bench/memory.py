"""How much memory a device, or on a CPU the process, has held at most, and how much is free."""

import contextlib
import resource
import sys
from pathlib import Path

import jax

from transfer.errors import TransferError
from transfer.runtime.memory import available_memory

# Linux: writing 5 there sets the peak of the resident set (VmHWM) back to what is resident now.
CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
KILOBYTE = 1024


class OutOfMemory(TransferError):
    """What was asked for does not fit; the message says how much it was."""


class Peak:
    """The most memory held from its making on: `peak.bytes()`."""

    def __init__(self) -> None:
        self._before = _devices_peak()
        if not self._before and CLEAR.exists():
            # where it is not allowed, the peak is that of the whole process
            with contextlib.suppress(OSError):
                CLEAR.write_text("5")

    def bytes(self) -> int | None:
        """On the fullest local device; on a CPU, resident in the process. None where the runtime does not say.

        A device's own peak is never set back. Where it has not risen since the start, what it held before was more,
        and there is no figure.
        """
        peaks = _devices_peak()
        if not peaks:
            return _resident_peak() if jax.default_backend() == "cpu" else None
        risen = [after for before, after in zip(self._before, peaks, strict=True) if after > before]
        return max(risen, default=None)


def _devices_peak() -> list[int]:
    statistics = [device.memory_stats() or {} for device in jax.local_devices()]
    return [device["peak_bytes_in_use"] for device in statistics if "peak_bytes_in_use" in device]


def _resident_peak() -> int:
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * KILOBYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KILOBYTE


def require_host(bytes_needed: int) -> None:
    """OutOfMemory where the host has not so much left: asking for it would end the process, not raise."""
    free = available_memory()
    if free is not None and bytes_needed > free:
        raise OutOfMemory(f"{bytes_needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")
