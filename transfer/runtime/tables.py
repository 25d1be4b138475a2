"""Tables as text for a terminal, as Markdown, LaTeX and CSV; the first row of each holds the headings.

`left` is the number of columns that are aligned left, the others being numbers; None: all of them.
"""

import csv
import io
import re
from collections.abc import Collection, Sequence
from typing import Any

Rows = Sequence[Sequence[str]]
# The first characters of a cell that spreadsheets take for a formula, which may call programs and addresses.
_FORMULA = tuple("=+-@\t\r")
# Line ends and escape sequences, which would end a row or colour a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
# What LaTeX takes for something else, and what stands for it.
_LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}


def text(rows: Rows, *, left: int | None = None) -> str:
    """Columns for a terminal."""
    return _table(rows, (), "plain", left)


def markdown(rows: Rows, *, left: int | None = None, bold: Collection[tuple[int, int]] = ()) -> str:
    """A table as GitHub shows it; `bold` are cells by (row, column)."""
    cells = _marked([[cell.replace("|", r"\|") for cell in row] for row in rows], "**{}**", bold)
    return _table(cells[1:], cells[0], "pipe", left)


def latex(rows: Rows, *, left: int | None = None, bold: Collection[tuple[int, int]] = ()) -> str:
    """A `tabular` in the style of booktabs, which wants that package and nothing else; `bold` as in `markdown`."""
    cells = _marked([[escape_latex(cell) for cell in row] for row in rows], r"\textbf{{{}}}", bold)
    made = _table(cells[1:], cells[0], "latex_raw", left)
    for rule in ("toprule", "midrule", "bottomrule"):
        made = made.replace(r"\hline", rf"\{rule}", 1)
    return made


def escape_latex(words: str) -> str:
    """Text as LaTeX shows it letter by letter; what no font of pdfLaTeX has stays, and wants LuaLaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in words)


def separated(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV, for programs."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(map(without_formulas, rows))
    return stream.getvalue()


def without_formulas(row: Sequence[Any]) -> list[Any]:
    """The cells of a row as spreadsheets open them safely: text that would be a formula has an apostrophe before it."""
    return [f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row]


def _is_formula(cell: str) -> bool:
    if not cell.startswith(_FORMULA):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _marked(rows: Rows, form: str, bold: Collection[tuple[int, int]]) -> Rows:
    return [[form.format(cell) if (i, j) in bold else cell for j, cell in enumerate(row)] for i, row in enumerate(rows)]


def _table(rows: Rows, headings: Sequence[str], form: str, left: int | None) -> str:
    """The rows in a format of `tabulate`, each on a line of its own."""
    from tabulate import tabulate

    plain = [[_CONTROL.sub(" ", cell) for cell in row] for row in [headings, *rows]]
    usual, first = "left" if left is None else "right", ["left"] * (left or 0)
    return tabulate(plain[1:], plain[0], form, colglobalalign=usual, colalign=first, disable_numparse=True)
