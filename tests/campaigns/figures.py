"""The figures of a campaign: one JSON file, written after every step, from which a campaign that was cut off goes on.

    {"campaign": "kill", "command": "python -m tests.campaigns.kill …", "seed": 0, "goal": 200,
     "done": 200, "held": 200, "parts": {"extraction": {"done": 50, "held": 50}, …},
     "date": …, "commit": …, "machine": …, "python": …, "jax": …, "failures": [what did not hold, with its seed, …]}

`done` counts what was tried, `held` how often the promise of `docs/reliability.md` held, whose table is made of these
files. A campaign may add keys of its own. The committed files lie in `benchmarks/reliability/`.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PARTIAL = ("--seconds", "--folder")


class Figures:
    """Counts by part; goes on with the file at `path` if that is of the same campaign and seed."""

    def __init__(self, path: Path, campaign: str, goal: int, seed: int, arguments: list[str] | None = None) -> None:
        # how long one go at it may take is no part of what was done
        given = [a for a in (sys.argv[1:] if arguments is None else arguments) if not a.startswith(PARTIAL)]
        self.path = path
        self.content: dict[str, Any] = {
            "campaign": campaign,
            "command": shlex.join(["python", "-m", f"tests.campaigns.{campaign}", *given]),
            "seed": seed,
            "goal": goal,
            "done": 0,
            "held": 0,
            "parts": {},
            "steps": 0,
            "failures": [],
        }
        if path.exists():
            before = json.loads(path.read_text("utf-8"))
            if (before["campaign"], before["seed"]) != (campaign, seed):
                raise SystemExit(f"{path} holds the campaign {before['campaign']} of seed {before['seed']}")
            self.content = {**before, "goal": goal, "command": self.content["command"]}

    @property
    def steps(self) -> int:
        """Steps done so far: the number of the next one, which together with the seed decides what it does."""
        return self.content["steps"]

    @property
    def done(self) -> int:
        """How much was tried."""
        return self.content["done"]

    @property
    def held(self) -> int:
        """How often the promise held."""
        return self.content["held"]

    def of_part(self, part: str) -> int:
        """How much of `part` was tried."""
        return self.content["parts"].get(part, {"done": 0})["done"]

    def add(self, part: str, done: int, held: int, failure: str | None = None, **more: int) -> None:
        """Adds a step's counts to those of `part` (`more` are counted there only), and writes the file."""
        row = self.content["parts"].setdefault(part, {"done": 0, "held": 0})
        for key, value in {"done": done, "held": held, **more}.items():
            row[key] = row.get(key, 0) + value
        self.content["done"] += done
        self.content["held"] += held
        self.content["steps"] += 1
        if failure:
            self.content["failures"].append(failure)
        self.write()

    def write(self) -> None:
        """Replaces the file as a whole."""
        self.content |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **machine()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")
        os.replace(part, self.path)


def machine() -> dict[str, str]:
    """Where and of which code the figures are."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core(s), Linux {platform.release()}",
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
    }
