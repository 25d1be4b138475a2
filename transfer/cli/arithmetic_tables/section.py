"""A table with what to read from it, as text for a terminal or as Markdown."""

import dataclasses

from transfer.runtime import tables


@dataclasses.dataclass(frozen=True)
class Section:
    """One table of the page.

    Attributes:
      title: what is counted or measured.
      reading: what the table shows, in a sentence or two.
      columns: their headings; the first column is aligned left, the others right.
      rows: cells, as many in each row as there are columns.
    """

    title: str
    reading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """For a terminal."""
        return "\n".join((self.title, tables.text(self._table, left=1), self.reading))

    def markdown(self) -> str:
        """For the documentation: the table and its reading; the page has headings of its own."""
        return "\n".join((tables.markdown(self._table, left=1), "", self.reading))

    @property
    def _table(self) -> tuple[tuple[str, ...], ...]:
        return (self.columns, *self.rows)


def count(value: int) -> str:
    """138357544 -> "138,357,544"."""
    return f"{value:,}"


def significant(value: float, digits: int) -> str:
    """219.4, 2 -> "220"; 0.001974, 3 -> "0.00197"."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if rounded >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def millions(value: int) -> str:
    """Multiply-adds in millions: 15470264320 -> "15,470.264"."""
    return f"{value / 1e6:,.3f}"
