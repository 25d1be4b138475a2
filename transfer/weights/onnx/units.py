"""The units of an ONNX graph, in the vocabulary that `weights.onnx.structure` compares; ours are in `our_units`."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transfer.models.graph.trace import leading_to
from transfer.weights.onnx import windows
from transfer.weights.onnx.folded import Norm, affine
from transfer.weights.onnx.steps import Step, Steps
from transfer.weights.onnx.structure import Unit
from transfer.weights.onnx.windows import Window

# Of what these make a zero beside the map is never the greatest value.
NOT_NEGATIVE = ("relu", "relu6", "sigmoid")
AFTER_THE_LAST_LAYER = ("softmax", "sigmoid")
# Numbers before the first layer that differ by less are the same ones, rounded.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class View:
    """What is made of the images before the first layer: `images[channels] * scale + bias`."""

    channels: np.ndarray
    scale: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, channels: int) -> "View":
        """The images as they are."""
        return cls(np.arange(channels), np.ones(channels), np.zeros(channels))

    def times(self, scale: np.ndarray) -> "View":
        """With each channel times a number."""
        return View(self.channels, self.scale * scale, self.bias * scale)

    def plus(self, bias: np.ndarray) -> "View":
        """With a number added to each channel."""
        return View(self.channels, self.scale, self.bias + bias)

    def then(self, other: "View") -> "View":
        """What `other`, of as many channels in their order, makes of this one."""
        return self.times(other.scale).plus(other.bias)

    def same_as(self, other: "View") -> bool:
        """Whether they are one function, up to rounding."""
        close = (
            np.allclose(a, b, TOLERANCE, TOLERANCE) for a, b in ((self.scale, other.scale), (self.bias, other.bias))
        )
        return np.array_equal(self.channels, other.channels) and all(close)

    def __str__(self) -> str:
        """What is done, in numbers."""

        def numbers(array: np.ndarray) -> str:
            return " ".join(f"{each:.4g}" for each in (array[:1] if len(set(array.tolist())) == 1 else array))

        ordered = np.array_equal(self.channels, np.arange(len(self.channels)))
        order = "" if ordered else f"channels {' '.join(map(str, self.channels))}, "
        return f"{order}images * {numbers(self.scale)} + {numbers(self.bias)}"


@dataclasses.dataclass(frozen=True)
class Pool:
    """What each maximum or average is of.

    Attributes:
      taken: along rows and columns.
      size: (height, width) of the map that it is taken from.
      text: in a message.
    """

    taken: tuple[Any, Any]
    size: tuple[int, int]
    text: str


@dataclasses.dataclass(frozen=True)
class Known:
    """What may be made of the images for our model to be the graph's.

    Attributes:
      view: in the graph.
      number: of the same in our model, None where the model takes the images as they are.
      is_preprocessed: our model does that; False: its images are preprocessed so before they are given to it.
    """

    view: View
    number: int | None
    is_preprocessed: bool = True


class Units:
    """Units in the order of their edges.

    Attributes:
      units: the first is the input.
      output: position of the output's.
    """

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.output = 0

    def add(self, unit: Unit) -> int:
        """Appends a unit, concatenations of concatenations as one; its position."""
        inputs = unit.inputs
        if unit.op == "concat":
            alike = [self.units[i].op == "concat" and self.units[i].about == unit.about for i in inputs]
            nested = [self.units[i].inputs if same else (i,) for i, same in zip(inputs, alike, strict=True)]
            inputs = tuple(i for each in nested for i in each)
        self.units.append(dataclasses.replace(unit, inputs=inputs))
        return len(self.units) - 1

    def add_pool(self, op: str, name: str, source: int, pool: Pool) -> int:
        """Appends a max-pool or an average, an average of averages as one; nothing where it is of each single pixel."""
        before, taken, size = self.units[source], pool.taken, pool.size
        if op == "max_pool" and before.op in NOT_NEGATIVE:
            taken = (windows.without_zeros(taken[0]), windows.without_zeros(taken[1]))
        if before.op == op == "average":
            source, first = before.inputs[0], before.parts["pool"]
            taken, size = (
                (windows.after(first.taken[0], taken[0]), windows.after(first.taken[1], taken[1])),
                first.size,
            )
        nothing: Callable[[int], Any] = windows.each if op == "average" else windows.picked
        if taken == (nothing(size[0]), nothing(size[1])):
            return source
        parts = dict(pool=Pool(taken, size, pool.text))
        return self.add(Unit(op, name, (source,), taken, parts, pool.text))

    def with_norm(self, position: int, **parts: Any) -> int:
        """Joins a batch norm with the layer before it, which nothing else takes."""
        unit = self.units[position]
        self.units[position] = dataclasses.replace(unit, parts={**unit.parts, **parts})
        return position


def takers_of(inputs: Callable[[int], Sequence[int]], output: int) -> dict[int, int]:
    """Position -> how many needed ones take it, for all that lead to `output`, in their order."""
    needed = sorted(leading_to([output], inputs))
    counts = Counter(source for position in needed for source in inputs(position))
    return {position: counts[position] for position in needed}


def described(pair: tuple[Window, Window], padding: str = "padding") -> str:
    """A window in a message."""
    kernel, strides, dilations, size, after = (
        "x".join(str(getattr(each, name)) for each in pair)
        for name in ("kernel", "stride", "dilation", "size", "outputs")
    )
    pads = " ".join(f"{each.zeros[0] + each.pads[0]}+{each.zeros[1] + each.pads[1]}" for each in pair)
    rare = "" if dilations == "1x1" else f", dilation {dilations}"
    return f"{kernel}, stride {strides}, {padding} {pads}{rare}, {size} -> {after} pixels"


def convolution(pair: tuple[Window, Window], channels: int, features: int, groups: int) -> str:
    """A convolution in a message."""
    kernel, _, rest = described(pair).partition(", ")
    return f"{kernel}, {channels} -> {features}, {rest}" + (f", {groups} groups" if groups > 1 else "")


class TheirUnits(Units):
    """Of an ONNX graph, up to one of its outputs.

    Args:
      output: position of its step.
      views: what may be made of the images before the first layer; anything else is another function.

    Attributes:
      warnings: what is to be said of the graph, after the file's name.
    """

    def __init__(self, steps: Steps, output: int, views: Sequence[Known]) -> None:
        super().__init__()
        self.views = views
        self.warnings: tuple[str, ...] = ()
        every = steps.steps
        while every[output].op in AFTER_THE_LAST_LAYER:
            output = every[output].inputs[0]
        takers = takers_of(lambda i: every[i].inputs, output)
        place: dict[int, int] = {}
        for i in takers:
            step = every[i]
            inputs = tuple(place[k] for k in step.inputs)
            norm = Norm(step.weights, step.attributes["epsilon"]) if step.op == "batch_norm" else None
            joins = norm and every[step.inputs[0]].op in ("conv", "dense") and takers[step.inputs[0]] == 1
            if joins:
                place[i] = self.with_norm(inputs[0], norm=norm)
            elif step.op in ("average", "max_pool"):
                given = every[step.inputs[0]].sizes
                taken = (step.attributes["rows"], step.attributes["columns"])
                place[i] = self.add_pool(
                    step.op, step.node, inputs[0], Pool(taken, (given["h"], given["w"]), _pool(step))
                )
            elif step.op == "image":
                place[i] = self._image(step, inputs)
            else:
                place[i] = self.add(_their_unit(step, inputs, norm))
        self.output = place[output]

    def _image(self, step: Step, inputs: tuple[int, ...]) -> int:
        view = View(step.weights["channels"], step.weights["scale"], step.weights["bias"])
        first, last = step.attributes["since"], step.node
        name = last if first == last else f"{first} to {last}"
        known = next((each for each in self.views if view.same_as(each.view)), None)
        if known is None:
            return self.add(Unit("images", name, inputs, (name, len(self.units)), text=str(view)))
        if not known.is_preprocessed:
            self.warnings = (
                f"normalises its images itself ({name}: {view}), as the preprocessing does: "
                "the model takes images that are preprocessed",
            )
        if known.number is None:
            return inputs[0]
        return self.add(Unit("images", name, inputs, (known.number,), text=str(view)))


def _their_unit(step: Step, inputs: tuple[int, ...], norm: Norm | None) -> Unit:
    weights, attributes = dict(step.weights), step.attributes
    if step.op == "input":
        return Unit("input", step.node, (), (step.sizes["c"],))
    if step.op == "conv":
        features, channels, *_ = weights["kernel"].shape
        weights["kernel"] = weights["kernel"].transpose(2, 3, 1, 0)
        groups, pair = attributes["groups"], attributes["windows"]
        about = (channels, features, groups, attributes["rows"], attributes["columns"])
        return Unit("conv", step.node, inputs, about, weights, convolution(pair, channels, features, groups))
    if step.op == "dense":
        parts = {**weights, "channels_first": attributes["channels_first"]}
        return Unit("dense", step.node, inputs, weights["kernel"].shape, parts, dense_text(*weights["kernel"].shape))
    if norm is not None:
        return batch_norm(step.node, inputs, weights["scale"].size, norm=norm)
    if step.op == "affine":
        scale, bias = weights["scale"], weights["bias"]
        if (size := max(scale.size, bias.size)) > 1:
            return batch_norm(step.node, inputs, size, norm=affine(scale, bias))
        return Unit("affine", step.node, inputs)
    return Unit(step.op, step.node, inputs)


def batch_norm(name: str, inputs: tuple[int, ...], channels: int, **parts: Any) -> Unit:
    """A batch norm that follows no layer."""
    return Unit("batch_norm", name, inputs, (channels,), parts, f"{channels} channels")


def dense_text(inputs: int, outputs: int) -> str:
    """A dense layer in a message."""
    return f"{inputs} -> {outputs}"


def _pool(step: Step) -> str:
    pair, sides = step.attributes.get("windows"), (step.attributes["rows"], step.attributes["columns"])
    if pair is None:
        return "to {}x{} pixels".format(*map(len, sides))
    counts = {True: "counted padding", False: "padding", None: "padding"}
    return described(pair, counts[step.attributes.get("counts_padding")])
