"""Fills the tables of `docs/reliability.md` from the figures in `benchmarks/reliability/`.

python -m tests.campaigns.page
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaigns.figures import REPOSITORY

PAGE = REPOSITORY / "docs" / "reliability.md"
FIGURES = REPOSITORY / "benchmarks" / "reliability"
BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", re.DOTALL)


@dataclass(frozen=True)
class Campaign:
    """A row: what it promises, what is counted, and the test that is its short form."""

    name: str
    promise: str
    counted: str
    short: str | None = None


CAMPAIGNS = (
    Campaign(
        "kill", "Killed at any moment, the same command completes, and the result is the same bit for bit", "kills"
    ),
    Campaign(
        "interrupt",
        "Ctrl-C at any moment ends in one line and exit code 130, and the same command completes",
        "moments",
    ),
    Campaign(
        "processes",
        "Of one to four processes a signal ends or stops some: all end within 30 s with codes that fit, none says that "
        "all is saved where it is not, and the same command completes, bit for bit",
        "runs",
    ),
    Campaign("flip", "A changed byte or a cut file is noticed, or what is read is the same", "changes"),
    Campaign(
        "disk",
        "A full disk or a read-only folder is one line that says so, and with room the same command completes",
        "trials",
    ),
    Campaign("clock", "Clocks that jump change neither the result nor whether there is one", "trials"),
    Campaign(
        "network",
        "A source that stalls, resets or lies is one line within a time limit; only the right file gets the name",
        "downloads",
    ),
    Campaign(
        "fuzz",
        "Whatever bytes a reader is given, it ends with a documented error, within limits of time and memory",
        "inputs",
    ),
    Campaign(
        "onnx_around",
        "Whatever stands around or inside a backbone in an ONNX file, the model gives the file's outputs, or one line "
        "refuses it",
        "networks",
    ),
    Campaign("hostile", "No pickle or archive runs code or leaves its folder, and the error names the trick", "tricks"),
    Campaign("mutations", "A changed token of the package makes a fast test of it fail", "mutations"),
)
# Campaigns whose parts have a table of their own: the columns beside `done` and `held`.
PARTS: dict[str, dict[str, str]] = {
    "kill": {"rounds": "runs completed after them"},
    "processes": {"slowest": "slowest end after the signal, seconds"},
    "flip": {
        "detected": "noticed",
        "harmless": "harmless",
        "by_reading": "noticed by reading alone",
        "alone": "noticed or harmless without a record",
    },
    "disk": {"had_room": "got by"},
    "clock": {},
    "network": {},
    "onnx_around": {"accepted": "accepted, outputs equal", "refused": "refused in one line"},
}


def read(name: str) -> dict[str, Any] | None:
    """The figures of a campaign, None where it has not been run."""
    path = FIGURES / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def row(campaign: Campaign) -> list[str]:
    """Its row of the first table."""
    test = f"tests/campaigns/test_{campaign.short or campaign.name}.py"
    short = f"[`{Path(test).name}`](../{test})" if (REPOSITORY / test).exists() else "-"
    found = read(campaign.name)
    if found is None:
        return [campaign.name, campaign.promise, "not run yet", "", short]
    held = f"{found['held']:,} of {found['done']:,} {campaign.counted}"
    if found["done"] < found["goal"]:
        held += f"; {found['goal']:,} are meant"
    return [campaign.name, campaign.promise, held, f"`{found['command']}`", short]


def campaigns() -> str:
    """The table of all campaigns."""
    return table(["campaign", "promise", "held", "command", "short form"], map(row, CAMPAIGNS))


def machines() -> str:
    """Where the figures are from."""
    rows = []
    for campaign in CAMPAIGNS:
        if found := read(campaign.name):
            versions = f"{found['python']}, {found['jax']}"
            rows.append([campaign.name, found["date"][:10], found["commit"], versions, found["machine"]])
    return table(["campaign", "date", "commit", "Python, JAX", "machine"], rows)


def parts(name: str) -> str:
    """The table of one campaign's parts."""
    found = read(name)
    if found is None:
        return "not run yet\n"
    columns = PARTS[name]
    keys = [key for key in columns if any(key in each for each in found["parts"].values())]
    rows = [
        [part, f"{each['held']:,} of {each['done']:,}", *(str(each.get(key, "")) for key in keys)]
        for part, each in found["parts"].items()
        if each["done"]
    ]
    return table(["", "held", *(columns[key] for key in keys)], rows)


def mutations() -> str:
    """What was made of the mutations that no test noticed: a sentence, and a row each."""
    found = read("mutations")
    if found is None:
        return "not run yet\n"
    survivors = [each.partition(" equivalent: ") for each in found["failures"]]
    equivalent = sum(bool(why) for *_, why in survivors)
    share = found["held"] / (found["done"] - equivalent)
    told = f"{found['held']} of {found['done']} were noticed, {100 * share:.1f} % of those that are no equivalents:\n\n"
    # a bar would end the cell
    rows = [[f"`{mutation.replace('|', chr(0x2223))}`", why or "**not noticed**"] for mutation, _, why in survivors]
    return told + table(["line, and the change", "equivalent, as"], rows)


def table(head: list[str], rows: Any) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def refreshed(text: str) -> str:
    """The page with the tables as the figures have them now."""

    def block(match: re.Match[str]) -> str:
        name = match[1]
        content = {"campaigns": campaigns, "machines": machines, "mutations": mutations}.get(
            name, lambda: parts(name)
        )()
        return f"<!-- {name} -->\n{content}<!-- /{name} -->"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text("utf-8")), "utf-8")
