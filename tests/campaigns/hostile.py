"""Tries every known trick with pickles, archives, headers, images and graphs on every reader of them, under watch.

    python -m tests.campaigns.hostile --output=benchmarks/reliability/hostile.json

A trick was held off if nothing ran (the canary is not there; no audit event but of opening the file itself), if the
reader took no more than `watched.MEMORY` and `watched.SECONDS`, and if it ended in one TransferError that begins
with the file and names what was refused: the global as `module.name`, or the opcode.
"""

import argparse
import contextlib
import copyreg
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from tests.campaigns import (
    hostile_claims,
    hostile_graphs,
    hostile_headers,
    hostile_pickles,
    hostile_pictures,
    hostile_stand_ins,
    hostile_tars,
    hostile_tensors,
    hostile_texts,
    hostile_zips,
)
from tests.campaigns.carriers import CARRIERS, PLAIN, TENSORS, empty
from tests.campaigns.figures import Figures
from tests.campaigns.hostile_file import File
from tests.campaigns.opcodes import CANARY, MADE, Trick
from tests.campaigns.watched import Outcome, Watch
from transfer.errors import TransferError
from transfer.runtime.files import sandbox, unpickler, untrusted

EXTENSION = 0x107
# Programs longer than this take a while.
LONG = 100_000


class Case(NamedTuple):
    """A hostile file, and the reader of it."""

    part: str
    name: str
    make: Callable[[Path, Path], Callable[[], object]]  # folder, canary -> what reads it
    says: tuple[str, ...]
    reads: bool


def _pickle(part: str, carrier: str, trick: Trick) -> Case:
    def make(folder: Path, canary: Path) -> Callable[[], object]:
        return CARRIERS[carrier](folder, trick.program.replace(MADE, str(canary).encode()))

    says = trick.says and trick.says + (("refused: it asks for",) if carrier in PLAIN else ())
    # a name that is not known does nothing there, and is named only where nothing else is wrong
    is_inert = carrier in TENSORS and part in ("names", "code") and any("." in name for name in says)
    says += ("holds no state dict",) if says and carrier in TENSORS else ()
    return Case(part, f"{trick.name} in {carrier}", make, () if is_inert else says, trick.reads or is_inert)


def _file(part: str, file: File) -> Case:
    def make(folder: Path, canary: Path) -> Callable[[], object]:
        file.make(folder)
        return lambda: file.read(folder)

    return Case(part, file.name, make, file.says, file.reads)


FILES: Mapping[str, Callable[[], Iterable[File]]] = {
    "archives": lambda: [*hostile_zips.files(), *hostile_tars.files(), *hostile_tars.of_images()],
    "headers": hostile_headers.files,
    "images": hostile_pictures.files,
    "graphs": hostile_graphs.files,
    "texts": hostile_texts.files,
}


def cases(short: bool = False) -> Iterator[Case]:
    """Every trick on every reader; in the short form the plain ones, and those that take a while, on one."""
    for part, found in (("names", hostile_pickles.by_name()), ("code", hostile_pickles.tricks())):
        for number, trick in enumerate(found):
            one = list(CARRIERS)[number % len(CARRIERS)]
            for carrier in [one] if short and part == "names" else CARRIERS:
                yield _pickle(part, carrier, trick)
    for trick in hostile_claims.tricks():
        for carrier in list(CARRIERS)[:1] if short and (trick.slow or len(trick.program) > LONG) else CARRIERS:
            yield _pickle("claims", carrier, trick)
    for trick in hostile_tensors.tricks():
        for carrier in TENSORS:
            yield _pickle("tensors", carrier, trick)
    for trick in hostile_stand_ins.tricks():
        for carrier in list(TENSORS)[:1] if short and (trick.slow or len(trick.program) > LONG) else TENSORS:
            yield _pickle("stand-ins", carrier, trick)
    for part, found_ in FILES.items():
        for file in found_():
            yield _file(part, file)


def problem(case: Case, outcome: Outcome, made: bool) -> str | None:
    """What did not hold, None if all did."""
    if made or outcome.did:
        return f"did {outcome.did or 'make the canary'}"
    if outcome.answer == "read" and case.reads:
        return None
    if outcome.answer not in ("TransferError", "UsageError", "BrokenImage"):
        return f"{outcome.answer}: {outcome.message}"
    if case.says and not any(name in outcome.message for name in case.says):
        return f"does not name {' or '.join(case.says)}: {outcome.message}"
    if len(outcome.message) > 800 or not outcome.message.isprintable():
        return f"is not one clear line: {outcome.message[:800]!r}"
    return None


def child(start: int, short: bool) -> None:
    """Runs the cases from number `start` on, and says before each which, and after each what came of it."""
    if short:
        # the same limits, reached sooner
        unpickler.MAX_OBJECT_BYTES >>= 3
        untrusted.DECOMPRESSION_FLOOR >>= 3
        sandbox.CPU_SECONDS = 1
    copyreg.add_extension("os", "mkdir", 0x7)
    copyreg.add_extension("posix", "mkdir", EXTENSION)
    # as after another library has used it, so that no name is looked up any more
    copyreg._extension_cache.update({0x7: os.mkdir, EXTENSION: os.mkdir})  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as name:
        folder, canary = Path(name) / "in", Path(name) / "canary"
        folder.mkdir()
        for carrier in CARRIERS.values():  # imports
            with contextlib.suppress(TransferError):
                carrier(folder, CANARY + b"0}.")()
            empty(folder)
        watch = Watch(folder)
        for number, case in enumerate(cases(short)):
            if number < start:
                continue
            print(json.dumps({"number": number}), flush=True)
            empty(folder)
            watch.libraries = case.part in FILES
            outcome = watch.run(case.make(folder, canary), allowed=(TransferError,))
            wrong = problem(case, outcome, canary.exists())
            about = {"part": case.part, "name": case.name, "problem": wrong}
            print(json.dumps({**about, **asdict(outcome)}), flush=True)


def results(short: bool = False) -> Iterator[dict]:
    """What came of each case; a child that dies is a result, and another goes on behind it."""
    number, count = 0, sum(1 for _ in cases(short))
    while number < count:
        command = [sys.executable, "-m", "tests.campaigns.hostile", f"--child={number}", *["--short"] * short]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                result = json.loads(line)
                if "number" in result:
                    number = result["number"]
                else:
                    yield result
        if process.returncode == 0:
            return
        case = next(itertools.islice(cases(short), number, None))
        died = f"the process died ({process.returncode})"
        yield {"part": case.part, "name": case.name, "problem": died, "seconds": 0, "memory": 0}
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("hostile.json"))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--short", action="store_true", help="the long pickles on one reader only")
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.short)
        return
    options.output.unlink(missing_ok=True)
    figures = Figures(options.output, "hostile", sum(1 for _ in cases(options.short)), 0)
    counts: dict[str, list[str | None]] = defaultdict(list)
    slowest = largest = {"seconds": 0.0, "memory": 0}
    for result in results(options.short):
        slowest, largest = max(slowest, result, key=_seconds), max(largest, result, key=_memory)
        failure = f"{result['name']}: {result['problem']}" if result["problem"] else None
        counts[result["part"]].append(failure)
    for part, failures in counts.items():
        found = [failure for failure in failures if failure]
        figures.add(part, len(failures), len(failures) - len(found), "; ".join(found) or None)
    figures.content["slowest"] = {key: slowest[key] for key in ("name", "seconds")}
    figures.content["largest"] = {key: largest[key] for key in ("name", "memory")}
    figures.write()


def _seconds(result: dict) -> float:
    return result["seconds"]


def _memory(result: dict) -> int:
    return result["memory"]


if __name__ == "__main__":
    main()
