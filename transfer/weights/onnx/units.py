"""Networks as units, and two of them paired: by what each unit is and what leads to it, never by names.

A unit's signature is what it does (with the shapes of its weights) and the signatures of its inputs, so that two units
have one signature exactly if all that leads to them is alike. An addition's inputs have no order.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.models.graph.trace import leading_to
from transfer.weights.onnx import windows
from transfer.weights.onnx.windows import Window

UNORDERED = ("add", "mul")
# Of what these make a zero beside the map is never the greatest value.
NOT_NEGATIVE = ("relu", "relu6", "sigmoid")


class Differs(TransferError):
    """A graph is not the model's."""


@dataclasses.dataclass(frozen=True)
class Norm:
    """Batch norm as stored: `scale`, `bias`, `mean`, `var` (C,), and what is added to the variance."""

    weights: Mapping[str, np.ndarray]
    epsilon: float

    @property
    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """The number that each channel is multiplied by, and the one that is added then."""
        weights = {name: array.astype(np.float64) for name, array in self.weights.items()}
        factor = weights["scale"] / np.sqrt(weights["var"] + self.epsilon)
        return factor, weights["bias"] - weights["mean"] * factor


@dataclasses.dataclass(frozen=True)
class Unit:
    """A convolution or dense layer with the batch norm after it, or what lies between.

    Attributes:
      op: `input`, `images` (what is made of them before the first layer), `conv`, `dense`, `batch_norm`, `add`, `mul`,
        `concat`, `max_pool`, `average`, an activation, or the name of an operator.
      name: in messages.
      inputs: positions of earlier units.
      about: what must agree beside `op`. Pools: what is taken along rows and columns (`transfer.weights.onnx.windows`).
      parts: its weights, or whose they are, as the owner of the network likes.
      text: what it is, for messages, where the name does not say.
    """

    op: str
    name: str
    inputs: tuple[int, ...] = ()
    about: tuple[Any, ...] = ()
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: str = ""

    def __str__(self) -> str:
        """The name of the unit, and its kind where the name does not say it."""
        return f"{self.name} ({self.text})" if self.text else self.name

    def having(self, **parts: Any) -> "Unit":
        """The unit with these parts beside its own."""
        return dataclasses.replace(self, parts={**self.parts, **parts})


def check_last(functions: Sequence[Unit], advice: str = "") -> None:
    """Raises Differs, with advice, where what a classifier makes goes into other functions than one softmax."""
    ops = [unit.op for unit in functions]
    if ops not in ([], ["softmax"]):
        why = "the classes do not exclude each other" if ops == ["sigmoid"] else "another function than a softmax"
        raise Differs(f"it ends in {' and '.join(unit.name for unit in functions)}: {why}{advice}")


# Units that both networks have.


def batch_norm(name: str, inputs: tuple[int, ...], channels: int, **parts: Any) -> Unit:
    """A batch norm that follows no layer."""
    return Unit("batch_norm", name, inputs, (channels,), parts, f"{channels} channels")


def dense(name: str, inputs: tuple[int, ...], sizes: tuple[int, int], **parts: Any) -> Unit:
    """A dense layer; `sizes` are how many values it takes and makes."""
    return Unit("dense", name, inputs, sizes, parts, "{} -> {}".format(*sizes))


def convolution(
    name: str, inputs: tuple[int, ...], pair: tuple[Window, Window], sizes: tuple[int, int, int], **parts: Any
) -> Unit:
    """A convolution; `sizes` are the channels that an output is made of, the features and the groups."""
    channels, features, groups = sizes
    kernel, _, rest = windows.described(pair).partition(", ")
    text = f"{kernel}, {channels} -> {features}, {rest}" + (f", {groups} groups" if groups > 1 else "")
    return Unit("conv", name, inputs, (*sizes, *(window.convolved() for window in pair)), parts, text)


class Units:
    """Units in the order of their edges, from the input to the position `output`."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.output = 0

    def add(self, unit: Unit) -> int:
        """Appends a unit, concatenations of concatenations as one; its position."""
        if unit.op == "concat":
            alike = [self.units[i].op == "concat" and self.units[i].about == unit.about for i in unit.inputs]
            nested = [self.units[i].inputs if same else (i,) for i, same in zip(unit.inputs, alike, strict=True)]
            unit = dataclasses.replace(unit, inputs=tuple(i for inputs in nested for i in inputs))
        self.units.append(unit)
        return len(self.units) - 1

    def add_pool(self, op: str, name: str, source: int, taken: Sequence[Any], size: Sequence[int], text: str) -> int:
        """Appends a `max_pool` of taps or an `average` of shares, `taken` along rows and columns; the position of it.

        `source` is the position of what is pooled, of `size` (height, width). An average of averages becomes one; where
        it is of each single pixel there is nothing to append.
        """
        before = self.units[source]
        if op == "max_pool" and before.op in NOT_NEGATIVE:  # no zero beside the map counts where there is a value
            taken = [tuple(tuple(i for i in tap if i is not None) or tap for tap in taps) for taps in taken]
        if op == "average" and before.op == op:
            source, size = before.inputs[0], before.parts["size"]
            taken = list(map(windows.averages_of, before.about, taken))  # type: ignore[arg-type]
        idle = [windows.adaptive(side, side) if op == "average" else windows.picked(range(side)) for side in size]
        if list(taken) == idle:
            return source
        return self.add(Unit(op, name, (source,), tuple(taken), dict(size=size), text))

    def needed(self) -> list[int]:
        """The positions of what leads to the output, in order."""
        return sorted(leading_to([self.output], lambda i: self.units[i].inputs))

    def signatures(self, known: dict[Hashable, int]) -> list[int]:
        """A number for each unit; `known` is shared by the networks that are compared."""
        numbers: list[int] = []
        for unit in self.units:
            inputs = [numbers[i] for i in unit.inputs]
            key = (unit.op, unit.about, *(sorted(inputs) if unit.op in UNORDERED else inputs))
            numbers.append(known.setdefault(key, len(known)))
        return numbers


def paired(ours: Units, theirs: Units) -> list[tuple[Unit, Unit]]:
    """Our units that lead to the output, each with its counterparts; Differs, saying where, if there are none."""
    known: dict[Hashable, int] = {}
    numbers = ours.signatures(known), theirs.signatures(known)
    if numbers[0][ours.output] != numbers[1][theirs.output]:
        raise Differs(_difference(ours, theirs, *numbers))
    pairs: set[tuple[int, int]] = set()
    stack = [(ours.output, theirs.output)]
    while stack:
        pair = stack.pop()
        if pair in pairs:
            continue
        pairs.add(pair)
        inputs = [list(ours.units[pair[0]].inputs), list(theirs.units[pair[1]].inputs)]
        if ours.units[pair[0]].op in UNORDERED:
            inputs = [sorted(inputs[i], key=numbers[i].__getitem__) for i in range(2)]
        stack += zip(*inputs, strict=True)
    return [(ours.units[i], theirs.units[j]) for i, j in sorted(pairs)]


def _difference(ours: Units, theirs: Units, our_numbers: Sequence[int], their_numbers: Sequence[int]) -> str:
    """The place where two networks part: the first of our units without a counterpart, and what stands there."""
    shared = {our_numbers[i] for i in ours.needed()} & {their_numbers[j] for j in theirs.needed()}
    missing = next((i for i in ours.needed() if our_numbers[i] not in shared), None)
    left = [j for j in theirs.needed() if their_numbers[j] not in shared]
    if missing is None:
        goes_on = f"the graph goes on with {theirs.units[left[0]]} after the model's end" if left else ""
        return goes_on or "its output is within the model"
    unit, before = ours.units[missing], {our_numbers[k] for k in ours.units[missing].inputs}
    here = [theirs.units[j] for j in left if before & {their_numbers[k] for k in theirs.units[j].inputs}]
    nearest = next((other for other in here if other.op == unit.op), here[0] if here else "its end")
    return f"where the model has {unit}, the graph has {nearest}"
