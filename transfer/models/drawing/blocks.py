"""A model's graph as a reader sees it: bands (stages) of steps in a row, and forks whose branches join again."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from transfer.errors import TransferError
from transfer.models.graph.trace import Graph, leading_to

# What is drawn in one box with the layer before it.
POINTWISE = ("batch_norm", "relu", "relu6", "tanh", "sigmoid", "silu", "gelu")
TANGLED = "this network cannot be drawn: where it forks, the branches do not join again by themselves"
HEADS = ("conv", "dense", "batch_norm", "add", "concat")


@dataclasses.dataclass(frozen=True)
class Step:
    """Positions of nodes that are drawn as one box, such as convolution, batch norm, ReLU; `side`: off the road."""

    nodes: tuple[int, ...]
    side: bool = False


@dataclasses.dataclass(frozen=True)
class Fork:
    """Branches beside one another, and the step (add, concat) that joins them; an empty branch is a plain shortcut."""

    branches: "tuple[tuple[Item, ...], ...]"
    join: Step


Item = Step | Fork


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one module inside a stage does; `names`: of all modules in a row that do the same, the last's items."""

    names: tuple[str, ...]
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class Band:
    """A stage: its name and what it does, in order."""

    name: str
    units: tuple[Unit, ...]


def last(item: Item) -> int:
    """Position of the node whose output is the item's."""
    return _step(item).nodes[-1]


def nodes(items: Sequence[Item]) -> Iterator[int]:
    """Positions of all nodes in the items."""
    for item in items:
        if isinstance(item, Fork):
            for branch in item.branches:
                yield from nodes(branch)
        yield from _step(item).nodes


def bands(graph: Graph) -> list[Band]:
    """The model from its images to its output, stage by stage."""
    reader = Reader(graph)
    return [Band(name, tuple(reader.units(items))) for name, items in reader.stages()]


class Reader:
    """Takes a graph apart at its forks and joins; the graph must be made of rows and forks nested in one another."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.taps = {position: tap for tap, position in graph.endpoints.items()}
        main = leading_to([graph.output], lambda i: graph.nodes[i].inputs)
        consumers = graph.consumers()
        self.next = [[c for c in dict.fromkeys(found) if c in main] for found in consumers]
        self.aside = [[c for c in dict.fromkeys(found) if c not in main] for found in consumers]

    def _join(self, fork: int) -> int:
        """The first node that every road from `fork` to the output passes."""
        # nodes are in the order of the calls, so the one that is left alone is where the roads meet
        front = set(self.next[fork])
        while len(front) > 1:
            first = min(front)
            front = (front - {first}) | set(self.next[first])
        return front.pop()

    def row(self, start: int, stop: int | None = None) -> Iterator[Item]:
        """The items after node `start` and before node `stop` (None: to the output), each node by itself."""
        position = start
        while following := self.next[position]:
            if following == [stop]:
                return
            join = self._join(position)
            if len(following) == 1:
                yield Step((join,))
            elif join == stop:
                raise TransferError(TANGLED)
            else:
                yield Fork(tuple(self._branches(position, join)), Step((join,)))
            position = join
            yield from self._side_road(position)

    def _side_road(self, start: int) -> Iterator[Step]:
        """What some tap needs and the output does not."""
        for position in self.aside[start]:
            yield Step((position,), side=True)
            yield from self._side_road(position)

    def _branches(self, fork: int, join: int) -> Iterator[tuple[Item, ...]]:
        """In the order in which the join takes them."""
        found = {}
        for first in self.next[fork]:
            items = [] if first == join else self.fused((Step((first,)), *self.row(first, join)))
            found[last(items[-1]) if items else fork] = tuple(items)
        if found.keys() != set(self.graph.nodes[join].inputs):
            raise TransferError(TANGLED)
        yield from (found[i] for i in self.graph.nodes[join].inputs)

    def fused(self, items: Iterable[Item]) -> list[Item]:
        """Steps that belong in one box put together: what follows a layer or a join pixel by pixel, up to a tap."""
        fused: list[Item] = []
        for item in items:
            if not fused or not isinstance(item, Step) or not self._belongs(fused[-1], item):
                fused.append(item)
                continue
            before = fused[-1]
            step = before.join if isinstance(before, Fork) else before
            longer = Step(step.nodes + item.nodes)
            fused[-1] = Fork(before.branches, longer) if isinstance(before, Fork) else longer
        return fused

    def _belongs(self, before: Item, item: Step) -> bool:
        first, end, added = (self.graph.nodes[i] for i in (_step(before).nodes[0], last(before), item.nodes[0]))
        return (
            first.op in HEADS
            and added.op in POINTWISE
            and added.scope == end.scope
            and last(before) not in self.taps
            and not item.side
        )

    def stages(self) -> Iterator[tuple[str, list[Item]]]:
        """(name, items) of each stage; what lies between two goes to the first up to its tap, else to the second."""
        name, tapped = "", False
        items: list[Item] = []
        for item in self.fused(self.row(0)):
            stage = self.graph.nodes[_step(item).nodes[0]].stage
            taps = [self.taps[i] for i in nodes([item]) if i in self.taps]
            begins = stage != name if stage else tapped and not _step(item).side
            if begins and items and (name or tapped):
                yield name, items
                name, items, tapped = "", [], False
            name = name or stage or (taps[0] if taps else "")
            items.append(item)
            tapped = tapped or bool(taps)
        yield name, items

    def units(self, items: Sequence[Item]) -> Iterator[Unit]:
        """The items by the module that does them; modules in a row that do the same are one."""
        grouped = [(key, tuple(group)) for key, group in itertools.groupby(items, self._unit_name)]
        merged: list[Unit] = []
        for name, group in grouped:
            named = name and (len(group) > 1 or isinstance(group[0], Fork))
            unit = Unit((name,) if named else (), group)
            before = merged[-1] if merged else None
            if before and named and before.names and self._signature(before.items) == self._signature(group):
                merged[-1] = Unit((*before.names, name), group)
            elif before and not named and not before.names:
                merged[-1] = Unit((), before.items + group)
            else:
                merged.append(unit)
        yield from merged

    def _unit_name(self, item: Item) -> str:
        _, _, inside = self.graph.nodes[_step(item).nodes[0]].scope.partition(".")
        return inside.partition(".")[0]

    def _signature(self, items: Sequence[Item]) -> list[object]:
        found = [self.graph.nodes[i] for i in nodes(items)]
        inputs = [self.graph.nodes[i].shape for node in found for i in node.inputs]
        return [inputs, *((node.op, node.shape, node.attributes) for node in found)]


def _step(item: Item) -> Step:
    return item.join if isinstance(item, Fork) else item
