"""Which columns of a table say where an image is, what it shows and where it belongs: as named, or usually named."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from transfer.data import formats
from transfer.data.layout import listed
from transfer.data.table_cells import are_shared, is_marks, labels_of, text
from transfer.data.table_files import Table
from transfer.errors import UsageError, did_you_mean, similar
from transfer.runtime.files.untrusted import printable

# What a column says -> names that it usually has, in small letters, without spaces and signs.
USUAL: dict[str, tuple[str, ...]] = {
    "path": (
        "path", "filepath", "imagepath", "imgpath", "filename", "imagefilename", "file", "imagefile", "image", "img",
    ),
    "id": ("id", "imageid", "imageidx", "imageindex", "imagename"),  # which the path may be, where there is no other
    "split": ("split", "subset", "partition"),
    "group": ("group", "groupid", "patient", "patientid", "subject", "subjectid", "video", "videoid"),
    "label": (
        "label", "class", "category", "target", "classname", "labelname", "classid", "labelid", "species", "breed",
    ),
    "labels": ("labels", "tags", "classes", "categories", "findinglabels"),
}  # fmt: skip
# What says what an image shows -> the target that it makes.
TARGETS = {"label": "classes", "labels": "labels", "value": "values"}
NONE = "none"
SAY = "say which: --config.data.columns."


class Columns(NamedTuple):
    """The columns of a table that are made use of."""

    path: str
    says: str  # what they say of an image, a key of `TARGETS`
    shown: tuple[str, ...]  # in which columns: of one label or several in a cell one, else a column each
    split: str | None
    group: str | None

    def __str__(self) -> str:
        named = {"path": self.path, self.says: ",".join(self.shown), "split": self.split, "group": self.group}
        return ", ".join(f"{says}={printable(name, 200)}" for says, name in named.items() if name is not None)


def choose(table: Table, given: Mapping[str, str]) -> Columns:
    """The columns by the names that are `given`, "none" for no column; the others by the names that they usually have.

    Args:
        given: what a column says -> its name; of labels and values several, separated by commas, `*` for any letters.

    Raises UsageError for an unknown name, and where it cannot be told which column it is.
    """
    first = {name: text(cells[0]) for name, cells in table.columns.items() if name}
    named = {says: _named(list(first), says, name) for says, name in given.items()}
    free = [name for name in first if not any(name in names for names in named.values())]
    usual = {says: [name for name in free if re.sub(r"[\W_]+", "", name.lower()) in USUAL[says]] for says in USUAL}
    ending = [name for name, cell in first.items() if cell.lower().endswith(formats.OF_IMAGES)]
    paths = named.get("path") or usual["path"] or usual["id"] or [name for name in ending if name in free]
    if not paths:
        raise UsageError(f"no column is known to name the images; {SAY}path=… of {listed(free, 20)}")
    splits, groups = (named.get(says, usual[says]) for says in ("split", "group"))
    free = [name for name in free if name not in (*paths, *splits, *groups, *usual["id"])]
    says, shown = _shown(table, named, free, usual)
    for what, names in (("path", paths), ("split", splits), ("group", groups)):
        _check_one(what, names)
    return Columns(paths[0], says, tuple(shown), *(names[0] if names else None for names in (splits, groups)))


def _named(columns: Sequence[str], says: str, given: str) -> list[str]:
    """The columns that are given: none, one, or several separated by commas, or by patterns."""
    names: list[str] = []
    for part in [] if given == NONE else [given] if given in columns else given.split(","):
        names += fnmatch.filter(columns, part) if "*" in part else [part.strip()]
    if unknown := [name for name in names if name not in columns]:
        hint = did_you_mean(list(map(printable, similar(unknown[0], columns)))) or f": {listed(columns, 20)}"
        raise UsageError(f"config.data.columns.{says}={printable(given)}: there is no column {unknown[0]}{hint}")
    return list(dict.fromkeys(names))


def _check_one(what: str, names: Sequence[str]) -> None:
    """Raises UsageError for several columns where one is wanted."""
    if len(names) > 1:
        raise UsageError(f"{listed(names)} may each be the {what}; {SAY}{what}={names[0]}")


def _shown(
    table: Table, named: Mapping[str, list[str]], free: Sequence[str], usual: Mapping[str, list[str]]
) -> tuple[str, Sequence[str]]:
    """What is said of an image, and by which columns."""
    given = [says for says in TARGETS if named.get(says)]
    if len(given) > 1:
        raise UsageError(f"config.data.columns has {' and '.join(given)}: an image has one of them; give one")
    if given:
        return given[0], named[given[0]]
    names = usual["label"] + usual["labels"]
    _check_one("label", names)
    if not names:
        names = [name for name in free if is_marks(table.columns[name])]
        if len(names) < 2:
            what = "label=… (a class), labels=… or value=… (numbers)"
            raise UsageError(f"no column is known to say what the images show; {SAY}{what} of {listed(free, 20)}")
    several = [labels for labels in labels_of(table.columns, names) if len(labels) != 1]
    if usual["label"] and several and are_shared(table.columns[names[0]]):
        raise UsageError(
            f"column {names[0]} may hold several labels a cell, such as {listed(several[0])}; {SAY}labels={names[0]}, "
            f"or label={names[0]} if each cell is one class"
        )
    return ("labels" if several and not usual["label"] else "label"), names
