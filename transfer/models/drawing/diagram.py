"""A network as one SVG picture: a band a stage, and in it what the stage does."""

from collections.abc import Iterable, Iterator, Sequence

from transfer.models.drawing import labels
from transfer.models.drawing.blocks import Band, Fork, Item, Step, Unit, bands, last
from transfer.models.drawing.boxes import Box, Branches, Card, Frame, Row, Shortcut, Tap, wrapped
from transfer.models.drawing.canvas import LARGE, LINE, SMALL, USUAL, Canvas, text_width
from transfer.models.graph.trace import Graph, Node

WIDTH, MARGIN = 1040.0, 20.0
LABEL, BETWEEN, ROWS = 168.0, 20.0, 16.0
CONTENT = MARGIN + LABEL + 30
TURN = CONTENT - 14
LABEL_FILL = "#f6f8fa"
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
    return Diagram(name, graph, image).svg()


class Diagram:
    """Paints from top to bottom; `y` is how far it has come."""

    def __init__(self, name: str, graph: Graph, image: Sequence[int]) -> None:
        self.name, self.graph, self.image = name, graph, image
        self.bands = bands(graph)
        self.taps = {position: tap for tap, position in graph.endpoints.items()}
        steps = [step for band in self.bands for unit in band.units for step in _steps(unit.items)]
        self.left_out = labels.usual_suffix([self._nodes(s) for s in steps if self._nodes(s)[0].op == "conv"])
        self.canvas = Canvas(f"{name}, drawn from the model")
        self.y = MARGIN
        self.right = 0.0
        self.labelled = 0.0

    def svg(self) -> str:
        """The whole picture."""
        self._head()
        for band in self.bands:
            self._band(band)
        return self.canvas.svg(self.right + MARGIN, self.y + MARGIN - BETWEEN)

    def _nodes(self, step: Step) -> list[Node]:
        return [self.graph.nodes[i] for i in step.nodes]

    def _head(self) -> None:
        costs = f"{self.graph.parameters:,} parameters, {self.graph.macs / 1e9:.4g} GFLOPs (1e9 multiply-adds)"
        notes = [f"{costs} for one image of {labels.sides(self.image)}", LEGEND]
        if self.left_out:
            notes.append(f"after every convolution: {self.left_out}")
        self.canvas.text(MARGIN, self.y + 10, self.name, size=20, bold=True, anchor="start")
        for i, note in enumerate(notes):
            size = SMALL if i else USUAL
            self.canvas.text(MARGIN, self.y + 38 + 20 * i, note, size=size, anchor="start")
            self.right = max(self.right, MARGIN + text_width(note, size))
        self.y += 44 + 20 * len(notes)

    def _band(self, band: Band) -> None:
        rows = wrapped([box for unit in band.units for box in self._unit(unit)], WIDTH - CONTENT - MARGIN)
        texts = self._label(band)
        half = 7 + 9.0 * len(texts)
        line = self.y + max(half, rows[0].above)
        self._paint_label(texts, line - half, 2 * half)
        self.canvas.line([(MARGIN + LABEL, line), (CONTENT, line)], arrow=False)
        bottom = line + half
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            row.paint(self.canvas, CONTENT, line)
            end, under = CONTENT + row.width, line + row.below
            self.right, bottom = max(self.right, end), max(bottom, under)
            if following is not None:
                below = under + ROWS + following.above
                self._next_row((end, line), under + ROWS / 2, below)
                line = below
        self.y = bottom + BETWEEN

    def _next_row(self, end: tuple[float, float], between: float, line: float) -> None:
        """From the end of a row to the begin of the one under it."""
        x, y = end
        down, up = x + 9, TURN
        self.canvas.line([(x, y), (down, y), (down, between), (up, between), (up, line), (CONTENT, line)])

    def _label(self, band: Band) -> list[str]:
        end = [last(item) for unit in band.units for item in unit.items if not getattr(item, "side", False)][-1]
        texts = [band.name, labels.sides(self.graph.nodes[end].shape[1:])]
        total = self.graph.stages.get(band.name)
        if total is not None:
            texts.append(f"{total.parameters:,} parameters")
        return texts

    def _paint_label(self, texts: Sequence[str], top: float, height: float) -> None:
        self.canvas.rectangle(MARGIN, top, LABEL, height, LABEL_FILL, line=LINE, radius=6)
        for i, text in enumerate(texts):
            size = SMALL if i == 2 else USUAL
            self.canvas.text(MARGIN + LABEL / 2, top + 16 + 18 * i, text, size=LARGE if i == 0 else size, bold=i == 0)
        if self.labelled:
            self.canvas.line([(MARGIN + LABEL / 2, self.labelled), (MARGIN + LABEL / 2, top)])
        self.labelled = top + height

    def _unit(self, unit: Unit) -> list[Box]:
        boxes = list(self._boxes(unit.items))
        if not unit.names:
            return boxes
        title = unit.names[0] if len(unit.names) == 1 else f"{unit.names[0]} to {unit.names[-1]} (× {len(unit.names)})"
        inside = [box for box in boxes if not isinstance(box, Tap)]
        outside = [box for box in boxes if isinstance(box, Tap)]
        return [Frame(title, Row(tuple(inside))), *outside]

    def _boxes(self, items: Iterable[Item]) -> Iterator[Box]:
        for item in items:
            side = isinstance(item, Step) and item.side
            yield self._fork(item) if isinstance(item, Fork) else self._card(item)
            if last(item) in self.taps:
                yield Tap(self.taps[last(item)], dashed=side)

    def _card(self, step: Step) -> Card:
        nodes = self._nodes(step)
        source = self.graph.nodes[nodes[0].inputs[0]].shape
        fill = labels.COLOURS.get(nodes[0].op, labels.OTHER_COLOUR)
        return Card(labels.lines(nodes, source, self.left_out), fill, step.side)

    def _fork(self, fork: Fork) -> Box:
        rows = [Row(tuple(self._boxes(branch))) for branch in fork.branches]
        first, *after = self._nodes(fork.join)
        if first.op == "add" and len(rows) == 2:
            shortcut, body = sorted(rows, key=lambda row: len(row.boxes))
            return Shortcut(body, shortcut, labels.suffix(after))
        return Branches(tuple(rows), (first.op, str(first.shape[-1]), *([labels.suffix(after)] if after else [])))


def _steps(items: Iterable[Item]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, Fork):
            for branch in item.branches:
                yield from _steps(branch)
            yield item.join
        else:
            yield item
