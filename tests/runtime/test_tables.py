"""Tables in every form, of names that each form would take for something else."""

import csv
import re

import pytest

from transfer.runtime import tables

ROWS = [
    ["class", "recall", "mostly predicted as"],
    ["a|b", "1.50", "-0"],
    ["R&D_50%", "10", ""],
    ["two\nlines", "7", "x"],
]


def test_text_is_in_columns() -> None:
    assert tables.text(ROWS, left=1).splitlines() == [
        "class      recall  mostly predicted as",
        "a|b          1.50                   -0",
        "R&D_50%        10",
        "two lines       7                    x",
    ]
    assert (
        tables.text(ROWS[:1], left=1) == "class  recall  mostly predicted as" and tables.text([["a", "bc"]]) == "a  bc"
    )
    assert tables.text([["a", "bc", "d"], ["1", "2", "33"]], left=2).splitlines() == ["a  bc   d", "1  2   33"]
    assert tables.text(ROWS).splitlines()[1] == "a|b        1.50    -0"


def test_markdown_has_a_cell_for_each_even_where_a_name_holds_a_bar() -> None:
    lines = tables.markdown(ROWS, left=1, bold={(1, 1)}).splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert cells[0] == ROWS[0] and [re.sub("-+", "-", cell) for cell in cells[1]] == [":-", "-:", "-:"]
    assert cells[2:] == [[r"a\|b", "**1.50**", "-0"], ROWS[2], ["two lines", "7", "x"]]


def test_latex_shows_names_letter_by_letter() -> None:
    lines = tables.latex(ROWS, left=1, bold={(1, 1)}).splitlines()
    assert lines[:2] == [r"\begin{tabular}{lrr}", r"\toprule"] and lines[3] == r"\midrule"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))] for line in lines[4:-2]]
    assert cells == [[r"a\textbar{}b", r"\textbf{1.50}", "-0"], [r"R\&D\_50\%", "10", ""], ["two lines", "7", "x"]]
    assert [cell.strip() for cell in lines[2].removesuffix(r"\\").split("&")] == ROWS[0]
    assert tables.escape_latex("<a|b>±") == r"\textless{}a\textbar{}b\textgreater{}$\pm$"
    assert tables.escape_latex(r"a_b&c%d$e#f{g}\~^") == (
        r"a\_b\&c\%d\$e\#f\{g\}\textbackslash{}\textasciitilde{}\textasciicircum{}"
    )


def test_csv_is_read_back_as_it_was() -> None:
    assert list(csv.reader(tables.separated(ROWS).splitlines(keepends=True))) == ROWS


@pytest.mark.parametrize("write", [tables.text, tables.markdown, tables.latex])
def test_numbers_are_shown_as_they_are_given(write) -> None:
    made = write([["seed", "value"], ["0010", "1e3"], ["2", "0.10"]], left=1)
    assert "0010" in made and "1e3" in made and "0.10" in made


def test_what_a_spreadsheet_would_take_for_a_formula_is_text():
    row = ["=1+1", "+1", "-2.5e3", "-1-1", "@A1", "\tx", "a=b", -3, ""]
    assert tables.without_formulas(row) == ["'=1+1", "+1", "-2.5e3", "'-1-1", "'@A1", "'\tx", "a=b", -3, ""]
    assert tables.separated([["=1+1", -3]]) == "'=1+1,-3\n"
