"""A table as text for a terminal or as Markdown; its first row holds the headings."""

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def text(rows: Rows, *, numbers: bool = False) -> str:
    """In columns, aligned left; with `numbers` all but the first aligned right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [str.ljust, *[str.rjust if numbers else str.ljust] * (len(widths) - 1)]
    lines = [[align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def markdown(rows: Rows, *, numbers: bool = False) -> str:
    """In Markdown, aligned as `text` does."""
    rule = ["---", *["---:" if numbers else "---"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
