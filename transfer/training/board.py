"""TensorBoard events, written by the thread that has them.

`tensorboardX.SummaryWriter` hands them to a thread of its own, which ends without a word at the first error (a full
disk, a clock that is set back by a month); training then waits for ever at the eleventh value. So of that library only
what needs no thread is used.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath

# On a bucket, each flush writes the whole file anew.
FLUSH_SECONDS = 10.0


class Board:
    """A new file of events in `folder`; what older files hold of `first_step` and later steps is not shown any more."""

    def __init__(self, folder: epath.Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder, self._flushed = str(folder), time.monotonic()
        self._event: Any = Event
        with self._named():
            self._writer = EventsWriter(os.path.join(self._folder, "events"), f".{os.getpid()}")
        self._add(step=first_step, file_version="brain.Event:2")
        self._add(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the values of a step; OSError where they cannot be written."""
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self._add(step=step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flushed = time.monotonic()
            with self._named():
                self._writer.flush()

    def close(self) -> None:
        """Writes what is left; OSError where that cannot be."""
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
            raise OSError(error.errno, error.strerror, f"{self._folder}/events") from error
