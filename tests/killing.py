"""Runs an action in child processes and kills them by SIGKILL in the midst of it, for tests of resuming.

Children are forks of a process that has imported everything and computed nothing, which is safe and saves seconds
for each.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from typing import TextIO


def run_and_kill(
    action: Callable[[], object], progress: Callable[[], int], points: Iterable[int], to: TextIO | None = None
) -> None:
    """Kills a child as soon as `progress()` reaches the first of `points`, the next one at the next, and so forth.

    The last child runs to its end. Prints one line for each: its exit code (-9 where it was killed) and how far it
    came.
    """
    for point in [*points, None]:
        print(_run_child(action, progress, point), progress(), flush=True, file=to)


def _run_child(action: Callable[[], object], progress: Callable[[], int], kill_at: int | None) -> int:
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    while kill_at is not None and progress() < kill_at:
        time.sleep(0.0003)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
    if kill_at is not None:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcomes(printed: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(exit codes, progress) of the children from what `run_and_kill` printed."""
    codes, reached = zip(*(map(int, line.split()) for line in printed.splitlines()), strict=True)
    return codes, reached
