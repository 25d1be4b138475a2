"""A second process on the same directory stops and names the first; whatever ended the first, the next one goes on."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorstore
from stores import BATCH, WIDTH, fill, rows_of, writer

from transfer.errors import TransferError
from transfer.runtime import preemption
from transfer.runtime.files import lock, paths

HOLD = """
import sys, time
from transfer.runtime.files import lock
with lock.hold(sys.argv[1], "workdir"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock on `tmp_path / "run"`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_names_the_first(tmp_path, holder):
    path = tmp_path / "run"
    with pytest.raises(TransferError) as caught, lock.hold(path, "workdir"):
        pass
    message = str(caught.value)
    assert message.startswith(f"the workdir {path} is in use by process {holder.pid} on ") and "\n" not in message
    assert " UTC (-c " in message and message.endswith("wait for it to end, or take another --workdir")


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_holds_nothing(tmp_path, holder, ended_by):
    holder.send_signal(ended_by)
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()  # left over, and without effect
    with lock.hold(tmp_path / "run", "workdir"):
        pass
    assert not (tmp_path / "run" / ".lock").exists()


def unmount(folder):
    """As far as a program sees: the folder below the mount is another one."""
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()


def replace(folder):
    (folder / lock.NAME).write_text("another run's")


@pytest.mark.parametrize(
    ("remove", "own"),
    [(shutil.rmtree, True), (unmount, True), (replace, True), (shutil.rmtree, False), (unmount, False)],
)
def test_a_folder_that_is_gone_is_noticed(remove, own, tmp_path, monkeypatch):
    """By who holds its lock, and by the other processes of the run, which cannot tell one lock from another."""
    folder = tmp_path / "run"
    line = f"{folder} is gone: it was removed, moved or unmounted during the run, and what is written now is lost; "
    with pytest.raises(TransferError) as ended, lock.hold(folder, "workdir"):
        if not own:
            lock._marks[folder / lock.NAME] = b""
        lock.check_folders(at_once=True)
        remove(folder)
        lock.check_folders()  # looks now and then only
        monkeypatch.setattr(lock, "_checked_at", time.monotonic() - 15)
        with pytest.raises(TransferError, match="is gone"):
            lock.check_folders()
        raise preemption.Preempted
    assert str(ended.value).startswith(line) and ended.value.exit_code == 1 and not lock._marks


def test_the_lock_of_another_run_in_a_new_folder_stays(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(TransferError, match="is gone"), lock.hold(folder, "workdir"):
        unmount(folder)
        replace(folder)
    assert (folder / lock.NAME).read_text() == "another run's"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_folder_that_cannot_be_read_for_a_moment_is_not_gone(number, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(number, os.strerror(number))

    with lock.hold(tmp_path, "workdir"), monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "read_bytes", fail)
        lock.check_folders(at_once=True)


def test_it_is_free_after_an_error_too(tmp_path):
    with pytest.raises(KeyError), lock.hold(tmp_path, "workdir"):
        with pytest.raises(TransferError, match=f"in use by process {os.getpid()} on"), lock.hold(tmp_path, "workdir"):
            pass
        raise KeyError
    with lock.hold(str(tmp_path), "workdir") as held:
        held.check()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_fork_does_not_keep_it(tmp_path):
    with lock.hold(tmp_path, "workdir"):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        with pytest.raises(TransferError), lock.hold(tmp_path, "workdir"):
            pass
    try:
        with lock.hold(tmp_path, "workdir"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_name_that_is_not_there_yet(tmp_path, holder):
    (tmp_path / "run" / ".lock").write_bytes(b"")
    with pytest.raises(TransferError, match="in use by another process"), lock.hold(tmp_path / "run", "workdir"):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with lock.hold(tmp_path, "workdir"):
        pass
    assert "no second process" in caplog.text


@pytest.fixture(params=["memory", "file"])
def bucket(request, tmp_path, monkeypatch):
    """What stands for the bucket's directory, whose leases are renewed and expire in a moment."""
    spec = {"driver": request.param, "path": f"{tmp_path}/bucket/" if request.param == "file" else "bucket/"}
    files = tensorstore.KvStore.open(spec, context=tensorstore.Context()).result()
    monkeypatch.setattr(paths, "open_kvstore", lambda path: files)
    monkeypatch.setattr(lock, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(lock, "EXPIRY_SECONDS", 0.5)
    return files


def test_a_lease_that_is_kept_is_in_use(bucket):
    with lock.hold("gs://b/run", "workdir") as held:
        began = bucket.read(".lock").result().stamp.generation
        with (
            pytest.raises(TransferError, match=f"gs://b/run is in use by process {os.getpid()} on"),
            lock.hold("gs://b/run", "workdir"),
        ):
            pass
        held.check()
        assert bucket.read(".lock").result().stamp.generation != began
    assert bucket.read(".lock").result().state == "missing"


def test_a_lease_of_a_lost_machine_expires(bucket):
    bucket.write(".lock", b'{"host": "gone"}').result()
    with lock.hold("gs://b/run", "workdir"):
        assert b"gone" not in bucket.read(".lock").result().value
    assert bucket.read(".lock").result().state == "missing"


def test_whoever_lost_its_lease_is_told(bucket):
    with lock.hold("gs://b/run", "workdir") as held:
        bucket.write(".lock", b'{"host": "b", "pid": 7, "since": "today", "command": "x"}').result()
        while not held._lost:
            time.sleep(0.005)
        with pytest.raises(TransferError, match=r"process 7 on b since today \(x\)"):
            held.check()
    assert b'"pid": 7' in bucket.read(".lock").result().value  # the other's is left alone


def test_one_writer_at_a_time_on_a_store(tmp_path):
    with writer(tmp_path) as store:
        store.write(0, {"pre_logits": rows_of(0, 4)})
        with pytest.raises(TransferError, match=f"the feature store {tmp_path} is in use by process"):
            writer(tmp_path)
        helper = writer(tmp_path, create=False)  # of the same run: it takes no lock
        with helper:
            helper.write(4, {"pre_logits": rows_of(4, 8)})
    assert not (tmp_path / ".lock").exists()
    with writer(tmp_path) as store:
        assert store.pending() == [(8, 11)]
        fill(store)
        store.finish()
    with writer(tmp_path), writer(tmp_path):  # a complete store is only read
        pass


def test_a_process_that_helps_creates_nothing(tmp_path):
    with pytest.raises(TransferError, match="which the first process should have created"):
        writer(tmp_path / "store", create=False)
    assert not (tmp_path / "store").exists()


def test_a_store_whose_lock_was_lost_is_not_written(tmp_path, monkeypatch):
    class Lost(lock.Lock):
        def check(self):
            raise TransferError("taken over")

    with writer(tmp_path) as store:
        store._lock = Lost()
        with pytest.raises(TransferError, match="taken over"):
            store.write(0, {"pre_logits": np.zeros((BATCH, WIDTH))})
        assert store.pending() == [(0, 11)]
