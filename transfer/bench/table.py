"""Rows of a benchmark as a table for a person: what all rows share stands above it, what differs in it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from transfer.runtime import tables

Row = Mapping[str, Any]
MISSING = "-"


class Column(NamedTuple):
    """A heading, the key of the row, and how its value is written."""

    title: str
    key: str
    written: Callable[[Any], str] = str


def significant(value: float) -> str:
    """Three digits: 0.0123, 1.23, 123, 12345."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def pixels(size: Sequence[int]) -> str:
    """(height, width): 224, or 224x320 where the sides differ."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


# Above the table where all rows agree.
IDENTITY = (
    Column("model", "model"),
    Column("weights", "weights"),
    Column("tap", "tap"),
    Column("px", "image_size", pixels),
    Column("dtype", "dtype"),
    Column("precision", "precision"),
    Column("batch", "batch"),
)
FIGURES = (
    Column("compile s", "compile_seconds", lambda value: f"{value:.1f}"),
    Column("step ms", "step_ms", significant),
    Column("p10", "step_ms_p10", significant),
    Column("p90", "step_ms_p90", significant),
    Column("images/s", "images_per_second", significant),
    Column("a device", "images_per_second_per_device", significant),
    Column("end to end", "images_per_second_end_to_end", significant),
    Column("GFLOPs", "gflops_per_image", significant),
    Column("TFLOP/s", "tflops", significant),
    Column("MFU", "mfu", lambda value: f"{value:.0%}"),
    Column("memory MB", "peak_memory_bytes", lambda value: f"{value / 1e6:.0f}"),
    Column("M params", "parameters", lambda value: f"{value / 1e6:.1f}"),
    Column("error", "error", lambda value: f"{value:.0e}"),
)
# Named in every row of the table, whatever the others are.
ALWAYS = ("model", "batch")
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
    """The table of extractor rows, with a line for every failure, note and peer that was left out below it."""
    if not rows:
        return "nothing was measured"
    # a failed row may not have come as far as to know its weights
    known = [row for row in rows if not row["failed"]] or rows
    shared = [column for column in IDENTITY if column.key not in ALWAYS and _agree(known, column.key)]
    columns = [column for column in IDENTITY if column not in shared] + list(FIGURES)
    peers = list(dict.fromkeys(name for row in rows for name, peer in row["peers"].items() if "ratio" in peer))
    table = [[column.title for column in columns] + [f"x {name}" for name in peers]]
    table += [[_cell(row, column) for column in columns] + [_ratio(row, name) for name in peers] for row in rows]
    head = [_named(rows[0], MACHINE), _named(known[0], shared)]
    foot = [FOOTNOTE] if peers else []
    return "\n".join([*filter(None, head), "", tables.text(table, left=1), *foot, *remarks(rows)])


FOOTNOTE = "x NAME: how many times faster than NAME, the median over the rounds"


def _agree(rows: Sequence[Row], key: str) -> bool:
    return all(row[key] == rows[0][key] for row in rows)


def _named(row: Row, columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.title} {_cell(row, column)}" for column in columns if row.get(column.key))


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    return MISSING if value is None else column.written(value)


def _ratio(row: Row, name: str) -> str:
    ratio = row["peers"].get(name, {}).get("ratio")
    return MISSING if ratio is None else f"{ratio:.2f}"


def remarks(rows: Sequence[Row]) -> list[str]:
    """One line for each failure, note and peer that was left out, each once."""
    lines: dict[str, None] = {}
    for row in rows:
        case = f"{row['model']}, batch {row['batch_asked']}, {row['dtype']}"
        if row["failed"]:
            lines[f"failed: {case}: {row['failed']}"] = None
        lines |= dict.fromkeys(f"{case}: {note}" for note in row["notes"])
        skipped = {name: peer["skipped"] for name, peer in row["peers"].items() if "skipped" in peer}
        lines |= dict.fromkeys(f"{row['model']}: without {name}: {reason}" for name, reason in skipped.items())
    return list(lines)
