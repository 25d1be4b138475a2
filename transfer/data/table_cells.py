"""What the cells of a table say of images, as a `Source` has it: a class each, several labels, or values."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.data.table_files import Table
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import MAX_CLASSES, printable

# Cells of a column of marks -> what they say.
MARKS = {"1": True, "True": True, "true": True, "0": False, "-1": False, "False": False, "false": False}
# What labels in a cell may be separated by, beside spaces.
SEPARATORS = "|;,"
FRACTION = re.compile(r"^-?[0-9]*\.[0-9]+$")
WHOLE = re.compile(r"^(-?[0-9]+)\.0$")


def text(cell: Any) -> str:
    """A cell as text: empty where it is missing or NaN, whole numbers without a point."""
    words = "" if cell is None else str(cell).strip()
    return "" if words.lower() == "nan" else WHOLE.sub(r"\1", words)


def check_filled(table: Table, name: str, rows: Iterable[int]) -> None:
    """Raises TransferError where cells of a column are empty or NaN in some of the rows."""
    if empty := [table.lines[row] for row in rows if not text(table.columns[name][row])]:
        have = "row has" if len(empty) == 1 else "rows have"
        raise TransferError(
            f"{len(empty)} {have} nothing in column {printable(name)}, the first is line {empty[0]}: "
            "fill in, or remove, what is not known"
        )


def read(table: Table, says: str, shown: Sequence[str], rows: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of classes or labels in the whole table, sorted, or of values, and what some rows have of them.

    Args:
        says, shown: as `transfer.data.table_columns.Columns` has them.
        rows: int64 (n,), of which each has to say something; the result is as `Source.labels`.

    Raises TransferError naming the line of a cell that is empty, no number, no mark, or no class.
    """
    for name in shown if says == "value" else shown[:1] if says == "label" and len(shown) == 1 else ():
        check_filled(table, name, rows)
    if says == "value":
        numbers = [
            [_number(table.columns[name][row], f"column {printable(name)}: line {table.lines[row]}") for row in rows]
            for name in shown
        ]
        return tuple(shown), np.array(numbers, np.float32).T
    if odd := [name for name in shown if len(shown) > 1 and not is_marks(table.columns[name])]:
        raise TransferError(f"column {printable(odd[0])} should hold 1 and 0, or 1 and -1, and nothing else")
    if says == "label" and len(shown) == 1:
        of_rows = [[label] for label in map(text, table.columns[shown[0]])]
    else:
        of_rows = labels_of(table.columns, shown)
    names = shown if len(shown) > 1 else sorted({label for labels in of_rows for label in labels} - {""}, key=_natural)
    too_many = len(names) > MAX_CLASSES if says == "label" else 4 * len(names) * len(rows) > table.limit
    if too_many or (says == "labels" and len(names) < 2):
        raise TransferError(f"column {printable(shown[0])} holds {len(names)} different labels")
    if says == "label" and 2 * sum(map(bool, map(FRACTION.match, names))) > len(of_rows):
        column = printable(shown[0])
        raise TransferError(f"column {column} holds fractions, no classes: --config.data.columns.value={column}")
    places = {name: place for place, name in enumerate(names)}
    if says == "label":
        for row in rows:
            if len(of_rows[row]) != 1:
                raise TransferError(f"line {table.lines[row]} is of {len(of_rows[row])} of the classes, not of one")
        return tuple(names), np.array([places[of_rows[row][0]] for row in rows], np.int64)
    marks = np.zeros((len(rows), len(names)), np.float32)
    for place, row in enumerate(rows):
        marks[place, [places[label] for label in of_rows[row]]] = 1
    return tuple(names), marks


def is_marks(cells: Sequence[Any]) -> bool:
    """Whether each cell of a column says yes or no: by 1 and 0, or by 1 and -1."""
    texts = set(map(text, cells))
    return texts <= MARKS.keys() and not {"0", "-1"} <= texts


def labels_of(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[list[str]]:
    """The labels of each row: those in the cells of one column, or the names of the columns that say yes.

    Where each cell has as many marks, labels are the places of those that say yes.
    """
    if len(names) > 1:
        rows = zip(*([MARKS.get(text(cell)) for cell in columns[name]] for name in names), strict=True)
        return [[name for name, mark in zip(names, row, strict=True) if mark] for row in rows]
    separator = _separator(columns[names[0]])
    of_rows = [_split(cell, separator) for cell in columns[names[0]]]
    lengths = set(map(len, of_rows))
    if len(lengths) == 1 and max(lengths) > 1 and is_marks(list(itertools.chain(*of_rows))):
        return [[str(place) for place, mark in enumerate(marks) if MARKS[mark]] for marks in of_rows]
    return of_rows


def are_shared(cells: Sequence[Any]) -> bool:
    """Whether cells put the same labels together in ever new ways, as the words in names of classes are not."""
    labels = {label for labels in labels_of({"": cells}, [""]) for label in labels}
    return (_separator(cells) or " ") in "|;" or len(labels) < len(set(map(text, cells)) - {""})


def _separator(cells: Sequence[Any]) -> str | None:
    """What separates labels in cells: the first of SEPARATORS that any of them has; None for spaces."""
    return next((sign for sign in SEPARATORS if any(sign in text(cell) for cell in cells)), None)


def _split(cell: Any, separator: str | None) -> list[str]:
    """The labels in a cell, which may be a list, or look like one of Python's."""
    parts = cell if isinstance(cell, list) else text(cell).strip("[]").split(separator)
    if nested := [part for part in (cell, *parts) if isinstance(part, dict | bytes)]:
        raise TransferError(f"labels are text or numbers, not {printable(str(nested[0]))}")
    return [label for part in parts if (label := text(part).strip("'\" "))]


def _number(cell: Any, where: str) -> float:
    """The number in a cell; TransferError for what is none that float32 holds."""
    try:
        if abs(number := float(text(cell))) <= np.finfo(np.float32).max:
            return number
    except ValueError:
        pass
    raise TransferError(f"{where} has {printable(text(cell))}, which is no finite number")


def _natural(label: str) -> list[tuple[bool, int, str]]:
    """A key that sorts text as people do: 2 before 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return [(not part.isdecimal(), int(part) if part.isdecimal() and len(part) < 20 else 0, part) for part in parts]
