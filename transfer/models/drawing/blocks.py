"""A model's graph as a reader sees it: stages of steps in a row, and forks whose branches join again."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from transfer.errors import TransferError
from transfer.models.graph.trace import Graph, leading_to

# What begins a box, and what is drawn in one with it.
HEADS = ("conv", "dense", "batch_norm", "add", "concat")
POINTWISE = ("batch_norm", "relu", "relu6", "tanh", "sigmoid", "silu", "gelu")
TANGLED = "this network cannot be drawn: where it forks, the branches do not join again by themselves"


@dataclasses.dataclass(frozen=True)
class Step:
    """One box, such as convolution, batch norm, ReLU: the positions of its nodes.

    `side`: it does not lie on the way to the output. `branches`: of a step that joins them (add, concat), beside one
    another; an empty branch is a plain shortcut.
    """

    nodes: tuple[int, ...]
    side: bool = False
    branches: "tuple[tuple[Step, ...], ...]" = ()


class Unit(NamedTuple):
    """The steps of one module inside a stage; `names` are those of all modules in a row that do the same."""

    names: tuple[str, ...]
    steps: tuple[Step, ...]


def flattened(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps with those of their branches before them."""
    for step in steps:
        for branch in step.branches:
            yield from flattened(branch)
        yield step


def bands(graph: Graph) -> list[tuple[str, list[Unit]]]:
    """Name and units of each stage from the images to the output. TransferError where the graph cannot be drawn."""
    reader = Reader(graph)
    return [(name, reader.units(steps)) for name, steps in reader.stages()]


class Reader:
    """Takes a graph apart at its forks and joins; the graph must be made of rows and forks nested in one another."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.taps = {position: tap for tap, position in graph.endpoints.items()}
        main = leading_to([graph.output], lambda i: graph.nodes[i].inputs)
        consumers = [dict.fromkeys(positions) for positions in graph.consumers()]
        self.next = [[i for i in positions if i in main] for positions in consumers]
        self.aside = [[i for i in positions if i not in main] for positions in consumers]

    def row(self, steps: list[Step], position: int, stop: int | None = None) -> list[Step]:
        """The steps, and those after node `position` and before node `stop` (None: to the output).

        What follows a layer or a join pixel by pixel, up to a tap, goes into its box.
        """
        while (following := self.next[position]) and following != [stop]:
            # nodes are in the order of the calls, so the one that is left alone is where the ways meet
            front = set(following)
            while len(front) > 1:
                front |= set(self.next[min(front)])
                front.remove(min(front))
            join = front.pop()
            if len(following) > 1:
                steps.append(Step((join,), branches=self._branches(position, join)))
            elif steps and self._belongs(steps[-1], join):
                steps[-1] = dataclasses.replace(steps[-1], nodes=(*steps[-1].nodes, join))
            else:
                steps.append(Step((join,)))
            steps += self._side_steps(join)
            position = join
        return steps

    def _belongs(self, step: Step, position: int) -> bool:
        first, end, added = (self.graph.nodes[i] for i in (step.nodes[0], step.nodes[-1], position))
        pointwise = first.op in HEADS and added.op in POINTWISE and added.scope == end.scope
        return pointwise and step.nodes[-1] not in self.taps

    def _side_steps(self, start: int) -> Iterator[Step]:
        """The steps that some tap needs and the output does not."""
        for position in self.aside[start]:
            yield Step((position,), side=True)
            yield from self._side_steps(position)

    def _branches(self, fork: int, join: int) -> tuple[tuple[Step, ...], ...]:
        """The branches in the order in which the join takes them."""
        branches = {}
        for first in self.next[fork]:
            steps = [] if first == join else self.row([Step((first,))], first, join)
            branches[steps[-1].nodes[-1] if steps else fork] = tuple(steps)
        inputs = self.graph.nodes[join].inputs
        if branches.keys() != set(inputs):
            raise TransferError(TANGLED)
        return tuple(branches[i] for i in inputs)

    def stages(self) -> Iterator[tuple[str, list[Step]]]:
        """(name, steps) of each stage; what lies between two goes to the first up to its tap, else to the second."""
        name, tapped = "", False
        steps: list[Step] = []
        for step in self.row([], 0):
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

    def units(self, steps: Sequence[Step]) -> list[Unit]:
        """The steps by the module that does them; modules in a row that do the same are one."""
        units = [Unit((), ())]
        scopes = {step: self.graph.nodes[step.nodes[0]].scope for step in steps}
        for name, group in itertools.groupby(steps, lambda step: f"{scopes[step]}..".split(".")[1]):
            inside, before = tuple(group), units[-1]
            named = bool(name) and (len(inside) > 1 or bool(inside[0].branches))
            if named and before.names and self._signature(before.steps) == self._signature(inside):
                units[-1] = Unit((*before.names, name), inside)
            elif not named and not before.names:
                units[-1] = Unit((), before.steps + inside)
            else:
                units.append(Unit((name,) if named else (), inside))
        return units

    def _signature(self, steps: Sequence[Step]) -> list[object]:
        """A key that is equal for two units that do the same."""
        nodes = [self.graph.nodes[i] for step in flattened(steps) for i in step.nodes]
        inputs = [self.graph.nodes[i].shape for node in nodes for i in node.inputs]
        return [inputs, *((node.op, node.shape, node.attributes) for node in nodes)]
