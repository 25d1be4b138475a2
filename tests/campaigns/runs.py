"""Runs of the works: once undisturbed, for reference, and then as a campaign likes."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns import children
from tests.campaigns.places import Places
from tests.campaigns.works import WORKS, Work, make_images

POLL_SECONDS = 0.0003


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
        self.references: dict[str, Reference] = {}
        make_images(base / "images")

    def reference(self, name: str) -> Reference:
        """The uninterrupted run of the work `name`, and of those whose results it needs."""
        if name not in self.references:
            for _, needed, _ in WORKS[name].given:
                _ = needed and self.reference(needed)
            self.references |= self._measure(name)
        return self.references[name]

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
