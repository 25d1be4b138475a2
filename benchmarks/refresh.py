"""Writes the tables of ratios in docs/benchmarks.md again, from the JSON beside this file.

python benchmarks/refresh.py
"""

import re
from pathlib import Path

from transfer.bench import table

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
# <!-- benchmarks cpu --> … <!-- /benchmarks -->: the results in that folder.
BLOCK = re.compile(r"<!-- benchmarks (\w+) -->\n.*?<!-- /benchmarks -->", re.DOTALL)


def refreshed(page: str) -> str:
    """The page with a new block for each folder that it shows."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- benchmarks {match[1]} -->\n{shown(FOLDER / match[1])}<!-- /benchmarks -->"

    return BLOCK.sub(block, page)


def shown(folder: Path) -> str:
    """What `python -m transfer bench --report FOLDER/*.json` prints; a sentence where there is nothing yet."""
    paths = sorted(folder.glob("*.json"))
    return table.report(paths) + "\n" if paths else "Not measured yet.\n"


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text("utf-8")), "utf-8")
