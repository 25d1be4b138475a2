"""Paths as people give them, local or on a bucket (`gs://`), and how long a bucket may be without an answer.

TensorStore tries a request 32 times, which takes ten minutes and more and says nothing, where there is no network, no
such host, or nobody behind it; and where somebody takes a request and never answers, it and gcsfs wait for ever. Here
each operation has a limit of its own, and each request of a longer one: a line after seconds, an end after minutes,
and at SIGTERM.
"""

import functools
import importlib.util
import os
import time
from contextlib import suppress
from pathlib import PurePath
from typing import Any

from absl import logging
from etils import epath

from transfer.errors import TransferError
from transfer.runtime import preemption
from transfer.runtime.distribution import install_hint

LIMIT_SECONDS = 120.0
# How long to be silent before a line says what is waited for.
SILENT_SECONDS = 10.0
# What an operation may still take once the process is asked to stop; spot machines give it 30 seconds for everything.
STOPPING_SECONDS = 5.0
_POLL_SECONDS = 0.25
# A request on which nothing moves for so long has failed, and is tried so often again: an end after four minutes.
REQUEST_SECONDS, RETRIES = 30, 5
# What etils.epath reads a bucket with; older versions by TensorFlow.
READERS = ("gcsfs", "tensorflow")
_ADVICE = "check the network, the bucket's name and the credentials (gcloud auth application-default login)"


def expand(path: Any) -> str:
    """The path with `~` as the home and `..` followed as the system does it, through links too; a URL as it is.

    A shell leaves `~` as it is in `--workdir=~/runs`, and TensorStore takes no `..`.
    """
    text = os.fspath(path)
    if "://" in text:
        return text
    text = os.path.expanduser(text)
    return os.path.realpath(text) if ".." in PurePath(text).parts else text


def open_path(path: Any) -> epath.Path:
    """The expanded path as an `epath.Path`; where it is on a bucket, the bucket has answered by then.

    What reads and writes it later (`etils.epath`, by gcsfs) retries for as long as it likes, deaf to SIGTERM.

    Raises:
        TransferError: the bucket does not answer, or nothing is installed that reads it.
    """
    text = expand(path)
    if text.startswith("gs://"):
        _check_answers("/".join(text.split("/")[:3]))
        if not any(map(importlib.util.find_spec, READERS)):
            raise TransferError(f"{text}: gs:// needs gcsfs: {install_hint('gs')}")
        _limit_requests()
    return epath.Path(text)


def _limit_requests() -> None:
    """Limits what gcsfs may wait for a sign of life in any request from now on; where it is not installed, nothing."""
    if importlib.util.find_spec("gcsfs") is not None:
        import aiohttp  # which it needs
        import fsspec

        limits = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=REQUEST_SECONDS)
        fsspec.config.conf.setdefault("gs", {}).setdefault("requests_timeout", limits)


@functools.cache
def _check_answers(bucket: str) -> None:
    with suppress(ValueError, RuntimeError, OSError):  # "not allowed" is an answer, too, which its user will report
        wait_for(open_kvstore(bucket).read(".lock"), bucket)


def kvstore_spec(path: str, below: str = "") -> dict[str, Any]:
    """TensorStore's spec of `below` in the directory `path`, which is a local path or `gs://BUCKET/PATH`."""
    if path.startswith("gs://"):
        bucket, _, prefix = path.removeprefix("gs://").partition("/")
        for name, value in {"LOW_SPEED_TIME_SECONDS": REQUEST_SECONDS, "LOW_SPEED_LIMIT_BYTES": 1}.items():
            os.environ.setdefault(f"TENSORSTORE_CURL_{name}", str(value))  # read at the first request, Orbax' too
        place = {"bucket": bucket, "path": f"{prefix.rstrip('/')}/{below}".lstrip("/")}
        return {"driver": "gcs", **place, "gcs_request_retries": {"max_retries": RETRIES}}
    # the file driver renames a flushed temporary file onto each key
    return {"driver": "file", "path": f"{os.path.abspath(expand(path))}/{below}"}


def open_kvstore(path: str) -> Any:
    """The directory `path` as TensorStore's key-value store."""
    import tensorstore as ts  # which most paths have no need of

    return wait_for(ts.KvStore.open(kvstore_spec(path)), path)


def wait_for(operation: Any, where: str, limit: float | None = None) -> Any:
    """The result of an operation of TensorStore (its `Future`) on `where`, a local path or `gs://BUCKET/PATH`.

    Args:
        limit: seconds that it may take on a bucket, by default LIMIT_SECONDS; `math.inf` for what moves many bytes, of
            which each request is limited. A local file has none.

    Raises:
        TransferError: a bucket did not answer within the limit, or within STOPPING_SECONDS after SIGTERM.
    """
    if "://" not in where:
        return operation.result()
    start, warned = time.monotonic(), False
    end = start + (LIMIT_SECONDS if limit is None else limit)
    while not operation.done():
        now, stopping = time.monotonic(), preemption.requested()
        if stopping:
            end = min(end, now + STOPPING_SECONDS)
        if now >= end:
            stopped = " after SIGTERM" if stopping else ""
            raise TransferError(f"{where}: no answer within {now - start:.0f} s{stopped}; {_ADVICE}")
        if not warned and now - start > SILENT_SECONDS:
            logging.warning("%s: still without an answer; %s", where, _ADVICE)
            warned = True
        with suppress(TimeoutError):
            return operation.result(timeout=_POLL_SECONDS)
    return operation.result()
