"""Contenders: in a process of their own, which sleeps on a pipe until it is asked for another call, and in this one."""

import contextlib
import importlib
import importlib.util
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary
from transfer.runtime.timing import seconds_per_call

STOP_SECONDS = 10


class Skipped(TransferError):
    """A contender cannot run; the message is the reason, in one line."""


class Prepared(NamedTuple):
    """A contender that is ready.

    `call()` does the work once and returns when it is done; `report` of what it returns goes to the parent, once.
    """

    call: Callable[[], Any]
    report: Callable[[Any], Any]


class Several:
    """A contender whose call does a thing `count` times, and gives its time as seconds for once.

    `skip`: calls at the beginning of every sample that do not count.
    """

    def __init__(self, call: Callable[[], Any], count: int, skip: int = 0) -> None:
        self.call, self.count, self.skip = call, count, skip

    def __call__(self) -> None:
        self.call()

    def timed(self, seconds: float) -> float:
        """The mean of calls of at least so many seconds, one call at least."""
        for _ in range(self.skip):
            self.call()
        return seconds_per_call(self.call, seconds) / self.count


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require(packages: Sequence[str]) -> None:
    """Skips a contender, saying why, where a package that it needs is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)}; the extra [peers] has all of them")


def build(builder: str, case: Any) -> Prepared:
    """Calls `module:function` with the case."""
    module, _, function = builder.partition(":")
    return getattr(importlib.import_module(module), function)(case)


def serve(pipe: Connection, builder: str, case: Any) -> None:
    """Builds the contender, reports its first call, then answers until it is told to end: what the process does.

    A message is how many seconds to go on calling (0: one call); the answer is the mean of a call, in seconds. None
    ends the process. Whatever a library raises becomes the reason why it is left out.
    """
    # Ctrl-C reaches every process of the terminal; the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        prepared = build(builder, case)
        pipe.send((prepared.report(prepared.call()), None))
        while (seconds := pipe.recv()) is not None:
            pipe.send((seconds_per_call(prepared.call, seconds), None))
    except Skipped as reason:
        pipe.send((None, str(reason)))
    except ImportError as error:
        pipe.send((None, f"{error.name or error} cannot be imported"))
    except Exception as error:
        pipe.send((None, error_summary(error)))


class Worker:
    """The parent's side: starts the process and waits until the contender is ready.

    Args:
      builder: `module:function`; the function takes the case and returns `Prepared`.
      case: what to build; anything that pickle takes.

    Attributes:
      report: what `Prepared.report` made of the first call.
      failed: why a later call failed; empty while none has.

    Raises:
      Skipped: it could not be built, or its process ended.
    """

    def __init__(self, builder: str, case: Any) -> None:
        self.failed = ""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, builder, case), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.report = self._receive()
        except Skipped:
            self.close()
            raise

    def timed(self, seconds: float) -> float:
        """Seconds a call, measured in its own process over calls for at least so many seconds, one at least.

        NaN once a call has failed: others' rounds go on.
        """
        if not self.failed:
            try:
                with contextlib.suppress(OSError):  # then there is no answer either
                    self._pipe.send(seconds)
                return self._receive()
            except Skipped as reason:
                self.failed = str(reason)
        return math.nan

    def __call__(self) -> None:
        """Calls it once."""
        self.timed(0)

    def _receive(self) -> Any:
        try:
            answer, reason = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(STOP_SECONDS)
            raise Skipped(f"its process ended with exit code {self._process.exitcode}") from error
        if reason is not None:
            raise Skipped(reason)
        return answer

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):  # it has ended already
            self._pipe.send(None)
        self._pipe.close()
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
