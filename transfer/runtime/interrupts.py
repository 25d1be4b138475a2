"""Ctrl-C ends a command in one line and exit code 130, whenever it comes.

    interrupts.install()             # before anything that takes time to import
    ...
    interrupts.interruptible(action) # what has something to save or to put away

Outside of `interruptible` nothing is lost by ending at once; a KeyboardInterrupt would be a traceback out of some
library's import. Inside it is raised, as Python does, and there it can get lost: an exception in a callback of the
garbage collector (JAX has one) or in `__del__` is reported and forgotten, and some C code makes another one of it. So
it is raised anew until the action has ended, except where it is being handled: saving takes as long as it takes.

And it is not raised where it does harm, but after that: while an extension module is being initialised, which some of
them end with a crash, and in functions that are `uninterruptible`. Pressed again there, it ends the process at once.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from types import CodeType, FrameType
from typing import ParamSpec, TypeVar

from transfer.errors import TransferError
from transfer.runtime import log

T = TypeVar("T")
P = ParamSpec("P")

EXIT_INTERRUPTED = 128 + signal.SIGINT
MESSAGE = "interrupted; run the same command again to continue"
REPEAT_SECONDS = 0.1

_came = False
_reported = False
_exit_code: int | None = None
# Functions in which no KeyboardInterrupt is raised.
_uninterruptible: set[CodeType] = {ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__}


def install() -> None:
    """Makes Ctrl-C end this process in one line from now on."""
    signal.signal(signal.SIGINT, _on_interrupt)
    signal.signal(signal.SIGALRM, _on_alarm)
    if atexit._ncallbacks() <= 1:  # type: ignore[attr-defined]
        # the first one is called last, but for that of Python's logging, which flushes as it does
        atexit.register(leave)


def uninterruptible(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function whose end Ctrl-C waits for."""
    _uninterruptible.add(function.__code__)  # type: ignore[attr-defined]
    return function


def set_exit_code(code: int) -> None:
    """Sets the exit code, once nothing is left to be done.

    Python handles no signal while it takes itself apart, which takes a while with JAX; so that is left out.
    """
    global _exit_code
    _exit_code = code


def interruptible(action: Callable[[], T]) -> T:
    """Calls `action`, in which Ctrl-C raises KeyboardInterrupt; and raises it, where it was lost in there.

    What else comes of Ctrl-C is one as well, but for errors of saving and putting away, which say what could not be.
    """
    try:
        result = action()
    except BaseException as error:
        saving = isinstance(error, TransferError | OSError) and _is_handled(error)
        if _came and not saving:
            raise KeyboardInterrupt from error
        raise
    if _came:
        raise KeyboardInterrupt
    return result


def acknowledge() -> None:
    """Notes that a KeyboardInterrupt has arrived, for an action that then goes on to an end of its own."""
    global _came
    _came = False
    _repeat(0)


def mark_reported() -> None:
    """Notes that the command's one line is written: Ctrl-C adds none while the process ends."""
    global _reported
    _reported = True
    _repeat(0)


def _is_handled(error: BaseException | None) -> bool:
    """Whether `error` is a KeyboardInterrupt, or came while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _came
    again, _came = _came, True
    callers = _callers(frame)
    waits = bool(callers & _uninterruptible)
    if interruptible.__code__ not in callers or (again and waits):
        try:
            if not _reported:
                log.error(MESSAGE)
            sys.stdout.flush()
        finally:
            os._exit(EXIT_INTERRUPTED)
    _repeat(REPEAT_SECONDS)
    if not waits:
        raise KeyboardInterrupt


def _on_alarm(number: int, frame: FrameType | None) -> None:
    callers = _callers(frame)
    if interruptible.__code__ not in callers:
        _repeat(0)
    elif not callers & _uninterruptible and not _is_handled(sys.exception()):
        raise KeyboardInterrupt


def _callers(frame: FrameType | None) -> set[CodeType]:
    """The functions that are being called: a flag would be wrong for a moment before and after."""
    callers = set()
    while frame is not None:
        callers.add(frame.f_code)
        frame = frame.f_back
    return callers


def _repeat(seconds: float) -> None:
    """Raises KeyboardInterrupt again every so many seconds, 0: no more."""
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def leave() -> None:
    """Ends the process with the exit code that is set, if one is."""
    if _exit_code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code)
