"""A file from a https source onto the disk, within limits of time and size, going on where an earlier try stopped.

`requests` alone (and `pooch` on top of it) waits for ever on a source that sends a byte now and then, follows redirects
to plain http, and takes as much as is sent. So the loop over the answer is ours; proxies and certificates are its.
"""

import errno
import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from absl import logging

from transfer.runtime.progress import Progress

if TYPE_CHECKING:
    import requests

# To connect, and until the next byte.
TIMEOUT_SECONDS = 30.0
# For all headers of an answer.
ANSWER_SECONDS = 90.0
# A source that sends fewer bytes a second than this, over so many seconds, has stalled.
SLOWEST, SLOW_SECONDS = 1024, 60.0
# Weight files are far below; a source that claims or sends more is wrong.
LARGEST = 16 << 30
MOST_REDIRECTS = 5
PIECE = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class SourceError(Exception):
    """An error of the source, in a few words."""


@contextmanager
def part_of(path: Path) -> Iterator[Path | None]:
    """The file beside `path` that a download is written to, for this process alone; None where `path` is there by then.

    Another process that downloads the same file is waited for. That it is at work is told by its lock (`flock`), which
    ends with it, not by any clock.
    """
    part = path.with_name(f".{path.name}.part")
    while True:
        with part.open("ab") as stream:
            with suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    logging.info("%s: another process downloads it; waiting", part)
                    fcntl.flock(stream, fcntl.LOCK_EX)
            is_there = False  # or it was renamed or removed as we waited
            with suppress(FileNotFoundError):
                is_there = os.path.samestat(part.stat(), os.fstat(stream.fileno()))
            is_done = path.is_file()
            if is_done and is_there:
                part.unlink()
            if is_done or is_there:
                yield None if is_done else part
                return


def fetch(url: str, part: Path, title: str) -> bool:
    """Downloads `url` to the end of `part`, and flushes it to the disk.

    Returns whether it went on from bytes that were there: if the file turns out to be wrong, they may be the reason.

    Raises:
      SourceError: not https, no answer, an error of the source, a stall, a lie about the length, too much.
      OSError: the disk is full, or would be.
    """
    import requests
    import urllib3

    begun = part.stat().st_size
    try:
        response = _answer(url, begun)
        if begun and response.status_code == requests.codes.requested_range_not_satisfiable:
            response.close()
            os.truncate(part, begun := 0)  # the file has no more bytes than were there
            response = _answer(url, begun)
        with response, part.open("ab") as stream:
            where = _RANGE.fullmatch(response.headers.get("content-range", ""))
            goes_on = response.status_code == 206 and where is not None and int(where[1]) == begun
            if begun and response.ok and not goes_on:  # a source may send everything again
                stream.truncate(begun := 0)
            if not response.ok:
                raise SourceError(f"HTTP {response.status_code}")
            _receive(response, stream, begun, title)
            stream.flush()
            os.fsync(stream.fileno())
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise SourceError(_reason(error)) from error
    return begun > 0


def _reason(error: Exception) -> str:
    """The names of the errors inside, outermost first, without repeating what they say of addresses and objects."""
    names: list[str] = []
    inside: Any = error
    while isinstance(inside, BaseException):
        if isinstance(inside, TimeoutError) or "Timeout" in type(inside).__name__:
            return f"nothing came for {TIMEOUT_SECONDS:g} s"
        names.append(type(inside).__name__)
        inside = getattr(inside, "reason", None) or next((a for a in inside.args if isinstance(a, Exception)), None)
    return names[0] if len(names) == 1 else f"{names[0]}: {names[-1]}"


def _answer(url: str, begun: int) -> "requests.Response":
    """The answer at the end of all redirects, of which none may leave https, from byte `begun` on."""
    for _ in range(MOST_REDIRECTS + 1):
        if urlsplit(url).scheme != "https":
            raise SourceError(f"refused: {url} is not https")
        response = _get(url, {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begun}-"} if begun else {}))
        if not response.is_redirect:
            return response
        url = urljoin(url, response.headers["location"])
        response.close()
    raise SourceError(f"more than {MOST_REDIRECTS} redirects")


def _get(url: str, headers: dict[str, str]) -> "requests.Response":
    import requests

    # a thread, because no limit of `requests` holds for an answer whose headers come byte by byte
    answer: Future[requests.Response] = Future()

    def ask() -> None:
        try:
            timeouts = (TIMEOUT_SECONDS, TIMEOUT_SECONDS)
            answer.set_result(requests.get(url, headers=headers, stream=True, timeout=timeouts, allow_redirects=False))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True, name="download").start()
    try:
        return answer.result(ANSWER_SECONDS)
    except TimeoutError:
        raise SourceError(f"no answer within {ANSWER_SECONDS:g} s") from None


def _receive(response: "requests.Response", stream: IO[bytes], begun: int, title: str) -> None:
    length = response.headers.get("content-length", "")
    expected = begun + int(length) if length.isdecimal() else None  # None where the source does not say
    most = LARGEST if expected is None else expected
    if most > LARGEST:
        raise SourceError(f"it says that the file has {expected} bytes, no weight file has")
    needed, free = (expected or 0) - begun, shutil.disk_usage(os.path.dirname(stream.name)).free
    if needed > free:
        text = f"No space left on device, {free / 1e6:.1f} MB of {needed / 1e6:.1f} MB"
        raise OSError(errno.ENOSPC, text, stream.name)
    count, window_start, window_count = begun, time.monotonic(), begun
    with Progress(f"download {title}", expected, "B", done=begun) as progress:
        while piece := response.raw.read1(PIECE, decode_content=False):
            stream.write(piece)
            count += len(piece)
            progress.update(len(piece))
            if count > most:
                raise SourceError(f"it sends more than {most} bytes")
            elapsed = time.monotonic() - window_start
            if elapsed > SLOW_SECONDS:
                if count - window_count < SLOWEST * elapsed:
                    raise SourceError(f"{count - window_count} bytes in {elapsed:.0f} s, that is a stall")
                window_start, window_count = time.monotonic(), count
    if expected is not None and count < expected:
        raise SourceError(f"it ended after {count} of {expected} bytes")
