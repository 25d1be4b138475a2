"""Real processes that hang show where: the stacks of all their threads, at SIGUSR1 and after a time without a step."""

import signal
import subprocess
import sys

import pytest

CHILD = """
import threading, time
from transfer.runtime import progress
progress.watch_for_hangs({seconds})

def stuck_on_storage():
    time.sleep(30)

threading.Thread(target=stuck_on_storage, daemon=True).start()
print("there", flush=True)
{do}
"""


def started(seconds: float, do: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD.format(seconds=seconds, do=do)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


HANGS = {
    "waits": (0.3, "time.sleep(1.5)"),
    "locks": (0.3, "import re; re.match('(a|a)*b', 'a' * 60)"),
    "watched anew": (60, "progress.watch_for_hangs(0.3); time.sleep(1.5)"),
}


@pytest.mark.parametrize(("seconds", "do"), HANGS.values(), ids=HANGS)
def test_the_stacks_of_all_threads_are_shown_again_and_again(seconds, do):
    """Also by a process of which one thread keeps Python's lock."""
    with started(seconds, do) as child:
        assert child.stderr is not None
        lines: list[str] = []
        while sum("Timeout (0:00:00.3" in line for line in lines) < 2:
            lines.append(child.stderr.readline())
            assert lines[-1], "it has ended"
        child.kill()
    assert any("in stuck_on_storage" in line for line in lines) and any("in <module>" in line for line in lines)


STEPS = """
with progress.Progress("counting", 30, "things") as shown:
    for _ in range(30):
        time.sleep(0.05)
        shown.update()
"""


HANGS_NOT = {
    "steps": (0.8, STEPS),
    "off": (0, "time.sleep(0.5)"),
    "off again": (0.3, "progress.watch_for_hangs(0); time.sleep(0.6)"),
}


@pytest.mark.parametrize(("seconds", "do"), HANGS_NOT.values(), ids=HANGS_NOT)
def test_where_steps_are_done_nothing_is_shown(seconds, do):
    _, errors = started(seconds, do).communicate(timeout=60)
    assert "stuck_on_storage" not in errors


def test_a_signal_shows_them_and_the_process_goes_on():
    with started(0, "time.sleep(1.0); print('on')") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGUSR1)
        out, errors = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "on\n")
    assert "in stuck_on_storage" in errors and "in <module>" in errors
