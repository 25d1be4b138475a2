"""Damaged files of every kind for every reader: each is read, or refused in one line, with bounded memory and time.

    python -m tests.campaigns.fuzz --inputs=1000000 --processes=2 --output=benchmarks/reliability/fuzz.json

An input held if the reader returned, or raised a TransferError of one printable line; if it did nothing beside
reading the file (no audit event but of opening it), took less than `SECONDS`, and its process grew by less than
`MEMORY`. Anything else is a finding: it is saved in `--findings`, as a file that `--replay` tries again.

The inputs are valid files (`fuzz_seeds`), damaged by `mutate`: by chance, and, for the readers written in Python where
the package `atheris` is installed, guided by which lines they reach (`--guided`). Input number N of a reader is always
the same for a seed. The campaign goes on where it stopped; `--seconds` ends it earlier.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.campaigns.figures import REPOSITORY, Figures
from tests.campaigns.mutate import damaged, mutated

if TYPE_CHECKING:
    from tests.campaigns.fuzz_targets import Target
    from tests.campaigns.watched import Outcome, Watch

SECONDS = 5.0
MEMORY = 512 << 20
LONGEST_MESSAGE = 1000
# Inputs of one process: long enough to make up for its start.
STEP = 5000
FOUND = Path(__file__).with_name("found")
# Readers whose work is done in C gain nothing from knowing which lines of Python they reach.
GUIDED = (
    *("features .p", "features .npz, array", "CIFAR tar", "image folder .zip", "PPM", ".pth", ".pth, pickle"),
    *(".pth, older format", "weights .keras, config", "weights .onnx"),
    *("index of shards", "config.json of a model", "preprocessor_config.json"),
)
INSTRUMENTED = ("transfer", "zipfile", "tarfile", "pickle", "numpy.lib", "PIL.PpmImagePlugin")


def content(target: "Target", seed: int, number: int) -> bytes:
    """Input `number` of a reader."""
    choose = random.Random(f"{seed} {target.name} {number}")
    return mutated(choose, _seeds(target), target.tokens)


_SEEDS: dict[str, list[bytes]] = {}


def _seeds(target: "Target") -> list[bytes]:
    if target.name not in _SEEDS:
        _SEEDS[target.name] = list(target.seeds())
    return _SEEDS[target.name]


def problem(outcome: "Outcome") -> str | None:
    """What did not hold, None if all did."""
    if outcome.did:
        return f"did {outcome.did}"
    if outcome.answer not in ("read", "TransferError", "UsageError", "BrokenImage"):
        return f"{outcome.answer}: {outcome.message}"
    if outcome.seconds > SECONDS:
        return f"took {outcome.seconds:.1f} s"
    if outcome.memory > MEMORY:
        return f"took {outcome.memory >> 20} MB"
    if len(outcome.message) > LONGEST_MESSAGE or "\n" in outcome.message:
        return f"is not one clear line: {outcome.message[:LONGEST_MESSAGE]!r}"
    return None


class Trials:
    """Inputs tried on one reader, in this process."""

    def __init__(self, target: "Target", folder: Path, watch: "Watch") -> None:
        self.target, self.folder, self.watch = target, folder, watch
        self.answers: Counter[str] = Counter()
        self.found: list[dict[str, str]] = []
        self.done, self.seconds, self.largest = 0, 0.0, 0
        self.slowest: dict[str, Any] = {"seconds": 0.0}

    def run(self, data: bytes) -> str | None:
        """Tries one; what did not hold, None if all did."""
        from tests.campaigns.fuzz_targets import write

        write(self.folder, self.target.files(data))
        outcome = self.watch.run(lambda: self.target.read(self.folder))
        if self.target.writes:
            outcome.did = [event for event in outcome.did if str(self.folder) not in event]
        self.done += 1
        self.answers["read" if outcome.answer == "read" else "refused"] += 1
        self.seconds += outcome.seconds
        self.largest = max(self.largest, outcome.memory)
        if outcome.seconds > self.slowest["seconds"]:
            self.slowest = {"reader": self.target.name, "seconds": round(outcome.seconds, 3), "bytes": len(data)}
        wrong = problem(outcome)
        if wrong and len(self.found) < 20:
            self.found.append({"content": data.hex(), "problem": wrong[:2000]})
        return wrong

    def result(self) -> dict[str, Any]:
        """As JSON."""
        names = ("done", "found", "seconds", "largest", "slowest")
        return {**{name: getattr(self, name) for name in names}, "answers": dict(self.answers)}


def trials(name: str, folder: Path) -> Trials:
    """For the reader `name`; imports everything, so that a process can have one only."""
    from absl import logging

    from tests.campaigns.fuzz_targets import TARGETS
    from tests.campaigns.watched import Watch

    logging.set_verbosity(logging.ERROR)
    watch = Watch(folder, seconds=3 * SECONDS, memory=1 << 31)
    watch.libraries = True
    return Trials(TARGETS[name], folder, watch)


def child(name: str, seed: int, first: int, count: int, seconds: float) -> None:
    """Tries inputs of one reader: prints the number of each before it, and the result at the end."""
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=_memory()) as place:
        tried = trials(name, Path(place))
        for number in range(first, first + count):
            if time.monotonic() > deadline:
                break
            print(number, flush=True)
            tried.run(content(tried.target, seed, number))
        print(json.dumps(tried.result()), flush=True)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def guided(name: str, seed: int, count: int, seconds: float, corpus: Path, output: Path) -> None:
    """Tries inputs of one reader that Atheris chooses by the lines that the ones before them reached."""
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from tests.campaigns import fuzz_targets  # noqa: F401
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=_memory()) as place:
        tried = trials(name, Path(place))
        tokens, found = tried.target.tokens, _seeds(tried.target)
        corpus.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(found):
            (corpus / f"seed{number}").write_bytes(each)

        def mutate(data: bytes, limit: int, choice: int) -> bytes:
            choose = random.Random(choice)
            if choose.random() < 0.5:
                return atheris.Mutate(data, limit)
            return damaged(choose, bytearray(data), found, tokens)[:limit]

        def one(data: bytes) -> None:
            tried.run(data)
            if tried.done % 200 == 0 or tried.done >= count:
                output.write_text(json.dumps(tried.result()))

        options = [f"-runs={count}", f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", "-timeout=0"]
        options += ["-max_len=65536", "-rss_limit_mb=0", "-print_final_stats=0", "-verbosity=0", str(corpus)]
        atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutate)
        atheris.Fuzz()


class Running:
    """A child process, and what it has printed."""

    def __init__(self, name: str, *options: str, output: Path | None = None) -> None:
        self.name, self.number, self.result, self.output = name, -1, None, output
        command = [sys.executable, "-m", "tests.campaigns.fuzz", f"--reader={name}", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def wait(self) -> dict[str, Any]:
        """Its result; of one that died, that of the input that it died of."""
        assert self.process.stdout is not None
        result = None
        for line in self.process.stdout:
            if line.startswith("{"):
                result = json.loads(line)
            elif line.strip().isdecimal():
                self.number = int(line)
        code = self.process.wait()
        if result is None and self.output and self.output.exists():
            result = json.loads(self.output.read_text())
        if result is None:
            result = {"done": 0, "answers": {}, "found": [], "seconds": 0.0, "largest": 0, "slowest": {"seconds": 0.0}}
            result["died"] = code
        return result


def campaign(options: argparse.Namespace) -> None:
    """Inputs for the reader that has had the fewest of its share, until there are enough or time is up."""
    from tests.campaigns.fuzz_targets import TARGETS

    figures = Figures(options.output, "fuzz", options.inputs, options.seed)
    figures.content.setdefault("seconds", {})
    deadline = time.monotonic() + options.seconds
    shares = {name: target.share for name, target in TARGETS.items() if target.share}
    running: list[Running] = []
    while True:
        missing = options.inputs - figures.done - sum(STEP for _ in running)
        if len(running) < options.processes and missing > 0 and time.monotonic() < deadline:
            idle = [name for name in shares if name not in {each.name for each in running}]
            name = min(idle, key=lambda name: figures.of_part(name) / shares[name])
            running.append(_start(name, figures, options, min(STEP, missing), deadline - time.monotonic()))
        elif running:
            _add(figures, running.pop(0), options)
        else:
            break
    print(f"{figures.done} inputs, {figures.held} held; {options.output}")


def _start(name: str, figures: Figures, options: argparse.Namespace, count: int, seconds: float) -> Running:
    turn = figures.of_part(name) // STEP
    limits = (f"--seed={options.seed}", f"--count={count}", f"--seconds={min(seconds, 60):.0f}")
    if options.guided and name in GUIDED and turn % 2:
        output = options.findings / f"{slug(name)}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        corpus = options.findings / "corpus" / slug(name)
        return Running(name, *limits, f"--guide={turn}", f"--corpus={corpus}", f"--result={output}", output=output)
    return Running(name, *limits, f"--first={figures.of_part(name)}")


def _add(figures: Figures, running: Running, options: argparse.Namespace) -> None:
    result = running.wait()
    if "died" in result:
        if running.number < 0:
            raise SystemExit(f"{running.name}: the process ended with {result['died']} before the first input")
        from tests.campaigns.fuzz_targets import TARGETS

        tried = running.number - figures.of_part(running.name) + 1
        fatal = content(TARGETS[running.name], options.seed, running.number)
        result |= {"done": tried, "answers": {"refused": tried - 1}}
        result["found"] = [{"content": fatal.hex(), "problem": f"the process died ({result['died']})"}]
    for each in result["found"]:
        data = bytes.fromhex(each["content"])
        path = options.findings / slug(running.name) / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"{path}: {each['problem'][:300]}", flush=True)
    failures = "; ".join(f"{running.name}: {each['problem'][:300]}" for each in result["found"]) or None
    held = result["done"] - len(result["found"])
    about = figures.content
    about["seconds"][running.name] = round(about["seconds"].get(running.name, 0) + result["seconds"], 1)
    about["slowest"] = max(about.get("slowest", {"seconds": 0}), result["slowest"], key=lambda each: each["seconds"])
    about["largest_growth_mb"] = max(about.get("largest_growth_mb", 0), result["largest"] >> 20)
    more = {"guided": result["done"]} if running.output else {}
    figures.add(running.name, result["done"], held, failures, **result["answers"], **more)


def slug(name: str) -> str:
    """A reader's name as that of a folder."""
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")


def replay(options: argparse.Namespace) -> None:
    """Tries a saved finding again, or all of them: prints what does not hold."""
    from tests.campaigns.fuzz_targets import TARGETS

    for name in [options.reader] if options.reader else TARGETS:
        paths = options.replay.rglob("*.bin") if options.replay.is_dir() else [options.replay]
        ours = [path for path in paths if path.is_file() and path.parent.name == slug(name)]
        if ours:
            with tempfile.TemporaryDirectory() as place:
                tried = trials(name, Path(place))
                for path in ours:
                    print(f"{path}: {tried.run(path.read_bytes()) or 'held'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of one go at it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="every second step of the readers in Python by Atheris")
    parser.add_argument("--output", type=Path, default=Path("fuzz.json"))
    parser.add_argument("--findings", type=Path, default=REPOSITORY / "build" / "fuzz", help="where inputs are saved")
    parser.add_argument("--replay", type=Path, help="a saved input, or a folder of them")
    parser.add_argument("--reader", help="with --replay: only of this reader")
    for name in ("first", "count", "guide"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    for name in ("corpus", "result"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        replay(options)
    elif options.guide is not None:
        seed = options.seed * 1000 + options.guide
        guided(options.reader, seed, options.count, options.seconds, options.corpus, options.result)
    elif options.count is not None:
        child(options.reader, options.seed, options.first, options.count, options.seconds)
    else:
        campaign(options)


if __name__ == "__main__":
    main()
