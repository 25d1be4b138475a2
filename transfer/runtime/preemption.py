"""SIGTERM, the notice before a machine is taken away: finish the step, save, end with an exit code of its own.

    preemption.install()
    for step in …:
        …
        if preemption.stop_at(step):  # in lock-step loops; requested() where every process goes its own way
            save()
            raise preemption.Preempted(…)

What any process is told, all get to know (`transfer.runtime.rendezvous`). Orbax and `jax.experimental.multihost_utils`
get to know it too, and what JAX is told by others counts here (`transfer.runtime.distributed`).
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from transfer.errors import TransferError

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: try again


class Preempted(TransferError):
    """Stopped on request, everything saved; the same command goes on. Exit code 75."""

    exit_code = EXIT_PREEMPTED

    def __init__(self, message: str = "stopped on request, everything is saved; the same command goes on") -> None:
        super().__init__(message)


class Agreement:
    """The call of `stop_at` at which all processes stop: the first that none of them has made yet.

    Whoever asks every process for its count (`hold`) keeps them from counting on until the answer is there (`settle`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._stop: int | None = None

    def call(self) -> bool:
        """Counts one call; whether it is the one at which to stop, or a later one."""
        with self._lock:
            self._calls += 1
            return self._stop is not None and self._calls >= self._stop

    def hold(self) -> int:
        """The calls so far; `call` waits from now on."""
        self._lock.acquire()
        return self._calls

    def settle(self, stop: int) -> None:
        """Ends `hold` with the number of the call at which to stop."""
        self._stop = stop
        self._lock.release()


_requested = threading.Event()
# What else a notice does: telling the other processes. None: there are none.
_tell: Callable[[], None] | None = None
agreement = Agreement()


def install() -> None:
    """From now on SIGTERM asks for a clean end; again after anything that sets a handler of its own, as JAX does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if not _requested.is_set():  # a second one changes nothing
        _requested.set()  # at once: it may come while the line is written
        # not by print: whatever the signal interrupts may be printing
        os.write(2, b"SIGTERM: finishing this step and saving, then the end\n")
        request()


def request() -> None:
    """As SIGTERM does."""
    _requested.set()
    if _tell is not None:
        _tell()


def note_remote_request() -> None:
    """Another process was asked to."""
    _requested.set()


def share(tell: Callable[[], None] | None) -> None:
    """From now on `tell()` is called with every request, and now for one that came before: it tells the others."""
    global _tell
    _tell = tell
    if tell is not None and _requested.is_set():
        tell()


def requested() -> bool:
    """Whether this process, or another of the same run that said so, is asked to end."""
    return _requested.is_set()


def stop_at(step: int) -> bool:
    """Whether to stop after this step of a loop that all processes go through in step.

    They call it equally often; the answer is the same in all for the same call, whoever got the signal and when.

    Args:
        step: its number, for the reader's sake; calls are what is counted, so that one loop may follow another.
    """
    if _tell is None:
        return requested()
    return agreement.call()
