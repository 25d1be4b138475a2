"""Whole processes on the same two feature files, from the shell to the accuracy."""

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from transfer.bench.heads.case import HeadCase
from transfer.bench.peers.case import Skipped

LOGISTIC = Path(__file__).with_name("logistic_script.py")  # not imported: scikit-learn takes a second
Accuracy = float


def write(case: HeadCase) -> tuple[Path, Path]:
    """The case's arrays as the lab published them, `{'features': (N, 1, 1, D), 'labels': (N, 1)}`."""
    x, y, validation_x, validation_y = case.arrays()
    paths = case.folder / "train.p", case.folder / "validation.p"
    for path, features, labels in zip(paths, (x, validation_x), (y, validation_y), strict=True):
        content = {"features": features.reshape(len(features), 1, 1, -1), "labels": labels.reshape(-1, 1)}
        path.write_bytes(pickle.dumps(content))
    return paths


def ours(case: HeadCase) -> Callable[[], Accuracy]:
    """`transfer train`, each time in a new workdir; what the first call compiled is in JAX's cache from then on."""
    files = write(case)

    def call() -> Accuracy:
        with tempfile.TemporaryDirectory(dir=case.folder) as workdir:
            flags = [f"--{name}_file={path}" for name, path in zip(("training", "validation"), files, strict=True)]
            settings = [f"--epochs={case.epochs}", f"--batch_size={case.batch}", f"--workdir={workdir}"]
            _run("transfer train", ["-m", "transfer", "train", *flags, *settings])
            return json.loads((Path(workdir) / "result.json").read_text())["validation_accuracy"]

    return call


def scikit_learn(case: HeadCase) -> Callable[[], Accuracy]:
    """`logistic_script.py`."""
    files = write(case)
    return lambda: float(_run(LOGISTIC.name, [str(LOGISTIC), *map(str, files)]))


def _run(name: str, arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Skipped(f"{name} ended with {done.returncode}: {lines[-1] if lines else ''}")
    return done.stdout
