"""SIGTERM, the notice before a machine is taken away: finish the step, save, end with an exit code of its own.

    preemption.install()
    for step in …:
        …
        if preemption.stop_at(step):  # in lock-step loops; requested() where every process goes its own way
            save()
            raise preemption.Preempted(…)

It is noticed by a thread of its own: Python's handlers wait until the main thread is out of a long call, such as a
compilation. A process that has nothing to save yet ends at once, and so does any at a second SIGTERM: what is on the
disk is whole whenever that comes. What is under way is given PART_SECONDS, so that a notice of 30 seconds leaves the
most of them for saving; a part that is not over by then is done again by the next run.

What any process is told, all get to know, Orbax and `jax.experimental.multihost_utils` too; and what something else has
told JAX counts here (`transfer.runtime.distributed`).
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from transfer.errors import TransferError, Unfinished
from transfer.runtime import log

BEFORE_THE_FIRST_STEP = "stopped before the first step; run the same command again"
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: try again
EXIT_TERMINATED = 128 + signal.SIGTERM  # as of any program that SIGTERM ends: 75 would say that everything is saved
# A second SIGTERM within so many seconds is the same one: Slurm sends it to a process and to what passes it on.
AGAIN_SECONDS = 3.0
PART_SECONDS = 5.0


class Preempted(TransferError):
    """The run stopped on request, everything is saved, and the same command continues it. Exit code 75."""

    exit_code = EXIT_PREEMPTED

    def __init__(
        self, message: str = "stopped on request, everything is saved; run the same command again to continue"
    ) -> None:
        super().__init__(message)
        part_is_over()


_requested = threading.Event()
_requested_at = 0.0
# Whether what was under way then is over.
_over = threading.Event()
_is_untimed = False
# Whether there is something to save, or somebody to tell.
_begun = False
# The end of a pipe that Python writes the numbers of signals to.
_wakeup: int | None = None
# Tells the other processes; None where there are none.
_announce: Callable[[], None] | None = None
# Calls of `stop_at` so far, and the one at which all processes stop; held while they agree on it.
_counting = threading.Lock()
_calls, _last_call = 0, math.inf


def install() -> None:
    """Makes SIGTERM ask for a clean end; to be called again after what sets a handler of its own, as JAX does."""
    global _wakeup
    if threading.current_thread() is not threading.main_thread():
        return
    if _wakeup is None:
        signals, _wakeup = os.pipe()
        os.set_blocking(_wakeup, False)
        threading.Thread(target=_follow_signals, args=(signals,), daemon=True, name="signals").start()
        threading.Thread(target=_limit_part, daemon=True, name="limit-part").start()
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)


def _forget() -> None:
    """In a forked process SIGTERM ends it, as ever: its parent's pipe, and the threads there, are none of its own."""
    global _wakeup
    if _wakeup is not None:
        _wakeup = None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def begin() -> None:
    """Notes that there is something to save, or that other processes are to be told: SIGTERM ends nothing at once."""
    global _begun
    _begun = True


def _follow_signals(signals: int) -> None:
    while number := os.read(signals, 1):
        if number[0] == signal.SIGTERM:
            _on_terminate()


def _on_terminate() -> None:
    global _requested_at
    again, _requested_at = _requested_at, _requested_at or time.monotonic()
    if not _begun:
        log.end(f"SIGTERM: {BEFORE_THE_FIRST_STEP}", EXIT_PREEMPTED)
    elif not again:
        request()  # at once: the line may have to wait
        log.write("SIGTERM: finishing this step and saving, then the end; a second one ends it at once")
    elif time.monotonic() - again > AGAIN_SECONDS:
        log.end("SIGTERM again: the end at once; run the same command again to continue", EXIT_TERMINATED)


def part_is_over() -> None:
    """Notes that what was under way when the request came is over: from now on saving takes as long as it takes."""
    if _requested.is_set():
        _over.set()


def _limit_part() -> None:
    _requested.wait()
    while not _over.wait(PART_SECONDS):
        if not _is_untimed:
            line = f"stopped on request without what has not come to its end within {PART_SECONDS:.0f} s"
            log.end(f"{line}; run the same command again to continue from what is saved", Unfinished.exit_code)


@contextmanager
def untimed() -> Iterator[None]:
    """In here the main thread has no part under way: it saves, or waits for processes whose own parts are limited."""
    global _is_untimed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _is_untimed = _is_untimed, True
    try:
        yield
    finally:
        _is_untimed = before


def request() -> None:
    """Asks all processes for a clean end, as SIGTERM does."""
    _requested.set()
    if _announce is not None:
        _announce()


def announce_by(announce: Callable[[], None] | None) -> None:
    """Sets how a request is announced to the other processes, and announces one that came before."""
    global _announce
    _announce = announce
    if announce is not None and _requested.is_set():
        announce()


def follow_remote_request(gather: Callable[[int], Iterable[int]]) -> None:
    """Takes note that a process was asked to end, and settles at which call of `stop_at` all stop.

    The first that none of them has made yet: `gather` gives this process' calls to the others and returns theirs; no
    process counts on meanwhile.
    """
    global _last_call
    _requested.set()
    with _counting:
        _last_call = max(gather(_calls)) + 1


def requested() -> bool:
    """Whether this process, or another of the same run that said so, is asked to end."""
    return _requested.is_set()


def stop_at(step: int) -> bool:
    """Whether to stop after this step of a loop that all processes go through in lock-step.

    They call it equally often; the answer is the same in all for the same call, whoever got the signal and when. (JAX's
    `reached_preemption_sync_point` agrees in the same way, but keeps Python's lock while it waits for a process that
    is silent: nobody could notice and name it.)

    Args:
        step: its number, for the reader's sake; calls are what is counted, so that one loop may follow another.
    """
    global _calls
    if _announce is None:
        return requested()
    with _counting:
        _calls += 1
        return _calls >= _last_call
