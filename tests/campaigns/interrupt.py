"""Presses Ctrl-C in every kind of work at moments spread over all of it, and lets the same command complete it.

    python -m tests.campaigns.interrupt --moments=60 --output=benchmarks/reliability/interrupt.json

One *moment* is one SIGINT to all processes of a command, as a terminal sends it. It held if the command then ended with
exit code 130 and said one line on stderr, beside its log; nothing else, as a traceback. In a *round* a command is
interrupted once in each of PARTS equal parts of its time, drawn evenly within; then it runs to its end, and what is
there must be, bit for bit, what an uninterrupted run left (see `kill`), or none of the round's moments held.

A command is `python train.py …` as a user starts it, with all that it imports. Its time begins when it has taken Ctrl-C
over, in its first line: what is before that is Python's own start.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.campaigns.figures import REPOSITORY, Figures
from tests.campaigns.runs import POLL_SECONDS, Runs, run_moments
from tests.campaigns.works import SOURCES, WORKS, Work
from transfer.runtime import interrupts

FIRST = "head"
OTHERS = ("extraction", "convert", "head_streamed", "export_npz", "extraction_of_files", *SOURCES)
PARTS = 5
# absl's lines; a long extraction's progress is not among them, as stderr is no terminal
LOGGED = re.compile(r"[IW]\d{4} ")


class Campaign(Runs):
    """Round after round, each in a folder of its own."""

    def round(self, name: str, step: int) -> tuple[int, str | None]:
        """Interrupts the work `name` in PARTS moments and completes it: (moments, what did not hold)."""
        work, reference, numbers = WORKS[name], self.reference(name), random.Random(f"{self.seed} {step}")
        seconds = self._undisturbed(name)
        moments, wrong = 0, None
        folder = self.fresh(f"{name}_interrupted", name)
        for part in range(PARTS):
            share = (part + numbers.random()) / PARTS
            process = self._begun(folder, work)
            time.sleep(share * seconds)
            if process.poll() is None:
                moments += 1
                os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate()
            found = process.returncode and _wrong(process.returncode, errors)
            wrong = wrong or found and f"at {share:.3f} of {seconds:.2f} s: {found}"
        wrong = wrong or self.complete(folder, work) or self.wrong(folder, work, reference)
        return moments, wrong and f"{name}, seed {self.seed}, step {step}: {wrong}"

    def _undisturbed(self, name: str) -> float:
        """How long the command runs once it has taken Ctrl-C over."""
        process = self._begun(self.fresh(f"{name}_whole", name), WORKS[name])
        start = time.monotonic()
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{name} does not work, uninterrupted: {errors}")
        return time.monotonic() - start

    def _begun(self, folder: Path, work: Work) -> "subprocess.Popen[str]":
        script, *given = work.command
        command = ["-m", script] if script == "transfer" else [str(REPOSITORY / script)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **self.environment}
        process = subprocess.Popen(
            [sys.executable, *command, *given],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while process.poll() is None and not _has_taken_over(process.pid):
            time.sleep(POLL_SECONDS)
        return process


def _has_taken_over(pid: int) -> bool:
    """Whether the process has `transfer.runtime.interrupts` in it, whose second handler is SIGALRM's."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGALRM - 1) & 1)


def _wrong(code: int, errors: str) -> str | None:
    lines = [line for line in errors.splitlines() if not LOGGED.match(line)]
    if code == interrupts.EXIT_INTERRUPTED and lines == [f"error: {interrupts.MESSAGE}"]:
        return None
    return f"exit code {code}, {errors[-2000:]}"


def next_work(figures: Figures) -> str:
    """The head, then all others, in an order that the seed draws."""
    names = [FIRST, *random.Random(figures.content["seed"]).sample(OTHERS, len(OTHERS))]
    return names[figures.steps % len(names)]


def main() -> int:
    return run_moments("interrupt", __doc__, 60, Campaign, next_work)


if __name__ == "__main__":
    sys.exit(main())
