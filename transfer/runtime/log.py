"""Lines on stderr, as text or as one JSON object each; the one of an error is for Kubernetes, too."""

import contextlib
import json
import os
import sys
import threading
import time
from logging import ERROR, INFO, Formatter, Handler, LogRecord, captureWarnings, getLevelName, getLogger
from pathlib import Path
from typing import Any, NoReturn

FORMATS = ("text", "json")
# Where Kubernetes reads what a container has to say at its end, of which it keeps 4,096 bytes; there in a pod only.
TERMINATION_LOG, MAX_TERMINATION_LOG = "TERMINATION_LOG", 4096
# How long the end of a process waits for its last words to be taken.
LAST_SECONDS = 1.0

_is_json = False
# The number of this process; set where there are several.
process = 0


def use(form: str, handler: Handler) -> None:
    """Writes one of FORMATS from now on; `handler` writes what is logged."""
    global _is_json
    _is_json = form == "json"
    if _is_json:
        handler.setFormatter(_JsonFormatter())
        captureWarnings(True)
        sys.excepthook = lambda *what: getLogger("absl").error("%s", what[1], exc_info=what)


def is_json() -> bool:
    """Whether a program reads the lines, so that no bar is drawn between them."""
    return _is_json


def write(text: str, level: int = INFO) -> None:
    """Writes a line at once, from any thread, whatever the main one is printing."""
    with contextlib.suppress(OSError):
        os.write(2, _bytes(_line(text, level) + "\n"))


def error(text: str, *, at_once: bool = True) -> None:
    """Writes the one line with which a command fails; `at_once` as `write` does, else after what is being printed."""
    if at_once:
        write(text, ERROR)
    else:
        print(_line(text, ERROR), file=sys.stderr, flush=True)
    file = Path(os.environ.get(TERMINATION_LOG, "/dev/termination-log"))
    with contextlib.suppress(OSError):
        if file.exists():
            file.write_bytes(_bytes(text)[:MAX_TERMINATION_LOG])


def end(text: str, code: int) -> NoReturn:
    """Ends the process by an error, from any thread, whatever the main one does; also where nobody reads its output."""

    def say() -> None:
        with contextlib.suppress(Exception):
            error(text)
            sys.stdout.flush()  # waits where the main thread is printing

    try:
        last_words = threading.Thread(target=say, daemon=True)
        last_words.start()
        last_words.join(LAST_SECONDS)
    finally:
        os._exit(code)


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # as of sys.stderr: names of files need not be UTF-8


def _line(text: str, level: int) -> str:
    if _is_json:
        return _json(time.time(), level, text)
    return f"error: {text}" if level == ERROR else text


class _JsonFormatter(Formatter):
    def format(self, record: LogRecord) -> str:
        """A record as JSON; what it has as `fields` stands beside the message."""
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return _json(record.created, record.levelno, record.getMessage(), **fields)


def _json(seconds: float, level: int, text: str, /, **fields: Any) -> str:
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
    return json.dumps({"time": now, "level": getLevelName(level), "process": process, "message": text, **fields})
