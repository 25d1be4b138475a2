"""A network as one SVG picture: a band a stage, and in it what the stage does."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from transfer.models.drawing import boxes
from transfer.models.drawing.blocks import Step, Unit, bands, flattened
from transfer.models.graph.trace import Graph, Node

WIDTH, MARGIN = 1040.0, 20.0
LABEL, BETWEEN, ROWS = 168.0, 20.0, 16.0
CONTENT = MARGIN + LABEL + 30
LEGEND = (
    "blue: convolution (3×3 /2, 64: windows of 3×3 in steps of 2, to 64 channels); max, average: pools; violet: tap"
)
WORDS = {
    "add": "+",
    "batch_norm": "BN",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "max_pool": "max",
    "avg_pool": "average",
    "broadcast_in_dim": "reshape",
    "squeeze": "reshape",
}
COLOURS = {"conv": "#ddf4ff", "dense": "#ffe3cc", **dict.fromkeys(("max_pool", "avg_pool", "mean", "slice"), "#dafbe1")}
OTHER_COLOUR = "#eaeef2"


def draw(name: str, graph: Graph, image: Sequence[int]) -> str:
    """The SVG text for a network, which was traced with an image (height, width, channels)."""
    return Diagram(name, graph).svg(image)


class Diagram:
    """Paints from top to bottom: `y` is how far it has come, `right` how far to the right."""

    def __init__(self, name: str, graph: Graph) -> None:
        self.name, self.graph, self.bands = name, graph, bands(graph)
        self.taps = {position: tap for tap, position in graph.endpoints.items()}
        steps = [self._nodes(step) for _, units in self.bands for unit in units for step in flattened(unit.steps)]
        suffixes = {_suffix(nodes[1:]) for nodes in steps if nodes[0].op == "conv"}
        # what follows every convolution, said once for all of them
        self.left_out = suffixes.pop() if len(suffixes) == 1 else None
        self.canvas = boxes.Canvas(f"{name}, drawn from the model")
        self.y, self.right = MARGIN, 0.0

    def _nodes(self, step: Step) -> list[Node]:
        return [self.graph.nodes[i] for i in step.nodes]

    def svg(self, image: Sequence[int]) -> str:
        """The whole picture."""
        costs = f"{self.graph.parameters:,} parameters, {self.graph.macs / 1e9:.4g} GFLOPs (1e9 multiply-adds)"
        notes = [f"{costs} for one image of {_sides(image)}", LEGEND]
        if self.left_out:
            notes.append(f"after every convolution: {self.left_out}")
        self.canvas.text(MARGIN, self.y + 10, self.name, 20, anchor="start")
        for i, note in enumerate(notes):
            size = boxes.SMALL if i else boxes.USUAL
            self.canvas.text(MARGIN, self.y + 38 + 20 * i, note, size, anchor="start")
            self.right = max(self.right, MARGIN + boxes.text_width(note, size))
        self.y += 44 + 20 * len(notes)
        above = None
        for stage, units in self.bands:
            above = self._band(stage, units, above)
        return self.canvas.svg(self.right + MARGIN, self.y + MARGIN - BETWEEN)

    def _band(self, stage: str, units: Sequence[Unit], label_above: float | None) -> float:
        """Paints a stage below what is there; returns where its label ends."""
        rows = boxes.wrapped([box for unit in units for box in self._unit(unit)], WIDTH - CONTENT - MARGIN)
        end = [step.nodes[-1] for unit in units for step in unit.steps if not step.side][-1]
        texts = [stage, _sides(self.graph.nodes[end].shape[1:])]
        if stage in self.graph.stages:
            texts.append(f"{self.graph.stages[stage].parameters:,} parameters")
        half = 7 + 9.0 * len(texts)
        line = self.y + max(half, rows[0].above)
        top, middle, label_end = line - half, MARGIN + LABEL / 2, line + half
        self.canvas.rectangle(MARGIN, top, LABEL, 2 * half, boxes.FRAME, line=boxes.LINE, radius=6)
        for i, (text, size) in enumerate(zip(texts, (boxes.LARGE, boxes.USUAL, boxes.SMALL), strict=False)):
            self.canvas.text(middle, top + 16 + 18 * i, text, size)
        if label_above is not None:
            self.canvas.line((middle, label_above), (middle, top))
        self.canvas.line((MARGIN + LABEL, line), (CONTENT, line), arrow=False)
        bottom = label_end
        for row, following in itertools.zip_longest(rows, rows[1:]):
            row.paint(self.canvas, CONTENT, line)
            right, under = CONTENT + row.width, line + row.below
            self.right, bottom = max(self.right, right), max(bottom, under)
            if following is not None:  # from the end of this row to the beginning of the one under it
                out, back, between, below = right + 9, CONTENT - 14, under + ROWS / 2, under + ROWS + following.above
                turns = (out, line), (out, between), (back, between), (back, below)
                self.canvas.line((right, line), *turns, (CONTENT, below))
                line = below
        self.y = bottom + BETWEEN
        return label_end

    def _unit(self, unit: Unit) -> list[boxes.Box]:
        drawn = list(self._boxes(unit.steps))
        if not unit.names:
            return drawn
        title = unit.names[0] if len(unit.names) == 1 else f"{unit.names[0]} to {unit.names[-1]} (× {len(unit.names)})"
        inside = [box for box in drawn if not isinstance(box, boxes.Tap)]
        return [boxes.Frame(title, boxes.Row(inside)), *(box for box in drawn if isinstance(box, boxes.Tap))]

    def _boxes(self, steps: Sequence[Step]) -> Iterator[boxes.Box]:
        for step in steps:
            yield self._box(step)
            if step.nodes[-1] in self.taps:
                yield boxes.Tap(self.taps[step.nodes[-1]], dashed=step.side)

    def _box(self, step: Step) -> boxes.Box:
        first, *after = nodes = self._nodes(step)
        if not step.branches:
            source = self.graph.nodes[first.inputs[0]].shape
            return boxes.Card(_lines(nodes, source, self.left_out), COLOURS.get(first.op, OTHER_COLOUR), step.side)
        rows = [boxes.Row(list(self._boxes(branch))) for branch in step.branches]
        join = [_suffix([first]), *([_suffix(after)] if after else [])]
        if first.op == "add" and len(rows) == 2:  # a residual unit, its shortcut above
            return boxes.Branches(sorted(rows, key=lambda row: len(row.boxes)), join, straight=True)
        join.insert(1, str(first.shape[-1]))
        return boxes.Branches(rows, join, straight=False)


def _sides(values: Sequence[int]) -> str:
    """(3, 3) -> "3×3"."""
    return "×".join(map(str, values))


def _suffix(nodes: Sequence[Node]) -> str:
    """The text after a layer in its box: "BN · ReLU"."""
    return " · ".join(WORDS.get(node.op, node.op) for node in nodes)


def _lines(nodes: Sequence[Node], source: Sequence[int], left_out: str | None) -> tuple[str, ...]:
    """The lines of the box of `nodes`, whose first names it, on an input of shape `source`."""
    first, after = nodes[0], _suffix(nodes[1:])
    if first.op == "batch_norm":
        return (_suffix(nodes),)
    title = TITLES[first.op](first, source) if first.op in TITLES else _suffix([first])
    groups = first.attributes.get("groups", 1)
    more = [] if groups == 1 else ["depthwise" if groups == source[-1] else f"{groups} groups"]
    if after and not (first.op == "conv" and after == left_out):
        more.append(after)
    return (title, *more)


def _window(node: Node) -> str:
    """A window and its step: "3×3 /2"."""
    strides = node.attributes["strides"]
    return _sides(node.attributes["kernel"]) + ("" if set(strides) == {1} else f" /{strides[0]}")


def _pool(node: Node, source: Sequence[int]) -> str:
    cells = f"to {_sides(node.attributes['cells'])}" if node.attributes.get("adaptive") else _window(node)
    return f"{WORDS[node.op]} {cells}"


# Operation -> the first line of its box, of the node and the shape of its input; others have their word.
TITLES: dict[str, Callable[[Node, Sequence[int]], str]] = {
    "conv": lambda node, source: f"{_window(node)}, {node.shape[-1]}",
    "dense": lambda node, source: f"dense, {node.shape[-1]}",
    "max_pool": _pool,
    "avg_pool": _pool,
    "mean": lambda node, source: f"mean over {_sides(source[1:3])}",
    "slice": lambda node, source: f"1×1 /{source[1] // node.shape[1]}, no weights",
    "reshape": lambda node, source: "flatten" if len(node.shape) == 2 else "reshape",
}
