"""`bench --compare A.json B.json`: how many times as fast B is as A, row by row, with intervals.

A shared machine is faster in one hour than in the next, which no number of rounds within a run shows. So where a row
has a yardstick, which did not change from A to B and took turns with ours, the verdict goes by what is left beside it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transfer.bench import results
from transfer.bench.results import END_TO_END, MATMUL, OURS
from transfer.bench.table import MACHINE, MISSING, pixels
from transfer.errors import TransferError
from transfer.runtime import tables

Row = Mapping[str, Any]
# What has to agree for two rows to be the same measurement.
IDENTITY = (
    *("kind", "case", "model", "weights", "tap", "image_size", "batch", "dtype", "precision"),
    *("rows", "features", "epochs", "classes", "validation_rows", "threads", "rate"),
)
SHOWN = ("case", "model", "image_size", "batch", "dtype", "rate")
YARDSTICKS = (MATMUL, "Pillow draft + decode")
# Of the intervals: several rows are looked at in one go.
CONFIDENCE = 0.99


class Speedup(NamedTuple):
    """How many times as fast, and its interval; NaN where there are too few rounds for one."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f}" + ("" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]")

    @property
    def at_most(self) -> float:
        """The upper end of the interval; the ratio itself where there is none."""
        return self.ratio if math.isnan(self.high) else self.high

    @property
    def verdict(self) -> str:
        """The words for a speed-up: equal where its interval has 1 in it, a dash where it has none."""
        if math.isnan(self.low):
            return MISSING
        return "faster" if self.low > 1 else "SLOWER" if self.high < 1 else "equal"


class Change(NamedTuple):
    """What became of a contender: by its seconds, and beside the yardstick of its row (None where there is none)."""

    case: str
    contender: str
    plain: Speedup
    beside: Speedup | None

    @property
    def decisive(self) -> Speedup:
        """The one that the verdict goes by."""
        return self.beside or self.plain

    @property
    def ours(self) -> bool:
        """Whether it is ours to be faster or slower."""
        return self.contender in (OURS, END_TO_END) or self.contender.startswith("ours")


def speedup(before: Sequence[float], after: Sequence[float]) -> Speedup:
    """How many times shorter `after` is: the ratio of geometric means, Welch's interval of their logarithms."""
    from scipy import stats

    logs = [[math.log(value) for value in values] for values in (before, after)]
    ratio = math.exp(sum(logs[0]) / len(before) - sum(logs[1]) / len(after))
    if min(len(before), len(after)) < 2 or len({*before}) == len({*after}) == 1:
        return Speedup(ratio, math.nan, math.nan)
    interval = stats.ttest_ind(*logs, equal_var=False).confidence_interval(CONFIDENCE)
    return Speedup(ratio, math.exp(interval.low), math.exp(interval.high))


def changes(before: Row, after: Row) -> Iterator[Change]:
    """Of every contender that two rows of the same case have."""
    a, b = _known(before["seconds"]), _known(after["seconds"])
    shared = [name for name in b if name in a]
    yardstick = next((name for name in YARDSTICKS if name in shared), None)
    for name in shared:
        beside = None
        if yardstick not in (None, name) and all(len(s[name]) == len(s[yardstick]) for s in (a, b)):
            relative = ([x / y for x, y in zip(s[name], s[yardstick], strict=True)] for s in (a, b))
            beside = speedup(*relative)
        yield Change(_shown(after), name, speedup(a[name], b[name]), beside)


class Comparison(NamedTuple):
    """Two result files beside each other."""

    # machines, and lines for rows that only one of the files has, or that failed
    head: list[str]
    alone: list[str]
    changes: list[Change]

    def __str__(self) -> str:
        table = [["case", "contender", "B over A", "beside the yardstick", "verdict"]]
        for each in self.changes:
            beside = str(each.beside) if each.beside else MISSING
            table.append([each.case, each.contender, str(each.plain), beside, each.decisive.verdict])
        foot = (
            f"B over A: how many times as fast, {CONFIDENCE:.0%} intervals; a yardstick took turns with ours, in both"
        )
        return "\n".join([*self.head, "", tables.text(table, left=5), foot, *self.alone])

    def slower_than(self, ratio: float) -> list[Change]:
        """What of ours is so slow that all of its interval is below the ratio."""
        return [each for each in self.changes if each.ours and each.decisive.at_most < ratio]


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Compares two result files; TransferError where they have no measurement in common."""
    of_files = [content["rows"] for content in results.read(paths)]
    a, b = ({_identity(row): row for row in rows if row.get("seconds") and not row.get("failed")} for rows in of_files)
    pairs = [(a[key], row) for key, row in b.items() if key in a]
    if not pairs:
        raise TransferError(f"{paths[0]} and {paths[1]} have no measurement in common")
    alone = [f"only in A: {_shown(row)}" for key, row in a.items() if key not in b]
    alone += [f"only in B: {_shown(row)}" for key, row in b.items() if key not in a]
    for file, rows in zip("AB", of_files, strict=True):
        alone += [f"failed in {file}: {_shown(row)}: {row['failed']}" for row in rows if row.get("failed")]
    return Comparison(_machines(*pairs[0]), alone, [change for pair in pairs for change in changes(*pair)])


def _known(seconds: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    """The contenders that have run in every round."""
    times = {name: [value for value in values or () if value and value > 0] for name, values in seconds.items()}
    return {name: known for name, known in times.items() if known and len(known) == len(seconds[name])}


def _identity(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in IDENTITY)


def _shown(row: Row) -> str:
    values = {name: row[name] for name in SHOWN if row.get(name) is not None}
    words = {"image_size": lambda size: f"{pixels(size)} px", "batch": "batch {}".format, "rate": "{:g}/s".format}
    return ", ".join(words.get(name, str)(value) for name, value in values.items())


def _machines(before: Row, after: Row) -> list[str]:
    """What both ran on, and a line for each thing that differs."""
    titles = {column.key: column.title for column in MACHINE} | {name: name for name in ("cores", "python", "transfer")}
    differing = [name for name in titles if before.get(name) != after.get(name)]
    same = [f"{title} {after[name]}" for name, title in titles.items() if name not in differing and after.get(name)]
    return [
        ", ".join(same),
        *(f"{titles[name]}: {before.get(name)} in A, {after.get(name)} in B" for name in differing),
    ]
