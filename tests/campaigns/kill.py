"""Kills every kind of work by SIGKILL at moments drawn at random, and lets the same command complete it.

    python -m tests.campaigns.kill --moments=200 --output=benchmarks/reliability/kill.json

One *moment* is one SIGKILL that ended a command before it was done. A *round* is a folder in which a command is killed
one to three times and then runs to its end; its moments held if that run exits with 0, if after no kill a reader was
shown anything half-written, and if in the end everything equals, bit for bit, what an uninterrupted run left:

- extraction: every file of the two stores but their locks;
- training: the arrays of the last checkpoint, metrics.jsonl, result.json but its seconds;
- export and conversion: the bytes of the files;
- download: the bytes of the file.

Half of the moments are times, drawn evenly between the first file that the command writes and its end, as long as an
uninterrupted run takes for that. The others are places: just before the command creates, renames or removes its n-th
file, n drawn evenly from all of those. (Of extraction a fifth: where TensorStore writes files, Python does not see it.)

Cut off, the same command goes on with the next round. Everything follows from --seed but the speed of the machine.
"""

import random
import signal
import sys
import time
from pathlib import Path

from tests.campaigns.figures import Figures
from tests.campaigns.places import Places
from tests.campaigns.runs import POLL_SECONDS, Reference, Runs, run_moments
from tests.campaigns.works import WORKS, Work

MOST_KILLS = 3


class Campaign(Runs):
    """Round after round, each in a folder of its own."""

    def round(self, name: str, step: int) -> tuple[int, str | None]:
        """Kills the work `name` up to MOST_KILLS times, completes it and compares: (moments, what did not hold)."""
        work, reference, numbers = WORKS[name], self.reference(name), random.Random(f"{self.seed} {step}")
        folder = self.fresh(f"{name}_killed", name)
        moments, wrong = 0, None
        for _ in range(numbers.randint(1, MOST_KILLS)):
            killed = self._kill_once(folder, work, reference, numbers)
            moments += killed
            if shown := self.shown(folder, work, reference):
                wrong = wrong or f"after a kill, a reader is shown {shown}"
        wrong = wrong or self.complete(folder, work) or self.wrong(folder, work, reference)
        return moments, wrong and f"{name}, seed {self.seed}, step {step}: {wrong}"

    def _kill_once(self, folder: Path, work: Work, reference: Reference, numbers: random.Random) -> bool:
        """Whether the command was killed before it was done."""
        at_place, share = numbers.random() < work.places, numbers.random()
        if at_place:
            before = 1 + int(share * reference.places)
            return self.start(folder, work, Places(folder, before).install).wait() == -signal.SIGKILL
        child = self.start(folder, work)
        started = self.wait_until_begun(child, folder, work)
        while child.running() and time.monotonic() < started + share * reference.seconds:
            time.sleep(POLL_SECONDS)
        child.kill()
        return child.wait() == -signal.SIGKILL


def next_work(figures: Figures) -> str:
    """The work that lags furthest behind its share of the moments."""
    total = sum(work.share for work in WORKS.values())
    return max(WORKS, key=lambda name: WORKS[name].share / total * (figures.done + 1) - figures.of_part(name))


def main() -> int:
    return run_moments("kill", __doc__, 200, Campaign, next_work)


if __name__ == "__main__":
    sys.exit(main())
