"""The JSON of a benchmark: the command that made it, and its rows, written after each so that none is lost.

    {"schema": 1, "command": "python -m transfer bench …", "date": "2025-01-31T12:00:00+00:00", "complete": true,
     "rows": [{"kind": "extractor" | "head" | "target", …, "failed": null | "why", …machine}, …]}

A row is whole in itself: it repeats the machine, versions, flags and commit. `complete` is false while the run goes on,
and stays so where it was interrupted. `transfer.bench.row` says what an extractor's row holds.
"""

import datetime
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.bench.machine import machine
from transfer.errors import TransferError
from transfer.runtime.files import atomic

SCHEMA = 1
Row = Mapping[str, Any]


class Results:
    """Rows as they come; `path` None keeps them in memory only."""

    def __init__(self, arguments: Sequence[str], path: Path | None) -> None:
        self.command = shlex.join(["python", "-m", "transfer", "bench", *arguments])
        self.path, self.complete = path, False
        self.date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.rows: list[dict[str, Any]] = []

    def add(self, row: Row) -> None:
        """Appends a row with the machine behind it, and writes the file."""
        self.rows.append({**row, **machine()})
        self.write()

    def finish(self) -> None:
        """Marks the run as complete, and writes the file."""
        self.complete = True
        self.write()

    def text(self) -> str:
        """The JSON."""
        content = {
            "schema": SCHEMA,
            "command": self.command,
            "date": self.date,
            "complete": self.complete,
            "rows": self.rows,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def write(self) -> None:
        """Replaces the file as a whole; OSError, naming it, where the disk is full."""
        if self.path is not None:
            atomic.write_text(self.path, self.text())


def read(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The contents of result files, in the order given; TransferError for a file that is not one."""
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TransferError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise TransferError(f"{path} is not a result of `python -m transfer bench --output`")
    return content
