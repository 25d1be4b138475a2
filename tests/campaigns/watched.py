"""Runs a reader on a file under watch: what it does beside reading, how long it takes, and with how much memory."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer.errors import TransferError
from transfer.runtime import progress
from transfer.runtime.files import sandbox
from transfer.weights.readers import keras_file

REPOSITORY = Path(__file__).parents[2]

# Beside what the process has when the watch begins; a file that makes a reader take more is a finding.
MEMORY = 2 << 30
# Of CPU time, which other programs on the machine leave as it is; a reader that waits is given so many times more.
SECONDS, PATIENCE = 30.0, 4
# Events of Python's audit hooks that belong to reading; `open` is looked at more closely.
READING = ("os.listdir", "os.scandir", "object.", "sys._getframe", "marshal.", "gc.", "builtins.id", "mmap.", "array.")
# What loading a library does, and asking HDF5's in another process.
LIBRARIES = tuple(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, REPOSITORY))
CHILDREN = [
    sandbox.CHILD.format(str(sandbox.ROOT), each) for each in (sandbox.HDF5, sandbox.MATLAB, keras_file.PROCESS)
]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Hang(BaseException):
    """Nothing that a reader catches."""


@dataclass
class Outcome:
    """What came of one file.

    Attributes:
      answer: "read", "TransferError" or the name of another exception.
      message: of the exception.
      did: forbidden events.
      seconds: of CPU time, of this process and of those that it started.
      memory: by how many bytes the most resident memory of the process grew.
    """

    answer: str
    message: str = ""
    did: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0


class Watch:
    """The audit hook of this process, of which there can be one; it is idle outside of `run`.

    `libraries`: what importing our own, and asking HDF5, looks like is no reading either, but it is allowed.
    """

    def __init__(self, *folders: Path, seconds: float = SECONDS, memory: int | None = MEMORY) -> None:
        self.folders = tuple(str(folder) for folder in folders)
        self.seconds, self.memory = seconds, memory
        self.libraries = False
        self._did: list[str] | None = None
        sys.dont_write_bytecode = True  # of a module that is imported meanwhile
        sys.addaudithook(self._event)
        signal.signal(signal.SIGALRM, self._alarm)

    def run(self, read: Callable[[], object], allowed: tuple[type[Exception], ...] = (TransferError,)) -> Outcome:
        """Calls `read`; never raises."""
        did: list[str] = []
        before, start = _peak(), _cpu_seconds()
        with _limited(self.memory):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE * self.seconds)
            self._did = did
            try:
                read()
                outcome = Outcome("read")
            except allowed as error:
                outcome = Outcome(type(error).__name__, str(error))
            except Hang:
                outcome = Outcome("hang")
            except BaseException as error:
                outcome = Outcome(type(error).__name__, _text(error))
            finally:
                self._did = None
                signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.did, outcome.seconds = did, _cpu_seconds() - start
        outcome.memory = _peak() - before
        if "MemoryError" in outcome.message or "cannot allocate" in outcome.message.lower():
            outcome.did.append("memory")
        return outcome

    def _alarm(self, *_: object) -> None:
        if self._did is not None:
            raise Hang

    def _event(self, event: str, arguments: tuple) -> None:
        if self._did is None or len(self._did) > 10:
            return
        reading = (
            event.startswith(READING)
            or (event == "open" and self._opens(*arguments))
            or (event == "_thread.start_new_thread" and _of_progress(*arguments))
        )
        if not reading and not (self.libraries and _of_library(event, arguments)):
            self._did.append(f"{event} {str(arguments)[:200]}")

    def _opens(self, path: object, _: object, flags: object) -> bool:
        inside = not isinstance(path, str | bytes) or os.fsdecode(path).startswith(self.folders)
        return inside and not (isinstance(flags, int) and flags & WRITES)


def _of_progress(start: object, *_: object) -> bool:
    """Whether a thread (an audit event since Python 3.12) is the one that says from time to time what is waited for."""
    target = getattr(getattr(start, "__self__", None), "_target", None)
    return getattr(target, "__qualname__", "").startswith("waiting.") and target.__module__ == progress.__name__


def _of_library(event: str, arguments: tuple) -> bool:
    """Whether an event is of importing a library at its first use, of asking HDF5, or of parsing a literal."""
    first = arguments[0] if arguments else None
    if event == "open":
        # Python 3.12 looks for a line that it cannot parse in a file of the name that it gives to text, for its message
        of_no_file = isinstance(first, int) or first in (os.devnull, "<string>")
        return of_no_file or (str(first).startswith(LIBRARIES) and not arguments[2] & WRITES)
    if event == "exec":
        return str(getattr(first, "co_filename", "")).startswith((*LIBRARIES, "<frozen", "<string>", "<attrs"))
    if event == "subprocess.Popen":
        return list(arguments[1])[:3] in [[sys.executable, "-c", child] for child in CHILDREN]
    return event in ("import", "os.kill", "os.fork", "os.posix_spawn") or (
        event == "compile" and (arguments[1] == "<unknown>" or str(arguments[1]).startswith((*LIBRARIES, "<")))
    )


def _text(error: BaseException) -> str:
    where: Any = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" at {where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
    return f"{str(error)[:500]}{place}"


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _limited(memory: int | None) -> Iterator[None]:
    if memory is None:
        yield
        return
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
