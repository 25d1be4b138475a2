"""What the few-shot protocol has measured so far: cells in one JSON file of the workdir, from which it goes on."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from absl import logging
from etils import epath

from transfer.runtime.files import atomic

# A killed process loses no more than the cells of so many seconds.
SECONDS_BETWEEN_WRITES = 2.0


class Cells:
    """Cells by what they are of: a dict of JSON values; each holds another dict, what was measured.

    Args:
        path: of the file; made when the first cell is there.
        identity: of the rows that all cells are measured on. A file of other rows is not gone on with.
    """

    def __init__(self, path: epath.Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._written, self._changed = time.monotonic(), False
        content: dict[str, Any] = atomic.read_json(path) if path.exists() else {"rows": identity}
        if content.get("rows") != identity:
            logging.warning("%s is of other rows; its cells are measured again", path)
            content = {}
        self._cells: dict[str, dict[str, Any]] = {_key(cell["of"]): cell for cell in content.get("cells", [])}

    def get(self, of: dict[str, Any]) -> dict[str, Any] | None:
        """The measures of a cell; None where there are none yet."""
        return self._cells.get(_key(of), {}).get("measured")

    def put(self, of: dict[str, Any], measured: dict[str, Any]) -> None:
        """Keeps a cell; it is in the file when `kept` ends, or before."""
        self._cells[_key(of)] = {"of": of, "measured": measured}
        self._changed = True
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self._write()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Writes the file at the end, however that comes: Ctrl-C and errors too."""
        try:
            yield
        finally:
            if self._changed:
                self._write()

    def _write(self) -> None:
        """Writes all cells, whole or not at all."""
        lines = ",\n".join(json.dumps(cell) for cell in self._cells.values())
        atomic.write_text(self._path, f'{{"rows": {json.dumps(self._identity)}, "cells": [\n{lines}\n]}}\n')
        self._written, self._changed = time.monotonic(), False


def _key(of: dict[str, Any]) -> str:
    """The text by which a cell is found."""
    return json.dumps(of, sort_keys=True)
