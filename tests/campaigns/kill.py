"""Kills every kind of work by SIGKILL at moments drawn at random, and lets the same command complete it.

    python -m tests.campaigns.kill --moments=200 --output=benchmarks/reliability/kill.json

One *moment* is one SIGKILL that ended a command before it was done. A *round* is a folder in which a command is killed
one to three times and then runs to its end; its moments held if that run exits with 0, if after no kill a reader was
shown anything half-written, and if in the end everything equals, bit for bit, what an uninterrupted run left:

- extraction: every file of the two stores but their locks;
- training: the arrays of the last checkpoint, metrics.jsonl, result.json but its seconds;
- export and conversion: the bytes of the files;
- download: the bytes of the file.

Half of the moments are times, drawn evenly between the first file that the command writes and its end, as long as an
uninterrupted run takes for that. The others are places: just before the command creates, renames or removes its n-th
file, n drawn evenly from all of those (where TensorStore writes the files, Python does not see them: times only).

Cut off, the same command goes on with the next round. Everything follows from --seed but the speed of the machine.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns import children, source
from tests.campaigns.figures import REPOSITORY, Figures

CONFIG = f"--config={Path(__file__).parent / 'small.py'}"
MOST_KILLS = 3
POLL_SECONDS = 0.0003
# Places are before one of these; "open" counts where it is for writing.
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")
# In one of the libraries, their files or ours.
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Work:
    """A command, and what it leaves in the folder that it runs in.

    Attributes:
        share: of all moments.
        command: script and arguments; paths are relative to the folder.
        begun: patterns of the files of which the first that is made or changed starts the clock.
        results: folder -> {what: digest}, what is compared at the end.
            Asked after a kill, it leaves out what no reader would take for whole; the rest must be right then too.
        places: whether Python writes the files.
        given: links in the folder to what the command needs: (name, work that made it, path in its folder); without
            a work, the path is in the campaign's own folder.
    """

    share: float
    command: tuple[str, ...]
    begun: tuple[str, ...]
    results: Callable[[Path], dict[str, str]]
    places: bool = True
    given: tuple[tuple[str, str | None, str], ...] = ()


def make_images(folder: Path, rows: int = 90, broken: Collection[int] = (6, 40, 41)) -> None:
    """Small PNGs of three classes, `broken` ones cut short."""
    from PIL import Image

    for row in range(rows):
        pixels = random.Random(row).randbytes(12 * 12 * 3)
        path = folder / f"class{row % 3}" / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (12, 12), pixels).save(path)
        if row in broken:
            path.write_bytes(path.read_bytes()[:40])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def whole_files(folder: Path, *patterns: str) -> dict[str, str]:
    """Digest of each file that matches; hidden ones are nobody's to read."""
    found = [p for pattern in patterns for p in sorted(folder.glob(pattern)) if p.is_file()]
    return {str(p.relative_to(folder)): sha256(p.read_bytes()) for p in found if not p.name.startswith(".")}


def of_stores(folder: Path) -> dict[str, str]:
    """Every file of complete stores; of others nothing, for nobody would open them."""
    digests = {}
    for store in sorted(folder.glob("run/features/*/zarr.json")):
        if not json.loads(store.read_text())["attributes"]["complete"]:
            continue
        files = [p for p in sorted(store.parent.rglob("*")) if p.is_file() and not is_temporary(p)]
        digests |= {str(p.relative_to(folder)): sha256(p.read_bytes()) for p in files}
    return digests


def is_temporary(path: Path) -> bool:
    """What a killed writer leaves, which no reader looks at: TensorStore's and our own."""
    return path.name.endswith("__lock") or path.name == ".lock"


def of_training(folder: Path) -> dict[str, str]:
    """Metrics, result and checkpoint of a run that has a result."""
    run = folder / "run"
    if not (run / "result.json").exists():
        return {}
    result = json.loads((run / "result.json").read_text())
    for name in ("seconds_train", "seconds_extract", "dataset"):
        result.pop(name)
    digests = {"result.json": sha256(json.dumps(result, sort_keys=True).encode())}
    digests["metrics.jsonl"] = sha256((run / "metrics.jsonl").read_bytes())
    return digests | of_checkpoint(run)


def of_checkpoint(run: Path) -> dict[str, str]:
    """The arrays in the newest checkpoint; its files hold random names and times."""
    import jax
    import orbax.checkpoint as ocp

    steps = [int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit()]
    digests = {"step": str(max(steps))}
    with ocp.StandardCheckpointer() as checkpointer:
        for item in ("latest", "best"):
            tree = jax.device_get(checkpointer.restore(run.resolve() / "checkpoints" / str(max(steps)) / item))
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                digests[f"{item}{jax.tree_util.keystr(path)}"] = sha256(leaf.tobytes())
    return digests


TRAIN = ("train.py", CONFIG, "--training_file=train.npz", "--validation_file=validation.npz", "--workdir=run")
FILES = tuple((f"{split}.npz", "export_npz", f"out_{split}.npz") for split in ("train", "validation"))
STORES_BEGUN = ("run/features/*", "run/features/*/*/c")
# Two taps, images decoded by threads, some of which cannot be read.
OF_FILES = ("extract.py", CONFIG, "--workdir=run", "--config.data.source=folder:images", "--config.on_error=skip") + (
    "--config.tap=block1,pre_logits",
    "--config.batch_size=4",
)
STORES = (("features", "extraction", "run/features"),)
SHIPPED = REPOSITORY / "transfer" / "weights" / "files" / "vgg11_slim.cifar10.safetensors"


def export(suffix: str, share: float) -> Work:
    command = ("extract.py", CONFIG, "--workdir=run", "--config.features=features", f"--config.export=out{suffix}")
    return Work(share, command, (".out_*",), lambda folder: whole_files(folder, f"out_*{suffix}"), given=STORES)


WORKS = {
    "extraction": Work(0.17, ("extract.py", CONFIG, "--workdir=run"), STORES_BEGUN, of_stores, False),
    "extraction_of_files": Work(0.1, OF_FILES, STORES_BEGUN, of_stores, False, (("images", None, "images"),)),
    "head": Work(0.2, TRAIN, ("run/metrics.jsonl",), of_training, given=FILES),
    "checkpoint": Work(0.2, TRAIN, ("run/checkpoints/*tmp*",), of_training, given=FILES),
    "export_npz": export(".npz", 0.06),
    "export_pickle": export(".p", 0.06),
    "export_safetensors": export(".safetensors", 0.06),
    "download": Work(
        0.1,
        ("transfer", "weights", "fetch", source.RECORD),
        ("cache/.*.part",),
        lambda folder: whole_files(folder, "cache/*"),
    ),
    "convert": Work(
        0.05,
        ("transfer", "convert", str(SHIPPED), "--model=vgg11_slim.cifar10", "--output=out.safetensors"),
        (".out*",),
        lambda folder: whole_files(folder, "out.safetensors"),
    ),
}


class Places:
    """An audit hook that counts what a command does to files below a folder, and kills it before the n-th."""

    def __init__(self, folder: Path, kill_before: int | None = None, count_to: Path | None = None) -> None:
        self.folder, self.kill_before, self.count_to, self.count = str(folder), kill_before, count_to, 0

    def install(self) -> None:
        """From here on, for as long as the process lives."""
        sys.addaudithook(self._seen)
        if self.count_to is not None:
            self._exit, os._exit = os._exit, self._exit_counted  # type: ignore[assignment]

    def _seen(self, event: str, arguments: tuple) -> None:
        if event not in EVENTS or not self._concerns(event, arguments):
            return
        self.count += 1
        if self.count == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)

    def _concerns(self, event: str, arguments: tuple) -> bool:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return False
        path = arguments[0]
        return isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(self.folder)

    def _exit_counted(self, code: int) -> None:
        assert self.count_to is not None
        self.count_to.write_text(str(self.count))
        self._exit(code)


@dataclass
class Reference:
    """What an uninterrupted run took and left."""

    seconds: float
    places: int
    results: dict[str, str]


class Campaign:
    """References, then round after round in folders below `base`.

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
        work, folder = WORKS[name], self._fresh(name, name)
        if self.warm:
            self._complete(folder, work)
            folder = self._fresh(name, name)
        alike = {other: each for other, each in WORKS.items() if each.command == work.command}
        begun: dict[str, float] = {}
        child = self._start(folder, work, Places(folder, count_to=folder / "count").install)
        while child.running():
            time.sleep(POLL_SECONDS)
            for other in alike.keys() - begun.keys():
                if _state(folder, alike[other].begun):
                    begun[other] = time.monotonic()
        ended, results = time.monotonic(), {} if child.code else self._digests(folder, work)
        if not results:
            raise SystemExit(f"{name} does not work, uninterrupted: {child.output()}")
        places = int((folder / "count").read_text())
        found = {other: Reference(ended - start, places, results) for other, start in begun.items()}
        for other, reference in found.items():
            print(f"{other}: {reference.seconds:.2f} s, {places} places, {len(results)} results", flush=True)
        return found

    def _fresh(self, folder_name: str, name: str) -> Path:
        folder = self.base / folder_name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for link, needed, path in WORKS[name].given:
            (folder / link).symlink_to(self.base / (needed or "") / path)
        return folder

    def _start(self, folder: Path, work: Work, first: Callable[[], object] = lambda: None) -> children.Child:
        return children.start(work.command, folder / "log", folder, first, **self.environment)

    def _complete(self, folder: Path, work: Work) -> str | None:
        """Runs the command to its end; what went wrong, or None."""
        child = self._start(folder, work)
        return f"exit code {child.wait()}: {child.output()[-2000:]}" if child.wait() else None

    def _digests(self, folder: Path, work: Work) -> dict[str, str]:
        return json.loads(children.answer(lambda: json.dumps(work.results(folder)), folder / "digests"))

    def _wait_until_begun(self, child: children.Child, folder: Path, work: Work) -> float:
        before = _state(folder, work.begun)
        while child.running() and _state(folder, work.begun) <= before:
            time.sleep(POLL_SECONDS)
        return time.monotonic()

    def round(self, name: str, step: int) -> tuple[int, str | None]:
        """Kills the work `name` up to MOST_KILLS times, completes it and compares: (moments, what did not hold)."""
        work, reference, numbers = WORKS[name], self.reference(name), random.Random(f"{self.seed} {step}")
        folder = self._fresh(f"{name}_killed", name)
        moments, wrong = 0, None
        for _ in range(numbers.randint(1, MOST_KILLS)):
            killed = self._kill_once(folder, work, reference, numbers)
            moments += killed
            if shown := self._shown(folder, work, reference):
                wrong = wrong or f"after a kill, a reader is shown {shown}"
        wrong = wrong or self._complete(folder, work)
        if not wrong:
            found = self._digests(folder, work)
            differing = sorted(key for key, _ in found.items() ^ reference.results.items())
            wrong = f"not as without kills: {', '.join(differing[:5])}" if differing else None
        return moments, wrong and f"{name}, seed {self.seed}, step {step}: {wrong}"

    def _kill_once(self, folder: Path, work: Work, reference: Reference, numbers: random.Random) -> bool:
        """Whether the command was killed before it was done."""
        at_place, share = work.places and numbers.random() < 0.5, numbers.random()
        if at_place:
            before = 1 + int(share * reference.places)
            return self._start(folder, work, Places(folder, before).install).wait() == -signal.SIGKILL
        child = self._start(folder, work)
        started = self._wait_until_begun(child, folder, work)
        while child.running() and time.monotonic() < started + share * reference.seconds:
            time.sleep(POLL_SECONDS)
        child.kill()
        return child.wait() == -signal.SIGKILL

    def _shown(self, folder: Path, work: Work, reference: Reference) -> str | None:
        """What of the results is there already and is not what an uninterrupted run leaves."""
        found = self._digests(folder, work)
        return next((k for k, digest in found.items() if reference.results.get(k) != digest), None)


def _state(folder: Path, patterns: Iterable[str]) -> set[tuple[str, int, int]]:
    """Names, inodes and times of what matches."""
    found = set()
    for pattern in patterns:
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.add((str(path), status.st_ino, status.st_mtime_ns))
    return found


def next_work(figures: Figures) -> str:
    """The work that lags furthest behind its share of the moments."""
    return max(WORKS, key=lambda name: WORKS[name].share * (figures.done + 1) - figures.of_part(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=200, help="how many kills; 200")
    parser.add_argument("--output", type=Path, required=True, help="the JSON of figures; a campaign goes on from it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so many; the same command goes on"
    )
    parser.add_argument("--cold", action="store_true", help="measure the first run of each work, compilation included")
    options = parser.parse_args()
    figures = Figures(options.output, "kill", options.moments, options.seed)
    deadline = time.monotonic() + options.seconds
    children.prepare()
    with tempfile.TemporaryDirectory() as folder, source.serving(Path(folder)) as server:
        campaign = Campaign(Path(folder), options.seed, not options.cold)
        source.add_record(server.url("slow"))
        while figures.done < options.moments and time.monotonic() < deadline:
            name = next_work(figures)
            moments, wrong = campaign.round(name, figures.steps)
            figures.add(name, moments, 0 if wrong else moments, wrong, rounds=1)
            print(f"{figures.held} of {figures.done} moments held ({name}: {moments}){wrong or ''}", flush=True)
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
