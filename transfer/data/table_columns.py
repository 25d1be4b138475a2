"""Which columns of a table say where an image is, what it shows and where it belongs: as named, or usually named."""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from transfer.data import formats
from transfer.data.layout import listed
from transfer.data.table_files import Table, text
from transfer.data.table_labels import are_shared, is_marks, labels_of
from transfer.errors import UsageError, did_you_mean, similar
from transfer.runtime.files.untrusted import printable

# What a column says -> names that it usually has, in small letters, without spaces and signs.
USUAL: dict[str, tuple[str, ...]] = {
    "path": (
        "path", "filepath", "imagepath", "imgpath", "filename", "imagefilename", "file", "imagefile", "image", "img",
        "imageid", "imageidx", "imageindex", "imagename", "id",
    ),
    "split": ("split", "subset", "partition"),
    "group": ("group", "groupid", "patient", "patientid", "subject", "subjectid", "video", "videoid"),
    "label": (
        "label", "class", "category", "target", "classname", "labelname", "classid", "labelid", "species", "breed",
    ),
    "labels": ("labels", "tags", "classes", "categories", "findinglabels"),
    "value": (),
}  # fmt: skip
# What says what an image shows -> the target that it makes.
TARGETS = {"label": "classes", "labels": "labels", "value": "values"}
NONE = "none"
SETTING = "config.data.columns."


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


def choose(table: Table, given: Mapping[str, str], is_there: Callable[[str], bool]) -> Columns:
    """The columns by the names that are `given`, "none" for no column; the others by the names that they usually have.

    Args:
        given: what a column says -> its name; of labels and value several, separated by commas, `*` for any letters.
        is_there: whether a cell is the path of a file.

    Raises UsageError for an unknown name, and where it cannot be told which column it is.
    """
    choice = _Choice(table, given)
    path = choice.one("path", is_there)
    if path is None:
        raise choice.unknown("name the images", "path=…")
    split, group = choice.one("split"), choice.one("group")
    return Columns(path, *choice.shown(), split, group)


class _Choice:
    """The columns of a table, of which some are chosen already."""

    def __init__(self, table: Table, given: Mapping[str, str]) -> None:
        self.columns, self.given = table.columns, given
        self.free = [name for name in table.columns if name]

    def one(self, says: str, fits: Callable[[str], bool] | None = None) -> str | None:
        """The column that says something; None where there is none. By its first cell `fits` chooses among several."""
        if says in self.given:
            names = self.named(says)[:1]
        else:
            names = self.usual(says)
            if says == "path" and not names:
                names = [name for name in self.free if self.first(name).lower().endswith(formats.OF_IMAGES)]
            if len(names) > 1 and fits is not None:
                names = [name for name in names if fits(self.first(name))] or names
            if len(names) > 1:
                raise self.ambiguous(says, names)
        self.free = [name for name in self.free if name not in names]
        return names[0] if names else None

    def first(self, name: str) -> str:
        """The first cell of a column."""
        return text(self.columns[name][0])

    def usual(self, says: str) -> list[str]:
        """The free columns that have a usual name of what says it."""
        return [name for name in self.free if re.sub(r"[\W_]+", "", name.lower()) in USUAL[says]]

    def named(self, says: str) -> list[str]:
        """The columns that are given: none, one, or several separated by commas, or by patterns."""
        given, names = self.given[says], list[str]()
        for part in [given] if given in self.columns else given.split(","):
            names += fnmatch.filter(self.free, part) if "*" in part else [part.strip()]
        if unknown := [name for name in names if name not in self.columns and given != NONE]:
            hint = did_you_mean(similar(unknown[0], self.columns)) or f": {listed(list(self.columns), 20)}"
            raise UsageError(f"{SETTING}{says}={printable(given)}: there is no column {printable(unknown[0])}{hint}")
        return [] if given == NONE else list(dict.fromkeys(names))

    def ambiguous(self, says: str, names: Sequence[str]) -> UsageError:
        """The error for a column that may be several."""
        return UsageError(f"{listed(names)} may each be the {says}; say which: --{SETTING}{says}={names[0]}")

    def unknown(self, what: str, settings: str) -> UsageError:
        """The error for a column that may be none."""
        return UsageError(f"no column is known to {what}; say which: --{SETTING}{settings} of {listed(self.free, 20)}")

    def shown(self) -> tuple[str, tuple[str, ...]]:
        """What is said of an image, and by which columns."""
        given = [says for says in TARGETS if says in self.given]
        if len(given) > 1:
            raise UsageError(" and ".join(SETTING + says for says in given) + ": an image has one of them; give one")
        if given and (named := self.named(given[0])):
            return given[0], tuple(named)
        single, plural = self.usual("label"), self.usual("labels")
        if len(single + plural) > 1:
            raise self.ambiguous("label", single + plural)
        marks = [name for name in self.free if is_marks(self.columns[name])]
        names = tuple(single or plural or (marks if len(marks) > 1 else []))
        if not names:
            raise self.unknown("say what the images show", "label=… (a class), labels=… or value=… (numbers)")
        several = [labels for labels in labels_of(self.columns, names) if len(labels) != 1]
        if single and several and are_shared(self.columns[names[0]]):
            raise UsageError(
                f"column {names[0]} may hold several labels a cell, such as {listed(several[0])}; say which: "
                f"--{SETTING}labels={names[0]}, or --{SETTING}label={names[0]} if each cell is one class"
            )
        return ("labels" if several and not single else "label"), names
