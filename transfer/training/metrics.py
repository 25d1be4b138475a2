"""`metrics.jsonl`, a line an epoch, beside TensorBoard's events."""

import json

from etils import epath

from transfer.runtime import distributed
from transfer.runtime.files import atomic
from transfer.training.board import Board


class Metrics:
    """`metrics.jsonl` and TensorBoard events; both are cut back to the checkpoint that a resumed run starts from.

    Process 0 writes them; in the others nothing happens.
    """

    def __init__(self, workdir: epath.Path, history: list[dict[str, float]]) -> None:
        self._board: Board | None = None
        if not distributed.is_main():
            return
        self._path = workdir / "metrics.jsonl"
        atomic.write_text(self._path, "".join(json.dumps(row) + "\n" for row in history))
        self._board = Board(workdir, len(history) + 1)

    def write(self, row: dict[str, float]) -> None:
        """Appends one epoch."""
        if self._board is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._board.write(int(row["epoch"]), {name: value for name, value in row.items() if name != "epoch"})

    @staticmethod
    def differ(workdir: epath.Path, epochs: int) -> bool:
        """Whether `metrics.jsonl` holds other than so many whole lines: a killed run's, or some were never written."""
        path = workdir / "metrics.jsonl"
        if not distributed.is_main() or not path.exists():
            return False
        text = path.read_text()
        return len(text.splitlines()) != epochs or not text.endswith("\n")

    def close(self) -> None:
        """Flushes the events."""
        if self._board is not None:
            self._board.close()
