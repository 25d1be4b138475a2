"""Pages keep to the form that all share: lines of prose are short, names in the index are the pages' own titles."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ROOT = DOCS.parent
PAGES = [
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("lessons/*.md")),
    *sorted(DOCS.glob("api/*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]
INDEX = (DOCS / "index.md").read_text("utf-8")
LONGEST = 120
# What a script writes between two comments is its own; `settings` and `verbs` are marks without an end.
GENERATED = re.compile(r"<!-- (?!/|settings|verbs)(\w+).*?<!-- /\1 -->", re.DOTALL)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> Iterator[str]:
    """Its lines without code, tables, and commands or pictures that are a line by themselves."""
    text = FENCE.sub("", GENERATED.sub("", page.read_text("utf-8")))
    return (line for line in text.splitlines() if not re.match(r"\||`[^`]*`$|!\[", line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_are_short(page: Path) -> None:
    assert not [line for line in prose(page) if len(line) > LONGEST]


def title(path: Path) -> str:
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    return re.search(r"^# (.+)$", text, re.MULTILINE)[1]


def test_the_index_names_pages_as_the_sidebar_does() -> None:
    listed = dict(reversed(pair) for pair in re.findall(r"^- \[(.+?)\]\((.+?)\):", INDEX, re.MULTILINE))
    in_sidebar = [
        line
        for tree in re.findall(r"```{toctree}\n(.*?)```", INDEX, re.DOTALL)
        for line in tree.split("\n\n")[1].split()
    ]
    assert [path.rpartition(".")[0] for path in listed] == in_sidebar, "in the same order"
    assert {path: title(DOCS / path) for path in listed} == listed
