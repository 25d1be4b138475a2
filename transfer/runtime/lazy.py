"""Public names that a package hands on from its modules at first use, so that importing the package costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The functions `__getattr__` and `__dir__` and the list `__all__` of a package.

    Args:
        homes: public name -> the module that holds it. For type checkers the package also imports them, as themselves
            (`from … import Name as Name`), under `if TYPE_CHECKING`.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    def names() -> list[str]:
        in_it = vars(sys.modules[package])
        return sorted({*homes, *(name for name in in_it if name[:2] == "__" or f"{package}.{name}" in sys.modules)})

    return load, names, list(homes)
