"""Tables as people keep them, `.csv`, `.tsv`, `.jsonl` and `.parquet`: columns by name, cells as they stand."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from absl import logging

from transfer.data import formats
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, decompression_limit, error_summary, printable

SEPARATORS = ",;\t"
# How a file in another encoding than UTF-8 begins.
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
WHOLE = re.compile(r"^(-?[0-9]+)\.0$")
CELL_BYTES = 8  # that a cell of a compressed table is taken for at least


class Table(NamedTuple):
    """A table: `columns` by name, a cell a row (text, a number, a list or None), and the line that each row is in."""

    columns: dict[str, list[Any]]
    lines: Sequence[int]


def read(path: str) -> Table:
    """The table in a file, by the ending of its name; what is no JSON and no Parquet is separated text.

    Raises TransferError for damaged files and for one without rows.
    """
    reader = next((of for ending, of in READERS.items() if path.lower().endswith(ending)), _separated)
    try:
        table = reader(path)
    except DAMAGE_ERRORS as error:
        raise TransferError(f"{path}: cannot be read as a table ({error_summary(error)})") from error
    if not table.lines:
        raise TransferError(f"{path}: has no rows{' below its header' if table.columns else ''}")
    return table


def _text(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read()
    encoding = BYTE_ORDER_MARKS.get(data[:2], "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        logging.warning("%s: is no UTF-8 and was read as latin-1", path)
        return data.decode("latin-1")


def _separated(path: str) -> Table:
    """Text with a header, separated by what its header has most of, quoted as spreadsheets do it."""
    text = _text(path)
    first = text.partition("\n")[0].strip("\r")
    separator = max(SEPARATORS, key=first.count)
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's own line
        separator, text = first[4], text.partition("\n")[2]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(path, header)
        lines, cells = [], []
        for row in rows:
            row = [cell.strip() for cell in row]
            if any(row):
                if len(row) < len(header) or any(row[len(header) :]):
                    raise TransferError(f"{path}: line {rows.line_num} has {len(row)} cells, the header {len(header)}")
                lines.append(rows.line_num)
                cells.append(row)
    except csv.Error as error:
        raise TransferError(f"{path}: line {rows.line_num}: {error}") from error
    return Table({name: [row[place] for row in cells] for place, name in enumerate(header)}, lines)


def _check_header(path: str, header: Sequence[str]) -> None:
    if odd := next((name for name in header if name.lower().endswith(formats.OF_IMAGES)), None):
        raise TransferError(
            f"{path}: its first line is no header, it names {printable(odd)}; put one above it, such as path,label"
        )
    if twice := next((name for place, name in enumerate(header) if name in header[:place]), None):
        raise TransferError(f"{path}: two columns are named {printable(twice)!r}")


def _objects(path: str) -> Table:
    """A JSON object a line."""
    lines, rows = [], []
    for number, line in enumerate(io.StringIO(_text(path)), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TransferError(f"{path}: line {number} is no JSON") from error
        if not isinstance(row, dict):
            raise TransferError(f"{path}: line {number} is no object, {{NAME: VALUE, …}}")
        lines.append(number)
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names}, lines)


def _parquet(path: str) -> Table:
    """The columns of texts, numbers and lists."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            facts = file.metadata
            groups = [facts.row_group(index) for index in range(facts.num_row_groups)]
            unpacked = sum(group.total_byte_size for group in groups) + facts.num_rows * facts.num_columns * CELL_BYTES
            if unpacked > decompression_limit(os.path.getsize(path)):
                raise TransferError(f"{path}: {os.path.getsize(path)} bytes claim to be {unpacked}")
            names = [field.name for field in file.schema_arrow if not _is_content(field.type, pyarrow.types)]
            columns = file.read(names).to_pydict()
    except pyarrow.ArrowException as error:
        raise TransferError(f"{path}: cannot be read as a table ({error_summary(error)})") from error
    return Table(columns, range(1, facts.num_rows + 1))


def _is_content(kind: Any, types: Any) -> bool:
    """Whether a column has no cells as a table has them: bytes, or records of several fields."""
    return types.is_struct(kind) or types.is_map(kind) or types.is_binary(kind) or types.is_large_binary(kind)


# how the name of a file ends -> what reads it
READERS = {".jsonl": _objects, ".ndjson": _objects, ".parquet": _parquet}
ENDINGS = (".csv", ".tsv", *READERS)


def text(cell: Any) -> str:
    """A cell as text: empty where it is missing or NaN, whole numbers without a point."""
    if cell is None or cell != cell:
        return ""
    words = str(cell).strip()
    return "" if words.lower() == "nan" else WHOLE.sub(r"\1", words)


def check_filled(table: Table, name: str, rows: Iterable[int]) -> None:
    """Raises TransferError where cells of a column are empty or NaN in some of the rows."""
    empty = [table.lines[row] for row in rows if not text(table.columns[name][row])]
    if empty:
        have = "row has" if len(empty) == 1 else "rows have"
        raise TransferError(
            f"{len(empty)} {have} nothing in column {printable(name)}, the first is line {empty[0]}; fill them in, or "
            "take them out"
        )
