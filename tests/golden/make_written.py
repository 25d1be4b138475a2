"""What the version before the modules moved writes, and the values in it: `written/files.tar.xz`, `values.npz`.

    KERAS_BACKEND=jax PYTHONPATH=CHECKOUT_OF_c3dbbea python tests/golden/make_written.py

Stores, checkpoints, heads, exports and feature files of small runs (`written_runs.py`), with paths from the folder that
they lie in. Left out are events for TensorBoard, which no run reads again and which name the machine.
"""

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# where lines of source came from, with the paths of this machine, is no part of an export
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import numpy as np
import written_runs as runs
from etils import epath
from PIL import Image

HERE = Path(__file__).parent / "written"
CLASSES = ("Blüte", "it's", "zebra")
LEFT_OUT = ("events.", ".lock", ".seen")
# The images that the runs classify, (N, h, w, 3), and rows for the heads that are saved.
NEW = np.random.default_rng(7).integers(0, 256, (3, 14, 11, 3), np.uint8)
ROWS = np.random.default_rng(8).normal(size=(24, 5)).astype(np.float32)


def photos(folder: Path) -> None:
    """Nine images a class of two sizes, and one that is cut off."""
    numbers = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(9):
            pixels = numbers.integers(0, 256, (9 + number % 2, 12, 3), np.uint8)
            pixels[..., label] = pixels[..., label] * 0.9
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    broken = folder / CLASSES[1] / "9.png"
    broken.write_bytes((folder / CLASSES[1] / "8.png").read_bytes()[:150])


class Stopping(io.StringIO):
    """What is printed; as the word is among it, as if Ctrl-C came."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def write(self, text: str) -> int:
        if self.word in text:
            raise KeyboardInterrupt
        return super().write(text)


@contextlib.contextmanager
def stopped(word: str = "\0") -> Iterator[None]:
    """What is done within is stopped as a line with `word` is printed, or otherwise."""
    with contextlib.suppress(KeyboardInterrupt), contextlib.redirect_stdout(Stopping(word)):
        yield
        raise RuntimeError("it was not stopped")


@contextlib.contextmanager
def stopped_at_call(number: int, owner: Any, name: str) -> Iterator[None]:
    """What is done within is stopped as a function is called for the `number`-th time."""
    function, calls = getattr(owner, name), iter(range(1, 10**6))

    def counted(*given: Any, **named: Any) -> Any:
        if next(calls) == number:
            raise KeyboardInterrupt
        return function(*given, **named)

    with stopped(), mock.patch.object(owner, name, counted):
        yield


def train_all() -> None:
    """All runs, in the folder that is open."""
    import orbax.checkpoint as ocp

    from transfer import experiment

    def train(name: str) -> None:
        experiment.train(runs.settings(name), epath.Path(name))

    for name in runs.FINISHED:
        train(name)
    for name in ("stopped_after", "finetuned_stopped"):
        with stopped("Epoch 2/"):
            train(name)
    with stopped_at_call(6, ocp.CheckpointManager, "save"):
        train("stopped_within")
    with stopped_at_call(20, Image, "open"):
        experiment.extract(runs.settings("begun"), epath.Path("begun"))


def write_files() -> None:
    """Features in each format, and a head that is trained on them."""
    from transfer import experiment

    for ending in runs.ENDINGS:
        config = runs.settings("linear")
        config.export = runs.FILES.format(split="", ending=ending).replace("_.", ".")
        Path(config.export).parent.mkdir(exist_ok=True)
        experiment.extract(config, epath.Path("exported"))
    shutil.rmtree("exported")
    experiment.train_on_files(runs.settings_of_files(), *runs.feature_files(".npz"), epath.Path("on_files"))


def run_verbs() -> None:
    """Everything that a verb writes and that is read again."""
    from transfer.__main__ import main

    Path("exports").mkdir()
    for output, name in runs.EXPORTS.items():
        assert main(["export", f"--workdir={name}", f"--output={output}"]) == 0
    assert main(["convert", *runs.CONVERT]) == 0


def save_heads() -> dict[str, np.ndarray]:
    """Every estimator of `transfer.heads`, fitted and saved; file -> what it says of ROWS."""
    from transfer import heads

    Path("heads").mkdir()
    values = {}
    for name, kind in runs.every_head():
        targets = runs.targets(kind, len(ROWS))
        head = runs.estimator(name, kind).fit(ROWS, targets)
        path = f"heads/{name}_{kind}.safetensors"
        head.save(path)
        values[path] = head.logits(ROWS)
        assert heads.load(path).get_params() == head.get_params()
    return values


def values_of_runs() -> dict[str, np.ndarray]:
    """What stores hold, what runs say of new images, and how those that were stopped end."""
    from transfer import FeatureStore, Predictor, experiment

    values = {"new": NEW, "rows": ROWS}
    for split in ("train", "validation"):
        store = FeatureStore.open(f"{runs.FEATURES}/{split}")
        for tap in store.metadata["taps"]:
            values[f"{split}/{tap}"] = store.tap(tap)[:]
        values[f"{split}/labels"], values[f"{split}/ids"] = store.labels, np.array(store.ids)
    for name in runs.PREDICTING:
        values[f"probabilities/{name}"] = Predictor.load(name)(NEW)
    for name in runs.STOPPED:
        shutil.copytree(name, f"{name}_ended")
        experiment.train(runs.settings(name), epath.Path(f"{name}_ended"))
        values[f"ended/{name}"] = runs.curve(Path(f"{name}_ended"))
        values[f"probabilities/{name}"] = Predictor.load(f"{name}_ended")(NEW)
        shutil.rmtree(f"{name}_ended")
    shutil.copytree("begun", "begun_ended")
    ended, _ = experiment.extract(runs.settings("begun"), epath.Path("begun_ended"))
    for split, store in ended.items():
        for tap in store.metadata["taps"]:
            values[f"begun/{split}/{tap}"] = store.tap(tap)[:].astype(np.float32)
    shutil.rmtree("begun_ended")
    return values


def pack(folder: Path, output: Path) -> None:
    """One archive of a folder; equal files, of which checkpoints have many, take their place once."""
    with tarfile.open(output, "w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not name.name.startswith(LEFT_OUT):
                member = tarfile.TarInfo(name.as_posix())
                member.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(member, file)


def main() -> None:
    """Writes both files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "all"
        folder.mkdir()
        os.chdir(folder)
        photos(Path("photos"))
        train_all()
        write_files()
        run_verbs()
        heads = save_heads()
        HERE.mkdir(exist_ok=True)
        pack(folder, HERE / "files.tar.xz")
        np.savez_compressed(HERE / "values.npz", **values_of_runs(), **heads)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
