"""Lets every kind of work run on clocks that jump.

    python -m tests.campaigns.clock --trials=40 --output=benchmarks/reliability/clock.json

One *trial* is a command in whose process each look at the wall clock (`time.time`) is off by up to ten years to either
side, another amount each time, and the monotonic clock begins anywhere, as on another machine. In two of three trials
it is killed first, and goes on under other clocks. It held if the command exits with 0 and everything equals, bit for
bit, what an undisturbed run left (`tests.campaigns.kill` says what is compared).
"""

import random
import sys
import time
from collections.abc import Callable

from tests.campaigns import children
from tests.campaigns.figures import Figures
from tests.campaigns.places import Places
from tests.campaigns.runs import Runs, arguments, workplace
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
    options = arguments(__doc__, "trials", 40)
    figures = Figures(options.output, "clock", options.goal, options.seed)
    deadline = time.monotonic() + options.seconds
    children.prepare()
    names = [name for name in WORKS if name != "checkpoint"]  # the same command as "head"
    with workplace(options.folder) as base:
        campaign = Campaign(base, options.seed, not options.cold)
        while figures.done < options.goal and time.monotonic() < deadline:
            name = names[figures.steps % len(names)]
            wrong = campaign.trial(name, figures.steps)
            figures.add(name, 1, int(not wrong), wrong)
            print(f"{figures.held} of {figures.done} trials held ({name}) {wrong or ''}", flush=True)
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
