"""Energy by the machine's own counters: of NVIDIA's GPUs (NVML), else of the processor's packages (Linux' RAPL)."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

import jax

RAPL = Path("/sys/class/powercap")
# What reads joules, and at how many it begins again.
Counter = tuple[Callable[[], float], float]


class Meter:
    """What all local devices have used since the meter was made: `meter.joules()`; None where nothing counts it."""

    def __init__(self) -> None:
        self._counters = _counters()
        self._before = [counter() for counter, _ in self._counters]

    def joules(self) -> float | None:
        """So many so far, of all of a GPU or processor, whoever uses it."""
        if not self._counters:
            return None
        used = 0.0
        for (counter, wrap), before in zip(self._counters, self._before, strict=True):
            passed = counter() - before
            used += passed if passed >= 0 else passed + wrap  # a counter begins again when it is full
        return used


@functools.cache
def _counters() -> list[Counter]:
    # what a TPU uses nobody says
    return {"gpu": _gpus, "cpu": _packages}.get(jax.default_backend(), list)()


def _gpus() -> list[Counter]:
    """A counter of each GPU, in joules, if NVIDIA's own package is there, and JAX uses all GPUs of the machine."""
    try:
        import pynvml  # of the package nvidia-ml-py

        pynvml.nvmlInit()
        if pynvml.nvmlDeviceGetCount() != jax.local_device_count():
            return []

        def joules(index: int) -> float:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

        indices = range(jax.local_device_count())
        sum(map(joules, indices))
    except Exception:  # there is no package, no library, no such counter; which has no common class of error
        return []
    return [(functools.partial(joules, index), 0.0) for index in indices]


def _packages() -> list[Counter]:
    """A counter of each processor's package, in joules, and where it wraps; most systems let root only read them."""

    def joules(file: Path) -> float:
        return int(file.read_text()) / 1e6

    counters: list[Counter] = []
    with contextlib.suppress(OSError, ValueError):
        for folder in sorted(RAPL.glob("intel-rapl:*")):  # AMD's are called so, too
            # others are parts of a package, or have all of the machine in them
            if (folder / "name").read_text().startswith("package"):
                energy, full = folder / "energy_uj", folder / "max_energy_range_uj"
                joules(energy)
                counters.append((functools.partial(joules, energy), joules(full)))
        return counters
    return []
