"""Few-shot results as tables: accuracy by images a class, and by tap, head by head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from transfer.runtime import tables

Row = dict[str, Any]
COLUMNS = ("tap", "head", "per_class", "num_train", "mean", "spread", "seconds", "accuracies", "same_rows")
# What is added to a number of images a class of which every seed draws the same.
SAME = " (same rows)"


class Table(NamedTuple):
    """A table of the few-shot protocol.

    Attributes:
        rows: the first has the headings.
        best: (row, column) of the highest mean of each column, of all that share it; none of a table with one row.
    """

    title: str
    rows: list[list[str]]
    best: set[tuple[int, int]]


def make(result: dict[str, Any]) -> list[Table]:
    """The tables of a result, as `transfer.experiment.few_shot.few_shot` returns it.

    One for each head, of taps by images a class, where there are several taps; then which head has the highest mean
    where; and, of several heads or a single tap, one of heads by images a class, of the last tap: the deepest, where
    taps are named in their order.
    """
    rows, taps, heads = result["rows"], distinct(result["rows"], "tap"), distinct(result["rows"], "head")
    made = []
    if len(taps) > 1:
        for head in heads:
            of_head = [row for row in rows if row["head"] == head]
            made.append(_table(f"{head}: {what(result)}, by tap", of_head, "tap"))
        if len(heads) > 1:
            made.append(_winners("which head is best: highest mean accuracy over images a class, by tap", rows))
    if len(heads) > 1 or len(taps) == 1:
        of_tap = [row for row in rows if row["tap"] == taps[-1]]
        made.append(_table(f"{taps[-1]}: {what(result)}, by head", of_tap, "head"))
    return made


def text(result: dict[str, Any]) -> str:
    """All tables for a terminal, one below the other."""
    return "\n\n".join(f"{table.title}\n{tables.text(table.rows, left=1)}" for table in make(result))


def markdown(result: dict[str, Any]) -> str:
    """All tables in Markdown, the highest mean of each column in bold."""
    parts = [f"{t.title}\n\n{tables.markdown(t.rows, left=1, bold=t.best)}" for t in make(result)]
    return "\n\n".join(parts) + "\n"


def latex(result: dict[str, Any]) -> str:
    """A `tabular` for each table, the highest mean of each column in bold."""
    parts = [f"% {t.title}\n{tables.latex(t.rows, left=1, bold=t.best)}" for t in make(result)]
    return "% \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"


def separated(result: dict[str, Any]) -> str:
    """The results as CSV, for programs: a line for each tap, head and number of images a class, numbers in full."""
    lines = []
    for row in result["rows"]:
        accuracies = " ".join(map(str, row["accuracies"]))
        texts = {"per_class": _images(row), "accuracies": accuracies, "same_rows": row.get("same_rows", False)}
        lines.append([{**row, **texts}[name] for name in COLUMNS])
    return tables.separated([COLUMNS, *lines])


# Suffix of a file -> what writes it.
WRITERS: Mapping[str, Callable[[dict[str, Any]], str]] = {
    ".txt": lambda result: text(result) + "\n",
    ".md": markdown,
    ".csv": separated,
    ".tex": latex,
}


def heading(row: Row) -> str:
    """The heading of a column: images a class, and whether all seeds draw the same of them."""
    return _images(row) + SAME * row.get("same_rows", False)


def _images(row: Row) -> str:
    return "all" if row.get("per_class") is None else str(row["per_class"])


def cell(row: Row) -> str:
    """The mean, and the standard deviation over seeds where there are several draws."""
    several = len(row["accuracies"]) > 1 and not row.get("same_rows")
    return f"{row['mean']:.3f}" + (f" ± {row['spread']:.3f}" if several else "")


def what(result: dict[str, Any]) -> str:
    """The meaning of the numbers, in words."""
    seeds = result["seeds"]
    spread = f", mean ± deviation over {seeds} seeds" if seeds > 1 else ""
    if any(row.get("same_rows") for row in result["rows"]):
        spread += " (same rows: whatever the seed, so that no deviation is known)"
    chosen = ", settings chosen on held-out training rows" if result["select"] else ""
    return f"validation accuracy over images a class{spread}{chosen}"


def distinct(rows: Sequence[Row], name: str) -> list[Any]:
    """The values of a column in the order in which they come."""
    return list(dict.fromkeys(row[name] for row in rows))


def _table(title: str, rows: Sequence[Row], name: str) -> Table:
    """The mean of each value of a column and number of images."""
    cells = {(row[name], row["per_class"]): row for row in rows}
    names, columns = distinct(rows, name), {row["per_class"]: heading(row) for row in rows}
    body = [[value, *(cell(cells[value, key]) for key in columns)] for value in names]
    best = set()
    for j, key in enumerate(columns, start=1):
        means = [cells[value, key]["mean"] for value in names]
        best |= {(i, j) for i, mean in enumerate(means, start=1) if mean == max(means) and len(names) > 1}
    return Table(title, [[name, *columns.values()], *body], best)


def _winners(title: str, rows: Sequence[Row]) -> Table:
    """The best head of each tap and number of images, the first of equals; its lead may be chance."""
    columns = {row["per_class"]: heading(row) for row in rows}
    body = []
    for tap in distinct(rows, "tap"):
        body.append([tap])
        for key in columns:
            of_cell = [row for row in rows if (row["tap"], row["per_class"]) == (tap, key)]
            best = max(of_cell, key=lambda row: row["mean"])
            body[-1].append(f"{best['head']} {best['mean']:.3f}")
    return Table(title, [["tap", *columns.values()], *body], set())
