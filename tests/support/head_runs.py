"""Heads that several processes train, for `several.py`: on two feature files, as `train.py` does."""

import contextlib
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

CLASSES, WIDTH = 6, 6


def make_files(folder: Path, rows: int = 1003, validation: int = 203) -> None:
    from transfer.store import feature_files

    random = np.random.default_rng(0)
    for split, count in (("train", rows), ("validation", validation)):
        labels = np.concatenate([[CLASSES - 1], random.integers(0, CLASSES, count - 1)])
        features = random.normal(size=(count, WIDTH)) + labels[:, None] / 2
        feature_files.write(folder / f"{split}.npz", features.astype(np.float32), labels)


def train(settings: dict[str, Any]) -> None:
    """Trains on the files of `folder` in `workdir`; `slow` makes every reading of a window take so many seconds more.

    `check_seconds`: how often it is seen to that the workdir is there.
    A window that has been read leaves a file in `workdir`/read. The disk of the process `full` takes no checkpoint.
    """
    from transfer import config, experiment
    from transfer.runtime import distributed
    from transfer.runtime.files import lock
    from transfer.training.parallel import reader

    settings = {"slow": 0.0, "config": {}, "full": None, **settings}
    if settings["full"] == distributed.process_index():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
    chosen = config.default()
    chosen.head.epochs, chosen.head.batch_size, chosen.head.learning_rate, chosen.batch_size = 3, 32, 0.02, 8
    chosen.update_from_flattened_dict(settings["config"])
    workdir = Path(settings["workdir"])
    lock.CHECK_SECONDS = settings.get("check_seconds", lock.CHECK_SECONDS)
    if settings["slow"]:
        (workdir / "read").mkdir(parents=True, exist_ok=True)
        fill = reader.Reader.fill

        def slowly(self: Any, jobs: Any) -> None:
            fill(self, jobs)
            time.sleep(settings["slow"])
            with contextlib.suppress(FileNotFoundError):  # a test has removed it
                (workdir / "read" / str(time.monotonic_ns())).touch()

        reader.Reader.fill = slowly
    files = (str(Path(settings["folder"], f"{split}.npz")) for split in ("train", "validation"))
    experiment.train_on_files(chosen, *files, epath.Path(workdir))
