"""The confusion matrix: counted without its zeros, as a chart, and as what the page's script draws."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from transfer.evaluation.predictions import Predictions
from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.templates import Section, output_names, rendered

# Lines of the table beside the picture.
MOST_LINES = 100
# Classes up to which a chart names them, and the side of a cell, in pixels, from which it has a number.
NAMED, NUMBERED = 40, 26


class Confusion(NamedTuple):
    """How often each class was taken for each, of the M pairs that happened.

    Attributes:
        actual, predicted, count: int64 (M,), by actual and then by predicted; the right ones among them.
        rows: int64 (C,), how many rows each class has.
        said: int64 (C,), how many rows were said to be of it.
    """

    actual: np.ndarray
    predicted: np.ndarray
    count: np.ndarray  # type: ignore[assignment]
    rows: np.ndarray
    said: np.ndarray

    def mistakes(self) -> "Confusion":
        """Those that are wrong, the most frequent first; of equals those that are the larger share of their class."""
        wrong = np.flatnonzero(self.actual != self.predicted)
        share = self.count[wrong] / self.rows[self.actual[wrong]]
        order = wrong[np.lexsort((self.predicted[wrong], self.actual[wrong], -share, -self.count[wrong]))]
        return self._replace(actual=self.actual[order], predicted=self.predicted[order], count=self.count[order])


def confusion(predictions: Predictions) -> Confusion:
    """The confusion of predictions of classes; C * C numbers are never held: the cost is that of the mistakes."""
    width = predictions.num_outputs
    said = predictions.top[:, 0].astype(np.int64)
    pairs, count = np.unique(predictions.labels.astype(np.int64) * width + said, return_counts=True)
    rows, of_said = (np.bincount(classes, minlength=width) for classes in (predictions.labels, said))
    return Confusion(pairs // width, pairs % width, count, rows, of_said)


def alike(counted: Confusion) -> np.ndarray:
    """An order of the classes, int64 (C,), that puts those that are taken for each other beside each other.

    Chains of classes are joined at their ends, the pair that is confused most (in shares of both) first.
    """
    wrong = counted.mistakes()
    low, high = np.minimum(wrong.actual, wrong.predicted), np.maximum(wrong.actual, wrong.predicted)
    width = len(counted.rows)
    pairs, place = np.unique(low * width + high, return_inverse=True)
    weight = np.bincount(place, wrong.count / counted.rows[wrong.actual], minlength=len(pairs))
    chain_of = [[number] for number in range(width)]
    for pair in pairs[np.argsort(-weight, kind="stable")].tolist():
        first, second = chain_of[pair // width], chain_of[pair % width]
        a, b = pair // width, pair % width
        if first is second or a not in (first[0], first[-1]) or b not in (second[0], second[-1]):
            continue
        left = first if first[-1] == a else first[::-1]
        right = second if second[0] == b else second[::-1]
        joined = left + right
        for end in joined:
            chain_of[end] = joined
    chains = {id(chain): chain for chain in chain_of}
    return np.asarray(
        [number for chain in sorted(chains.values(), key=lambda c: (-len(c), min(c))) for number in chain]
    )


def section(run: RunData) -> Section | None:
    """The matrix, and a table of the most frequent errors; None for labels and values, which have no such matrix."""
    if run.predictions is None or run.predictions.kind != "classes":
        return None
    counted, titles = confusion(run.predictions), output_names(run.predictions)
    wrong, chart = counted.mistakes(), cache(lambda: _chart(counted, titles))
    lines = [
        {"actual": titles[a], "predicted": titles[p], "count": n, "share": n / counted.rows[a]}
        for a, p, n in zip(*(x[:MOST_LINES].tolist() for x in wrong[:3]), strict=True)
    ]
    html = rendered(
        "confusion.html",
        lines=lines,
        kinds=len(wrong.count),
        mistakes=int(wrong.count.sum()),
        rows=len(run.predictions),
        classes=len(titles),
        chart=chart() if len(titles) <= NAMED else None,
    )
    data = {
        "names": titles,
        "entries": np.stack(counted[:3], axis=1).ravel().tolist(),
        "rows": counted.rows.tolist(),
        "said": counted.said.tolist(),
        "alike": alike(counted).tolist(),
    }
    return Section("confusion", "Confusion matrix", html, data, lambda: [chart()])


def _chart(counted: Confusion, titles: list[str]) -> svg.Chart:
    """Actual classes down, predicted ones across, each row as shares of its class; errors on a root scale."""
    size, named = len(titles), len(titles) <= NAMED
    cell = min(40.0, max(13.0, 560 / size)) if named else 560 / size
    room = 30 + (max(len(svg.short(title)) for title in titles) * svg.LETTER if named else 0)
    side = room + cell * size + 10
    frame = svg.Frame((0, size), (size, 0), side, side, left=room, right=10, top=room, bottom=10)
    square = svg.element("rect", class_="sunk", x=room, y=room, width=f"{cell * size:g}", height=f"{cell * size:g}")
    parts = [square, *_cells(frame, counted, cell)]
    if named:
        for number, title in enumerate(map(svg.short, titles)):
            middle = room + (number + 0.5) * cell
            parts.append(svg.text(room - 7, middle + 4, title, "y"))
            parts.append(svg.text(middle + 4, room - 7, title, angle=-90))
    parts.append(svg.text(room + cell * size / 2, 14, "predicted class", "label x"))
    parts.append(svg.text(14, room + cell * size / 2, "actual class", "label x", -90))
    legend = [(_ramp(1), "correct"), (_ramp(2), "misclassified (root scale)")]
    title = "Confusion matrix: share of each actual class" + ", %" * (cell >= NUMBERED)
    right = int(counted.count[counted.actual == counted.predicted].sum())
    label = f"Confusion matrix of {size} classes: {right} of {counted.rows.sum()} images are correct"
    return svg.Chart(title, frame, label, svg.joined(parts), legend)


def _cells(frame: svg.Frame, counted: Confusion, cell: float) -> Iterator[Markup]:
    """The cells, as a path for each shade, and in large ones the share in per cent."""
    share = counted.count / counted.rows[counted.actual]
    hit = counted.actual == counted.predicted
    strength = np.where(hit, 0.06 + 0.94 * share, 0.14 + 0.86 * np.sqrt(share))
    series, shade = np.where(hit, 1, 2), np.rint(strength * 25).astype(int)
    width = f"{cell - (cell > 8):.4g}"
    left, top = (np.round(frame.left + cell * at, 2) for at in (counted.predicted, counted.actual))
    for number, level in sorted({*zip(series.tolist(), shade.tolist(), strict=True)}):
        rows = np.flatnonzero((series == number) & (shade == level))
        squares = "".join(f"M{left[i]:g} {top[i]:g}h{width}v{width}h-{width}z" for i in rows)
        yield svg.element("path", class_=f"cell {svg.colour(number)}", fill_opacity=f"{level / 25:g}", d=squares)
    if cell >= NUMBERED:
        for x, y, part, strong in zip(left, top, share, strength, strict=True):
            number = "100" if part >= 0.995 else "<1" if part < 0.01 else f"{100 * part:.0f}"
            yield svg.text(x + cell / 2, y + cell / 2 + 4, number, "count light" if strong > 0.62 else "count")


def _ramp(series: int) -> Markup:
    """Shades from little to much, for the legend."""
    look = {"class_": f"cell {svg.colour(series)}", "y": 1, "width": 6.5, "height": 10}
    return svg.joined(svg.element("rect", **look, fill_opacity=(i + 1) / 4, x=6.5 * i) for i in range(4))
