"""A network as one SVG picture: a band a stage, and in it what the stage does."""

import itertools
from collections.abc import Iterator, Sequence

from transfer.models.drawing import labels
from transfer.models.drawing.blocks import Band, Step, Unit, bands, flattened
from transfer.models.drawing.boxes import FRAME, Box, Branches, Card, Frame, Row, Shortcut, Tap, wrapped
from transfer.models.drawing.canvas import LARGE, LINE, SMALL, USUAL, Canvas, text_width
from transfer.models.graph.trace import Graph, Node

WIDTH, MARGIN = 1040.0, 20.0
LABEL, BETWEEN, ROWS = 168.0, 20.0, 16.0
CONTENT = MARGIN + LABEL + 30
TURN = CONTENT - 14
LEGEND = (
    "blue: convolution (3×3 /2, 64: windows of 3×3 in steps of 2, to 64 channels); max, average: pools; violet: tap"
)


def draw(name: str, graph: Graph, image: Sequence[int]) -> str:
    """The SVG text for a network.

    Args:
      name: as the title calls it.
      graph: of the network.
      image: (height, width, channels) that it was traced with.
    """
    return Diagram(name, graph).svg(image)


class Diagram:
    """Paints from top to bottom: `y` is how far it has come, `right` how far to the right."""

    def __init__(self, name: str, graph: Graph) -> None:
        self.name, self.graph = name, graph
        self.bands = bands(graph)
        self.taps = {position: tap for tap, position in graph.endpoints.items()}
        steps = [self._nodes(step) for band in self.bands for unit in band.units for step in flattened(unit.steps)]
        suffixes = {labels.suffix(nodes[1:]) for nodes in steps if nodes[0].op == "conv"}
        # what follows every convolution, said once for all of them
        self.left_out = suffixes.pop() if len(suffixes) == 1 else None
        self.canvas = Canvas(f"{name}, drawn from the model")
        self.y, self.right = MARGIN, 0.0

    def _nodes(self, step: Step) -> list[Node]:
        return [self.graph.nodes[i] for i in step.nodes]

    def svg(self, image: Sequence[int]) -> str:
        """The whole picture."""
        costs = f"{self.graph.parameters:,} parameters, {self.graph.macs / 1e9:.4g} GFLOPs (1e9 multiply-adds)"
        notes = [f"{costs} for one image of {labels.sides(image)}", LEGEND]
        if self.left_out:
            notes.append(f"after every convolution: {self.left_out}")
        self.canvas.text(MARGIN, self.y + 10, self.name, size=20, bold=True, anchor="start")
        for i, note in enumerate(notes):
            size = SMALL if i else USUAL
            self.canvas.text(MARGIN, self.y + 38 + 20 * i, note, size=size, anchor="start")
            self.right = max(self.right, MARGIN + text_width(note, size))
        self.y += 44 + 20 * len(notes)
        above = None
        for band in self.bands:
            above = self._band(band, above)
        return self.canvas.svg(self.right + MARGIN, self.y + MARGIN - BETWEEN)

    def _band(self, band: Band, label_above: float | None) -> float:
        """Paints a stage below what is there; returns where its label ends."""
        rows = wrapped([box for unit in band.units for box in self._unit(unit)], WIDTH - CONTENT - MARGIN)
        end = [step.nodes[-1] for unit in band.units for step in unit.steps if not step.side][-1]
        texts = [band.name, labels.sides(self.graph.nodes[end].shape[1:])]
        if band.name in self.graph.stages:
            texts.append(f"{self.graph.stages[band.name].parameters:,} parameters")
        half = 7 + 9.0 * len(texts)
        line = self.y + max(half, rows[0].above)
        self._paint_label(texts, line - half, 2 * half, label_above)
        self.canvas.line([(MARGIN + LABEL, line), (CONTENT, line)], arrow=False)
        bottom = label_end = line + half
        for row, following in itertools.zip_longest(rows, rows[1:]):
            row.paint(self.canvas, CONTENT, line)
            right, under = CONTENT + row.width, line + row.below
            self.right, bottom = max(self.right, right), max(bottom, under)
            if following is not None:
                # from the end of this row to the beginning of the one under it
                start, below, between = (
                    [(right, line), (right + 9, line)],
                    under + ROWS + following.above,
                    under + ROWS / 2,
                )
                self.canvas.line([*start, (right + 9, between), (TURN, between), (TURN, below), (CONTENT, below)])
                line = below
        self.y = bottom + BETWEEN
        return label_end

    def _paint_label(self, texts: Sequence[str], top: float, height: float, above: float | None) -> None:
        self.canvas.rectangle(MARGIN, top, LABEL, height, FRAME, line=LINE, radius=6)
        middle = MARGIN + LABEL / 2
        for i, (text, size) in enumerate(zip(texts, (LARGE, USUAL, SMALL), strict=False)):
            self.canvas.text(middle, top + 16 + 18 * i, text, size=size, bold=i == 0)
        if above is not None:
            self.canvas.line([(middle, above), (middle, top)])

    def _unit(self, unit: Unit) -> list[Box]:
        boxes = list(self._boxes(unit.steps))
        if not unit.names:
            return boxes
        title = unit.names[0] if len(unit.names) == 1 else f"{unit.names[0]} to {unit.names[-1]} (× {len(unit.names)})"
        inside = [box for box in boxes if not isinstance(box, Tap)]
        return [Frame(title, Row(inside)), *(box for box in boxes if isinstance(box, Tap))]

    def _boxes(self, steps: Sequence[Step]) -> Iterator[Box]:
        for step in steps:
            yield self._box(step)
            if step.nodes[-1] in self.taps:
                yield Tap(self.taps[step.nodes[-1]], dashed=step.side)

    def _box(self, step: Step) -> Box:
        first, *after = nodes = self._nodes(step)
        if not step.branches:
            source = self.graph.nodes[first.inputs[0]].shape
            fill = labels.COLOURS.get(first.op, labels.OTHER_COLOUR)
            return Card(labels.lines(nodes, source, self.left_out), fill, step.side)
        rows = [Row(list(self._boxes(branch))) for branch in step.branches]
        if first.op == "add" and len(rows) == 2:
            shortcut, body = sorted(rows, key=lambda row: len(row.boxes))
            return Shortcut(body, shortcut, labels.suffix(after))
        return Branches(rows, [first.op, str(first.shape[-1]), *([labels.suffix(after)] if after else [])])
