"""Writes the tables of results.md, which-protocol.md and the README from what `docs/results.sh` has measured.

python docs/results.py
"""

import re
from pathlib import Path

KEPT = Path(__file__).with_name("results")
PAGES = (KEPT.with_suffix(".md"), KEPT.with_name("which-protocol.md"), KEPT.parents[1] / "README.md")
# <!-- table FILE WORDS --> … <!-- /table -->: the table of the file whose title has the words; all of it without words.
BLOCK = re.compile(r"<!-- table (\S+?)(?: ([\w :]+))? -->\n.*?<!-- /table -->", re.DOTALL)


def table(file: str, words: str | None) -> str:
    """Markdown of a kept file, or of one of its tables, which stands below its title."""
    text = (KEPT / file).read_text("utf-8")
    if words is None:
        return text
    parts = text.rstrip().split("\n\n")
    (found,) = [(title, rows) for title, rows in zip(parts, parts[1:], strict=False) if words in title]
    return "\n\n".join(found) + "\n"


def refreshed(page: str) -> str:
    """The page with its tables as they are kept."""

    def block(match: re.Match[str]) -> str:
        first, _, _ = match[0].partition("\n")
        return f"{first}\n{table(match[1], match[2])}<!-- /table -->"

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(refreshed(path.read_text("utf-8")), "utf-8")
