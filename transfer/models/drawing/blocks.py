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
    """One box, such as convolution, batch norm, ReLU: the positions of its nodes.

    `side`: it does not lie on the way to the output. `branches`: of a step that joins them (add, concat), beside one
    another; an empty branch is a plain shortcut.
    """

    nodes: tuple[int, ...]
    side: bool = False
    branches: "tuple[tuple[Step, ...], ...]" = ()


@dataclasses.dataclass(frozen=True)
class Unit:
    """The steps of one module inside a stage; `names` are those of all modules in a row that do the same."""

    names: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Band:
    """A stage: its name and what it does, in order."""

    name: str
    units: tuple[Unit, ...]


def flattened(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps with those of their branches before them."""
    for step in steps:
        for branch in step.branches:
            yield from flattened(branch)
        yield step


def bands(graph: Graph) -> list[Band]:
    """The model from its images to its output, stage by stage. TransferError where it cannot be drawn."""
    reader = Reader(graph)
    return [Band(name, tuple(reader.units(steps))) for name, steps in reader.stages()]


class Reader:
    """Takes a graph apart at its forks and joins; the graph must be made of rows and forks nested in one another."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.taps = {position: tap for tap, position in graph.endpoints.items()}
        main = leading_to([graph.output], lambda i: graph.nodes[i].inputs)
        consumers = [dict.fromkeys(positions) for positions in graph.consumers()]
        self.next = [[i for i in positions if i in main] for positions in consumers]
        self.aside = [[i for i in positions if i not in main] for positions in consumers]

    def _join(self, fork: int) -> int:
        """The first node that every way from `fork` to the output passes."""
        # nodes are in the order of the calls, so the one that is left alone is where the ways meet
        front = set(self.next[fork])
        while len(front) > 1:
            first = min(front)
            front = (front - {first}) | set(self.next[first])
        return front.pop()

    def row(self, start: int, stop: int | None = None) -> Iterator[Step]:
        """The steps after node `start` and before node `stop` (None: to the output), each node by itself."""
        position = start
        while following := self.next[position]:
            if following == [stop]:
                return
            join = self._join(position)
            if len(following) > 1 and join == stop:
                raise TransferError(TANGLED)
            yield Step((join,), branches=self._branches(position, join) if len(following) > 1 else ())
            position = join
            yield from self._side_steps(position)

    def _side_steps(self, start: int) -> Iterator[Step]:
        """The steps that some tap needs and the output does not."""
        for position in self.aside[start]:
            yield Step((position,), side=True)
            yield from self._side_steps(position)

    def _branches(self, fork: int, join: int) -> tuple[tuple[Step, ...], ...]:
        """The branches in the order in which the join takes them."""
        branches = {}
        for first in self.next[fork]:
            steps = [] if first == join else self.fused((Step((first,)), *self.row(first, join)))
            branches[steps[-1].nodes[-1] if steps else fork] = tuple(steps)
        if branches.keys() != set(self.graph.nodes[join].inputs):
            raise TransferError(TANGLED)
        return tuple(branches[i] for i in self.graph.nodes[join].inputs)

    def fused(self, steps: Iterable[Step]) -> list[Step]:
        """Steps that belong in one box put together: what follows a layer or a join pixel by pixel, up to a tap."""
        fused: list[Step] = []
        for step in steps:
            if fused and self._belongs(fused[-1], step):
                fused[-1] = dataclasses.replace(fused[-1], nodes=fused[-1].nodes + step.nodes)
            else:
                fused.append(step)
        return fused

    def _belongs(self, before: Step, step: Step) -> bool:
        first, end, added = (self.graph.nodes[i] for i in (before.nodes[0], before.nodes[-1], step.nodes[0]))
        inside_a_box = first.op in HEADS and added.op in POINTWISE and added.scope == end.scope
        return inside_a_box and before.nodes[-1] not in self.taps and not step.side and not step.branches

    def stages(self) -> Iterator[tuple[str, list[Step]]]:
        """(name, steps) of each stage; what lies between two goes to the first up to its tap, else to the second."""
        name, tapped = "", False
        steps: list[Step] = []
        for step in self.fused(self.row(0)):
            stage = self.graph.nodes[step.nodes[0]].stage
            taps = [self.taps[i] for inner in flattened([step]) for i in inner.nodes if i in self.taps]
            begins = stage != name if stage else tapped and not step.side
            if begins and steps and (name or tapped):
                yield name, steps
                name, steps, tapped = "", [], False
            name = name or stage or (taps[0] if taps else "")
            steps.append(step)
            tapped = tapped or bool(taps)
        yield name, steps

    def units(self, steps: Sequence[Step]) -> Iterator[Unit]:
        """The steps by the module that does them; modules in a row that do the same are one."""
        merged: list[Unit] = []
        scopes = {step: self.graph.nodes[step.nodes[0]].scope for step in steps}
        for name, group in itertools.groupby(steps, lambda step: f"{scopes[step]}..".split(".")[1]):
            inside = tuple(group)
            named = bool(name) and (len(inside) > 1 or bool(inside[0].branches))
            before = merged[-1] if merged else None
            if before and named and before.names and self._signature(before.steps) == self._signature(inside):
                merged[-1] = Unit((*before.names, name), inside)
            elif before and not named and not before.names:
                merged[-1] = Unit((), before.steps + inside)
            else:
                merged.append(Unit((name,) if named else (), inside))
        yield from merged

    def _signature(self, steps: Sequence[Step]) -> list[object]:
        """A key that is equal for two units that do the same."""
        nodes = [self.graph.nodes[i] for step in flattened(steps) for i in step.nodes]
        inputs = [self.graph.nodes[i].shape for node in nodes for i in node.inputs]
        return [inputs, *((node.op, node.shape, node.attributes) for node in nodes)]
