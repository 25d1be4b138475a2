"""Commands of gcloud for tpu_pod.py: one at a time, what their errors mean; and one command a name."""

# Python 3.9 or newer, nothing but its standard library.
from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

PREEMPTED, PEER_LOST, BUSY, BROKEN_CONNECTION = 75, 76, 69, 255
RETRIED = {
    PREEMPTED: "was asked to stop and has saved",
    PEER_LOST: "lost one of its processes",
    BROKEN_CONNECTION: "lost the connection",
}

# What an error of gcloud means, the first that fits. What fits none may pass, as "passing" does.
MEANINGS = {
    "absent": r"^ERROR: \(gcloud\.[\w.-]+\) NOT_FOUND: ",
    "taken": r"^ERROR: \(gcloud\.[\w.-]+\) ALREADY_EXISTS: ",
    # no network (gcloud then says that one should log in); too many questions a minute
    "passing": r"Max retries exceeded|Connection|timed out|Name or service not known|per minute",
    "full": r"no more capacity in the zone|Insufficient reserved capacity",
    "refused": r"PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|FAILED_PRECONDITION|Quota|RESOURCE_EXHAUSTED"
    r"|gcloud auth login|\) (argument|unrecognized arguments|Invalid value)",
}


class Ended(Exception):
    """The end of all tries, with a line and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Answer(NamedTuple):
    """What a command of gcloud printed, and its exit code."""

    code: int
    output: str = ""
    errors: str = ""

    @property
    def meaning(self) -> str:
        """A key of MEANINGS, "done" where it is no error."""
        if self.code == 0:
            return "done"
        fits = (name for name, pattern in MEANINGS.items() if re.search(pattern, self.errors, re.MULTILINE))
        return next(fits, "passing")

    def code_of_workers(self) -> int:
        """The code of a worker that failed by itself; else 75, 76 or 255 if one ended so.

        gcloud ends with the first worker's that is not 0, and where one fails the others have lost it.
        """
        codes = [int(text) for text in re.findall(r"failed with exit status (\d+)", self.errors)] or [self.code]
        own = [code for code in codes if code and code not in RETRIED]
        return own[0] if own else PEER_LOST if PEER_LOST in codes else max(codes)


class Terminal:
    """Commands, one at a time: run, or under --dry_run printed."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._child: subprocess.Popen[str] | None = None

    def run(self, *words: str, is_shown: bool = True) -> Answer:
        """Waits for a command; what it prints is shown as it comes, or with `is_shown=False` is in the answer alone."""
        if self.dry_run:
            print(" ".join(map(quoted, words)))
            return Answer(0)
        # a session of its own: Ctrl-C is for this script, which then ends it with all that it started
        self._child = child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=None if is_shown else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if not is_shown:
            output, text = child.communicate()
            return Answer(child.returncode, output, text)
        lines: list[str] = []
        reader = threading.Thread(target=_show_errors, args=(child, lines), daemon=True)
        reader.start()
        code = child.wait()
        # not to the end: the master of a shared ssh connection stays, and keeps it open
        reader.join(timeout=2)
        return Answer(code, "", "".join(lines))

    def end(self) -> None:
        """Ends the command that runs."""
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGTERM)
            try:
                self._child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(self._child.pid, signal.SIGKILL)


def quoted(word: str) -> str:
    """As a shell reads it, of `--flag=value` the value alone, as gcloud's linter wants it."""
    flag = re.match(r"--[\w.-]+=|", word)
    assert flag is not None
    return flag[0] + shlex.quote(word[flag.end() :])


def _show_errors(child: subprocess.Popen[str], lines: list[str]) -> None:
    for line in child.stderr or ():
        lines.append(line)
        tell(line)


class Claim:
    """A name that one command at a time has on this machine; in its file the ID of what may be left of a killed one."""

    def __init__(self, path: Path, name: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Ended(f"another tpu_pod.py runs with {name}; wait for it, or take another --name") from None
        self._file.seek(0)
        self.left = self._file.read().strip()

    def note(self, identity: str) -> None:
        """Sets the ID, "" for none."""
        self._file.truncate(0)
        self._file.write(identity)
        self._file.flush()


class Shown(threading.Thread):
    """A file that is printed as it grows, until `end`."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._path, self._ended = path, threading.Event()
        self.start()

    def run(self) -> None:
        with open(self._path, "rb") as file:
            ended = False
            while not ended:
                ended = self._ended.wait(0.2)
                with contextlib.suppress(OSError):
                    sys.stdout.buffer.write(file.read())
                    sys.stdout.flush()

    def end(self) -> None:
        self._ended.set()
        self.join()


def say(text: str) -> None:
    """Prints a line of the launcher's own on stderr."""
    tell(f"tpu_pod: {text}\n")


def tell(text: str) -> None:
    """Prints on stderr; where the terminal is gone, what is left to do is done all the same."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
