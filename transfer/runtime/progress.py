"""Progress of anything that takes longer than a moment: a bar on a terminal or in a notebook, log lines elsewhere."""

import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from absl import logging

from transfer.runtime import distributed

SECONDS_BETWEEN_LINES = 10.0
# For what is usually over at once, and with large files or many rows is not.
NOTICEABLE_SECONDS = 2.0
# Where the stream is from that a notebook shows what is printed in.
NOTEBOOK = "ipykernel.iostream"


def is_watched() -> bool:
    """Whether somebody sees a line change: stderr is a terminal or a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__ == NOTEBOOK


class Progress:
    """Counts `total` units (None: unknown) under a `title`; use as a context manager and call `update(n)`.

    On a terminal and in a notebook it draws a tqdm bar with rate and time left; otherwise it logs a line at most
    every ten seconds. `done` units are counted as there from the start and left out of the rate. Of several processes
    the first shows it. Nothing is shown of what has ended within `delay` seconds.
    """

    def __init__(self, title: str, total: int | None, unit: str, done: int = 0, *, delay: float = 0.0) -> None:
        self.title, self.total, self.unit, self.delay = title, total, unit, delay
        self.start_count = self.line_count = self.count = done
        self.start_time = self.last_line = time.monotonic()
        self.bar = None
        if is_watched() and distributed.is_main():
            with warnings.catch_warnings():  # where a notebook has no widgets, text will do
                warnings.simplefilter("ignore")
                from tqdm.auto import tqdm

            self.bar = tqdm(None, title, total, file=sys.stderr, unit=unit, unit_scale=True, initial=done, delay=delay)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None and self.count > self.line_count and time.monotonic() - self.start_time >= self.delay:
            self._log()

    def update(self, n: int = 1) -> None:
        """Counts `n` more units."""
        self.count += n
        if self.bar is not None:
            self.bar.update(n)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self._log()

    def _log(self) -> None:
        self.last_line, self.line_count = time.monotonic(), self.count
        rate = (self.count - self.start_count) / max(self.last_line - self.start_time, 1e-9)
        of = "" if self.total is None else f"/{self.total}"
        left = "" if not self.total or not rate else f", {(self.total - self.count) / rate:.0f} s left"
        logging.info("%s: %d%s %s, %.1f %s/s%s", self.title, self.count, of, self.unit, rate, self.unit, left)


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
