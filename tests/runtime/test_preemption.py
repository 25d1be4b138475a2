"""A request to end: it is announced once, and all stop after the same call, the first that none has made."""

import os
import signal
import subprocess
import sys
import time

import pytest

from transfer.runtime import preemption


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No request so far, no other processes, no calls; and so it is again afterwards."""
    monkeypatch.setattr(preemption, "_requested", preemption.threading.Event())
    monkeypatch.setattr(preemption, "_announce", None)
    monkeypatch.setattr(preemption, "_begun", True)
    monkeypatch.setattr(preemption, "_requested_at", 0.0)
    monkeypatch.setattr(preemption, "_calls", 0)
    monkeypatch.setattr(preemption, "_last_call", preemption.math.inf)


def test_alone_it_stops_where_it_is_asked():
    assert not preemption.requested() and not preemption.stop_at(1)
    preemption.request()
    assert preemption.requested() and preemption.stop_at(1)


def test_a_signal_says_one_line_and_asks_all_once(monkeypatch):
    lines, announced = [], []
    monkeypatch.setattr(os, "write", lambda stream, line: lines.append((stream, line)))
    preemption.announce_by(lambda: announced.append("now"))
    assert not announced
    for _ in range(2):
        preemption._on_terminate()
    line = b"SIGTERM: finishing this step and saving, then the end; a second one ends it at once\n"
    assert lines == [(2, line)] and announced == ["now"]
    preemption.announce_by(lambda: announced.append("later"))  # it came before the others were there
    assert announced == ["now", "later"]


@pytest.mark.parametrize(("others", "last"), [([3], 4), ([1, 5, 3], 6), ([3, 0], 4)])
def test_all_stop_at_the_first_call_that_none_has_made(others, last):
    """This process has made three calls, the others so many, and the same call is the last of all."""
    preemption.announce_by(lambda: None)
    assert not any(preemption.stop_at(step) for step in range(3))
    given = []
    preemption.follow_remote_request(lambda calls: given.append(calls) or others)
    assert given == [3] and preemption.requested()
    assert [preemption.stop_at(0) for _ in range(4, last + 2)] == [False] * (last - 4) + [True, True]


def test_what_is_asked_for_ends_with_75():
    assert preemption.Preempted().exit_code == preemption.EXIT_PREEMPTED == os.EX_TEMPFAIL == 75
    assert str(preemption.Preempted()) == (
        "stopped on request, everything is saved; run the same command again to continue"
    )


# Whether there is something to save, the signals sent, the exit code and the last line.
ENDS = {
    "before the first step": (
        "",
        1,
        75,
        "error: SIGTERM: stopped before the first step; run the same command again",
    ),
    "twice": (
        "preemption.begin()",
        2,
        143,
        "error: SIGTERM again: the end at once; run the same command again to continue",
    ),
}
SAVING = """
import time
from transfer.runtime import preemption
preemption.PART_SECONDS = 0.2
preemption.install()
preemption.begin()
with preemption.untimed():
    print("there", flush=True)
    while not preemption.requested():
        time.sleep(0.01)
    time.sleep(0.5)
    print("saved", flush=True)
time.sleep(60)
"""
FORK = """
import os, signal, time
from transfer.runtime import preemption
preemption.install()
preemption.begin()
there, begun = os.pipe()
child = os.fork()
if not child:
    os.write(begun, b".")
    time.sleep(20)
os.read(there, 1)
os.kill(child, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(child, 0)[1]))
time.sleep(0.2)
print(preemption.requested())
"""
FULL = """
from transfer.runtime import preemption
preemption.install()
print("there", flush=True)
while True:
    print("." * 100_000, flush=True)
"""


def test_what_takes_as_long_as_it_takes_comes_to_its_end_and_no_part_does():
    with subprocess.Popen([sys.executable, "-c", SAVING], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        output, errors = child.communicate(timeout=30)
    assert (child.returncode, output) == (76, b"saved\n")
    assert errors.splitlines()[-1].startswith(b"error: stopped on request without what has not come to its end within")


def test_a_forked_process_is_ended_alone():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{signal.SIGTERM:d}\nFalse\n", "")


def test_it_ends_where_nobody_reads_what_it_prints():
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", FULL], stdout=subprocess.PIPE, env=buffered) as child:
        assert child.stdout is not None
        assert os.read(child.stdout.fileno(), 6) == b"there\n"
        time.sleep(0.2)  # the pipe is full
        child.send_signal(signal.SIGTERM)
        try:
            assert child.wait(timeout=10) == 75
        finally:
            child.kill()


# The main thread is in one long call, in which it handles no signal.
CHILD = """
import hashlib
from transfer.runtime import preemption
preemption.AGAIN_SECONDS = 0.0
preemption.install()
{begin}
print("there", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize(("begin", "signals", "code", "line"), ENDS.values(), ids=ENDS)
def test_it_ends_at_once_whatever_the_main_thread_does(begin, signals, code, line):
    command = [sys.executable, "-c", CHILD.format(begin=begin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        start = time.monotonic()
        child.send_signal(signal.SIGTERM)
        for _ in range(signals - 1):
            assert child.stderr.readline().startswith("SIGTERM: finishing this step and saving")
            child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == code and errors.splitlines() == [line]
    assert time.monotonic() - start < 2
