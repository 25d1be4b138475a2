"""The page of data sets names, for each source, a test that holds what it says."""

import re
from pathlib import Path

import pytest

from transfer.data import SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
TESTS = Path(__file__).parents[1]
TABLE = re.compile(r"^\|.*\| held by \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
HELD_BY = re.compile(r"`(\w+\.py)::(\w+)` \|$")

ROWS = [row for table in TABLE.findall(PAGE.read_text("utf-8")) for row in table.splitlines()]


def test_every_kind_is_on_the_page() -> None:
    named = "\n".join(row.split("|")[2] for row in ROWS)
    assert len(ROWS) == len(set(ROWS))
    assert {kind for kind in SOURCES if not re.search(rf"`{kind}[`:]", named)} == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_a_source_is_held_by_a_test(row: str) -> None:
    file, name = HELD_BY.search(row).groups()
    (path,) = TESTS.rglob(file)
    assert re.search(rf"^def {name}\(", path.read_text("utf-8"), re.MULTILINE), f"{file} has no {name}"
