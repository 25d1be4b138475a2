"""`csv:FILE`: images listed by a table, which says what each of them shows: a class, several labels, or values."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.data import formats, table_cells, table_files
from transfer.data.containers import Folder
from transfer.data.folder import FolderSource
from transfer.data.layout import Entry, listed, no_split
from transfer.data.table_cells import text
from transfer.data.table_columns import SAY, TARGETS, Columns, choose
from transfer.data.table_files import Table
from transfer.errors import TransferError, UsageError
from transfer.runtime.files.untrusted import prefix_errors, printable


class Places:
    """The folder that holds the files of a table, and the file in it that a cell names.

    Args:
        root: the folder in which paths begin.
        ending: of names that leave it out; None: any that is found.
    """

    def __init__(self, root: str, ending: str | None) -> None:
        self.root, self._names = root, functools.cache(_files_in)
        self.endings = ["", *((ending,) if ending else (*formats.OF_IMAGES, ".JPG", ".JPEG", ".PNG"))]

    def find(self, cell: str) -> Entry:
        """The file of a cell; without an identity where there is none, as whoever reads it will say.

        Raises TransferError for a relative path that leads out of the folder.
        """
        path = os.path.normpath(cell if "/" in cell else cell.replace("\\", "/"))
        if os.path.isabs(path):
            inside = os.path.relpath(path, os.path.abspath(self.root))
            path = path if inside.startswith("..") else inside
        elif path.split("/")[0] == "..":
            raise TransferError(f"{printable(cell, 200)} leads out of {self.root}; give the path as a whole, or a root")
        folder, name = os.path.split(os.path.join(self.root, path))
        names = self._names(folder)
        there = [ending for ending in self.endings if name + ending in names]
        if len(there) > 1 and there[0]:
            raise UsageError(f"{printable(cell, 200)} is there as {' and as '.join(there)}: --config.data.ending=…")
        path, whole = (name + (there[0] if there else "") for name in (path, os.path.join(folder, name)))
        identity = b""
        with contextlib.suppress(OSError):  # a link to nothing
            identity = b"%d" % os.path.getsize(whole) if there else b""
        return Entry((path,), identity, False, whole)


def _files_in(folder: str) -> frozenset[str]:
    """The names in a folder that are no folders; nothing where there is none."""
    try:
        with os.scandir(folder) as listing:
            return frozenset(entry.name for entry in listing if not entry.is_dir())
    except (OSError, ValueError):
        return frozenset()


def open_split(
    path: str,
    split: str | None,
    columns: Mapping[str, str] | None = None,
    root: str | None = None,
    ending: str | None = None,
) -> FolderSource:
    """Opens the images that a table lists, `.csv`, `.tsv`, `.jsonl` or `.parquet`; ids are the paths in it.

    Args:
        path: the table, or a folder of a table for each split.
        split: a text in the column of splits; of a folder the name of a table.
        columns: what a column says -> its name; see `transfer.data.table_columns`.
        root: the folder where relative paths begin, here or beside the table; None: that of the table.
        ending: of names that leave it out, such as ".jpg"; None: as it is found.

    Raises UsageError where it cannot be told which column is meant, and for an unknown split; TransferError
    for damaged tables, empty cells, labels that contradict each other, and where not one of the files is there.
    """
    name = f"csv:{path}"
    if os.path.isdir(path):
        tables = {os.path.splitext(file)[0]: file for file in os.listdir(path) if file.endswith(table_files.ENDINGS)}
        if split not in tables:
            raise no_split(name, split, sorted(tables))
        path, split = os.path.join(path, tables[split]), None
    with prefix_errors(name):
        table = table_files.read(path)
        places = Places(_root(os.path.dirname(path) or ".", root), ending)
        chosen = choose(table, columns or {})
        rows = _rows_of_split(table, chosen, split)
        for column in filter(None, (chosen.path, chosen.group)):
            table_cells.check_filled(table, column, rows)
        class_names, labels = table_cells.read(table, chosen.says, chosen.shown, rows)
        files = [places.find(text(table.columns[chosen.path][row])) for row in rows]
        missing = [file.parts[0] for file in files if not file.identity]
        if len(missing) == len(files):
            first = f"{printable(files[0].locator, 200)}; say where paths begin: --config.data.root=…"
            raise TransferError(f"none of {len(files)} files is there, the first is {first}")
        kept = _distinct(files, labels, [table.lines[row] for row in rows], chosen)
    source = FolderSource(
        name, Folder(places.root), class_names, [(files[row].parts[0], 0, files[row]) for row in kept]
    )
    source.target, source.labels = TARGETS[chosen.says], labels[kept]
    if chosen.group:
        source.groups = np.array([_number(table.columns[chosen.group][row]) for row in rows[kept]], np.int64)
    of_split = f" of {split!r}" if split else ""
    logging.info("%s%s: %s; %d files in %s", name, of_split, chosen, len(kept), places.root)
    if missing:
        source.leave_out(f"{len(missing)} of {len(files)} files are not there: {listed(missing, 5, 200)}")
    return source


def _root(beside: str, root: str | None) -> str:
    """The folder where paths begin; UsageError for one that is not there, and where two have that name."""
    folders = [beside] if root is None else [os.path.expanduser(root), os.path.join(beside, root)]
    there = [os.path.normpath(folder) for folder in folders if os.path.isdir(folder)]
    if len(set(map(os.path.realpath, there))) != 1:
        what = f"may be {' or '.join(there)}; give the whole path" if there else "is no folder, here or by the table"
        raise UsageError(f"config.data.root={root} {what}")
    return there[0]


def _rows_of_split(table: Table, chosen: Columns, split: str | None) -> np.ndarray:
    """The rows of a split, int64; all of a table without splits."""
    if chosen.split is None:
        if split is not None:
            names = listed(list(table.columns), 20)
            raise UsageError(f"no column is known to say which row is of {split!r}; {SAY}split=… of {names}")
        return np.arange(len(table.lines))
    splits = np.array([text(cell) for cell in table.columns[chosen.split]])
    known = sorted({*splits.tolist()} - {""})
    if split not in known:
        raise no_split(f"column {printable(chosen.split)}", split, known)
    return np.flatnonzero(splits == split)


def _distinct(files: Sequence[Entry], labels: np.ndarray, lines: Sequence[int], chosen: Columns) -> list[int]:
    """The first row of each file; `labels` in cells, of which a file has several rows, come together there.

    Raises TransferError where rows of one file contradict each other.
    """
    first: dict[str, int] = {}
    for row, file in enumerate(files):
        before = first.setdefault(file.parts[0], row)
        if chosen.says == "labels" and len(chosen.shown) == 1:
            labels[before] = np.maximum(labels[before], labels[row])
        elif row != before and not np.array_equal(labels[before], labels[row]):
            raise TransferError(
                f"{printable(file.parts[0], 200)} is in lines {lines[before]} and {lines[row]}, which say different "
                "things of it; --config.data.columns.labels=… takes several labels an image"
            )
    if repeated := len(files) - len(first):
        logging.warning("%d rows are of files that are in the table already", repeated)
    return list(first.values())


def _number(cell: Any) -> int:
    """A number for a text, the same in every table."""
    return int.from_bytes(hashlib.blake2b(text(cell).encode("utf-8", "surrogatepass"), digest_size=7).digest())
