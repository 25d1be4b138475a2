"""`docs/architectures.md` and the lessons say what their commands print, and show what they draw."""

import functools
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path

import pytest

from docs.lessons import stacking
from docs.refresh import DRAWN, LESSONS, PAGE, PRINTED, printed
from transfer.cli.arithmetic import LESSONS as ARITHMETIC_LESSONS
from transfer.models import registry
from transfer.models.drawing.boxes import TAP
from transfer.models.drawing.diagram import draw
from transfer.weights import named_graph

PAGE_TEXT = PAGE.read_text("utf-8")
TABLES = {command: text for page in (PAGE, *LESSONS) for command, text in PRINTED.findall(page.read_text("utf-8"))}
DRAWINGS = {
    name: PAGE.parent.parent / path for command, path in DRAWN.findall(PAGE_TEXT) for name in command.split()[3:4]
}
MEASURED = "docs/lessons/gradients.py"
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
SVG = "{http://www.w3.org/2000/svg}"
network = functools.cache(named_graph.network)


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in TABLES if command != MEASURED])
def test_counts_are_those_printed(command: str) -> None:
    assert printed(command) == TABLES[command]


@pytest.mark.slow
def test_measured_gradients_are_those_printed() -> None:
    shown, found = TABLES[MEASURED], printed(MEASURED)
    assert NUMBER.sub("#", found) == NUMBER.sub("#", shown)

    def values(text: str) -> list[float]:
        return [float(number.replace(",", "")) for number in NUMBER.findall(text)]

    # the last digit of a spread, at another machine's rounding
    assert values(found) == pytest.approx(values(shown), rel=0.1)


def test_every_lesson_shows_what_its_script_prints() -> None:
    shown = {Path(command).stem for command in TABLES if command.startswith("docs/lessons/")}
    assert shown == {page.stem for page in LESSONS} == set(ARITHMETIC_LESSONS)


def test_counted_weights_agree_with_the_formula() -> None:
    for channels in stacking.CHANNELS:
        rows = {
            name: dict(zip(stacking.HEADINGS, stacking.row(channels, name), strict=True)) for name in stacking.STACKS
        }
        for cells in rows.values():
            assert cells["formula"].endswith(f"= {cells['weights']}")
            counts = [int(cells[name].replace(",", "")) for name in ("weights", "biases", "parameters")]
            assert counts[0] + counts[1] == counts[2]
        assert rows["three 3×3"]["formula"].startswith(f"27·{channels}²")
        assert rows["one 7×7"]["formula"].startswith(f"49·{channels}²")


def test_every_architecture_is_counted() -> None:
    counted = {name for command in TABLES if " stages " in command for name in command.split()[4:-1]}
    assert counted == set(registry.architectures())


def test_every_picture_is_shown_and_has_a_command() -> None:
    assert sorted(DRAWINGS.values()) == sorted((PAGE.parent / "diagrams").iterdir())
    assert re.findall(r"!\[.+\]\((.+)\)", PAGE_TEXT) == [f"diagrams/{path.name}" for path in DRAWINGS.values()]


@pytest.mark.parametrize("name", DRAWINGS)
def test_diagrams_are_those_drawn(name: str) -> None:
    assert draw(name, *network(name)) == DRAWINGS[name].read_text("utf-8")


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_tap_is_there_and_boxes_lie_apart_or_inside_one_another(name: str) -> None:
    root = ElementTree.parse(DRAWINGS[name]).getroot()
    pills = [box for box in root.iter(f"{SVG}rect") if box.get("fill") == TAP]
    assert len(pills) == len(network(name)[0].endpoints)
    boxes = [
        tuple(float(box.get(side, 0)) for side in ("x", "y", "width", "height")) for box in root.iter(f"{SVG}rect")
    ]
    assert len(boxes) > 8
    for (x, y, width, height), (left, top, wide, high) in combinations(boxes, 2):
        apart = x + width <= left or left + wide <= x or y + height <= top or top + high <= y
        inside = x <= left and y <= top and left + wide <= x + width and top + high <= y + height
        assert apart or inside
    _, _, paper_width, paper_height = boxes[0]
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x", 0)) < paper_width and 0 < float(text.get("y", 0)) < paper_height
