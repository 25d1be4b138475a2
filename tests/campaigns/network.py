"""Downloads a weight file from a source that fails in every known way, and then from one that works.

    python -m tests.campaigns.network --trials=150 --output=benchmarks/reliability/network.json

One *trial* is `python -m transfer weights fetch` against one page of `tests.campaigns.source`, over https; what an
earlier try left is one of: nothing, the first bytes of the file, all of them, other bytes, too many. The trial held if
the command ended as the page deserves (the file is whole, or exit code 1 and one line that says what was wrong), within
the limits of time, if only the right file ever had the file's name, and if the same command then completed from a
source that works. The limits of time are lowered to two seconds for it.
"""

import argparse
import random
import re
import sys
import tempfile
from pathlib import Path

from tests.campaigns import children, source
from tests.campaigns.figures import Figures

LIMIT = 2.0
# Page -> what the line says; None: the file comes whole.
PAGES: dict[str, str | None] = {
    "good": None,
    "slow": None,
    "whole": None,
    "wrong-range": None,
    "bad-length": None,
    "stall-at-once": "nothing came for|no answer within",
    "slow-headers": "no answer within",
    "closed-at-once": "ConnectionError",
    "stall": "nothing came for",
    "drip": "that is a stall",
    "reset": "Connection|ProtocolError",
    "short": "it ended after|IncompleteRead|ProtocolError",
    "short-without-length": "not the file that was published",
    "long": "not the file that was published",
    "more": "not the file that was published",
    "other": "not the file that was published",
    "terabyte": "no weight file has",
    "endless": "it sends more than",
    "closed": "it ended after|IncompleteRead|ProtocolError",
    "not-http": "ConnectionError|ProtocolError|BadStatusLine",
    "error": "HTTP 500",
    "missing": "HTTP 404",
    "to-http": "refused: http://.* is not https",
    "to-file": "refused: file:.* is not https",
    "circle": "more than 5 redirects",
}
# What an earlier try left, from random numbers.
LEFT = {
    "nothing": lambda numbers: b"",
    "first bytes": lambda numbers: source.CONTENT[: numbers.randrange(1, len(source.CONTENT))],
    "all": lambda numbers: source.CONTENT,
    "other bytes": lambda numbers: numbers.randbytes(numbers.randrange(1, len(source.CONTENT))),
    "too many": lambda numbers: source.CONTENT + numbers.randbytes(100),
}
FILE = f"{source.RECORD}.bin"


def fetch(url: str, folder: Path, certificate: Path) -> children.Child:
    """Starts `weights fetch` of a record at `url`, with the limits lowered."""

    def first() -> None:
        from transfer.weights import download

        source.add_record(url)
        download.TIMEOUT_SECONDS = download.SLOW_SECONDS = LIMIT
        download.ANSWER_SECONDS = 1.2 * LIMIT
        download.LARGEST = 4 * len(source.CONTENT)

    environment = {"TRANSFER_CACHE": "cache", "REQUESTS_CA_BUNDLE": str(certificate), "no_proxy": "127.0.0.1"}
    command = ("transfer", "weights", "fetch", source.RECORD)
    return children.start(command, folder.with_suffix(".log"), folder, first, **environment)


def trial(server: source.Server, folder: Path, page: str, left: bytes) -> str | None:
    """What did not hold of a download from `page`, and then from one that works, where `left` was there."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    if left:
        (cache / f".{FILE}.part").write_bytes(left)
    child = fetch(server.url(page), folder, server.certificate)
    code, output = child.wait(40 * LIMIT), child.output()
    last = (output.strip().splitlines() or [""])[-1]
    said = None if left == source.CONTENT else PAGES[page]
    as_it_should = code == 0 if said is None else code == 1 and re.search(f"^error: .*({said})", last)
    if not as_it_should or "Traceback" in output:
        return f"exit code {code}: {output[-2000:]}"
    if (cache / FILE).exists() and (cache / FILE).read_bytes() != source.CONTENT:
        return "another file has its name"
    again = fetch(server.url("good"), folder, server.certificate)
    if again.wait() or (cache / FILE).read_bytes() != source.CONTENT or len(list(cache.iterdir())) != 1:
        return f"then, exit code {again.code}: {again.output()[-2000:]}; {[p.name for p in cache.iterdir()]}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=len(PAGES) * len(LEFT), help="how many; each page with each rest")
    parser.add_argument("--output", type=Path, required=True, help="the JSON of figures; a campaign goes on from it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures = Figures(options.output, "network", options.trials, options.seed)
    children.prepare("transfer.cli.weights", "transfer.weights.cache", "requests")
    with tempfile.TemporaryDirectory() as base, source.serving(Path(base)) as server:
        while figures.done < options.trials:
            step = figures.steps
            page = list(PAGES)[step % len(PAGES)]
            rest = list(LEFT)[(step // len(PAGES) + step) % len(LEFT)]
            left = LEFT[rest](random.Random(f"{options.seed} {step}"))
            wrong = trial(server, Path(base) / str(step), page, left)
            wrong = wrong and f"{page}, {rest} left, seed {options.seed}, step {step}: {wrong}"
            figures.add(page, 1, int(not wrong), wrong)
            print(f"{figures.held} of {figures.done} trials held ({page}, {rest} left) {wrong or ''}", flush=True)
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
