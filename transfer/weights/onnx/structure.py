"""Two graphs of the same network, paired step by step: by what each step is and what leads to it, never by names.

A step's signature is what it does (with the shapes of its weights) and the signatures of its inputs, so that two
steps have one signature exactly if all that leads to them is alike. An addition's inputs have no order.
"""

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from transfer.models.graph.trace import leading_to

UNORDERED = ("add", "mul")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A step to be paired: a convolution or dense layer with the batch norm after it, or what lies between.

    Attributes:
      op: `input`, `conv`, `dense`, `batch_norm`, `add`, `concat`, an activation, …
      name: in messages.
      inputs: positions of earlier units.
      about: what must agree beside `op`.
      parts: whose weights it holds, as the owner of the graph likes.
      text: what it is, for messages, where the name does not say.
    """

    op: str
    name: str
    inputs: tuple[int, ...] = ()
    about: tuple[Hashable, ...] = ()
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: str = ""

    def __str__(self) -> str:
        """Its name, and what it is where the name does not say."""
        return f"{self.name} ({self.text})" if self.text else self.name


def signatures(units: Sequence[Unit], known: dict[Hashable, int]) -> list[int]:
    """A number for each unit; `known` is shared by the graphs that are compared."""
    found: list[int] = []
    for unit in units:
        inputs = [found[i] for i in unit.inputs]
        key = (unit.op, unit.about, *(sorted(inputs) if unit.op in UNORDERED else inputs))
        found.append(known.setdefault(key, len(known)))
    return found


def pairs(
    ours: Sequence[Unit], theirs: Sequence[Unit], our_output: int, their_output: int
) -> Iterator[tuple[Unit, Unit]] | None:
    """Each of our units that leads to the output with its counterpart; None if the two graphs differ."""
    known: dict[Hashable, int] = {}
    one, other = signatures(ours, known), signatures(theirs, known)
    if one[our_output] != other[their_output]:
        return None
    return _walk(ours, theirs, one, other, our_output, their_output)


def _walk(
    ours: Sequence[Unit],
    theirs: Sequence[Unit],
    one: Sequence[int],
    other: Sequence[int],
    our_output: int,
    their_output: int,
) -> Iterator[tuple[Unit, Unit]]:
    found: dict[int, int] = {}
    stack = [(our_output, their_output)]
    while stack:
        i, j = stack.pop()
        if i in found:
            continue
        found[i] = j
        yield ours[i], theirs[j]
        a, b = list(ours[i].inputs), list(theirs[j].inputs)
        if ours[i].op in UNORDERED:
            a.sort(key=lambda k: one[k])
            b.sort(key=lambda k: other[k])
        stack += zip(a, b, strict=True)


def difference(ours: Sequence[Unit], theirs: Sequence[Unit], our_output: int, their_output: int) -> str:
    """Where two graphs that differ part: the first of our units without a counterpart, and what stands there."""
    known: dict[Hashable, int] = {}
    one, other = signatures(ours, known), signatures(theirs, known)
    needed = [(ours[i], one[i], {one[k] for k in ours[i].inputs}) for i in _before(ours, our_output)]
    there = [(theirs[j], other[j], {other[k] for k in theirs[j].inputs}) for j in _before(theirs, their_output)]
    missing = next(((unit, before) for unit, signature, before in needed if signature not in other), None)
    left = [(unit, before) for unit, signature, before in there if signature not in one]
    if missing is None:
        return (
            f"the graph goes on with {left[0][0]} after the model's end" if left else "its output is within the model"
        )
    unit, before = missing
    candidates = [each for each, inputs in left if inputs & before]
    nearest = next((each for each in candidates if each.op == unit.op), candidates[0] if candidates else None)
    return f"where the model has {unit}, the graph has {nearest or 'its end'}"


def _before(units: Sequence[Unit], output: int) -> list[int]:
    return sorted(leading_to([output], lambda i: units[i].inputs))
