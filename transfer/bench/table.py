"""Extractor rows as a table for a terminal, and the ratios in result files as the tables of docs/benchmarks.md."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transfer.bench import results
from transfer.bench.results import END_TO_END, OURS
from transfer.errors import TransferError
from transfer.runtime import tables
from transfer.runtime.timing import median_ratio

Row = Mapping[str, Any]
MISSING = "-"
FOOTNOTE = "x NAME: how many times faster than NAME, the median over the rounds"
# The peers that a user would run instead: the fastest of them is what ours is compared with.
RIVALS = ("torch eager", "torch.compile", "ONNX Runtime", "OpenVINO", "torch.compile max-autotune")


class Column(NamedTuple):
    """A heading, the key of the row, and how its value is written."""

    title: str
    key: str
    written: Callable[[Any], str] = str

    def cell(self, row: Row) -> str:
        """The row's value as the table shows it."""
        value = row.get(self.key)
        return MISSING if value is None else self.written(value)


def number(value: float | None, form: str = ".2f") -> str:
    """A value as `format` writes it; a dash where it is not known."""
    return MISSING if value is None else format(value, form)


def significant(value: float) -> str:
    """Three digits: 0.0123, 1.23, 123, 12345."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def pixels(size: Sequence[int]) -> str:
    """(height, width): 224, or 224x320 where the sides differ."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


# Above the table where all rows agree, but for those in ALWAYS.
IDENTITY = (
    Column("model", "model"),
    Column("weights", "weights"),
    Column("tap", "tap"),
    Column("px", "image_size", pixels),
    Column("dtype", "dtype"),
    Column("precision", "precision"),
    Column("batch", "batch"),
)
ALWAYS = ("model", "batch")
# Shown where a row has them: a device has either MFU or a yardstick, and few machines count energy.
WHERE_KNOWN = ("mfu", "times_matmul", "joules_per_image")
FIGURES = (
    Column("compile s", "compile_seconds", "{:.1f}".format),
    Column("step ms", "step_ms", significant),
    Column("+-", "spread", lambda spread: f"{spread[OURS] / 2:.0%}"),
    Column("images/s", "images_per_second", significant),
    Column("end to end", "images_per_second_end_to_end", significant),
    Column("GFLOPs", "gflops_per_image", significant),
    Column("TFLOP/s", "tflops", significant),
    Column("peak", "peak_tflops", significant),
    Column("MFU", "mfu", "{:.0%}".format),
    Column("x matmul", "times_matmul", "{:.2f}".format),
    Column("J/image", "joules_per_image", significant),
    Column("memory MB", "peak_memory_bytes", lambda value: f"{value / 1e6:.0f}"),
    Column("M params", "parameters", lambda value: f"{value / 1e6:.1f}"),
    Column("error", "error", "{:.0e}".format),
)
MACHINE = (
    Column("device", "device_kind"),
    Column("processor", "processor"),
    Column("devices", "devices"),
    Column("hosts", "hosts"),
    Column("jax", "jax"),
    Column("jaxlib", "jaxlib"),
    Column("XLA flags", "xla_flags"),
    Column("commit", "commit"),
)


def text(rows: Sequence[Row]) -> str:
    """The table of extractor rows: what all share stands above it, every failure, note and missing peer below."""
    if not rows:
        return "nothing was measured"
    # a failed row may not have come as far as to know its weights
    known = [row for row in rows if not row["failed"]] or rows
    shared = [
        column
        for column in IDENTITY
        if column.key not in ALWAYS and all(row[column.key] == known[0][column.key] for row in known)
    ]
    unknown = {key for key in WHERE_KNOWN if all(row.get(key) is None for row in rows)}
    columns = [column for column in (*IDENTITY, *FIGURES) if column not in shared and column.key not in unknown]
    peers = _peers(rows)
    table = [[column.title for column in columns] + [f"x {name}" for name in peers]]
    table += [
        [column.cell(row) for column in columns] + [number(_ratios(row).get(name)) for name in peers] for row in rows
    ]
    head = [
        ", ".join(f"{column.title} {column.cell(row)}" for column in named if row.get(column.key))
        for row, named in ((rows[0], MACHINE), (known[0], shared))
    ]
    foot = [FOOTNOTE] if peers else []
    return "\n".join([*filter(None, head), "", tables.text(table, left=1), *foot, *_remarks(rows)])


def _remarks(rows: Sequence[Row]) -> list[str]:
    """A line for each failure, note and peer that was left out, each once."""
    lines: dict[str, None] = {}
    for row in rows:
        case = f"{row['model']}, batch {row['batch_asked']}, {row['dtype']}"
        if row["failed"]:
            lines[f"failed: {case}: {row['failed']}"] = None
        lines |= dict.fromkeys(f"{case}: {note}" for note in row["notes"])
        skipped = {name: peer["skipped"] for name, peer in row["peers"].items() if "skipped" in peer}
        lines |= dict.fromkeys(f"{row['model']}: without {name}: {reason}" for name, reason in skipped.items())
    return list(lines)


def _ratios(row: Row) -> dict[str, float]:
    """How many times faster ours is than each peer that ran."""
    return {name: peer["ratio"] for name, peer in row["peers"].items() if "ratio" in peer}


def _peers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in _ratios(row)))


def report(paths: Sequence[str | Path]) -> str:
    """A Markdown table for each kind of row in result files, and the command that made each file.

    Ratios only, for absolute times say nothing elsewhere. Raises TransferError for files that hold no comparison.
    """
    contents = results.read(paths)
    rows = [row for content in contents for row in content["rows"] if not row.get("failed")]
    extractors = [row for row in rows if row["kind"] == "extractor" and _ratios(row)]
    heads = [row for row in rows if row["kind"] == "head" and row["ours"] in row["seconds"]]
    parts = [_extractor_ratios(extractors)] if extractors else []
    # ours is another contender in some cases, which have a table of their own
    groups = [[row for row in heads if row["ours"] == ours] for ours in dict.fromkeys(row["ours"] for row in heads)]
    parts += ["\n".join(map(_head_ratios, groups))] if groups else []
    if not parts:
        raise TransferError("there are no comparisons in these files; make one with --peers or --head")
    commands = "\n".join(content["command"] for content in contents)
    return "\n\n".join([*parts, f"```\n{commands}\n```"])


def _extractor_ratios(rows: Sequence[Row]) -> str:
    """How many times faster ours is than each; then our rate from uint8 to NumPy over that on the device, and MFU."""
    names = _peers(rows)
    title, share = ("MFU", "mfu") if any(row["mfu"] for row in rows) else ("x matmul", "times_matmul")
    table = [["network", "image", "batch", "dtype", *names, "the fastest of them", "end to end", title, "error"]]
    for row in rows:
        ratios = _ratios(row)
        fastest = min((ratio for name, ratio in ratios.items() if name in RIVALS), default=None)
        to_numpy = median_ratio(row["seconds"][END_TO_END], row["seconds"][OURS])
        error = number(row["error"], ".0e")
        figures = map(number, [*map(ratios.get, names), fastest, to_numpy, row.get(share)])
        table.append(
            [row["model"], f"{pixels(row['image_size'])} px", str(row["batch"]), row["dtype"], *figures, error]
        )
    return tables.markdown(table, left=1)


def _head_ratios(rows: Sequence[Row]) -> str:
    """Our time as a share of each contender's, the median over the rounds, of rows with the same contender of ours."""
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"] if name != row["ours"]))
    table = [["head", *names]]
    for row in rows:
        seconds = row["seconds"]
        shares = (median_ratio(seconds[name], seconds[row["ours"]]) if name in seconds else None for name in names)
        table.append([row["case"], *map(number, shares)])
    return tables.markdown(table, left=1)
