"""One item ahead: a thread makes the next item of an iterator while the one before is worked on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items; an error of the iterator is raised where its item was due. Holds one item that is not asked for.

    Closing it waits for the item that is being made.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        coming = pool.submit(next, items, _END)
        while True:
            item = coming.result()
            if item is _END:
                return
            coming = pool.submit(next, items, _END)
            yield item
            del item  # it may be large, and the next one is there already
