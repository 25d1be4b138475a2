"""Where a benchmark ran: devices, versions, flags and commit."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

# Versions that are noted where they are installed.
PEER_PACKAGES = ("torch", "torchvision", "onnxruntime", "openvino", "keras", "scikit-learn")


@functools.cache
def machine() -> dict[str, Any]:
    """What every row of a run shares, JSON-able.

    `devices` are those of this host, which the extractor uses; `hosts` counts JAX's processes; `commit` ends in `+`
    where files differed from it and is None outside a repository; `packages` are those that may be compared with.
    """
    devices = jax.local_devices()
    return {
        "device_kind": devices[0].device_kind,
        "platform": jax.default_backend(),
        "processor": _processor(),
        "devices": len(devices),
        "hosts": jax.process_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
        "packages": {name: version for name in PEER_PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Of the repository that these sources are part of; an installed package may lie in somebody else's."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", __file__) is None:
        return None
    head = git("rev-parse", "--short", "HEAD")
    return head and head + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")
