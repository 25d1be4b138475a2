"""`transfer status WORKDIR …`: how runs are getting on, by what each writes of itself, on whatever machine it is."""

import argparse
import sys
import time
from contextlib import suppress
from typing import Any

from etils import epath

from transfer.cli.main import Action, ExitCode
from transfer.experiment import results
from transfer.runtime import status as kept
from transfer.runtime import tables
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import printable

NOT_BEGUN = "not begun"
# State -> exit code, of which the largest counts; 1 and 2 are those of any command that fails.
CODES = {kept.DONE: 0, kept.RUNNING: 3, NOT_BEGUN: 4, kept.STOPPED: 5, kept.STALE: 6, kept.FAILED: 7}
HEADINGS = ("workdir", "state", "stage", "done", "a second", "seconds left", "heard of", "restarts", "processes")
WATCH_SECONDS = 5.0
# Of so many one is looked at, whatever number a file holds.
MAX_PROCESSES = 10_000


def status(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `status WORKDIR …`; returns what prints the table."""
    meanings = ", ".join(f"{code} {state}" for state, code in CODES.items())
    parser.epilog = f"exit code, the largest of all workdirs: {meanings}"
    parser.add_argument("runs", metavar="RUN", nargs="+", help="workdirs, local or gs://")
    parser.add_argument("--watch", action="store_true", help="look again every few seconds, until none is running")
    return show


def show(options: argparse.Namespace) -> ExitCode:
    """Prints a row for each workdir; returns the exit code."""
    folders = {run: paths.open_path(run) for run in options.runs}
    while True:
        runs = {run: of_run(folder) for run, folder in folders.items()}
        if options.watch and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        print(tables.text([HEADINGS, *([run, *_cells(of)] for run, of in runs.items())], left=3), flush=True)
        for run, of in runs.items():
            if "error" in of:
                print(f"{run}: {printable(of['error'], 1000)}", flush=True)
        if not options.watch or not any(of["state"] == kept.RUNNING for of in runs.values()):
            return ExitCode(max(CODES[of["state"]] for of in runs.values()))
        time.sleep(WATCH_SECONDS)


def of_run(workdir: epath.Path) -> dict[str, Any]:
    """The status of a run: that of its first process, or of another one that failed or is silent."""
    first = kept.read(workdir)
    if first is None:  # an older version wrote none
        return {"state": kept.DONE if (workdir / results.FILE).exists() else NOT_BEGUN}
    processes, started = first.get("processes"), first.get("started")
    since = started if isinstance(started, float) else 0.0  # what stands there of a process may be of an earlier start
    count = min(processes, MAX_PROCESSES) if first["state"] == kept.RUNNING and isinstance(processes, int) else 1
    for process in range(1, count):
        other = kept.read(workdir, process)
        if other and other["state"] in (kept.STALE, kept.FAILED) and other["time"] >= since:
            why = other.get("error", "has not been heard of")
            return {**first, "state": other["state"], "error": f"process {process}: {why}"}
    return first


def _cells(of: dict[str, Any]) -> list[str]:
    """The row, as far as what it says can be shown."""
    cells = dict.fromkeys(HEADINGS[1:], "") | {"state": of["state"]}
    with suppress(KeyError, TypeError, ValueError, ArithmeticError):
        cells["heard of"] = f"{max(time.time() - of['time'], 0):.0f} s ago"
        cells["restarts"], cells["processes"] = f"{of['restarts']}", f"{of['processes']}"
        share = f"/{of['total']} {of['unit']} ({of['done'] / of['total']:.0%})" if of["total"] else f" {of['unit']}"
        cells["stage"], cells["done"], cells["a second"] = of["stage"], f"{of['done']}{share}", f"{of['rate']:.4g}"
        if of["state"] == kept.RUNNING and of["seconds_left"] is not None:
            cells["seconds left"] = f"{of['seconds_left']:.0f}"
    return [printable(cell) for cell in cells.values()]
