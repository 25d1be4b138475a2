"""What has to be the same in all processes of a run: versions, the command and its settings, variables of JAX.

Where it is not, each would wait for the others at another place, for ever; so it is compared as they meet
(`transfer.runtime.rendezvous`), before anything starts.
"""

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from transfer.errors import TransferError, UsageError
from transfer.runtime import distribution

# A kind of `KINDS` -> name -> value, of one process.
Facts = Mapping[str, Mapping[str, str]]

# Packages that decide which steps the processes take, and what they send each other. Of Python the minor version:
# machines are patched one by one.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
# What differs -> how a value is written behind its name, what to do, the error. Settings of other versions differ, too.
KINDS: Mapping[str, tuple[str, str, type[TransferError]]] = {
    "versions": (" ", "install the same versions for all processes", TransferError),
    "settings": ("=", "give all processes the same command", UsageError),
    "variables": ("=", "set it alike in the environment of all processes", UsageError),
}
# Variables of the environment that change what a program computes, its numbers or its steps.
VARIABLES = (
    *("JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL", "JAX_THREEFRY_PARTITIONABLE"),
    *("JAX_NUMPY_DTYPE_PROMOTION", "JAX_DISABLE_JIT", "JAX_DEBUG_NANS", "JAX_DEBUG_INFS", "JAX_PLATFORMS"),
    *("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE"),
)
# What a program writes beside its results, each process where it likes.
BESIDE = "--xla_dump"
MAX_NAMES, MAX_VALUES, MAX_LENGTH = 8, 4, 80
ABSENT = "none"


def local_facts(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The facts of this process: the versions that it runs, and `settings`, JSON values by name."""
    from importlib import metadata  # not where one process is alone

    versions = {"transfer": distribution.VERSION, "Python": "{}.{}".format(*sys.version_info)}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # it was not installed as a package
            versions[package] = ABSENT
    return {
        "versions": versions,
        "settings": {name: _shortened(repr(value)) for name, value in settings.items()},
        "variables": {name: _shortened(_flags(os.environ[name])) for name in VARIABLES if os.environ.get(name)},
    }


def _flags(text: str) -> str:
    """The value of a variable, where it is flags without those of `BESIDE`, whatever their order."""
    return " ".join(sorted(flag for flag in text.split() if not flag.startswith(BESIDE)))


def check_same(facts: Mapping[int, Facts]) -> None:
    """Raises an error that names what differs between which processes: of the facts of each, by its number.

    Raises:
        TransferError: versions differ.
        UsageError: settings differ, or variables.
    """
    for kind, (sign, hint, error) in KINDS.items():
        values = {process: own.get(kind, {}) for process, own in sorted(facts.items())}
        names = dict.fromkeys(name for own in values.values() for name in own)
        differing = [phrase for name in names if (phrase := _difference(name, sign, values))]
        if differing:
            more = f"; {len(differing) - MAX_NAMES} more" if len(differing) > MAX_NAMES else ""
            raise error(f"{'; '.join(differing[:MAX_NAMES])}{more}: {hint}")


def _difference(name: str, sign: str, values: Mapping[int, Mapping[str, str]]) -> str:
    """ "process 1 has jax 0.10.1, processes 0 and 2 have 0.10.2"; "" where it is the same in all."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for process, own in values.items():
        groups[own.get(name, ABSENT)].append(process)
    if len(groups) == 1:
        return ""
    usual, *odd = groups.items()  # process 0's comes last
    phrases = [
        f"{describe_processes(processes)} {'have' if len(processes) > 1 else 'has'} {label}{value}"
        for label, (value, processes) in zip([name + sign, "", "", ""], [*odd[: MAX_VALUES - 1], usual], strict=False)
    ]
    return ", ".join(phrases) + (" (and others yet other values)" if len(groups) > MAX_VALUES else "")


def describe_processes(processes: Iterable[int]) -> str:
    """ "process 2", "processes 2 and 3", "processes 1, 2, … (60 in all)"."""
    numbers = sorted(processes)
    text = ", ".join(map(str, numbers[:8]))
    text = f"{text}, … ({len(numbers)} in all)" if len(numbers) > 8 else " and ".join(text.rsplit(", ", 1))
    return f"process{'es' if len(numbers) > 1 else ''} {text}"


def _shortened(text: str) -> str:
    """A long value's beginning, and a hash of all of it."""
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[: MAX_LENGTH // 2]}… (hash {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]})"
