"""Runs the commands of a user in child processes that a campaign may kill.

A child is a fork of a process that has imported the libraries and computed nothing, and then runs the script as
`python train.py …` or `python -m transfer …` would: its own flags, its own output, its own exit code. That saves the
two seconds of imports in which there is nothing to lose, and nothing else.
"""

import importlib
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
# Imported before forking: what every child would import again. None of them may start JAX's backend.
LIBRARIES = (
    "flax.nnx",
    "optax",
    "orbax.checkpoint",
    "safetensors.numpy",
    "sklearn.datasets",
    "tensorboardX",
    "requests",
    "transfer.experiment.backbone",
    "transfer.experiment",
    "transfer.extract",
    "transfer.data.splits",
    "transfer.heads.programs",
    "transfer.cli.weights",
    "transfer.weights.create",
)
# Of one command; longer is a hang.
LIMIT_SECONDS = 120.0


def prepare(*libraries: str) -> None:
    """Imports the libraries, those of all commands where none are given."""
    sys.path.insert(0, str(REPOSITORY))
    for name in libraries or LIBRARIES:
        importlib.import_module(name)


@dataclass
class Child:
    """A command that runs; `log` takes its output."""

    pid: int
    log: Path
    code: int | None = field(default=None)
    """Exit code, negative for a signal, None while it runs."""

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.running():
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, limit: float = LIMIT_SECONDS) -> int:
        """The exit code; a child that runs for longer than `limit` seconds is killed, and -9 says so."""
        deadline = time.monotonic() + limit
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def output(self) -> str:
        """What it wrote to both streams."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


def start(
    command: Sequence[str], log: Path, folder: Path, first: Callable[[], object] = lambda: None, **environment: str
) -> Child:
    """Starts `command` (`train.py`, `extract.py` or `transfer`, and its arguments) in `folder`.

    `first` is called in the child before it; `environment` is set there.
    """

    def run() -> object:
        os.environ.update(environment)
        os.chdir(folder)
        first()
        sys.argv = list(command)
        if command[0] == "transfer":
            from transfer.__main__ import main

            raise SystemExit(main(command[1:]))
        runpy.run_path(str(REPOSITORY / command[0]), run_name="__main__")
        return None

    return call(run, log)


def call(action: Callable[[], object], log: Path) -> Child:
    """Starts `action` in a child; exit code 0 where it returns, 1 where it raises, else what it exits with."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return Child(child, log)
    code: Any = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        action()
        code = 0
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def answer(action: Callable[[], str], log: Path) -> str:
    """The text that `action` returns, computed in a child, so that this process starts no threads of libraries."""

    def run() -> None:
        log.with_suffix(".answer").write_text(action(), "utf-8")

    child = call(run, log)
    if child.wait():
        raise RuntimeError(child.output())
    return log.with_suffix(".answer").read_text("utf-8")
