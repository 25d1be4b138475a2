"""The few-shot protocol's results as tables: accuracy over images a class and over depth, head by head."""

from collections.abc import Callable, Sequence
from typing import Any

from transfer import tables

Row = dict[str, Any]
Table = tuple[str, list[list[str]]]


def make(result: dict[str, Any]) -> list[Table]:
    """(title, rows) of each table, the first row its headings.

    Args:
        result: as `transfer.shots.few_shot` returns it.

    One for each head, of taps by images a class, where there are several taps; and one of heads by images a class, of
    the last tap: the deepest, where taps are named in their order.
    """
    rows, taps, heads = result["rows"], _distinct(result["rows"], "tap"), _distinct(result["rows"], "head")
    columns = {row["per_class"]: heading(row) for row in rows}
    made = []
    if len(taps) > 1:
        for head in heads:
            of_head = [row for row in rows if row["head"] == head]
            made.append((f"{head}: {_what(result)}, by tap", _grid(of_head, "tap", taps, columns)))
    of_tap = [row for row in rows if row["tap"] == taps[-1]]
    made.append((f"{taps[-1]}: {_what(result)}, by head", _grid(of_tap, "head", heads, columns)))
    return made


def text(result: dict[str, Any], form: Callable[..., str] = tables.text) -> str:
    """All tables, one below the other; `form`: `transfer.tables.text` or `.markdown`."""
    return "\n\n".join(
        f"{title}\n{'' if form is tables.text else chr(10)}{form(rows, numbers=True)}" for title, rows in make(result)
    )


def heading(row: Row) -> str:
    """Of a column: images a class."""
    return "all" if row["per_class"] is None else str(row["per_class"])


def cell(row: Row) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    return f"{row['mean']:.3f}" + (f" ± {row['spread']:.3f}" if len(row["accuracies"]) > 1 else "")


def _what(result: dict[str, Any]) -> str:
    seeds = result["seeds"]
    spread = f", mean ± deviation over {seeds} seeds" if seeds > 1 else ""
    chosen = ", settings chosen on held-out training rows" if result["select"] else ""
    return f"validation accuracy over images a class{spread}{chosen}"


def _distinct(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(row[name] for row in rows))


def _grid(rows: Sequence[Row], name: str, values: Sequence[str], columns: dict[int | None, str]) -> list[list[str]]:
    found = {(row[name], row["per_class"]): cell(row) for row in rows}
    return [[name, *columns.values()], *([value, *(found[value, key] for key in columns)] for value in values)]
