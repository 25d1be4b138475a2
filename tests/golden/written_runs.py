"""The experiments of `written/`: the settings of each run, by its folder; for whoever writes them and for the test."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from transfer import config, heads

FEATURES = "logistic/features"
IMAGES = {"data.source": "folder:photos", "on_error": "skip", "image_size": 32, "batch_size": 4, "report": False}
TAPS = {**IMAGES, "tap": "block1:avg,block2:avg"}
LINEAR = {**IMAGES, "features": FEATURES, "tap": "block2:avg", "head.batch_size": 4, "head.learning_rate": 0.02}
# LeNet-5 a quarter as wide, on a few of the digits
LENET = {
    **{"train": "finetune", "model.name": "lenet5", "model.weights": "random", "image_size": 28, "report": False},
    **{"preprocessing.channels": "grey", "preprocessing.scale": 1 / 255, "preprocessing.mean": (0.3,)},
    **{"preprocessing.std": (0.38,), "data.train_per_class": 3, "data.validation_per_class": 2},
    **{"finetune.epochs": 3, "finetune.batch_size": 10, "finetune.optimizer": "adamw", "finetune.crop": 1},
    **{"finetune.learning_rate": 0.003, "finetune.warmup_epochs": 0},
}
# folder -> what differs from the default experiment
RUNS: dict[str, dict[str, Any]] = {
    # the first, on whose features the others are
    "logistic": {**TAPS, "head.name": "logistic", "sweep.C": (0.1, 1.0)},
    "linear": {**LINEAR, "head.epochs": 5},
    "sgd": {**LINEAR, "head.name": "sgd", "head.epochs": 4, "head.scaling": "standard"},
    "mlp": {**LINEAR, "head.name": "mlp", "head.epochs": 4, "head.hidden": (6,), "head.dropout": 0.0},
    "shots": {**LINEAR, "head.epochs": 2},
    "seeds": {**IMAGES, "tap": "block1:avg", "head.name": "ridge", "seeds": 2},
    "stopped_after": {**LINEAR, "head.epochs": 5},
    "stopped_within": {
        **LINEAR,
        **{"head.epochs": 4, "head.order": "chunks", "head.window": 8, "stream": True, "checkpoint_seconds": 0.0},
    },
    # of which only a part of the features is there
    "begun": {**TAPS, "features_dtype": "bfloat16", "head.name": "ridge"},
    "finetuned": LENET,
    "finetuned_stopped": LENET,
}
FIELDS = {name: {"channels": 1, "image_size": 28, "width": 0.25} for name in ("finetuned", "finetuned_stopped")}
FEW_SHOT = {"shots": {"per_class": (1, 2), "seeds": 2, "heads": ("ridge", "nearest_mean")}}
FINISHED = ("logistic", "linear", "sgd", "mlp", "shots", "seeds", "finetuned")
STOPPED = ("stopped_after", "stopped_within", "finetuned_stopped")
# Those that classify images; a run over seeds is several.
PREDICTING = (*(name for name in FINISHED if name != "seeds"), "seeds/seed_1")
# What the head of `on_files` is trained on, the same rows in three formats.
FILES, ENDINGS = "files/rows_{split}{ending}", (".npz", ".p", ".safetensors")
OF_FILES = {"head.epochs": 3, "head.batch_size": 4, "report": False}
# file -> the run that it is exported from
EXPORTS = {
    **{"exports/whole.stablehlo": "linear", "exports/head.safetensors": "linear"},
    **{"exports/graph.onnx": "mlp", "exports/model.keras": "mlp"},
}
CONVERTED = "exports/converted.safetensors"
CONVERT = ("finetuned/model.safetensors", "--model=lenet5", f"--output={CONVERTED}")
KINDS = ("classes", "labels", "values")
# Of an epoch, which earlier versions do not write.
TIMES = ("time", "seconds", "rows_per_second")


def settings(run: str) -> ConfigDict:
    """The config of the run in a folder."""
    chosen = config.default()
    chosen.update_from_flattened_dict(RUNS[run])
    if run in FIELDS:
        chosen.model.fields = FIELDS[run]
    if run in FEW_SHOT:
        chosen.few_shot = FEW_SHOT[run]
    return chosen


def settings_of_files() -> ConfigDict:
    """The config of the head that is trained on feature files."""
    chosen = config.default()
    chosen.update_from_flattened_dict(OF_FILES)
    return chosen


def feature_files(ending: str) -> tuple[str, str]:
    """The files to train and to validate on."""
    train, validation = (FILES.format(split=split, ending=ending) for split in ("train", "validation"))
    return train, validation


def every_head() -> Iterator[tuple[str, str]]:
    """Each head's name and what it learns to say: all classify and tell labels, those with a regressor learn values."""
    for name in heads.HEADS:
        for kind in KINDS:
            if kind != "values" or hasattr(heads, name.title().replace("_", "") + "Regressor"):
                yield name, kind


def estimator(name: str, kind: str) -> Any:
    """An estimator that is fitted in a moment."""
    found = heads.regressor(name) if kind == "values" else heads.HEADS[name]
    wanted = {"epochs": 2, "max_iter": 3, "hidden": (4,), "scaling": "standard", "n_neighbors": 3}
    return found().set_params(**{key: value for key, value in wanted.items() if key in found().get_params()})


def targets(kind: str, rows: int) -> np.ndarray:
    """Texts, columns of 0 and 1, or values."""
    numbers = np.arange(rows)
    if kind == "classes":
        return np.array([f"class {number % 3}" for number in numbers])
    return np.stack([numbers % 2, numbers % 3 == 0], axis=1) if kind == "labels" else np.sin(numbers)


def curve(workdir: Path) -> np.ndarray:
    """Losses and accuracies of a run, a row an epoch; not the times, which earlier versions had not."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return np.array([[row[name] for name in sorted(row.keys() - set(TIMES))] for row in rows])
