"""Runs of the works: once undisturbed, for reference, and then as a campaign likes."""

import argparse
import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.campaigns import children, source
from tests.campaigns.figures import Figures, machine
from tests.campaigns.places import Places
from tests.campaigns.works import WORKS, Work, make_images, make_sources
from transfer.runtime.files import lock

POLL_SECONDS = 0.0003
KEPT = "references.json"


def arguments(description: str | None, counted: str, goal: int, **own: int) -> argparse.Namespace:
    """The flags that campaigns share, and numbers of a campaign's own; `--COUNTED` becomes `goal`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{counted}", dest="goal", type=int, default=goal, help=f"how many; {goal}")
    parser.add_argument("--output", type=Path, required=True, help="the JSON of figures; a campaign goes on from it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many, to go on later")
    parser.add_argument("--cold", action="store_true", help="measure the first run of each work, compilation included")
    parser.add_argument("--work", choices=WORKS, help="only this one, not each in its turn")
    parser.add_argument("--folder", type=Path, help="work there, and leave the undisturbed runs for the next go")
    for name, number in own.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    return parser.parse_args()


def run_moments(
    name: str,
    description: str | None,
    goal: int,
    campaign: "Callable[[Path, int, bool], Rounds]",
    next_work: Callable[[Figures], str],
) -> int:
    """Runs the rounds of the campaign `name`, each of the work that is next, to its goal; the exit code."""
    options = arguments(description, "moments", goal)
    figures = Figures(options.output, name, options.goal, options.seed)
    deadline = time.monotonic() + options.seconds
    children.prepare()
    with workplace(options.folder) as base:
        rounds = campaign(base, options.seed, not options.cold)
        while figures.done < options.goal and time.monotonic() < deadline:
            work = options.work or next_work(figures)
            moments, wrong = rounds.round(work, figures.steps)
            figures.add(work, moments, 0 if wrong else moments, wrong, rounds=1)
            print(f"{figures.held} of {figures.done} moments held ({work}: {moments}){wrong or ''}", flush=True)
    return int(figures.held < figures.done)


class Rounds(Protocol):
    """A campaign whose moments come in rounds."""

    def round(self, name: str, step: int) -> tuple[int, str | None]:
        """Does something to the work `name` at some moments and completes it: (moments, what did not hold)."""


@contextlib.contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """`folder`, or one that is removed at the end; with a source of weight files, which is in the catalogue."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            base = folder.absolute()
            stack.enter_context(lock.hold(base, "campaign's folder"))
        source.add_record(stack.enter_context(source.serving(base)).url("slow"))
        yield base


@dataclass
class Reference:
    """What an uninterrupted run took and left."""

    seconds: float
    places: int
    results: dict[str, str]


class Runs:
    """References, then round after round in folders below `base`; logs lie beside the folders.

    `warm`: what is measured is a second run, which compiles nothing, like those that are killed.
    """

    def __init__(self, base: Path, seed: int, warm: bool = True) -> None:
        self.base, self.seed, self.warm = base, seed, warm
        self.environment = {
            "JAX_COMPILATION_CACHE_DIR": str(base / "compiled"),
            "JAX_PLATFORMS": "cpu",
            "TRANSFER_CACHE": "cache",
            "REQUESTS_CA_BUNDLE": str(base / "certificate.pem"),
            "no_proxy": "127.0.0.1",
        }
        self.references = self._load()
        if not self.references:  # which rest on them, dates in tars included
            make_images(base / "images")
            make_sources(base / "sources")

    def reference(self, name: str) -> Reference:
        """The uninterrupted run of the work `name`, and of those whose results it needs."""
        if name not in self.references:
            for _, needed, _ in WORKS[name].given:
                _ = needed and self.reference(needed)
            self.references |= self._measure(name)
            kept = {each: dataclasses.asdict(found) for each, found in self.references.items()}
            (self.base / KEPT).write_text(json.dumps({"commit": machine()["commit"], "references": kept}))
        return self.references[name]

    def _load(self) -> dict[str, Reference]:
        """Those of an earlier go at the campaign in the same folder, unless the code is another now."""
        path = self.base / KEPT
        found = json.loads(path.read_text()) if path.exists() else {"commit": None}
        if found["commit"] != machine()["commit"]:
            return {}
        return {name: Reference(**each) for name, each in found["references"].items()}

    def _measure(self, name: str) -> dict[str, Reference]:
        """Of all works of the same command, from one run of it."""
        work, folder = WORKS[name], self.fresh(name, name)
        if self.warm:
            self.complete(folder, work)
            folder = self.fresh(name, name)
        alike = {other: each for other, each in WORKS.items() if each.command == work.command}
        begun: dict[str, float] = {}
        child = self.start(folder, work, Places(folder, count_to=self.base / "count").install)
        while child.running():
            time.sleep(POLL_SECONDS)
            for other in alike.keys() - begun.keys():
                if state(folder, alike[other].begun):
                    begun[other] = time.monotonic()
        ended, results = time.monotonic(), {} if child.code else self.digests(folder, work)
        if not results:
            raise SystemExit(f"{name} does not work, uninterrupted: {child.output()}")
        places = int((self.base / "count").read_text())
        found = {other: Reference(ended - start, places, results) for other, start in begun.items()}
        for other, reference in found.items():
            print(f"{other}: {reference.seconds:.2f} s, {places} places, {len(results)} results", flush=True)
        return found

    def fresh(self, folder_name: str, name: str) -> Path:
        """An empty folder for the work `name`, with the links to what it needs."""
        folder = self.base / folder_name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.link(folder, name)
        return folder

    def link(self, folder: Path, name: str) -> None:
        """Makes the links of the work `name`."""
        for link, needed, path in WORKS[name].given:
            (folder / link).symlink_to(self.base / (needed or "") / path)

    def start(
        self, folder: Path, work: Work, first: Callable[[], object] = lambda: None, **environment: str
    ) -> children.Child:
        """Starts the work's command; `first` is called, and `environment` set, in the child before it."""
        log = folder.with_name(f"{folder.name}.log")
        return children.start(work.command, log, folder, first, **{**self.environment, **environment})

    def complete(self, folder: Path, work: Work) -> str | None:
        """Runs the command to its end; what went wrong, or None."""
        child = self.start(folder, work)
        return f"exit code {child.wait()}: {child.output()[-2000:]}" if child.wait() else None

    def digests(self, folder: Path, work: Work) -> dict[str, str]:
        """The work's results in `folder`."""
        log = folder.with_name(f"{folder.name}.digests")
        return json.loads(children.answer(lambda: json.dumps(work.results(folder)), log))

    def wrong(self, folder: Path, work: Work, reference: Reference) -> str | None:
        """Which results are not those of the reference; None if all are."""
        differing = sorted({key for key, _ in self.digests(folder, work).items() ^ reference.results.items()})
        return f"not as undisturbed: {', '.join(differing[:5])}" if differing else None

    def wait_until_begun(self, child: children.Child, folder: Path, work: Work) -> float:
        """Returns when the first of the files that start the clock is made or changed, or the child ends."""
        before = state(folder, work.begun)
        while child.running() and state(folder, work.begun) <= before:
            time.sleep(POLL_SECONDS)
        return time.monotonic()

    def shown(self, folder: Path, work: Work, reference: Reference) -> str | None:
        """What of the results is there already and is not what an uninterrupted run leaves."""
        found = self.digests(folder, work)
        return next((k for k, digest in found.items() if reference.results.get(k) != digest), None)


def state(folder: Path, patterns: Iterable[str]) -> set[tuple[str, int, int]]:
    """Names, inodes and times of what matches."""
    found = set()
    for pattern in patterns:
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.add((str(path), status.st_ino, status.st_mtime_ns))
    return found
