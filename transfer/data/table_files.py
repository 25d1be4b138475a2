"""Tables as people keep them, `.csv`, `.tsv`, `.jsonl` and `.parquet`: columns by name, cells as they stand."""

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging

from transfer.data import formats
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, decompression_limit, error_summary, printable

SEPARATORS = ",;\t"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
CELL_BYTES = 8  # that a cell of a compressed table is taken for at least


class Table(NamedTuple):
    """A table: `columns` by name, a cell a row (text, a number, a list or None), and the line that each row is in.

    What is made of it may take `limit` bytes.
    """

    columns: dict[str, list[Any]]
    lines: Sequence[int]
    limit: int = 0


def read(path: str) -> Table:
    """The table in a file, by the ending of its name; what is no JSON and no Parquet is separated text.

    Raises TransferError for damaged files and for one without rows.
    """
    reader = next((of for ending, of in READERS.items() if path.lower().endswith(ending)), _separated)
    try:
        table = reader(path)
    except DAMAGE_ERRORS as error:  # of JSON and Parquet
        raise TransferError(f"cannot be read as a table ({error_summary(error)})") from error
    if not table.lines:
        raise TransferError("has no rows")
    return table._replace(limit=decompression_limit(os.path.getsize(path)))


def _text(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
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
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        rows = [(reader.line_num, cells) for row in reader if any(cells := [cell.strip() for cell in row])]
    except csv.Error as error:
        raise TransferError(f"line {reader.line_num}: {error}") from error
    header = rows.pop(0)[1] if rows else []
    if odd := next((name for name in header if name.lower().endswith(formats.OF_IMAGES)), None):
        raise TransferError(f"its first line is no header, it names {printable(odd)}; put one above it: path,label")
    if twice := [name for place, name in enumerate(header) if name and name in header[:place]]:
        raise TransferError(f"two columns are named {printable(twice[0])}")
    for line, cells in rows:
        if len(cells) != len(header):
            raise TransferError(f"line {line} has {len(cells)} cells, the header {len(header)}")
    columns = {name: [cells[place] for _, cells in rows] for place, name in enumerate(header)}
    return Table(columns, [line for line, _ in rows])


def _objects(path: str) -> Table:
    """A JSON object a line."""
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(io.StringIO(_text(path)), 1):
        if line.strip():
            try:
                rows[number] = dict(json.loads(line).items())
            except (ValueError, AttributeError) as error:
                raise TransferError(f"line {number} is no JSON object, {{NAME: VALUE, …}}") from error
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return Table({name: [row.get(name) for row in rows.values()] for name in names}, list(rows))


def _parquet(path: str) -> Table:
    import pyarrow
    from pyarrow import parquet

    size = os.path.getsize(path)
    try:
        with parquet.ParquetFile(path) as file:
            facts = file.metadata
            unpacked = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
            unpacked += facts.num_rows * facts.num_columns * CELL_BYTES
            if unpacked > decompression_limit(size):
                raise TransferError(f"{size} bytes claim to be {unpacked}")
            columns = file.read().to_pydict()
            if any(len(cells) != facts.num_rows for cells in columns.values()):
                raise TransferError(f"its columns have not {facts.num_rows} rows, as it says")
            return Table(columns, range(1, facts.num_rows + 1))
    except (pyarrow.ArrowException, OSError) as error:  # the latter for damaged pages, too
        raise TransferError(f"cannot be read as a table ({error_summary(error)})") from error


# how the name of a file ends -> what reads it
READERS = {".jsonl": _objects, ".ndjson": _objects, ".parquet": _parquet}
ENDINGS = (".csv", ".tsv", *READERS)
