"""`status.json`, by which others see how a run is getting on: written anew every few seconds, whole or not at all.

    {"state": "running", "time": 1796048521.3, "stage": "train", "done": 640, "total": 1437, "unit": "images",
     "seconds": 2.5, "rate": 251.2, "seconds_left": 3, "restarts": 0, "process": 0, "processes": 1, …}

In `progress.jsonl` stands a line for each stage that has ended, and now and then one of the stage that goes on. Process
K of several writes `status-K.json` and `progress-K.jsonl`. Where that cannot be there is a warning; the run goes on.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from absl import logging
from etils import epath

from transfer.errors import TransferError
from transfer.runtime import distributed, preemption, progress
from transfer.runtime.files import atomic

# "stale" is what a reader makes of a run that has not been heard of for STALE_SECONDS.
RUNNING, DONE, STOPPED, FAILED, STALE = "running", "done", "stopped", "failed", "stale"
SECONDS, SECONDS_ON_BUCKET, STALE_SECONDS = 5.0, 20.0, 75.0
# How often the stage that goes on gets a line, and how long the end of a run waits for the last word to be written.
LINE_SECONDS, LAST_SECONDS = 30.0, 10.0
_MAX_ERROR = 1000


@contextmanager
def reported(workdir: epath.Path, is_finished: bool = False) -> Iterator[None]:
    """Keeps the status of this process in the workdir until the run ends, however it does.

    That of a run that is done already stays as it is until something is done; `is_finished`: whether one is that has
    no status, as of an older version.
    """
    report = _Report(workdir, is_finished)
    report.start()
    try:
        yield
    except (preemption.Preempted, KeyboardInterrupt):
        report.end(state=STOPPED)
        raise
    except BaseException as error:
        report.end(state=FAILED, error=" ".join(f"{error or type(error).__name__}".split())[:_MAX_ERROR])
        raise
    report.end(state=DONE)


def read(workdir: epath.Path, process: int = 0) -> dict[str, Any] | None:
    """The status of a process as it was last written, None where there is none; "stale" where it has gone silent."""
    path = workdir / _file_of("status.json", process)
    try:
        status = atomic.read_json(path) if path.exists() else {}
    except (TransferError, OSError):  # damaged, or taken away just now
        return None
    if status.get("state") not in (RUNNING, DONE, STOPPED, FAILED) or not isinstance(status.get("time"), float):
        return None
    if status["state"] == RUNNING and not time.time() - status["time"] <= STALE_SECONDS:  # also of NaN
        status["state"] = STALE
    return status


def _file_of(name: str, process: int) -> str:
    stem, suffix = name.split(".")
    return f"{stem}-{process}.{suffix}" if process else name


class _Report(threading.Thread):
    """Writes; the run itself never waits for the disk or the bucket, but at its end for a moment."""

    def __init__(self, workdir: epath.Path, is_finished: bool) -> None:
        super().__init__(daemon=True, name="status")
        process = distributed.process_index()
        self._workdir, self._over, self._line_time = workdir, threading.Event(), time.monotonic()
        self._seconds = SECONDS_ON_BUCKET if "://" in str(workdir) else SECONDS
        before = read(workdir, process)
        self._is_finished = is_finished if before is None else before["state"] == DONE
        restarts = None if before is None or self._is_finished else before.get("restarts")
        self._status: dict[str, Any] = {
            "state": RUNNING,
            "time": time.time(),
            "started": time.time(),
            "restarts": restarts + 1 if isinstance(restarts, int) else 0,
            "process": process,
            "processes": distributed.process_count(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        progress.ended.clear()

    def end(self, **facts: Any) -> None:
        """Writes the last word."""
        self._status |= facts
        self._over.set()
        self.join(LAST_SECONDS)

    def run(self) -> None:
        """Writes every few seconds, until the end."""
        is_over = was_warned = False
        while not is_over:
            is_over = self._over.wait(self._seconds)
            try:
                self._write()
            except Exception as error:  # whatever a bucket's library raises: no status is worth a run
                if not was_warned:
                    logging.warning("%s: the status cannot be written (%s); the run goes on", self._workdir, error)
                was_warned = True

    def _write(self) -> None:
        now = [stage.facts() for stage in progress.under_way if not stage.delay][:1]
        lines = [progress.ended.popleft() for _ in range(len(progress.ended))]
        self._status |= {"time": time.time(), **(now or lines[-1:] or [{}])[0]}
        self._is_finished &= not any(stage["rate"] for stage in now + lines)
        if self._is_finished:
            return
        process = self._status["process"]
        atomic.write_text(self._workdir / _file_of("status.json", process), json.dumps(self._status) + "\n")
        if time.monotonic() - self._line_time > LINE_SECONDS:
            self._line_time, lines = time.monotonic(), lines + now
        lines = [{"time": self._status["time"], "process": process, **line} for line in lines]
        if lines:
            atomic.append_lines(self._workdir / _file_of("progress.jsonl", process), lines)
