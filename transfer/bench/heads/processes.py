"""Whole processes on the same two feature files, from the shell to the accuracy."""

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

from transfer.bench.heads.case import HeadCase
from transfer.bench.worker import Prepared, Skipped

LOGISTIC = Path(__file__).with_name("logistic_script.py")  # not imported: scikit-learn takes a second


def write(case: HeadCase) -> tuple[Path, Path]:
    """The case's arrays as the lab published them, `{'features': (N, 1, 1, D), 'labels': (N, 1)}`."""
    x, y, validation_x, validation_y = case.arrays()
    paths = case.folder / "train.p", case.folder / "validation.p"
    for path, features, labels in zip(paths, (x, validation_x), (y, validation_y), strict=True):
        content = {"features": features.reshape(len(features), 1, 1, -1), "labels": labels.reshape(-1, 1)}
        path.write_bytes(pickle.dumps(content))
    return paths


def ours(case: HeadCase) -> Prepared:
    """`transfer train`, each time in a new workdir; what the first call compiled is in JAX's cache from then on."""
    training, validation = write(case)

    def call() -> float:
        with tempfile.TemporaryDirectory(dir=case.folder) as workdir:
            flags = [f"--training_file={training}", f"--validation_file={validation}", f"--workdir={workdir}"]
            run(["-m", "transfer", "train", *flags, f"--epochs={case.epochs}", f"--batch_size={case.batch}"])
            return json.loads((Path(workdir) / "result.json").read_text())["validation_accuracy"]

    return Prepared(call, float)


def scikit_learn(case: HeadCase) -> Prepared:
    """`logistic_script.py`."""
    files = write(case)
    return Prepared(lambda: run([str(LOGISTIC), *map(str, files)]), float)


def run(arguments: list[str]) -> str:
    """The output of `python ARGUMENTS`; Skipped where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Skipped(f"python {arguments[0]} ended with exit code {done.returncode}: {lines[-1] if lines else ''}")
    return done.stdout
