"""Memory of this process, without JAX: how much there is, and that long runs with many threads take no more of it."""

import contextlib
import ctypes
import os
from pathlib import Path

# Of glibc's malloc.h.
_M_ARENA_MAX = -8
# glibc gives threads heaps of their own, up to eight for each core, and a heap keeps pieces of what has passed through
# it: streaming a million rows of 64 features took 7 MB more after each epoch, on two cores. With two heaps it took no
# more memory, and no more time.
HEAPS = 2
# What a container's limit is read from: version 2 and version 1.
CGROUP, CGROUP_LIMITS = Path("/sys/fs/cgroup"), ("memory.max", "memory/memory.limit_in_bytes")


def host_memory() -> int:
    """The bytes of memory of this machine, or of the container that this process is in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            total = min(total, int((CGROUP / file).read_text()))
    return total


def available_memory() -> int | None:
    """The bytes of memory that programs can still have, by the kernel and by a container's limit; None: not known."""
    if not Path("/proc/meminfo").exists():
        return None
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    for limit, usage in zip(CGROUP_LIMITS, ("memory.current", "memory/memory.usage_in_bytes"), strict=True):
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            free = min(free, int((CGROUP / limit).read_text()) - int((CGROUP / usage).read_text()))
    return max(free, 0)


def limit_heaps() -> None:
    """Limits this process to two heaps, where the allocator is glibc's; to be called before there are threads."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, HEAPS)
