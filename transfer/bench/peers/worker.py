"""A contender in a process of its own, which sleeps on a pipe until it is asked for another call."""

import contextlib
import importlib
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from transfer.bench.peers.case import Prepared, Skipped

STOP_SECONDS = 10


def serve(pipe: Connection, builder: str, case: Any) -> None:
    """What the process does: builds the contender, reports its first call, then answers until it is told to end.

    A message is how many seconds to go on calling (0: one call); the answer is the seconds a call took, in the mean.
    None ends the process.
    """
    # Ctrl-C reaches every process of the terminal; the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        prepared = _build(builder, case)
        report = prepared.report(prepared.call())
    except Skipped as reason:
        pipe.send(("skipped", str(reason)))
    except ImportError as error:
        pipe.send(("skipped", f"{error.name or error} cannot be imported"))
    except Exception as error:  # whatever a library raises is the reason why it is left out
        pipe.send(("skipped", _one_line(error)))
    else:
        pipe.send(("ready", report))
        _answer(pipe, prepared.call)


def _build(builder: str, case: Any) -> Prepared:
    module, _, function = builder.partition(":")
    build: Callable[[Any], Prepared] = getattr(importlib.import_module(module), function)
    return build(case)


def _answer(pipe: Connection, call: Callable[[], Any]) -> None:
    while (seconds := pipe.recv()) is not None:
        try:
            pipe.send(_seconds_per_call(call, seconds))
        except Exception as error:  # as above
            pipe.send(_one_line(error))
            return


def _seconds_per_call(call: Callable[[], Any], seconds: float) -> float:
    calls, start = 0, time.perf_counter()
    while not calls or time.perf_counter() - start < seconds:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(f"{type(error).__name__}: {lines[0] if lines else ''}".split())[:200]


class Worker:
    """The parent's side: starts the process and waits until the contender is ready.

    Args:
      name: for messages.
      builder: `module:function`; the function takes the case and returns `Prepared`.
      case: what to build; anything that pickle takes.

    Attributes:
      report: what `Prepared.report` made of the first call.
      seconds: from the start of the process to that: imports, building, compiling.

    Raises:
      Skipped: it could not be built, or its process ended.
    """

    def __init__(self, name: str, builder: str, case: Any) -> None:
        self.name = name
        start = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, builder, case), daemon=True)
        self._process.start()
        theirs.close()
        try:
            word, answer = self._receive()
        except Skipped:
            self.close()
            raise
        if word == "skipped":
            self.close()
            raise Skipped(answer)
        self.report = answer
        self.seconds = time.perf_counter() - start

    def timed(self, seconds: float) -> float:
        """Seconds a call, measured in its own process over calls for at least so many seconds, one at least."""
        try:
            self._pipe.send(seconds)
        except OSError as error:
            raise Skipped(f"the process of {self.name} has ended") from error
        answer = self._receive()
        if isinstance(answer, str):
            raise Skipped(answer)
        return answer

    def __call__(self) -> None:
        """One call."""
        self.timed(0)

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(STOP_SECONDS)
            raise Skipped(f"its process ended with {self._process.exitcode}") from error

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):  # it has ended already
            self._pipe.send(None)
        self._pipe.close()
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
