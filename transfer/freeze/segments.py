"""Cuts a model into stretches that go through a batch in chunks of their own, as many images as a core's cache takes.

Early layers of a network have large activations and small kernels: a core does best with an image or two at a time.
Late ones have it the other way round: every kernel that is read should meet the whole batch.
"""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

from transfer.models.graph.trace import Graph


@dataclass(frozen=True)
class Segment:
    """Nodes `start` to `stop`, the last left out, for `chunk` images at a time; node `start - 1` is all they take."""

    start: int
    stop: int
    chunk: int


def segments(graph: Graph, steps: Collection[int], batch: int, limit: int | None, itemsize: int = 4) -> list[Segment]:
    """The whole graph in order, for `batch` images of numbers of `itemsize` bytes.

    Args:
      steps: positions whose values exist: cuts are made right after one of them.
      limit: bytes that a node of a chunk and its inputs may take; None: one segment, the batch at once.
    """
    total = len(graph.nodes)
    if limit is None:
        return [Segment(1, total, batch)]
    edges = sorted({1, total, *(position + 1 for position in _cuts(graph, steps))})
    parts: list[Segment] = []
    # from the end: a stretch never takes more images than the one after it, or there would be cuts for a node or two
    for start, stop in reversed(list(itertools.pairwise(edges))):
        size = itemsize * max(_numbers(graph, position) for position in range(start, stop))
        chunk = next(n for n in range(batch, 0, -1) if batch % n == 0 and (n == 1 or n * size <= limit))
        after = parts[-1] if parts else Segment(stop, stop, batch)
        chunk = next(n for n in range(min(chunk, after.chunk), 0, -1) if after.chunk % n == 0)
        if parts and after.chunk == chunk:
            stop = parts.pop().stop
        parts.append(Segment(start, stop, chunk))
    return parts[::-1]


def _cuts(graph: Graph, steps: Collection[int]) -> list[int]:
    """Positions after which nothing but their value is needed; what end points show is kept anyway."""
    last_use = list(range(len(graph.nodes)))
    for position, node in enumerate(graph.nodes):
        for source in node.inputs:
            last_use[source] = position
    cuts, latest = [], last_use[0]
    for position in range(1, len(graph.nodes)):
        if position in steps and latest <= position:
            cuts.append(position)
        latest = max(latest, last_use[position])
    return cuts


def _numbers(graph: Graph, position: int) -> int:
    """How many numbers a node's value and its inputs have, for one image."""
    node = graph.nodes[position]
    return sum(math.prod(shape[1:]) for shape in (node.shape, *(graph.nodes[i].shape for i in node.inputs)))
