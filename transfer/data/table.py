"""`csv:FILE`: images listed by a table, which says what each of them shows: a class, several labels, or values."""

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.data import formats, table_files, table_labels
from transfer.data.containers import Folder
from transfer.data.folder import FolderSource
from transfer.data.layout import Entry, listed, no_split
from transfer.data.table_columns import SETTING, TARGETS, Columns, choose
from transfer.data.table_files import ENDINGS, Table, check_filled, text
from transfer.errors import TransferError, UsageError
from transfer.runtime.files.untrusted import prefix_errors, printable

# Rows that are looked at to learn where the files lie.
LOOKED_AT = 20


class Places:
    """Where the files are that a table names.

    Args:
        root: the folder in which paths begin.
        ending: of names that leave it out; None: any that is found.
    """

    def __init__(self, root: str, ending: str | None) -> None:
        self.root = root
        self.endings = ["", *((ending,) if ending else (*formats.OF_IMAGES, ".JPG", ".JPEG", ".PNG"))]

    def relative(self, cell: str) -> str:
        """The path as the table has it, put in order; TransferError for one that leads out of the folder."""
        path = os.path.normpath(cell if "/" in cell else cell.replace("\\", "/"))
        if os.path.isabs(path):
            inside = os.path.relpath(path, os.path.abspath(self.root))
            return path if inside.startswith("..") else inside
        if path.split("/")[0] == "..":
            raise TransferError(f"{printable(cell, 200)} leads out of {self.root}; give the path as a whole, or a root")
        return path

    def entry(self, cell: str) -> Entry:
        """The file; one that is not there has no identity, and whoever reads it will say so."""
        path, size = self.find(cell) or (self.relative(cell), b"")
        return Entry((path,), size, False, os.path.join(self.root, path))

    def find(self, cell: str) -> tuple[str, bytes] | None:
        """The path of a file, relative to the folder, and its size; None where there is none."""
        path = self.relative(cell)
        for ending in self.endings:
            try:
                status = os.stat(os.path.join(self.root, path + ending))
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(status.st_mode):
                if ending and ending != self.endings[1]:  # those of a table are mostly alike
                    self.endings.remove(ending)
                    self.endings.insert(1, ending)
                return path + ending, b"%d" % status.st_size
        return None


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
        root: where relative paths begin; None: beside the table, or in the one folder there that has the files.
        ending: of names that leave it out, such as ".jpg"; None: as it is found.

    Raises UsageError where it cannot be told which column or folder is meant, and for an unknown split; TransferError
    for damaged tables, empty cells, labels that contradict each other, and where not one of the files is there.
    """
    name = f"csv:{path}"
    if os.path.isdir(path):
        stems = {os.path.splitext(file)[0]: file for file in sorted(os.listdir(path)) if file.endswith(ENDINGS)}
        if split not in stems:
            raise no_split(name, split, list(stems))
        path, split = os.path.join(path, stems[split]), None
    with prefix_errors(name):
        table = table_files.read(path)
        places = Places(os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(root or ""))), ending)
        chosen = choose(table, columns or {}, lambda cell: places.find(cell) is not None)
        rows = _rows_of_split(table, chosen, split)
        class_names, labels = table_labels.read(table, chosen.says, chosen.shown, rows)
        for column in (chosen.path, *([chosen.group] if chosen.group else [])):
            check_filled(table, column, rows)
        cells = [text(table.columns[chosen.path][row]) for row in rows]
        if root is None:
            places = _with_files(places, cells[:LOOKED_AT], ending)
        files = [places.entry(cell) for cell in cells]
        missing = [file.parts[0] for file in files if not file.identity]
        if len(missing) == len(files):
            raise TransferError(
                f"none of {len(files)} files is there, the first is {printable(files[0].locator, 200)}; say where the "
                "paths in the table begin: --config.data.root=…"
            )
        kept, labels = _distinct(files, labels, [table.lines[row] for row in rows], chosen)
    listing = [(files[row].parts[0], 0, files[row]) for row in kept]
    source = FolderSource(name, Folder(places.root), class_names, listing)
    source.target, source.labels = TARGETS[chosen.says], labels[kept]
    if chosen.group:
        source.groups = np.array([_number(table.columns[chosen.group][row]) for row in rows[kept]], np.int64)
    of_split = f" of {split!r}" if split else ""
    logging.info("%s%s: %s; %d files in %s", name, of_split, chosen, len(kept), places.root)
    if missing:
        logging.warning("%s: %d of %d files are not there: %s", name, len(missing), len(files), listed(missing, 5, 200))
    return source


def _with_files(places: Places, cells: Sequence[str], ending: str | None) -> Places:
    """The folder of the table where it has some of the files, else the one in it that has; UsageError for several."""
    if any(map(places.find, cells)):
        return places
    folders = [entry.path for entry in os.scandir(places.root) if entry.is_dir() and not entry.name.startswith(".")]
    inside = [Places(folder, ending) for folder in sorted(folders)]
    having = [places for places in inside if any(map(places.find, cells))]
    if len(having) > 1:
        names = listed([os.path.basename(places.root) for places in having])
        raise UsageError(f"its files are in several folders, {names}; say which: --config.data.root=…")
    return having[0] if having else places


def _rows_of_split(table: Table, chosen: Columns, split: str | None) -> np.ndarray:
    """The rows of a split, int64; all of a table without splits."""
    if chosen.split is None:
        if split is not None:
            raise UsageError(
                f"no column is known to say which row is of {split!r}; say which: --{SETTING}split=… of "
                f"{listed(list(table.columns), 20)}"
            )
        return np.arange(len(table.lines))
    splits = [text(cell) for cell in table.columns[chosen.split]]
    known = sorted(set(splits) - {""})
    if split not in known:
        raise no_split(f"column {printable(chosen.split)}", split, known)
    return np.array([row for row, of_row in enumerate(splits) if of_row == split])


def _distinct(
    files: Sequence[Entry], labels: np.ndarray, lines: Sequence[int], chosen: Columns
) -> tuple[list[int], np.ndarray]:
    """The rows of each file, of several the first, and the labels, in which those of one file have come together.

    Raises TransferError where rows of one file contradict each other.
    """
    first, joins = dict[str, int](), chosen.says == "labels" and len(chosen.shown) == 1
    for row, file in enumerate(files):
        before = first.setdefault(file.parts[0], row)
        if joins:
            labels[before] = np.maximum(labels[before], labels[row])
        elif row != before and not np.array_equal(labels[before], labels[row]):
            raise TransferError(
                f"{printable(file.parts[0], 200)} is in lines {lines[before]} and {lines[row]}, which say different "
                f"things of it; --{SETTING}labels=… takes several labels an image"
            )
    if repeated := len(files) - len(first):
        logging.warning("%d rows are of files that are in the table already", repeated)
    return list(first.values()), labels


def _number(cell: Any) -> int:
    """A number for a text, the same in every table."""
    return int.from_bytes(hashlib.blake2b(text(cell).encode("utf-8", "surrogatepass"), digest_size=7).digest())
