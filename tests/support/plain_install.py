"""A Python in which some packages and what they need can be imported and no other: `only`, before anything else is."""

import configparser
import importlib.metadata as metadata
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]


def declared(extra: str | None = None) -> list[str]:
    """The requirements in `setup.cfg`: those of the package, or of one of its extras."""
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    text = parser["options.extras_require"][extra] if extra else parser["options"]["install_requires"]
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def distributions(requirements: Iterable[str]) -> set[str]:
    """Names of what `pip install` would bring of what is here: the requirements, and what those require."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        one = waiting.pop()
        for extra in ("", *one.extras):
            key = (canonicalize_name(one.name), extra)
            if key in found or (one.marker and not one.marker.evaluate({"extra": extra})):
                continue
            found.add(key)
            try:
                needed = [Requirement(line) for line in metadata.requires(one.name) or ()]
            except metadata.PackageNotFoundError:
                continue
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


class _Missing(MetaPathFinder):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def only(requirements: Sequence[str], *also: str) -> None:
    """From here on nothing can be imported but these requirements, what they need, the standard library and `also`."""
    kept = distributions(requirements)
    by_module = metadata.packages_distributions()
    missing = {name for name, of in by_module.items() if not kept & set(map(canonicalize_name, of))} - set(also)
    for name in [name for name in sys.modules if name.partition(".")[0] in missing]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Missing(missing))
