"""`metrics.jsonl`, a line an epoch with when and how fast it was, beside TensorBoard's events of its values."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from etils import epath

from transfer.runtime import distributed
from transfer.runtime.files import atomic

FILE = "metrics.jsonl"
# When an epoch ended, how long it took and how fast it was: no part of the run's state, which is the same whenever.
TIMES = ("time", "seconds", "rows_per_second")
# On a bucket, each flush writes the whole file anew.
FLUSH_SECONDS = 10.0


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keeps tensorboardX from importing PyTorch where it is installed: a second, for a part of it that is not used."""
    loaded = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # None: as if it were not installed
    try:
        yield
    finally:
        if loaded is None:
            del sys.modules["torch"]


def _times(path: epath.Path) -> list[dict[str, float]]:
    """The times of the epochs that a file has, up to a damaged line."""
    times: list[dict[str, float]] = []
    with suppress(ValueError, TypeError, RecursionError):
        for line in path.read_text().splitlines() if path.exists() else ():
            row = json.loads(line)
            times.append({name: row[name] for name in TIMES if name in row})
    return times


class Metrics:
    """`metrics.jsonl` and TensorBoard events; both are cut back to the checkpoint that a resumed run starts from.

    The rate is that of `rows` an epoch; of the first after a stop within one it is too high.

    What older files of events hold of later epochs is then not shown any more. Process 0 writes them; in the others
    nothing happens.

    `tensorboardX.SummaryWriter` hands events to a thread of its own, which ends without a word at the first error (a
    full disk, a clock that is set back by a month); training then waits for ever at the eleventh value. So of that
    library only what needs no thread is used.
    """

    def __init__(self, workdir: epath.Path, history: list[dict[str, float]], rows: int = 0) -> None:
        self._workdir, self._rows = workdir, rows
        self._flushed = self._since = time.monotonic()
        self._writer: Any = None
        if not distributed.is_main():
            return
        times = _times(workdir / FILE)
        lines = [{**row, **dict(*times[at : at + 1])} for at, row in enumerate(history)]
        atomic.write_text(workdir / FILE, "".join(json.dumps(line) + "\n" for line in lines))
        with _without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event: Any = Event
        with self._named():
            self._writer = EventsWriter(os.path.join(workdir, "events"), f".{os.getpid()}")
        first = len(history) + 1
        self._add(step=first, file_version="brain.Event:2")
        self._add(step=first, session_log=SessionLog(status=SessionLog.START))

    def write(self, row: dict[str, float]) -> None:
        """Appends one epoch, and its TIMES, which are in `metrics.jsonl` only; OSError where that cannot be."""
        if self._writer is None:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        seconds, self._since = time.monotonic() - self._since, time.monotonic()
        times = dict(zip(TIMES, (time.time(), seconds, self._rows / max(seconds, 1e-9)), strict=True))
        atomic.append_lines(self._workdir / FILE, [{**row, **times}])
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "epoch"]
        self._add(step=int(row["epoch"]), summary=Summary(value=values))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flushed = time.monotonic()
            with self._named():
                self._writer.flush()

    @staticmethod
    def differ(workdir: epath.Path, epochs: int) -> bool:
        """Whether `metrics.jsonl` holds other than this many whole lines, as a killed run leaves it."""
        path = workdir / FILE
        if not distributed.is_main() or not path.exists():
            return False
        text = path.read_text()
        return len(text.splitlines()) != epochs or not text.endswith("\n")

    def close(self) -> None:
        """Writes the events that are left; OSError where that cannot be."""
        if self._writer is not None:
            with self._named():
                self._writer.close()

    def _add(self, **fields: Any) -> None:
        with self._named():
            self._writer.write_event(self._event(wall_time=time.time(), **fields))

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{self._workdir}/events") from error
