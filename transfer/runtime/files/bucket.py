"""How long a bucket (`gs://`) may be without an answer: a line after seconds, an end after minutes, and at SIGTERM.

TensorStore tries a request 32 times, which takes ten minutes and more and says nothing, where there is no network, no
such host, or nobody behind it. Here each operation has a limit of its own.
"""

import functools
import importlib.util
import time
from contextlib import suppress
from typing import Any

from absl import logging
from etils import epath

from transfer.errors import TransferError
from transfer.runtime import preemption
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import paths

LIMIT_SECONDS = 120.0
# Of silence, before a line says what is waited for.
SILENT_SECONDS = 10.0
# What an operation may still take once the process is asked to stop; spot machines give it 30 seconds for everything.
STOPPING_SECONDS = 5.0
_LOOK_SECONDS = 0.25
# What etils.epath reads a bucket with; older ones by TensorFlow.
READERS = ("gcsfs", "tensorflow")
_ADVICE = "check the network, the bucket's name and the credentials (gcloud auth application-default login)"


def open_path(path: Any) -> epath.Path:
    """A path as it is given (`transfer.runtime.files.paths`), opened, which may be on a bucket: the bucket has answered
    by then.

    What reads and writes it later (`etils.epath`, by gcsfs) tries for as long as it likes, deaf to SIGTERM.

    Raises TransferError where the bucket does not answer, or nothing is installed that reads it.
    """
    text = paths.expand(path)
    if text.startswith("gs://"):
        _reach(text.removeprefix("gs://").partition("/")[0])
        if not any(map(importlib.util.find_spec, READERS)):
            raise TransferError(f"{text}: gs:// needs gcsfs: {install_hint('gs')}")
    return epath.Path(text)


@functools.cache
def _reach(bucket: str) -> None:
    import tensorstore as ts  # which most paths have no need of

    store = ts.KvStore.open({"driver": "gcs", "bucket": bucket}).result()
    with suppress(ValueError, RuntimeError, OSError):  # that it may not be read is an answer, which its user will say
        wait_for(store.read(".lock"), f"gs://{bucket}")


def wait_for(operation: Any, where: str, limit: float | None = None) -> Any:
    """The result of an operation of TensorStore (its `Future`) on `where`, a local path or `gs://BUCKET/PATH`.

    Args:
        limit: seconds that it may take on a bucket, by default LIMIT_SECONDS; `math.inf` for what moves many bytes, of
            which TensorStore limits each request. A local file has none.

    Raises:
        TransferError: a bucket did not answer within the limit, or within STOPPING_SECONDS after SIGTERM.
    """
    if "://" not in where:
        return operation.result()
    begun, said = time.monotonic(), False
    end = begun + (LIMIT_SECONDS if limit is None else limit)
    while not operation.done():
        now = time.monotonic()
        if preemption.requested():
            end = min(end, now + STOPPING_SECONDS)
        if now >= end:
            stopped = " after SIGTERM" if preemption.requested() else ""
            raise TransferError(f"{where}: no answer within {now - begun:.0f} s{stopped}; {_ADVICE}")
        if not said and now - begun > SILENT_SECONDS:
            logging.warning("%s: still without an answer; %s", where, _ADVICE)
            said = True
        with suppress(TimeoutError):
            return operation.result(timeout=_LOOK_SECONDS)
    return operation.result()
