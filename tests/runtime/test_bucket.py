"""A bucket that does not answer, or refuses every connection: a line, a limit, an end; at SIGTERM at once."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from transfer.runtime import preemption
from transfer.runtime.files import paths

REPOSITORY = Path(__file__).parents[2]
# The command line of a script or verb, with limits of seconds in place of minutes.
CHILD = """
import runpy, sys
from transfer.runtime.files import paths
paths.LIMIT_SECONDS, paths.SILENT_SECONDS, paths.STOPPING_SECONDS = float(sys.argv[1]), 0.5, 1.0
sys.argv = sys.argv[2:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
COMMANDS = {
    "train": ["train.py", "--config=configs/quickstart.py", "--workdir=gs://bucket/run"],
    "extract": ["extract.py", "--config=configs/quickstart.py", "--workdir=gs://bucket/run"],
    "files": ["train.py", "--training_file=gs://bucket/a.p", "--validation_file=gs://bucket/b.p", "--workdir=/no"],
    "verify": ["transfer", "features", "verify", "gs://bucket/run/features/train"],
    "report": ["transfer", "report", "gs://bucket/run"],
    "predict": ["transfer", "predict", "--workdir=gs://bucket/run", "docs/report.png"],
}


@pytest.fixture(params=["silent", "refusing"])
def endpoint(request) -> Iterator[str]:
    """Takes connections and never says a word, or takes none."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def start(endpoint: str, limit: float, command: list[str]) -> subprocess.Popen[str]:
    # TENSORSTORE_GCS_HTTP_URL: where TensorStore takes Google's storage to be; nothing answers for the metadata, either
    environment = {**os.environ, "TENSORSTORE_GCS_HTTP_URL": endpoint, "GCE_METADATA_ROOT": "127.0.0.1:1"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(limit), *command],
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_without_an_answer_there_is_a_line_and_an_end(endpoint, command):
    process = start(endpoint, 2, COMMANDS[command])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "still without an answer" in errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: gs://bucket") and "no answer within 2 s" in last and "credentials" in last
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "files", "verify"])
def test_sigterm_ends_the_wait(endpoint, command):
    process = start(endpoint, 1000, COMMANDS[command])
    assert process.stderr is not None
    for line in process.stderr:
        if "still without an answer" in line:
            break
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=60)
    # the verb has nothing to save, and ends as any program does
    assert process.returncode == (-signal.SIGTERM if command == "verify" else 75), errors
    assert time.monotonic() - begun < 5
    assert command == "verify" or "stopped before the first step" in errors.splitlines()[-1]


@pytest.fixture
def in_this_process(endpoint, monkeypatch):
    """The endpoint for this process' own requests, which are limited to a moment."""
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
    monkeypatch.setenv("GCE_METADATA_ROOT", "127.0.0.1:1")
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", endpoint)
    for name in ("LOW_SPEED_TIME_SECONDS", "LOW_SPEED_LIMIT_BYTES"):  # are set, and children would have them, too
        monkeypatch.setenv(f"TENSORSTORE_CURL_{name}", "")
        monkeypatch.delenv(f"TENSORSTORE_CURL_{name}")


def test_a_stop_bounds_what_has_no_limit(in_this_process, monkeypatch):
    """Of reads and listings of many bytes each request is limited; a stop ends them within seconds."""
    monkeypatch.setattr(preemption, "_requested", preemption.threading.Event())
    monkeypatch.setattr(paths, "STOPPING_SECONDS", 0.2)
    preemption._requested.set()
    files = paths.open_kvstore("gs://bucket/run")
    with pytest.raises(paths.TransferError, match="no answer within 0 s after SIGTERM"):
        paths.wait_for(files.list(), "gs://bucket/run", float("inf"))


CHILD_WITH_SHORT_REQUESTS = """
import time
from transfer.runtime.files import kvstore, paths
paths.REQUEST_SECONDS, paths.RETRIES = 2, 1
start = time.monotonic()
try:
    print(kvstore.Directory("gs://bucket/run").list("features/"))
except paths.TransferError as error:
    print(error)
print(time.monotonic() - start)
"""


@pytest.mark.slow
def test_each_request_has_a_limit(in_this_process):
    """Of many, as in a listing, none waits for ever for what took it and never answers."""
    command = [sys.executable, "-c", CHILD_WITH_SHORT_REQUESTS]
    line, seconds = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert "gs://bucket/run" in line and "All 1 retry attempts failed" in line
    assert float(seconds) < 15
