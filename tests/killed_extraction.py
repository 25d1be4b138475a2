"""Run as a program: extracts into STORE in child processes and kills them by SIGKILL in the midst of it.

    python tests/killed_extraction.py STORE POINT …

The first child is killed as soon as the store holds the first POINT's number of files, the next one goes on and is
killed at the next POINT, and so forth; the last runs to its end. One line for each child: its exit code (-9 where it
was killed) and the number of files it left. Children are forks of a process that has imported everything and
computed nothing, which is safe and saves seconds for each.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from tiny_model import RECIPE, TinyModel, TinySource

from transfer.extract import Extractor, extract_to_store

BROKEN = (6, 40, 41)


def extract(store: Path, seconds: float = 0.0) -> None:
    source = TinySource(rows=61, broken=BROKEN, seconds=seconds)
    extractor = Extractor(TinyModel(), tap=["pre_logits", "block1"], batch_size=4, preprocessing=RECIPE)
    extract_to_store(extractor, source, store, on_error="skip")


def count(store: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(store))


def run_child(store: Path, kill_at: int | None) -> int:
    child = os.fork()
    if not child:
        try:
            extract(store, seconds=0.005)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    while kill_at is not None and count(store) < kill_at:
        time.sleep(0.0003)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
    if kill_at is not None:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for point in [*map(int, sys.argv[2:]), None]:
        print(run_child(target, point), count(target), flush=True)
