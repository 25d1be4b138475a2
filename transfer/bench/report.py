"""The tables of docs/benchmarks.md, from result files: ratios only, as absolute times say nothing elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.bench import results
from transfer.bench.row import END_TO_END, OURS
from transfer.bench.table import MISSING, pixels
from transfer.errors import TransferError
from transfer.runtime import tables
from transfer.runtime.timing import median_ratio

Row = Mapping[str, Any]
# The peers that a user would run instead: the fastest of them is what ours is held against.
RIVALS = ("torch eager", "torch.compile", "ONNX Runtime", "OpenVINO", "torch.compile max-autotune")


def markdown(paths: Sequence[str | Path]) -> str:
    """A table for each kind of row in the files, and the command that made each file.

    Raises TransferError for a file that holds no comparison.
    """
    contents = results.read(paths)
    rows = [row for content in contents for row in content["rows"]]
    tables_ = [table for kind, make in KINDS.items() if (table := make([row for row in rows if row["kind"] == kind]))]
    if not tables_:
        raise TransferError("there are no comparisons in these files; make one with --peers or --head")
    commands = "\n".join(content["command"] for content in contents)
    return "\n\n".join([*tables_, f"```\n{commands}\n```"])


def _extractors(rows: Sequence[Row]) -> str:
    """How many times faster ours is than each; then our rate from uint8 to NumPy over that on the device, and MFU."""
    compared = [row for row in rows if not row["failed"] and any("ratio" in peer for peer in row["peers"].values())]
    names = list(dict.fromkeys(name for row in compared for name, peer in row["peers"].items() if "ratio" in peer))
    head = ["network", "image", "batch", "dtype", *names, "the fastest of them", "end to end", "MFU", "error"]
    table = [head, *(_extractor(row, names) for row in compared)]
    return tables.markdown(table, left=1) if compared else ""


def _extractor(row: Row, names: Sequence[str]) -> list[str]:
    ratios = {name: peer["ratio"] for name, peer in row["peers"].items() if "ratio" in peer}
    fastest = min((ratio for name, ratio in ratios.items() if name in RIVALS), default=None)
    identity = [row["model"], f"{pixels(row['image_size'])} px", str(row["batch"]), row["dtype"]]
    to_numpy = median_ratio(row["seconds"][END_TO_END], row["seconds"][OURS])
    error = MISSING if row["error"] is None else f"{row['error']:.0e}"
    figures = [*map(ratios.get, names), fastest, to_numpy, row["mfu"]]
    return [*identity, *map(_number, figures), error]


def _heads(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if not row.get("failed")]
    return "\n".join(
        _heads_beside([row for row in rows if row["ours"] == ours])
        for ours in dict.fromkeys(row["ours"] for row in rows)
    )


def _heads_beside(rows: Sequence[Row]) -> str:
    """Of rows that have the same contender of ours."""
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"] if name != row["ours"]))
    table = [["head", *names], *([row["case"], *(_number(_share(row, name)) for name in names)] for row in rows)]
    return tables.markdown(table, left=1)


def _share(row: Row, name: str) -> float | None:
    """Our time as a share of theirs, the median over the rounds."""
    theirs = row["seconds"].get(name)
    return None if theirs is None else median_ratio(theirs, row["seconds"][row["ours"]])


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


# `kind` of a row -> its table, empty where there is nothing to compare.
KINDS: dict[str, Callable[[Sequence[Row]], str]] = {"extractor": _extractors, "head": _heads}
