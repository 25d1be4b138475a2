"""One process at a time on a workdir or a feature store: a second one stops with a line that names the first.

On a local path the lock is `flock` on the file `.lock`, which the kernel frees however its process ends; the file
that a killed process leaves behind does not matter. On NFS `flock` works between machines (Linux turns it into a lock
of the server) or raises; where a file system has no locks at all, a warning says so and nothing is locked.

On `gs://` it is a lease: an object `.lock` that its holder writes anew every REFRESH_SECONDS, each time on condition
that nobody else wrote it. Another process takes it over once it has not changed for EXPIRY_SECONDS of that process's
own monotonic clock; the clocks of two machines are never compared. So after a machine was lost, the same command
waits for a minute and goes on.

What is in a local `.lock` also tells that the folder is still there, and the same: one that is removed or unmounted
while a run works in it is noticed (`check_folders`), and nothing is said to be saved in it.
"""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from absl import logging

from transfer.errors import TransferError
from transfer.runtime import preemption
from transfer.runtime.files import paths

NAME = ".lock"
REFRESH_SECONDS = 15.0
EXPIRY_SECONDS = 75.0
CHECK_SECONDS = 15.0
# What systems say that do not know locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
# What a bucket's silence and its errors are raised as.
_UNANSWERED = (TransferError, ValueError, RuntimeError, OSError)
_MAX_COMMAND = 200
# Descriptors of the locks that this process holds; a forked child, which must not keep them alive, closes its copies.
_descriptors: set[int] = set()
# The `.lock` of each local folder that this process works in, and what it has written there itself.
_marks: dict[Path, bytes] = {}
_checked_at = -EXPIRY_SECONDS
# What systems say of a file in a folder that is not there any more, or not here.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENOTCONN, errno.ENODEV)


class Lock:
    """The lock that `hold` gives. A local one is lost with its folder; a lease, where its holder slept for too long."""

    def check(self) -> None:
        """Raises TransferError if another process has taken the lock over, or the folder is gone."""
        check_folders()


@contextmanager
def hold(path: Any, what: str) -> Iterator[Lock]:
    """Holds the lock on the directory `path`, local or `gs://`, which is made if it is not there.

    Args:
        what: what the directory is, for the message: "workdir", "feature store".

    Raises:
        TransferError: another process holds it; the message says which, where and since when.
        OSError: the directory cannot be written.
    """
    where = f"the {what} {path}"
    if not str(path).startswith("gs://"):
        with _flocked(Path(paths.expand(path)) / NAME, where):
            yield Lock()
        return
    from transfer.runtime.files.kvstore import translated_errors

    with translated_errors(f"{path}/{NAME}"):
        lease = _Lease(str(path), where)
    try:
        yield lease
    finally:
        lease.release()


def _this_process() -> dict[str, Any]:
    command = shlex.join(sys.argv)
    if len(command) > _MAX_COMMAND:
        command = command[:_MAX_COMMAND] + "…"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "command": command}


def _in_use(where: str, holder: bytes) -> TransferError:
    try:
        name = "process {pid} on {host} since {since} ({command})".format_map(json.loads(holder))
    except (ValueError, TypeError, KeyError):  # it has the lock and has not written its name yet
        name = "another process"
    return TransferError(f"{where} is in use by {name}; wait for it to end, or take another --workdir")


@contextmanager
def _flocked(file: Path, where: str) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_locked(file, where)
    _descriptors.add(descriptor)
    try:
        mark = (json.dumps(_this_process()) + "\n").encode()
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, mark)
        except OSError:  # no room for the name: the lock holds all the same
            mark = b""
        with working_in(file.parent, mark):
            try:
                yield
            except preemption.Preempted:
                check_folders(at_once=True)
                raise
            check_folders(at_once=True)
    finally:
        if descriptor in _descriptors:  # not in a forked child that unwinds its parent's stack
            with suppress(OSError):  # before it is free: whoever opened it meanwhile looks again
                if os.path.samestat(os.stat(file), os.fstat(descriptor)):  # not another's, in another folder
                    file.unlink()
            _descriptors.remove(descriptor)
            os.close(descriptor)


@contextmanager
def working_in(folder: Path, mark: bytes = b"") -> Iterator[None]:
    """Says that this process works in a local folder that is locked: by itself, who has written the `mark`, or not."""
    file = folder / NAME
    _marks[file] = mark
    try:
        yield
    finally:
        _marks.pop(file, None)


def check_folders(at_once: bool = False) -> None:
    """Raises TransferError where a folder that this process works in is gone; looks every CHECK_SECONDS only."""
    global _checked_at
    now = time.monotonic()
    if not at_once and now - _checked_at < CHECK_SECONDS:
        return
    _checked_at = now
    for file, mark in list(_marks.items()):
        try:
            gone = mark not in (b"", file.read_bytes())
        except OSError as error:
            gone = error.errno in _GONE
        if gone:
            raise TransferError(
                f"{file.parent} is gone: it was removed, moved or unmounted during the run, and what is written now is "
                "lost; bring it back, or begin again, with the same command"
            )


def _open_locked(file: Path, where: str) -> int:
    """An open descriptor of `file` with the lock on it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(file), os.fstat(descriptor)):
                    return descriptor
        except OSError as error:
            if error.errno in _NO_LOCKS:
                logging.warning("%s: %s; make sure that no second process works here", file, error.strerror)
                return descriptor
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise _in_use(where, holder) from None
            raise
        # its holder removed it as we opened it: the name is another file's now
        os.close(descriptor)


def _close_inherited() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _marks.clear()


os.register_at_fork(after_in_child=_close_inherited)


class _Lease(Lock):
    """The lease on a bucket's directory, and the thread that renews it."""

    def __init__(self, directory: str, where: str) -> None:
        self._files, self._path, self._where = paths.open_kvstore(directory), f"{directory}/{NAME}", where
        self._owner = {**_this_process(), "nonce": uuid.uuid4().hex}
        self._writes, self._lost, self._ended = 0, False, threading.Event()
        self._generation = self._acquire()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _read(self) -> Any:
        return paths.wait_for(self._files.read(NAME), self._path)

    def _write(self, generation: bytes) -> bytes:
        """The new generation, empty where the object is no longer of `generation`."""
        self._writes += 1
        value = json.dumps({**self._owner, "count": self._writes}).encode()
        return paths.wait_for(self._files.write(NAME, value, if_equal=generation), self._path).generation

    def _acquire(self) -> bytes:
        seen, since = None, time.monotonic()
        while True:
            lease = self._read()
            generation = lease.stamp.generation
            free = lease.state != "value" or (seen == generation and time.monotonic() - since > EXPIRY_SECONDS)
            if free and (ours := self._write(generation)):
                return ours
            if not free and seen is None:
                seen, since = generation, time.monotonic()
                logging.info("%s: waiting up to %.0f s to see whether its holder lives", self._where, EXPIRY_SECONDS)
            elif not free and seen != generation:
                raise _in_use(self._where, lease.value)
            if preemption.requested():
                raise preemption.Preempted(f"stopped on request, waiting for {self._where}; nothing was begun")
            time.sleep(REFRESH_SECONDS / 10)

    def _renew(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            try:
                generation = self._write(self._generation)
                if not generation:
                    # a write whose answer was lost is ours all the same
                    lease = self._read()
                    if lease.state != "value" or self._owner["nonce"].encode() not in lease.value:
                        self._lost = True
                        return
                    generation = lease.stamp.generation
                self._generation = generation
            except _UNANSWERED as error:  # the network: the next try may do
                logging.warning("%s: the lease was not renewed (%s)", self._where, error)

    def check(self) -> None:
        """Raises TransferError if another process has taken the lease over."""
        check_folders()
        if self._lost:
            raise _in_use(self._where, self._read().value)

    def release(self) -> None:
        """Removes the lease, unless it is another's by now."""
        self._ended.set()
        self._thread.join()
        if not self._lost:
            try:
                paths.wait_for(self._files.write(NAME, None, if_equal=self._generation), self._path)
            except _UNANSWERED as error:  # it expires
                logging.warning("%s: the lease was not given back (%s)", self._where, error)
