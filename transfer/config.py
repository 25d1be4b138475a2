"""The default experiment, which every file in `configs/` starts from and overrides in a few fields."""

import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from transfer.errors import TransferError, UsageError

# Settings that may change between two runs over one workdir without making its contents wrong.
FREE = ("head.epochs", "checkpoint_seconds", "export", "on_error", "features", "batch_size", "few_shot")

# How a whole network is trained; the learning rate is that of one step of `batch_size` images.
FINETUNE = {
    "epochs": 30,
    "batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "warmup_epochs": 1,
    "weight_decay": 5e-4,
    "label_smoothing": 0.0,
    # Augmentation: mirror half of the images; move each by up to this many pixels both ways.
    "flip": True,
    "shift": 4,
}


def default() -> ConfigDict:
    """The published lab's recipe; the README's table of settings explains each field."""
    return ConfigDict(
        {
            "seed": 0,
            # "head": a head on stored features; "finetune": the whole network, end to end.
            "train": "head",
            "model": {
                "name": "vgg11_slim.cifar10",
                # None: shipped, cached or downloaded; a path: that file; "random": random weights.
                "weights": placeholder(str),
                # Fields of the family (width, hidden, …) where they differ from the record's.
                "fields": {"num_classes": placeholder(int), "width": placeholder(float)},
            },
            "tap": "pre_logits",
            # What follows is the record's where it is None.
            "image_size": placeholder(int),
            "resize": placeholder(str),
            "preprocessing": {
                "resize_to": placeholder(int),
                "interpolation": placeholder(str),
                "antialias": placeholder(bool),
                "channels": placeholder(str),
                "scale": placeholder(float),
                "mean": placeholder(tuple),
                "std": placeholder(tuple),
            },
            # Images a step of extraction.
            "batch_size": 64,
            "dtype": "float32",
            "precision": "highest",
            # A folder of stores to share between workdirs; None: WORKDIR/features.
            "features": placeholder(str),
            # "raise" stops at a broken image; "skip" drops it and its label and records its id.
            "on_error": "raise",
            # Also write the features as NAME_train.p, NAME_validation.p (.npz, .safetensors).
            "export": placeholder(str),
            "data": {
                "source": "digits",
                # Splits as the source names them; without a validation split a fraction of `train` is held out.
                "train": placeholder(str),
                "validation": placeholder(str),
                "validation_fraction": 0.2,
                "stratify": True,
                "train_per_class": placeholder(int),
                "validation_per_class": placeholder(int),
                "seed": 0,
            },
            "head": {"name": "linear", "epochs": 50, "batch_size": 256, "learning_rate": 1e-3},
            "finetune": FINETUNE,
            "checkpoint_seconds": 30.0,
        }
    )


def given(section: ConfigDict) -> dict[str, Any]:
    """The fields of a section that are set, without those left to the record (None)."""
    return {name: value for name, value in section.items() if value is not None}


def check(config: ConfigDict) -> None:
    """Raises UsageError for counts that are no counts, before anything long begins."""
    for name in ("batch_size", "head.epochs", "head.batch_size", "finetune.epochs", "finetune.batch_size"):
        value = config
        for part in name.split("."):
            value = value[part]
        if value < 1:
            raise UsageError(f"config.{name}={value} must be at least 1")


def settle(config: ConfigDict, workdir: epath.Path) -> None:
    """Writes `config.json` on a workdir's first run; on a later one, refuses settings that would contradict it.

    Raises:
        TransferError: the workdir was made with other settings; the message names them.
    """
    path = workdir / "config.json"
    ours = json.loads(config.to_json_best_effort())
    if path.exists():
        before = _flat(json.loads(path.read_text()))
        now = _flat(ours)
        # a setting that the workdir does not have is younger than it, and at its default there
        unused = {"head": "finetune.", "finetune": "head."}.get(config.get("train"), "-")
        differing = [
            f"{name} was {value!r} and is {now.get(name)!r}"
            for name, value in sorted(before.items())
            if not name.startswith((*FREE, unused)) and value != now.get(name)
        ]
        if differing:
            raise TransferError(
                f"{workdir} was made with other settings: {'; '.join(differing)}; "
                f"take another --workdir (--config.features={workdir}/features uses its features again), "
                "or delete this one"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(ours, indent=2) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Writes a small file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat
