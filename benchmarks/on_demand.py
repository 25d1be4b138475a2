"""Sequences as long as one likes that take no memory: ids and labels of data sets that are made to be measured."""

from collections.abc import Callable, Sequence
from typing import Any


class OnDemand(Sequence[Any]):
    """`count` values, each made from its index when it is asked for; slices are lists."""

    def __init__(self, count: int, one: Callable[[int], Any]) -> None:
        self._length, self._one = count, one

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self._one(index) for index in range(*key.indices(self._length))]
        return self._one(range(self._length)[key])
