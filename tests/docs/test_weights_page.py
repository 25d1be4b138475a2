"""The page of weights names, for each form of file, a test that holds what it says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
TESTS = Path(__file__).parents[1] / "weights"
TABLE = re.compile(r"^\|.*\| held by \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
HELD_BY = re.compile(r"`(\w+\.py)::(\w+)` \|$")

ROWS = [row for table in TABLE.findall(PAGE.read_text("utf-8")) for row in table.splitlines()]


def test_there_are_forms() -> None:
    assert len(ROWS) > 5 and len(ROWS) == len(set(ROWS))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_a_form_of_file_is_held_by_a_test(row: str) -> None:
    file, name = HELD_BY.search(row).groups()
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text("utf-8"), re.MULTILINE), f"{file} has no {name}"
