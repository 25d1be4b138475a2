"""Progress of anything that takes longer than a moment: a bar on a terminal or in a notebook, log lines elsewhere.

And the stacks of all threads where there is none for long.
"""

import faulthandler
import itertools
import math
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from absl import logging

from transfer.runtime import distributed, log

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_COUNTS = 1.0
# For what is usually over at once, and with large files or many rows is not.
NOTICEABLE_SECONDS = 2.0
# Where the stream is from that a notebook shows what is printed in.
NOTEBOOK = "ipykernel.iostream"
# How long a process may do no step before it shows where it is.
HANG_SECONDS = 1800

# What is being counted, the whole before its parts; facts of what has ended, which whoever writes them down takes out.
under_way: list["Progress"] = []
ended: deque[dict[str, Any]] = deque(maxlen=100)
_hang_seconds, _watched_since = 0.0, 0.0
# A number of each that processes share, the same in all: titles come again.
_numbers = itertools.count()


def watch_for_hangs(seconds: float) -> None:
    """Prints the stacks of all threads at SIGUSR1, and whenever there is no step for so many seconds (0: not)."""
    global _hang_seconds, _watched_since
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    faulthandler.cancel_dump_traceback_later()
    _hang_seconds, _watched_since = seconds, -math.inf
    step()


def step() -> None:
    """Notes that the process has got on: a batch, or a part of an epoch."""
    global _watched_since
    now = time.monotonic()
    if _hang_seconds and now - _watched_since > min(_hang_seconds / 10, SECONDS_BETWEEN_LINES):
        _watched_since = now
        # by a thread of C's, which needs no lock of Python's
        faulthandler.dump_traceback_later(_hang_seconds, repeat=True, file=2)


def is_watched() -> bool:
    """Whether somebody sees a line change: stderr is a terminal or a notebook."""
    return not log.is_json() and (sys.stderr.isatty() or type(sys.stderr).__module__ == NOTEBOOK)


class Progress:
    """Counts `total` units (None: unknown) under a `title`; use as a context manager and call `update(n)`.

    On a terminal and in a notebook it draws a tqdm bar with rate and time left; otherwise it logs a line at most
    every ten seconds. `done` units are counted as there from the start and left out of the rate. Of several processes
    the first shows it; of what is `shared`, each in its log, and of all: `total` and `done` are the whole's. Nothing is
    shown of what has ended within `delay` seconds, or is not `shown`.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        done: int = 0,
        *,
        delay: float = 0.0,
        shown: bool = True,
        shared: bool = False,
    ) -> None:
        # of what is shared: units of this process alone, and when the others were told
        self.shared, self.own, self.told = shared and distributed.process_count() > 1, 0, -SECONDS_BETWEEN_COUNTS
        self.name = f"{title} {next(_numbers)}" if self.shared else title
        self.title, self.total, self.unit, self.delay, self.shown = title, total, unit, delay, shown
        self.start_count = self.line_count = self.count = done
        self.start_time = self.last_line = time.monotonic()
        self.bar = None
        if shown and is_watched() and distributed.is_main():
            with warnings.catch_warnings():  # where a notebook has no widgets, text will do
                warnings.simplefilter("ignore")
                from tqdm.auto import tqdm

            self.bar = tqdm(None, title, total, file=sys.stderr, unit=unit, unit_scale=True, initial=done, delay=delay)

    def __enter__(self) -> "Progress":
        under_way.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.shared:
            self.count += self._share()
        under_way.remove(self)
        is_noticeable = time.monotonic() - self.start_time >= self.delay
        if is_noticeable:
            ended.append(self.facts())
        if self.bar is not None:
            self.bar.close()
        elif self.shared and not distributed.is_main():  # that its share is done is no end
            return
        elif kind is None and self.count > self.line_count and is_noticeable:
            self._log()

    def update(self, n: int = 1) -> None:
        """Counts `n` more units."""
        step()
        if self.shared:
            self.own += n
            if time.monotonic() - self.told < SECONDS_BETWEEN_COUNTS:
                return
            n = self._share()
        self.count += n
        if self.bar is not None:
            self.bar.update(n)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self._log()

    def _share(self) -> int:
        """Tells the others what this process has done; what all have done since it last did so."""
        self.told = time.monotonic()
        return self.start_count + distributed.share_count(self.name, self.own) - self.count

    def facts(self) -> dict[str, Any]:
        """How far it has come, how fast (units a second), and how long it will go on, as JSON values."""
        seconds = max(time.monotonic() - self.start_time, 1e-9)
        rate = (self.count - self.start_count) / seconds
        left = round((self.total - self.count) / rate) if self.total and rate else None
        known = {"stage": self.title, "done": self.count, "total": self.total, "unit": self.unit}
        return {**known, "seconds": round(seconds, 3), "rate": round(rate, 3), "seconds_left": left}

    def _log(self) -> None:
        self.last_line, self.line_count = time.monotonic(), self.count
        facts, of = self.facts(), "" if self.total is None else f"/{self.total}"
        left = "" if facts["seconds_left"] is None else f", {facts['seconds_left']} s left"
        line = f"{self.title}: {self.count}{of} {self.unit}, {facts['rate']:.1f} {self.unit}/s{left}"
        if self.shared and not distributed.is_main():  # of whose log warnings only are shown
            log.write(f"{distributed.process_label()}{line}")
        elif self.shown:
            logging.info("%s", line, extra={"fields": facts})


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Says from time to time that work without steps to count goes on, and since when.

    On a terminal and in a notebook in a line that counts seconds, from NOTICEABLE_SECONDS on; elsewhere a log line
    every ten seconds.
    """
    if not distributed.is_main():
        yield
        return
    over, is_seen, start = threading.Event(), is_watched(), time.monotonic()

    def report() -> None:
        wait = NOTICEABLE_SECONDS if is_seen else SECONDS_BETWEEN_LINES
        while not over.wait(wait):
            text = f"{title}: {time.monotonic() - start:.0f} s"
            if is_seen:
                wait = 1.0
                print(f"\r{text} ", end="", file=sys.stderr, flush=True)
            else:
                logging.info("%s so far", text)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        over.set()
        reporter.join()
        if is_seen and time.monotonic() - start >= NOTICEABLE_SECONDS:
            print(file=sys.stderr, flush=True)
