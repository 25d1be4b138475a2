"""Ids of images that are made when they are asked for: a list of ten million takes a gigabyte."""

import operator
from collections.abc import Callable, Sequence
from typing import Any


class LazyIds(Sequence[str]):
    """`count` ids, of which number i is `make(i)`; a slice of them is a list."""

    def __init__(self, count: int, make: Callable[[int], str]) -> None:
        self._rows, self._make = range(count), make

    def __getitem__(self, index: Any) -> Any:
        return list(map(self._make, self._rows[index])) if isinstance(index, slice) else self._make(self._rows[index])

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]


def numbered(count: int, folder: str | None = None) -> LazyIds:
    """The ids `000000`, `000001`, …, below a folder `FOLDER/000000`."""
    above = f"{folder}/" if folder else ""
    return LazyIds(count, lambda row: f"{above}{row:06d}")
