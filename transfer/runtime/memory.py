"""How much memory there is for this process, asked without JAX."""

import contextlib
import os
from pathlib import Path


def host_memory() -> int:
    """Bytes of this machine, or of the container that this process is in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            total = min(total, int(Path(file).read_text()))
    return total
