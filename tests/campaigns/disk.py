"""Lets every kind of work run out of disk, or into a folder that cannot be written, and then go on.

    python -m tests.campaigns.disk --trials=100 --output=benchmarks/reliability/disk.json

One *trial* is a command in a file system of its own (tmpfs, in a mount namespace that ends with the campaign):

- full: it has fewer pages than the command needs, the number drawn evenly below that;
- read-only: the file system is read-only from the start, or from where a SIGKILL stopped the command before.

The trial held if the command ended with exit code 1 and one line that says what is wrong and where, if a reader was
shown nothing half-written, and if with room enough the same command exits with 0 and everything equals, bit for bit,
what an undisturbed run left (`tests.campaigns.kill` says what is compared). A full disk that a command got by with
is drawn again. Three parts are trials of their own: the compilation cache on a full disk, which may cost a command
time, never its result; the output of a benchmark; features that are read from a read-only folder.

Needs Linux, and root or unprivileged user namespaces; exits with 77 where neither is there.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaigns import children
from tests.campaigns.figures import Figures
from tests.campaigns.places import Places
from tests.campaigns.runs import Runs, arguments, workplace
from tests.campaigns.works import CONFIG, WORKS, Work

INSIDE = "CAMPAIGN_MOUNT_NAMESPACE"
CANNOT = 77
PAGE = 4096
ROOM = 1 << 28
FULL, READ_ONLY = "full", "read-only"
SAID = {FULL: "No space left on device", READ_ONLY: "Read-only file system"}


def enter_namespace() -> None:
    """Starts this program again where it may mount; exits with 77 where that is not allowed."""
    if os.environ.get(INSIDE):
        return
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *as_root, "--mount", "--propagation=private"]
    try:
        able = subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        print("this machine does not let us mount a file system", file=sys.stderr)
        sys.exit(CANNOT)
    os.environ[INSIDE] = "1"
    os.execvp(unshare[0], [*unshare, sys.executable, "-m", "tests.campaigns.disk", *sys.argv[1:]])


def mount(folder: Path, options: str, *more: str) -> None:
    subprocess.run(["mount", *more, "-o", options, "none", str(folder)], check=True)


@contextmanager
def small(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes, whole pages, at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, f"size={max(size, PAGE)}", "-t", "tmpfs")
    if size < PAGE:  # 0 would mean: no limit
        (folder / ".full").write_bytes(bytes(PAGE))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    """Room enough, and it may be written."""
    mount(folder, f"remount,rw,size={ROOM}")


def used(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def one_line(child: children.Child, said: str) -> str | None:
    """What is wrong with how a command that could not write ended, None if nothing."""
    code, output = child.wait(), child.output()
    last = (output.strip().splitlines() or [""])[-1]
    if code != 1 or not last.startswith("error: ") or said not in last or "Traceback" in output:
        return f"exit code {code}: {output[-3000:]}"
    return None


class Campaign(Runs):
    """One trial after another."""

    def __init__(self, base: Path, seed: int, warm: bool = True) -> None:
        super().__init__(base, seed, warm)
        self.needs: dict[str, int] = {}

    def needed(self, name: str) -> int:
        """The most bytes that the work `name` has on the disk at a time."""
        if name not in self.needs:
            work, most = WORKS[name], 0
            with small(self.base / f"{name}_measured", ROOM) as folder:
                self.link(folder, name)
                child = self.start(folder, work)
                while child.running():
                    most = max(most, used(folder))
                    time.sleep(0.0005)
            if child.code:
                raise SystemExit(f"{name} does not work, undisturbed: {child.output()}")
            self.needs[name] = most
            print(f"{name}: needs {most} bytes", flush=True)
        return self.needs[name]

    def trial(self, kind: str, name: str, step: int) -> tuple[bool, str | None]:
        """(whether the work `name` ran into the limit, what did not hold)."""
        numbers = random.Random(f"{self.seed} {step}")
        work, reference = WORKS[name], self.reference(name)
        size = numbers.randrange(self.needed(name) // PAGE) * PAGE if kind == FULL else ROOM
        with small(self.base / f"{name}_disk", size) as folder:
            self.link(folder, name)
            if kind == READ_ONLY:
                if reference.places and numbers.random() < 0.5:
                    before = numbers.randint(1, reference.places)
                    self.start(folder, work, Places(folder, before).install).wait()
                mount(folder, "remount,ro")
            child = self.start(folder, work)
            ran_out = bool(child.wait())
            wrong = one_line(child, SAID[kind]) if ran_out else None
            if shown := self.shown(folder, work, reference):
                wrong = wrong or f"a reader is shown {shown}"
            enlarge(folder)
            wrong = wrong or self.complete(folder, work) or self.wrong(folder, work, reference)
        return ran_out, wrong and f"{kind}: {name}, seed {self.seed}, step {step}, {size} bytes: {wrong}"

    def compilation_cache(self) -> str | None:
        """A command whose compiled programs find no room."""
        name = "export_npz"
        work, reference = WORKS[name], self.reference(name)
        with small(self.base / "compiled_full", 16 * PAGE) as cache:
            folder = self.fresh(f"{name}_cache", name)
            child = self.start(folder, work, JAX_COMPILATION_CACHE_DIR=str(cache))
            if child.wait() or "Traceback" in child.output():
                return f"compilation cache: exit code {child.code}: {child.output()[-2000:]}"
            mount(cache, "remount,ro")
            again = self.start(self.fresh(f"{name}_cache", name), work, JAX_COMPILATION_CACHE_DIR=str(cache))
            if again.wait() or "Traceback" in again.output():
                return f"compilation cache, read-only: exit code {again.code}: {again.output()[-2000:]}"
        return self.wrong(folder, work, reference)

    def benchmark(self) -> str | None:
        """`bench --output` without room."""
        command = ["transfer", "bench", "--models=lenet5", "--batch=1", "--rounds=1", "--seconds=0.01"]
        work = Work(0, (*command, "--output=out.json"), (), lambda folder: {})
        with small(self.base / "bench", 0) as folder:
            wrong = one_line(self.start(folder, work), SAID[FULL])
            left = sorted(p.name for p in folder.iterdir() if p.name != ".full")
            return wrong or (f"bench leaves {left}" if left else None)

    def reading(self) -> str | None:
        """A head on features in a read-only folder."""
        self.reference("extraction")
        command = ("train.py", CONFIG, "--workdir=run", "--config.features=features")
        features = self.base / "read_only"
        features.mkdir()
        subprocess.run(["mount", "--bind", str(self.base / "extraction/run/features"), str(features)], check=True)
        try:
            mount(features, "remount,ro,bind")
            folder = self.fresh("reading", "extraction")
            (folder / "features").symlink_to(features)
            return self.complete(folder, Work(0, command, (), lambda folder: {}))
        finally:
            subprocess.run(["umount", str(features)], check=True)


# Parts that are one trial.
SINGLE = {"compilation cache": "compilation_cache", "benchmark": "benchmark", "reading": "reading"}


def next_trial(figures: Figures, numbers: random.Random) -> tuple[str, str]:
    """(kind, work) of the next one: two full disks, then a read-only one; works in turn."""
    names = [name for name in WORKS if name != "checkpoint"]  # the same command as "head"
    kind = READ_ONLY if figures.steps % 3 == 2 else FULL
    return kind, min(names, key=lambda name: (figures.of_part(f"{kind}: {name}"), numbers.random()))


def main() -> int:
    enter_namespace()
    options = arguments(__doc__, "trials", 100)
    figures = Figures(options.output, "disk", options.goal, options.seed)
    deadline = time.monotonic() + options.seconds
    children.prepare()
    with workplace(options.folder) as base:
        campaign = Campaign(base, options.seed, not options.cold)
        while figures.done < options.goal and time.monotonic() < deadline:
            left = [part for part in SINGLE if not figures.of_part(part)]
            if left and figures.steps % 2:
                part, ran_out, wrong = left[0], True, getattr(campaign, SINGLE[left[0]])()
            else:
                kind, name = next_trial(figures, random.Random(f"{options.seed} {figures.steps}"))
                part = f"{kind}: {name}"
                ran_out, wrong = campaign.trial(kind, name, figures.steps)
            counted = ran_out or bool(wrong)
            figures.add(part, int(counted), int(counted and not wrong), wrong, had_room=int(not ran_out))
            print(f"{figures.held} of {figures.done} trials held ({part}) {wrong or ''}", flush=True)
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
