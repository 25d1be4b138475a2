"""Run as a program: `python tests/killed_training.py FOLDER POINT …` trains in FOLDER/killed, killed at each POINT.

A point is a number of epochs in metrics.jsonl. A checkpoint follows every epoch, so that kills fall into writing
one as well as between two.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from etils import epath
from killing import run_and_kill

from transfer import config as settings
from transfer import experiment, feature_files

EPOCHS = 24


def make_files(folder: Path) -> None:
    random = np.random.default_rng(0)
    for split, rows in (("train", 100), ("validation", 40)):
        labels = random.integers(0, 4, rows)
        features = random.normal(size=(rows, 1, 1, 16)).astype(np.float32) + labels[:, None, None, None] / 2
        feature_files.write(folder / f"{split}.p", features, labels)


def train(folder: Path, run: str) -> None:
    config = settings.default()
    config.head.epochs, config.head.batch_size, config.checkpoint_seconds = EPOCHS, 32, 0.0
    files = (str(folder / "train.p"), str(folder / "validation.p"))
    experiment.train_on_files(config, *files, epath.Path(folder / run))


def epochs_done(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


if __name__ == "__main__":
    target = Path(sys.argv[1])
    sys.stdout, printed = sys.stderr, sys.stdout  # the children's own lines
    progress = partial(epochs_done, target / "killed")
    run_and_kill(partial(train, target, "killed"), progress, map(int, sys.argv[2:]), printed)
