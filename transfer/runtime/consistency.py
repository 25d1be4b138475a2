"""What has to be the same in all processes of a run: the versions of what they run, the command, its settings.

Where it is not, each would wait for the others at another place, for ever; so it is compared as they meet
(`transfer.runtime.rendezvous`), before anything starts.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from transfer.errors import TransferError, UsageError
from transfer.runtime import distribution

# "versions" or "settings" -> name -> value, of one process.
Facts = Mapping[str, Mapping[str, str]]

# Packages that decide which steps the processes take, and what they say to each other. Of Python the minor version:
# machines are patched one by one.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
# What differs -> how a value is written behind its name, what to do, the error. Settings of other versions differ, too.
KINDS: Mapping[str, tuple[str, str, type[TransferError]]] = {
    "versions": (" ", "install the same versions for all processes", TransferError),
    "settings": ("=", "give all processes the same command", UsageError),
}
MOST_NAMED, MOST_VALUES, LONGEST = 8, 4, 80
ABSENT = "none"


def local_facts(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Those of this process; `settings` are JSON values by name."""
    return {"versions": versions(), "settings": {name: _short(repr(value)) for name, value in settings.items()}}


def versions() -> dict[str, str]:
    """Of the package, of Python, and of what else has to be the same."""
    from importlib import metadata  # not where one process is alone

    found = {"transfer": distribution.VERSION, "Python": "{}.{}".format(*sys.version_info)}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # it was not installed as a package
            found[package] = ABSENT
    return found


def check_same(of: Mapping[int, Facts]) -> None:
    """Raises an error that names what differs between which processes: of the facts of each, by its number.

    Raises:
        TransferError: versions differ.
        UsageError: settings differ.
    """
    for kind, (sign, hint, error) in KINDS.items():
        each = {process: own.get(kind, {}) for process, own in sorted(of.items())}
        names = dict.fromkeys(name for own in each.values() for name in own)
        differing = [phrase for name in names if (phrase := _difference(name + sign, name, each))]
        if differing:
            more = f"; {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
            raise error(f"{'; '.join(differing[:MOST_NAMED])}{more}: {hint}")


def _difference(shown: str, name: str, each: Mapping[int, Mapping[str, str]]) -> str:
    """ "process 1 has jax 0.10.1, processes 0 and 2 have 0.10.2"; "" where it is the same in all."""
    groups: dict[str, list[int]] = {}
    for process, own in each.items():
        groups.setdefault(own.get(name, ABSENT), []).append(process)
    if len(groups) == 1:
        return ""
    usual, *odd = groups.items()  # process 0's comes last
    phrases = [
        f"{describe_processes(processes)} {'have' if len(processes) > 1 else 'has'} {'' if i else shown}{value}"
        for i, (value, processes) in enumerate([*odd[: MOST_VALUES - 1], usual])
    ]
    return ", ".join(phrases) + (" (and others yet other values)" if len(groups) > MOST_VALUES else "")


def describe_processes(processes: Iterable[int]) -> str:
    """ "process 2", "processes 2 and 3", "processes 1, 2, … (60 in all)"."""
    numbers = sorted(processes)
    few = ", ".join(map(str, numbers[:8])) + (f", … ({len(numbers)} in all)" if len(numbers) > 8 else "")
    if len(numbers) <= 8:
        few = " and ".join(few.rsplit(", ", 1))
    return f"process{'es' if len(numbers) > 1 else ''} {few}"


def _short(text: str) -> str:
    """A long value's beginning, and a hash of all of it."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]}… (hash {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]})"
