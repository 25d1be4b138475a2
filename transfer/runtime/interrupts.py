"""Ctrl-C ends a command in one line and exit code 130, whenever it comes.

    interrupts.install()            # before anything that takes time to import
    ...
    interrupts.interruptible(action)    # what has something to save or to put away

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
from typing import NoReturn, ParamSpec, TypeVar

from transfer.errors import TransferError

T = TypeVar("T")
P = ParamSpec("P")

EXIT_INTERRUPTED = 128 + signal.SIGINT
MESSAGE = "interrupted; the same command goes on where this one stopped"
INSIST_SECONDS = 0.1

_came = False
_said = False
_code: int | None = None
# Of functions in which no KeyboardInterrupt is raised.
_whole: set[CodeType] = {ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__}


def install() -> None:
    """From now on Ctrl-C ends this process as it should."""
    signal.signal(signal.SIGINT, _on_interrupt)
    signal.signal(signal.SIGALRM, _on_alarm)
    if not atexit._ncallbacks():  # type: ignore[attr-defined]
        atexit.register(_leave)  # the first one is called last


def uninterruptible(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function that Ctrl-C waits for."""
    _whole.add(function.__code__)  # type: ignore[attr-defined]
    return function


def set_exit_code(code: int) -> None:
    """The exit code, once nothing is left to be done.

    Python handles no signal while it takes itself apart, which takes a while with JAX; so that is left out.
    """
    global _code
    _code = code


def interruptible(action: Callable[[], T]) -> T:
    """Calls `action`, in which Ctrl-C raises KeyboardInterrupt; and raises it, where it was lost in there.

    What else comes of Ctrl-C is one as well, but for errors of saving and putting away, which say what could not be.
    """
    try:
        found = action()
    except BaseException as error:
        says = isinstance(error, TransferError | OSError) and _is_handled(error)
        if _came and not says:
            raise KeyboardInterrupt from error
        raise
    if _came:
        raise KeyboardInterrupt
    return found


def acknowledge() -> None:
    """Says that a KeyboardInterrupt has arrived, for an action that then goes on to an end of its own."""
    global _came
    _came = False
    _insist(0)


def mark_reported() -> None:
    """The command's one line is written: Ctrl-C adds none while the process ends."""
    global _said
    _said = True
    _insist(0)


def _is_handled(error: BaseException | None) -> bool:
    """Whether `error` is a KeyboardInterrupt, or came while one was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _came
    again, _came = _came, True
    callers = _callers(frame)
    if interruptible.__code__ not in callers or again and callers & _whole:
        _end()
    _insist(INSIST_SECONDS)
    _raise_in(callers)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    callers = _callers(frame)
    if interruptible.__code__ not in callers:
        _insist(0)
    elif not _is_handled(sys.exception()):
        _raise_in(callers)


def _callers(frame: FrameType | None) -> set[CodeType]:
    """What is being called: a flag would be wrong for a moment before and after."""
    found = set()
    while frame is not None:
        found.add(frame.f_code)
        frame = frame.f_back
    return found


def _raise_in(callers: set[CodeType]) -> None:
    if not callers & _whole:
        raise KeyboardInterrupt


def _insist(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def _end() -> NoReturn:
    try:
        if not _said:
            os.write(2, f"error: {MESSAGE}\n".encode())
        sys.stdout.flush()
    finally:
        os._exit(EXIT_INTERRUPTED)


def _leave() -> None:
    if _code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_code)
