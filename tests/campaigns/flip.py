"""Changes one byte, or cuts the end off, of everything that is kept on disk, and reads it again.

    python -m tests.campaigns.flip --changes=1000 --output=benchmarks/reliability/flip.json

A change held if it was *detected* (an error of ours in one line, or for a store: `features verify` says so) or is
*harmless* (what is read equals, bit for bit, what was written). It did not hold if other values were read without a
word, or if reading ended in an error that is not one of ours, in a crash or in a hang.

Three of four changes give one byte another value, the fourth cuts the file off at that place. The file is drawn
evenly from those of the store or checkpoint, or by their sizes, turn by turn; the place evenly from all of it, or from
its first and last 600 bytes, where the headers are, turn by turn.

Weight files of others (PyTorch, Keras, ONNX) are read as a download is: with a record that has a SHA-256, a part of
it, or an MD5, as the catalogue has for all of them. `alone` counts how many of their changes the readers would notice
(or be right about) without any record; nothing is promised of that.
"""

import argparse
import dataclasses
import hashlib
import json
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.campaigns import children, works
from tests.campaigns.figures import REPOSITORY, Figures

ENDS = 600
# Changes that one child makes and reads; a crash costs the start of another.
BATCH = 20
SECONDS_A_CHANGE = 20.0
GOLDEN = REPOSITORY / "tests" / "golden"
DETECTED, HARMLESS, SILENT, UNCLEAR = "detected", "harmless", "silent", "unclear"


@dataclasses.dataclass(frozen=True)
class Kept:
    """Something on disk.

    Attributes:
        share: of all changes.
        make: writes it into a folder.
        read: the folder -> digest of all that a user would get of it; raises what reading raises.
        notices: the folder -> whether a command that looks for damage finds some.
        unaided: as `read`, without what the promise rests on.
    """

    share: float
    make: Callable[[Path], object]
    read: Callable[[Path], str]
    notices: Callable[[Path], bool] | None = None
    unaided: Callable[[Path], str] | None = None


def digest_of(*values: Any) -> str:
    """SHA-256 of arrays (dtype, shape, bytes) and JSON values, nested in dicts and lists."""
    import jax
    import numpy as np

    digest = hashlib.sha256()
    for value in values:
        for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
            described = leaf if isinstance(leaf, str | int | float | bool) else [str(leaf.dtype), list(leaf.shape)]
            digest.update(json.dumps([jax.tree_util.keystr(path), described]).encode())
            if isinstance(described, list):
                digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


# the feature store


def make_store(folder: Path) -> None:
    works.make_images(folder.parent / "images", rows=45)
    (folder / "images").symlink_to(folder.parent / "images")
    run_in(folder, works.OF_FILES)
    (folder / "images").unlink()


def make_shards(folder: Path) -> None:
    run_in(folder, works.OF_SHARDS)
    for path in (p for p in (folder / "run").iterdir() if p.name != "features"):
        path.unlink()


def read_store(folder: Path) -> str:
    from transfer.store.store import FeatureStore

    digests = []
    for split in ("train", "validation"):
        store = FeatureStore.open(folder / "run" / "features" / split)
        rows = {tap: store.tap(tap)[:] for tap in store.taps}
        digests.append(digest_of(rows, store.labels, list(store.ids), list(store.class_names), store.metadata))
    return " ".join(digests)


def verify_store(folder: Path) -> bool:
    from transfer.__main__ import main

    codes = [main(["features", "verify", str(folder / "run" / "features" / s)]) for s in ("train", "validation")]
    if not set(codes) <= {0, 1}:
        raise RuntimeError(f"features verify: exit codes {codes}")
    return any(codes)


# checkpoints

# Larger than what OCDBT keeps inline, under a checksum of its own.
TRAINING_ROWS, FEATURES, CLASSES = 96, 300, 4


def make_checkpoint(folder: Path) -> None:
    import numpy as np

    from transfer.store import feature_files

    numbers = np.random.default_rng(0)
    for split in ("train", "validation"):
        labels = numbers.integers(0, CLASSES, TRAINING_ROWS)
        features = numbers.normal(size=(TRAINING_ROWS, FEATURES)).astype(np.float32) + labels[:, None]
        feature_files.write(folder / f"{split}.npz", features, labels)
    run_in(folder, (*works.TRAIN, "--config.head.epochs=3"))
    for path in [p for p in folder.glob("*") if p.name != "run"] + [
        p for p in (folder / "run").glob("*") if p.is_file()
    ]:
        path.unlink()


def read_checkpoint(folder: Path) -> str:
    import jax
    from etils import epath

    from transfer.heads import linear
    from transfer.training import loop

    run = loop.Run(linear.init_state(FEATURES, CLASSES, linear.init_key(0)))
    checkpoints = loop.Checkpoints(epath.Path(folder / "run"))
    try:
        checkpoints.restore(run)
    finally:
        checkpoints.close()
    state, best = jax.device_get((run.state, run.best))
    return digest_of(state, best, run.history, run.best_epoch, run.seconds)


# feature files


def make_features(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import numpy as np

        from transfer.store import feature_files

        numbers = np.random.default_rng(0)
        feature_files.write(folder / f"a{suffix}", numbers.normal(size=(50, 9)), numbers.integers(0, 5, 50))

    return make


def read_features(folder: Path) -> str:
    from transfer.store import feature_files

    (path,) = folder.glob("a.*")
    return digest_of(*feature_files.read(path))


# weight files


def make_native(folder: Path) -> None:
    import numpy as np

    from transfer.preprocess.recipe import Preprocessing
    from transfer.weights import native

    numbers = np.random.default_rng(0)
    arrays = {f"layer{i}.kernel": numbers.normal(size=(3, 3, i, 4)).astype(np.float32) for i in range(1, 5)}
    described = native.describe("lenet5", {"channels": 1}, Preprocessing(image_size=(28, 28)), model="lenet5")
    native.write(folder / "a.safetensors", arrays, described)


def read_native(folder: Path) -> str:
    from transfer.weights import native, readers

    path = folder / "a.safetensors"
    recipe = native.preprocessing(path)
    fields = native.fields(path, "lenet5")
    assert recipe is not None
    return digest_of(dict(readers.read(path)), json.dumps([dataclasses.asdict(recipe), fields], sort_keys=True))


def foreign(share: float, suffix: str, make: Callable[[Path], object]) -> Kept:
    """A file of others: read as `cache.fetch` and then the reader would."""

    def write(folder: Path) -> None:
        make(folder / f"a{suffix}")
        content = (folder / f"a{suffix}").read_bytes()
        hashes = {"sha256": hashlib.sha256(content).hexdigest(), "md5": hashlib.md5(content).hexdigest()}
        published(folder).parent.mkdir(exist_ok=True)
        published(folder).write_text(json.dumps(hashes))

    def read(folder: Path) -> str:
        from transfer.errors import TransferError
        from transfer.weights import cache, readers
        from transfer.weights.catalogue import WeightFile

        known = json.loads(published(folder).read_text())
        path = folder / f"a{suffix}"
        found = cache.digests(path)
        for hashes in ({"sha256": known["sha256"]}, {"sha256_prefix": known["sha256"][:8]}, {"md5": known["md5"]}):
            problem = cache.mismatch(WeightFile(path.name, **hashes), found)
            if (found["sha256"] == known["sha256"]) is (problem is not None):
                raise AssertionError(f"{hashes} does not tell")
        if problem:
            raise TransferError(problem)
        return digest_of(dict(readers.read(path)))

    def unaided(folder: Path) -> str:
        from transfer.weights import readers

        return digest_of(dict(readers.read(folder / f"a{suffix}")))

    return Kept(share, write, read, unaided=unaided)


def published(folder: Path) -> Path:
    """Where the hashes of the file in `folder` are kept, the same for a copy; nothing is changed there."""
    return folder.parents[1] / "hashes" / folder.name


def make_h5(path: Path) -> None:
    import h5py
    import numpy as np

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"conv1/kernel:0", b"conv1/bias:0"]
        group["conv1/kernel:0"] = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
        group["conv1/bias:0"] = np.zeros(8, np.float32)


def make_onnx(path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    kernel = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    weights = {"conv1.weight": kernel, "conv1.bias": np.zeros(8, np.float32)}
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y"))
    node = helper.make_node("Conv", ["x", *weights], ["y"], pads=[1, 1, 1, 1])
    initialisers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    onnx.save(helper.make_model(helper.make_graph([node], "graph", [x], [y], initialisers)), path)


def copy_of(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.copy(GOLDEN / name, path)


THINGS = {
    "store": Kept(0.2, make_store, read_store, verify_store),
    "store of shards": Kept(0.1, make_shards, read_store, verify_store),
    "checkpoint": Kept(0.22, make_checkpoint, read_checkpoint),
    "features.p": Kept(0.09, make_features(".p"), read_features),
    "features.npz": Kept(0.07, make_features(".npz"), read_features),
    "features.safetensors": Kept(0.07, make_features(".safetensors"), read_features),
    "weights.safetensors": Kept(0.1, make_native, read_native),
    "weights.pth": foreign(0.05, ".pth", copy_of("odd_tensors.pth")),
    "weights.pth (older)": foreign(0.03, ".pth", copy_of("odd_tensors_stream.pth")),
    "weights.h5": foreign(0.04, ".h5", make_h5),
    "weights.onnx": foreign(0.03, ".onnx", make_onnx),
}


def run_in(folder: Path, command: tuple[str, ...]) -> None:
    child = children.start(command, folder.with_suffix(".log"), folder, JAX_PLATFORMS="cpu")
    if child.wait():
        raise RuntimeError(child.output())


@dataclasses.dataclass(frozen=True)
class Change:
    """`file` (relative) gets the byte `value` at `place`, or ends there (None)."""

    file: str
    place: int
    value: int | None

    @classmethod
    def draw(cls, folder: Path, numbers: random.Random) -> "Change":
        """One of the files below `folder` that are not empty."""
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size and not works.is_temporary(p))
        sizes = [path.stat().st_size for path in files]
        by_size = numbers.random() < 0.5
        path = numbers.choices(files, sizes)[0] if by_size else numbers.choice(files)
        size = path.stat().st_size
        place = numbers.randrange(size)
        if numbers.random() < 0.5 and size > 2 * ENDS:
            place = numbers.randrange(2 * ENDS) - ENDS
            place %= size
        if numbers.random() < 0.25:
            return cls(str(path.relative_to(folder)), place, None)
        value = (path.read_bytes()[place] + numbers.randrange(1, 256)) % 256
        return cls(str(path.relative_to(folder)), place, value)

    def apply(self, content: bytes) -> bytes:
        """What the file holds then."""
        rest = b"" if self.value is None else bytes([self.value]) + content[self.place + 1 :]
        return content[: self.place] + rest


def judge(read: Callable[[], str], expected: str) -> str:
    """What reading tells of a change."""
    from transfer.errors import TransferError

    try:
        return HARMLESS if read() == expected else SILENT
    except (TransferError, OSError) as error:
        if "\n" in str(error):
            traceback.print_exc()
            return UNCLEAR
        return DETECTED
    except Exception:
        traceback.print_exc()
        return UNCLEAR


def judge_command(notices: Callable[[Path], bool], folder: Path, by_reading: str) -> str:
    """What a command that looks for damage tells of a change; it must notice all that reading does, and more."""
    try:
        if notices(folder):
            return DETECTED
    except BaseException:
        traceback.print_exc()
        return UNCLEAR
    return by_reading if by_reading != DETECTED else "noticed by reading, not by the command"


def try_changes(thing: Kept, folder: Path, changes: Iterable[Change], expected: str, report: Path) -> None:
    """Makes each change, reads, and takes it back; writes a line for each: what it came to, by what."""
    unaided = thing.unaided(folder) if thing.unaided else ""
    for change in changes:
        path = folder / change.file
        content = path.read_bytes()
        path.write_bytes(change.apply(content))
        by_reading = judge(lambda: thing.read(folder), expected)
        outcome = judge_command(thing.notices, folder, by_reading) if thing.notices else by_reading
        alone = judge(lambda: thing.unaided(folder), unaided) if thing.unaided else ""
        with report.open("a") as lines:
            lines.write(json.dumps([outcome, by_reading, alone]) + "\n")
        path.write_bytes(content)


class Campaign:
    """The things in folders below `base`, changed in copies of them."""

    def __init__(self, base: Path, seed: int) -> None:
        self.base, self.seed = base, seed
        self.expected: dict[str, str] = {}

    def _folder(self, kind: str, name: str) -> Path:
        return self.base / kind / re.sub(r"\W", "_", name)

    def _prepare(self, name: str) -> None:
        folder = self._folder("kept", name)
        folder.mkdir(parents=True)

        # several answers, since making a store starts children of its own, before anything starts threads
        children.answer(lambda: str(THINGS[name].make(folder)), self.base / "made")
        self.expected[name] = children.answer(lambda: THINGS[name].read(folder), self.base / "read")
        notices = THINGS[name].notices
        if notices and children.answer(lambda: str(notices(folder)), self.base / "read") != "False":
            raise SystemExit(f"{name} is damaged before anything was changed")

    def batch(self, name: str, step: int, count: int) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Outcomes of `count` changes (at all, by reading, unaided), and what did not hold."""
        if name not in self.expected:
            self._prepare(name)
        numbers = random.Random(f"{self.seed} {step}")
        original, copy = self._folder("kept", name), self._folder("changed", name)
        changes = [Change.draw(original, numbers) for _ in range(count)]
        outcomes: list[tuple[str, str, str]] = []
        wrong: list[str] = []
        while len(outcomes) < count:
            report = self.base / "report"
            report.unlink(missing_ok=True)
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(original, copy, symlinks=True)
            left = changes[len(outcomes) :]
            child = children.call(
                lambda: try_changes(THINGS[name], copy, left, self.expected[name], report),  # noqa: B023
                self.base / "log",
            )
            code = child.wait(SECONDS_A_CHANGE * len(left))
            found = [tuple(json.loads(line)) for line in report.read_text().splitlines()] if report.exists() else []
            if len(found) < len(left):
                found.append((f"ended with {code}",) * 3)
            for change, (outcome, _, _) in zip(left, found, strict=False):
                if outcome not in (DETECTED, HARMLESS):
                    wrong.append(f"{name}, seed {self.seed}, step {step}: {outcome}: {change}")
            outcomes += found
        return outcomes, wrong


def next_thing(figures: Figures) -> str:
    """The thing that lags furthest behind its share of the changes."""
    return max(THINGS, key=lambda name: THINGS[name].share * (figures.done + BATCH) - figures.of_part(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1000, help="how many; 1000")
    parser.add_argument("--output", type=Path, required=True, help="the JSON of figures; a campaign goes on from it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so many; the same command goes on"
    )
    parser.add_argument("--batch", type=int, default=BATCH, help=f"changes a child; {BATCH}")
    options = parser.parse_args()
    figures = Figures(options.output, "flip", options.changes, options.seed)
    deadline = time.monotonic() + options.seconds
    children.prepare()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), options.seed)
        while figures.done < options.changes and time.monotonic() < deadline:
            name = next_thing(figures)
            count = min(options.batch, options.changes - figures.done)
            outcomes, wrong = campaign.batch(name, figures.steps, count)
            counts = {each: sum(o[0] == each for o in outcomes) for each in (DETECTED, HARMLESS, SILENT, UNCLEAR)}
            if THINGS[name].notices:
                counts["by_reading"] = sum(o[1] == DETECTED for o in outcomes)
            if THINGS[name].unaided:
                counts["alone"] = sum(o[2] in (DETECTED, HARMLESS) for o in outcomes)
            figures.add(name, count, count - len(wrong), "; ".join(wrong) or None, **counts)
            print(f"{figures.held} of {figures.done} changes held ({name}: {counts})", *wrong, sep="\n  ", flush=True)
    return int(figures.held < figures.done)


if __name__ == "__main__":
    sys.exit(main())
