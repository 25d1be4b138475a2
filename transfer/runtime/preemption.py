"""SIGTERM, the notice before a machine is taken away: finish the step, save, end with an exit code of its own.

    preemption.install()
    for step in …:
        …
        if preemption.stop_at(step):  # in lock-step loops; requested() where every process goes its own way
            save()
            raise preemption.Preempted(…)

What any process is told, all get to know, Orbax and `jax.experimental.multihost_utils` too; and what something else has
told JAX counts here (`transfer.runtime.distributed`).
"""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType

from transfer.errors import TransferError

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: try again


class Preempted(TransferError):
    """The run stopped on request, everything is saved, and the same command continues it. Exit code 75."""

    exit_code = EXIT_PREEMPTED

    def __init__(
        self, message: str = "stopped on request, everything is saved; run the same command again to continue"
    ) -> None:
        super().__init__(message)


_requested = threading.Event()
# Tells the other processes; None where there are none.
_announce: Callable[[], None] | None = None
# Calls of `stop_at` so far, and the one at which all processes stop; held while they agree on it.
_counting = threading.Lock()
_calls, _last_call = 0, math.inf


def install() -> None:
    """Makes SIGTERM ask for a clean end; to be called again after what sets a handler of its own, as JAX does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if not _requested.is_set():  # a second one changes nothing
        _requested.set()  # at once: it may come while the line is written
        # not by print: whatever the signal interrupts may be printing
        os.write(2, b"SIGTERM: finishing this step and saving, then the end\n")
        request()


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
