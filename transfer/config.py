"""The default experiment, which every file in `configs/` starts from and overrides in a few fields."""

import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from transfer.errors import UsageError, did_you_mean, similar

Value = TypeVar("Value")

# Settings that say where files lie, which may differ from machine to machine of one run. What is in them may not: the
# fingerprint of the store compares images and weights.
PLACES = ("data.source", "data.root", "model.weights", "model.init_from.weights", "features", "export")

# Settings of `model` that choose among the tensors of a weight file.
IN_FILE = ("key", "prefix", "ema", "head")

# Every setting that some head takes -> its type; a head says which are its own (`transfer.experiment.head_settings`).
# A config file may add those of a head of the user's.
HEAD_SETTINGS: dict[str, type] = {
    # Passes over the training rows (linear, sgd, mlp).
    "epochs": int,
    # Training batch size, in images.
    "batch_size": int,
    # Of Adam (linear, mlp), constant; of SGD (sgd) the first, which falls by a cosine to 0.
    "learning_rate": float,
    # Of SGD (sgd).
    "momentum": float,
    # Of the weights, beside the optimiser's step (linear, sgd, mlp).
    "weight_decay": float,
    # Units of each hidden layer (mlp), such as (512,256).
    "hidden": tuple,
    # Share of the hidden units that a step leaves out (mlp).
    "dropout": float,
    # How features are scaled, fitted on the training rows alone: "standard", "l2", "whiten", … (every head).
    "scaling": str,
    # "balanced": each class counts alike, however many rows it has.
    "class_weight": str,
    # The inverse of the penalty, as in scikit-learn (logistic).
    "C": float,
    # The penalty, as in scikit-learn (ridge).
    "alpha": float,
    # Most steps of L-BFGS (logistic).
    "max_iter": int,
    # How far above its optimum the loss may end (logistic).
    "tol": float,
    # Neighbours that vote (knn).
    "n_neighbors": int,
    # "cosine" or "l2" (knn, nearest_mean).
    "metric": str,
    # A neighbour votes by exp(similarity / temperature); "none": all alike (knn).
    "temperature": float,
}

COUNTS = (
    "batch_size",
    "head.epochs",
    "head.batch_size",
    "head.window",
    "head.patience",
    "mesh.data",
    "mesh.model",
    "finetune.epochs",
    "finetune.batch_size",
    "finetune.patience",
)
# Which epoch's weights a run ends with, the values of `head.keep` and `finetune.keep`.
KEEP = ("last", "best")
WAYS = ("head", "finetune")
# Settings that one way of training has no use for -> what to do instead; refused where they are set.
UNUSED: dict[str, dict[str, str]] = {
    "finetune": {
        "tap": "the network is trained through to its logits",
        "export": "extracting exports features; training writes model.safetensors",
        "dtype": "training is in float32",
        "on_error": "training takes no images that cannot be read",
        "features": "no features are stored",
        "features_dtype": "no features are stored",
        "stream": "no features are stored",
        "few_shot": "it compares stored features, with config.train=head",
        "sweep": "it chooses the settings of a head, with config.train=head",
        "batch_size": "a step of training takes config.finetune.batch_size images",
    },
    "head": {
        "unfreeze": "a head is trained on features of a frozen network; layers are trained with config.train=finetune",
        "model.init_from.model": "it starts a network that is trained, with config.train=finetune",
    },
}


def default() -> ConfigDict:
    """The published lab's recipe. What stands above a field is its meaning in docs/settings.md."""
    return ConfigDict(
        {
            # Decides everything random of training: first weights, order of rows, augmentation.
            "seed": 0,
            # How many runs, with `seed` and `data.seed` counted up, in WORKDIR/seed_N; None: one run, in WORKDIR.
            "seeds": placeholder(int),
            # "head": a head on stored features; "finetune": the network itself, all of it or the layers of `unfreeze`.
            "train": "head",
            # Which layers are trained beside the classifier: "stage4", "block4,block5", "stage4.unit*"; None: all.
            "unfreeze": placeholder(str),
            "model": {
                # A record, such as "resnet50.tv1", an architecture by itself, such as "vgg16_bn", or a repository of a
                # Hub, such as "hf:timm/resnet50.a1_in1k".
                "name": "vgg11_slim.cifar10",
                # None: shipped, cached or downloaded; a path: that file; "random": random weights.
                "weights": placeholder(str),
                # The state dict in a PyTorch file that holds several, such as "teacher"; None: the one that there is.
                "key": placeholder(str),
                # Of the names of the tensors to take, where several networks lie in one file, such as "encoder_q.".
                "prefix": placeholder(str),
                # Whether the moving average of the weights is taken, where a file holds both.
                "ema": False,
                # "file": the classifier is what follows the network in a whole Keras model; None: of its own names.
                "head": placeholder(str),
                # Fields of the family (width, hidden, …) where they differ from the record's.
                "fields": {
                    # Classes of the classifier; None: the record's, or the data set's where the network is trained.
                    "num_classes": placeholder(int),
                    # Channels, as a multiple of the published network's.
                    "width": placeholder(float),
                },
                # Channels of the images: 1 sums the first kernel, for grey ones; None: as in the weights.
                "in_channels": placeholder(int),
                "init_from": {
                    # Another network, whose layers start this one where names and shapes are the same.
                    "model": placeholder(str),
                    # Its weights, as `model.weights`.
                    "weights": placeholder(str),
                    # The state dict in its file, as `model.key`.
                    "key": placeholder(str),
                    # Of the names of its tensors, as `model.prefix`.
                    "prefix": placeholder(str),
                    # Whether the moving average of its weights is taken, as `model.ema`.
                    "ema": False,
                    # What follows it in a whole Keras model, as `model.head`.
                    "head": placeholder(str),
                },
            },
            # Where features are taken: an end point, with ":avg", ":max" or ":flatten" behind it; several are separated
            # by commas.
            "tap": "pre_logits",
            # Height and width of the network's input in pixels; None: the record's.
            "image_size": placeholder(int),
            # "pil": Pillow's own 8-bit result, on the device; "float": without rounding; "draft": "pil" after decoding
            # large JPEGs at 1/2, 1/4 or 1/8 (faster, other pixels); None: the record's.
            "resize": placeholder(str),
            # The record's where it is None.
            "preprocessing": {
                # Length of the shorter side before a centre crop to `image_size`.
                "resize_to": placeholder(int),
                # "bilinear", "bicubic", "lanczos" or "nearest".
                "interpolation": placeholder(str),
                # Whether shrinking widens the kernel; counts for resize="float", Pillow always does.
                "antialias": placeholder(bool),
                # What the network wants: "rgb", "bgr" or "grey".
                "channels": placeholder(str),
                # Multiplies the values 0 to 255 first.
                "scale": placeholder(float),
                # Subtracted then, one value a channel.
                "mean": placeholder(tuple),
                # Divided by at last, one value a channel.
                "std": placeholder(tuple),
            },
            # Extraction batch size, in images.
            "batch_size": 64,
            # What the network computes in: "float32" or "bfloat16".
            "dtype": "float32",
            # Of matrix products: "highest" (float32 by its definition), "high" (within 1e-4 of it) or "default"
            # (whatever the device does fastest).
            "precision": "high",
            # A folder of stores to share between workdirs; None: WORKDIR/features.
            "features": placeholder(str),
            # "raise" stops at a broken image; "skip" drops it and its label and records its id.
            "on_error": "raise",
            # Also write the features as NAME_train.p, NAME_validation.p (.npz, .safetensors).
            "export": placeholder(str),
            "data": _data(),
            "head": _head(),
            "sweep": _sweep(),
            # How the store holds the features: "float32", or "bfloat16", half of it; a head computes in float32.
            "features_dtype": "float32",
            # Whether a head's features are read as training goes instead of held in memory; for head.order="chunks".
            # None: where they would take more than a quarter of a CPU's memory, or half of the accelerators'.
            "stream": placeholder(bool),
            "mesh": {
                # Devices that share the rows of a head. None: all accelerators of all processes; on CPUs one device of
                # each process.
                "data": placeholder(int),
                # Devices that share its classes.
                "model": 1,
            },
            "finetune": _finetune(),
            # Seconds from checkpoint to checkpoint of training.
            "checkpoint_seconds": 30.0,
            # Whether a run ends with WORKDIR/report.html, a page to look at.
            "report": True,
        }
    )


def _data() -> dict[str, Any]:
    """The settings that say which images train and which validate."""
    return {
        # "digits", "folder:PATH" (class folders, or a zip of them), "csv:FILE" (a table of images), "tfds:NAME",
        # "cifar10:PATH", "cifar100:PATH", "npz:PATH", "pickle:PATH", and shards: "wds:PATH", "tfrecord:PATH",
        # "arrayrecord:PATH", "parquet:PATH", "hf:NAME".
        "source": "digits",
        # Which columns of a table say what; None: those that have the usual names; "none": no column.
        "columns": {
            # Where the image is, such as "filename".
            "path": placeholder(str),
            # Its class, such as "breed".
            "label": placeholder(str),
            # Several labels: a column such as "tags", or one of 0 and 1 for each, such as "scratch,dent".
            "labels": placeholder(str),
            # Numbers to predict, such as "age" or "x,y".
            "value": placeholder(str),
            # What `train` and `validation` name.
            "split": placeholder(str),
            # Which images belong together, such as "patient": no group is on both sides of a drawn split.
            "group": placeholder(str),
        },
        # Where the paths in a table begin; None: where the table lies, or a folder beside it.
        "root": placeholder(str),
        # How the names of files end where a table leaves it out, such as ".jpg"; None: as it is found.
        "ending": placeholder(str),
        # Where the name of each file in a folder has its class: a regular expression with one group, as "(\w+)[.]".
        "class_in_name": placeholder(str),
        # The split that trains, as the source names it.
        "train": placeholder(str),
        # The split that validates; without one a fraction of `train` is held out.
        "validation": placeholder(str),
        # The share that is held out.
        "validation_fraction": 0.2,
        # Whether each class has the same share in both.
        "stratify": True,
        # How many training images of each class; None: all.
        "train_per_class": placeholder(int),
        # How many validation images of each class; None: all.
        "validation_per_class": placeholder(int),
        # Draws the images.
        "seed": 0,
    }


def _head() -> dict[str, Any]:
    """Which head, how it is trained on the features, and its own settings."""
    return {
        # "linear" (the published head), "logistic", "ridge", "knn", "nearest_mean", "sgd", "mlp", or one of your own.
        "name": "linear",
        # What is predicted: "classes", one per image; "labels", any number of them per image; "values", numbers.
        "target": "classes",
        # Of an epoch's rows, by seed and epoch alone: "rows" shuffles them all, which is the published recipe;
        # "chunks" shuffles the store's chunks, then the rows inside of windows of chunks, so that they can be streamed.
        "order": "rows",
        # Rows of a window at most; None: as many as are 256 MiB of float32.
        "window": placeholder(int),
        # The epoch whose head is kept (linear, sgd, mlp): "last"; "best": the first of the highest validation accuracy,
        # which then flatters, as the validation images have chosen it.
        "keep": "last",
        # Stop after so many epochs without a higher validation accuracy; None: never.
        "patience": placeholder(int),
        # None: the head's own, which `config.json` then names; "none" where it has one and is to do without.
        **{name: placeholder(kind) for name, kind in HEAD_SETTINGS.items()},
    }


def _sweep() -> dict[str, Any]:
    """Settings of the head to choose among, on rows held out of the training rows (`transfer.sweep`)."""
    return {
        # The share of the training rows that choose; the chosen head is then fitted on all of them.
        "holdout": 0.1,
        # Draws those rows.
        "seed": 0,
        # The measure by which the best is chosen; None: accuracy (or what comes first for what is predicted).
        "measure": placeholder(str),
        # "default": the values that the head's author would try, for settings that are not named below.
        "grid": placeholder(str),
        # Values to try, from the strongest regularisation on: of equals the first is chosen.
        **{name: placeholder(tuple) for name in HEAD_SETTINGS},
    }


def _finetune() -> dict[str, Any]:
    """How a network is trained; the learning rates are those of one step of `batch_size` images."""
    return {
        # Passes over the training images.
        "epochs": 30,
        # Training batch size, in images.
        "batch_size": 128,
        # "sgd" or "adamw".
        "optimizer": "sgd",
        # Of the backbone, after the warm-up; it falls by a cosine to 0.
        "learning_rate": 0.1,
        # Begin with a random classifier; None: where the weights are the catalogue's, not where they are a file
        # that has one for as many classes.
        "new_head": placeholder(bool),
        # Of the new classifier; None: the same.
        "head_learning_rate": placeholder(float),
        # Epochs in which the learning rate rises from 0.
        "warmup_epochs": 1,
        # Of the weights; not of biases and batch norm.
        "weight_decay": 5e-4,
        # The share of a label that goes to all classes alike.
        "label_smoothing": 0.0,
        # "update": batch norm of trained layers normalises by the batch and moves its statistics;
        # "freeze": by the pretrained statistics, which stay. Frozen layers always do the latter.
        "batch_norm": "update",
        # Augmentation: mirror half of the images.
        "flip": True,
        # Augmentation: pad by this many pixels and crop at random.
        "crop": 4,
        # The epoch whose network is kept, as `head.keep`.
        "keep": "last",
        # As `head.patience`; it does not shorten the schedule of the learning rate.
        "patience": placeholder(int),
    }


def given(section: ConfigDict) -> dict[str, Any]:
    """The fields of a section that are set, without those left to the record (None)."""
    return {name: value for name, value in section.items() if value is not None}


def chosen(variants: Mapping[str, Value], name: str) -> Value:
    """The variant of a config file that its argument names, `--config=FILE:NAME`.

    Raises UsageError for an unknown name.
    """
    if name not in variants:
        raise UsageError(f"{name[:60]!r} is none of {', '.join(variants)}{did_you_mean(similar(name, variants))}")
    return variants[name]


@contextmanager
def named(section: Container[str], path: str = "config") -> Iterator[None]:
    """Gives a UsageError that begins with a setting of the section (`tap=...`) its whole name (`config.tap=...`).

    For what is called with the settings of a config, and from Python with the same names.
    """
    try:
        yield
    except UsageError as error:
        setting = re.match(r"(\w+)(=| must | needs )", str(error))
        if setting is None or setting[1] not in section:
            raise
        raise UsageError(f"{path}.{error}") from error


def check(config: ConfigDict) -> None:
    """Raises UsageError for counts that are no counts, and epochs that none can keep, before anything long begins."""
    values = flat(plain(config))
    for name in COUNTS:
        if values.get(name) is not None and values[name] < 1:
            raise UsageError(f"config.{name}={values[name]} must be at least 1")
    for section in ("head", "finetune"):
        if (kept := values.get(f"{section}.keep", KEEP[0])) not in KEEP:
            raise UsageError(f"config.{section}.keep={str(kept)[:60]!r} is not one of {', '.join(KEEP)}")


def check_use(config: ConfigDict) -> None:
    """Raises UsageError for settings that `config.train` has no use for, which would be ignored without a word."""
    if config.train not in WAYS:
        raise UsageError(f"config.train={str(config.train)[:60]!r} is not one of {', '.join(WAYS)}")
    values, defaults = flat(plain(config)), flat(plain(default()))
    unused, resets = [], []
    for name, hint in UNUSED[config.train].items():
        # of a section that every config has, the settings themselves
        within = [key for key in defaults if key.startswith(name + ".")] or [name]
        changed = {key: _part(values, key) for key in within if _part(values, key) != _part(defaults, key)}
        if changed:
            named = ", ".join(f"config.{key}={value!r}" for key, value in changed.items())
            unused.append(f"{named} has no use with config.train={config.train}: {hint}")
            resets += [f"--config.{key}={_part(defaults, key)}" for key in changed]
    if unused:
        raise UsageError(f"{'; '.join(unused)}; to leave out what is set: {' '.join(resets)}")


def plain(config: ConfigDict) -> dict[str, Any]:
    """The settings as JSON values."""
    return json.loads(config.to_json_best_effort())


def common(config: ConfigDict) -> dict[str, Any]:
    """The settings that all processes of a run must have alike, "config.head.epochs" -> 50: all but where files lie."""
    from transfer.data.registry import WITHOUT_PATH

    values = flat(plain(config))
    for name in PLACES:
        if str(values.get(name)).partition(":")[0] not in (*WITHOUT_PATH, "random"):
            values[name] = "PATH"
    return {f"config.{name}": value for name, value in values.items()}


def _part(flat: dict[str, Any], name: str) -> Any:
    """The setting `name`, or those of the section of that name that are set; None for neither."""
    section = {key: value for key, value in flat.items() if key.startswith(name + ".") and value is not None}
    return flat.get(name, section or None)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its whole name: "head.epochs" -> 50."""
    settings = {}
    for name, value in tree.items():
        settings.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return settings
