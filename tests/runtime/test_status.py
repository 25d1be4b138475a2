"""`status.json`: written while a run goes on, whatever the disk says, and true at its end."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from transfer.errors import TransferError
from transfer.runtime import preemption, progress, status
from transfer.runtime.files import atomic
from transfer.runtime.progress import Progress


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Written every moment, and nothing that other tests have counted."""
    monkeypatch.setattr(status, "SECONDS", 0.02)
    monkeypatch.setattr(status, "SECONDS_ON_BUCKET", 0.02)
    monkeypatch.setattr(progress, "under_way", [])


def work():
    with Progress("train", 2, "images") as shown:
        shown.update(2)


def eventually(read, wanted):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if wanted(found := read()):
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def test_it_is_read_while_the_run_goes_on(tmp_path):
    workdir = epath.Path(tmp_path)
    training, epoch = Progress("training", 10, "epochs"), Progress("epoch 4", 100, "images")
    with status.reported(workdir), training, epoch:
        training.update(3)
        epoch.update(50)
        found = eventually(lambda: status.read(workdir), lambda found: found and found.get("done") == 3)
    assert (found["state"], found["stage"], found["total"], found["unit"]) == ("running", "training", 10, "epochs")
    assert found["rate"] > 0 and found["seconds_left"] >= 0 and found["seconds"] > 0
    assert abs(found["time"] - time.time()) < 60 and found["started"] <= found["time"]
    assert (found["process"], found["processes"], found["pid"], found["restarts"]) == (0, 1, os.getpid(), 0)
    assert status.read(workdir)["state"] == "done"
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert {line["stage"]: line["done"] for line in lines} == {"epoch 4": 50, "training": 3}
    assert all(line["seconds"] > 0 and line["time"] and line["process"] == 0 for line in lines)


ENDS = {
    "stopped": (preemption.Preempted(), None),
    "failed": (TransferError("a file\nis damaged"), "a file is damaged"),
}


@pytest.mark.parametrize(("error", "text"), ENDS.values(), ids=ENDS)
def test_it_says_how_the_run_ended_and_counts_restarts(tmp_path, request, error, text):
    workdir = epath.Path(tmp_path)
    for restarts in range(3):
        with pytest.raises(type(error)), status.reported(workdir):
            raise error
        found = status.read(workdir)
        assert (found["state"], found.get("error"), found["restarts"]) == (request.node.callspec.id, text, restarts)
    with status.reported(workdir):
        work()
    assert (status.read(workdir)["state"], status.read(workdir)["restarts"]) == ("done", 3)


def test_a_finished_run_stays_done_where_nothing_is_done(tmp_path):
    with status.reported(epath.Path(tmp_path)):
        work()
    before = (tmp_path / "status.json").read_text()
    with pytest.raises(TransferError), status.reported(epath.Path(tmp_path)):
        time.sleep(0.1)
        raise TransferError("made with other settings")
    assert (tmp_path / "status.json").read_text() == before


def test_a_full_disk_is_one_warning(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "write_text", full)
    with status.reported(epath.Path(tmp_path)):
        time.sleep(0.2)
    assert len(caplog.records) == 1
    assert f"{tmp_path}: the status cannot be written" in caplog.text and "the run goes on" in caplog.text


def test_a_storage_that_hangs_holds_up_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "write_text", lambda *_: time.sleep(60))
    monkeypatch.setattr(status, "LAST_SECONDS", 0.1)
    start = time.monotonic()
    with status.reported(epath.Path(tmp_path)):
        time.sleep(0.1)
    assert time.monotonic() - start < 5


class Bucket(MemoryFileSystem):
    """What stands for a bucket, which as gcsfs' appends nothing."""

    protocol = ("gs", "gcs")
    store: dict = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol("memory://" + str(path).partition("://")[2] if "://" in str(path) else path)

    def _open(self, path, mode="rb", **kwargs):
        return super()._open(path, mode.replace("a", "w"), **kwargs)


@pytest.fixture
def bucket(monkeypatch):
    """A workdir on it."""
    for name in Bucket.protocol:
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, name, Bucket)
    Bucket.store.clear()
    return epath.Path("gs://bucket/run")


def test_a_workdir_on_a_bucket(bucket):
    for done in (1, 2):
        with status.reported(bucket), Progress("train", 2, "images") as stage:
            stage.update(done)
            eventually(lambda: status.read(bucket), lambda found: found and found["state"] == "running")
    assert status.read(bucket)["state"] == "done"
    lines = [json.loads(line) for line in (bucket / "progress.jsonl").read_text().splitlines()]
    assert [line["done"] for line in lines] == [1, 2], "what was there is kept"


def test_a_killed_run_goes_stale(tmp_path, monkeypatch):
    child = """
import os, sys
from etils import epath
from transfer.runtime import status
status.SECONDS = 0.01
with status.reported(epath.Path(sys.argv[1])):
    while not os.path.exists(sys.argv[1] + "/status.json"):
        pass
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", child, str(tmp_path)], timeout=60)
    workdir = epath.Path(tmp_path)
    assert status.read(workdir)["state"] == "running"
    monkeypatch.setattr(status, "STALE_SECONDS", 0.0)
    assert status.read(workdir)["state"] == "stale"


# What somebody may have put there.
FOREIGN = {
    "nothing": "",
    "no object": "[1]",
    "no state": "{}",
    "another state": '{"state": ["running"], "time": 1.0}',
    "no time": '{"state": "running", "time": "now"}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_something_else_is_none(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert status.read(epath.Path(tmp_path)) is None
    with status.reported(epath.Path(tmp_path)):
        work()
    assert status.read(epath.Path(tmp_path))["state"] == "done"


def test_a_time_that_is_none_is_long_ago(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "running", "time": NaN}')
    assert status.read(epath.Path(tmp_path))["state"] == "stale"


def test_a_count_that_is_none_begins_anew(tmp_path):
    fields = {"state": "running", "time": 1.5, "restarts": [1]}
    (tmp_path / "status.json").write_text(json.dumps(fields))
    assert status.read(epath.Path(tmp_path)) == {**fields, "state": "stale"}
    with status.reported(epath.Path(tmp_path)):
        work()
    assert status.read(epath.Path(tmp_path))["restarts"] == 0
