"""Lets every kind of work run on clocks that jump.

    python -m tests.campaigns.clock --trials=40 --output=benchmarks/reliability/clock.json

One *trial* is a command in whose process each look at the wall clock (`time.time`) is off by up to ten years to either
side, another amount each time, and the monotonic clock begins anywhere, as on another machine. In two of three trials
it is killed first, and goes on under other clocks. It held if the command exits with 0 and everything equals, bit for
bit, what an undisturbed run left (`tests.campaigns.kill` says what is compared).
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.campaigns import children, source
from tests.campaigns.figures import Figures
from tests.campaigns.places import Places
from tests.campaigns.runs import Runs
from tests.campaigns.works import WORKS

YEARS = 10 * 365 * 86400.0


def jumping(seed: str, after: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """What a child calls first: from then on its clocks jump."""

    def install() -> None:
        numbers, offset = random.Random(seed), random.Random(seed).uniform(0, YEARS)
        wall, steady = time.time, time.monotonic
        time.time = lambda: wall() + numbers.uniform(-YEARS, YEARS)
        time.time_ns = lambda: int(time.time() * 1e9)
        time.monotonic = lambda: steady() + offset
        after()

    return install


class Campaign(Runs):
    """One trial after another."""

    def trial(self, name: str, step: int) -> str | None:
        """What did not hold of the work `name` on such clocks."""
        numbers = random.Random(f"{self.seed} {step}")
        work, reference = WORKS[name], self.reference(name)
        folder = self.fresh(f"{name}_clock", name)
        if reference.places and numbers.random() < 2 / 3:
            before = numbers.randint(1, reference.places)
            self.start(folder, work, jumping(f"{step} first", Places(folder, before).install)).wait()
        child = self.start(folder, work, jumping(f"{step}"))
        wrong = f"exit code {child.code}: {child.output()[-2000:]}" if child.wait() else None
        wrong = wrong or self.wrong(folder, work, reference)
        return wrong and f"{name}, seed {self.seed}, step {step}: {wrong}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="how many; 40")
    parser.add_argument("--output", type=Path, required=True, help="the JSON of figures; a campaign goes on from it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so many; the same command goes on"
    )
    parser.add_argument("--cold", action="store_true", help="measure the first run of each work, compilation included")
    options = parser.parse_args()
    figures = Figures(options.output, "clock", options.trials, options.seed)
    deadline = time.monotonic() + options.seconds
    children.prepare()
    names = [name for name in WORKS if name != "checkpoint"]  # the same command as "head"
    with tempfile.TemporaryDirectory() as folder, source.serving(Path(folder)) as server:
        campaign = Campaign(Path(folder), options.seed, not options.cold)
        source.add_record(server.url("slow"))
        while figures.done < options.trials and time.monotonic() < deadline:
            name = names[figures.steps % len(names)]
            wrong = campaign.trial(name, figures.steps)
            figures.add(name, 1, int(not wrong), wrong)
            print(f"{figures.held} of {figures.done} trials held ({name}) {wrong or ''}", flush=True)
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
