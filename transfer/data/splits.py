"""Which images train and which validate: splits as a source names them, stratified fractions, N images a class."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.data import layout
from transfer.data.registry import open_source
from transfer.data.source import Source, select
from transfer.errors import TransferError, UsageError
from transfer.runtime.files.untrusted import prefix_errors

# What `make_splits` returns, in this order.
SPLITS = ("train", "validation")
# fields of `config.data` and what they are when left out
DEFAULTS: dict[str, Any] = {
    "source": None,
    "train": None,
    "validation": None,
    "validation_fraction": 0.2,
    "train_per_class": None,
    "validation_per_class": None,
    "stratify": True,
    "seed": 0,
}


def random_split(
    labels: np.ndarray, fraction: float, seed: int, stratify: bool = True, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The (train, validation) indices of scikit-learn's `train_test_split(test_size=fraction)`, by class or not.

    Raises TransferError naming a class with a single image, which cannot be stratified, UsageError for a fraction that
    leaves a side empty or smaller than the number of classes.
    """
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(labels, return_counts=True)
    if stratify and len(counts) and counts.min() == 1:
        raise TransferError(
            f"class {_name(classes[counts.argmin()], class_names)} has one image, which cannot be on both sides of a "
            "stratified split; add images or set config.data.stratify=False"
        )
    if not 0 < fraction < 1:
        raise UsageError(f"config.data.validation_fraction={fraction} must lie between 0 and 1")
    rows, groups = np.arange(len(labels)), labels if stratify else None
    try:
        train, validation = train_test_split(rows, test_size=float(fraction), random_state=seed, stratify=groups)
    except ValueError as error:
        raise UsageError(f"config.data.validation_fraction={fraction} of {len(rows)} images: {error}") from error
    return train, validation


def per_class(labels: np.ndarray, n: int, seed: int | None, class_names: Sequence[str] | None = None) -> np.ndarray:
    """Indices, ascending, of `n` images of each class: drawn by `seed`, or the first `n` where seed is None.

    Raises UsageError where a class has fewer than `n`.
    """
    if n < 1:
        raise UsageError(f"{n} images a class; at least one is needed")
    generator = None if seed is None else np.random.default_rng(seed)
    chosen = []
    for label in range(len(class_names)) if class_names is not None else np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < n:
            raise UsageError(f"class {_name(label, class_names)} has {len(rows)} images, fewer than the {n} asked")
        chosen.append(rows[:n] if generator is None else generator.permutation(rows)[:n])
    return np.sort(np.concatenate(chosen))


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return str(label) if class_names is None else repr(class_names[label])


def drawn_alike(draws: Iterable[np.ndarray]) -> bool:
    """Whether several draws are of the same rows, so that what differs between them says nothing of the draws."""
    first, *others = draws
    return bool(others) and all(np.array_equal(first, other) for other in others)


def make_splits(data_config: Mapping[str, Any] | Any) -> tuple[Source, Source]:
    """The (train, validation) sources of `config.data`, whose fields and defaults are `DEFAULTS`.

    `validation` names a split of the source; left out, a fraction of the training split validates. Then
    `train_per_class` and `validation_per_class` thin each side out, by `seed`; seed None takes the first of
    each class and leaves no random split. Raises UsageError for an unknown field or a value that does not fit.
    """
    unknown = sorted(set(data_config) - set(DEFAULTS))
    if unknown:
        raise UsageError(f"config.data has no field {', '.join(unknown)}; there is {', '.join(DEFAULTS)}")
    config = {**DEFAULTS, **dict(data_config.items())}
    if not config["source"]:
        raise UsageError("config.data.source names no data set; for example digits or folder:PATH")
    train, seed = open_source(config["source"], config["train"]), config["seed"]
    if config["validation"]:
        validation = open_source(config["source"], config["validation"])
        if validation.class_names != train.class_names:
            _share_classes(train, validation)
    elif seed is None:
        raise UsageError("config.data.seed=None goes with a named validation split; a random one needs a seed")
    else:
        with prefix_errors(train.name):
            settings = config["validation_fraction"], seed, config["stratify"], train.class_names
            rows = random_split(train.labels, *settings)
        train, validation = (select(train, np.sort(side) if train.in_order else side) for side in rows)
    return _thinned(train, config, "train_per_class"), _thinned(validation, config, "validation_per_class")


def _share_classes(train: Source, validation: Source) -> None:
    """Numbers the classes of both sides alike: those of `train`, or all where classes are but numbers.

    Raises TransferError for a class with a name that `train` lacks.
    """
    names, lacking = train.class_names, sorted(set(validation.class_names).difference(train.class_names))
    if lacking and all(map(str.isdecimal, (*names, *lacking))):
        names = tuple(sorted((*names, *lacking), key=int))
    elif lacking:
        raise TransferError(
            f"{train.name}: the splits have different classes: {layout.listed(lacking)} of the one to validate on "
            f"{'is' if len(lacking) == 1 else 'are'} not among those to train on: {layout.listed(names)}"
        )
    number = {name: label for label, name in enumerate(names)}
    for source in (train, validation):
        source.labels = np.array([number[name] for name in source.class_names], np.int64)[source.labels]
        source.class_names = names


def _thinned(source: Source, config: Mapping[str, Any], key: str) -> Source:
    n = config[key]
    if n is None:
        return source
    with prefix_errors(f"config.data.{key}={n} of {source.name}"):
        return select(source, per_class(source.labels, n, config["seed"], source.class_names))


def splits_to_train(data_config: Mapping[str, Any] | Any) -> dict[str, Source]:
    """The sources of `make_splits` by their names, each of them described in the log.

    Raises TransferError for images to train on that are all of one class.
    """
    sources = dict(zip(SPLITS, make_splits(data_config), strict=True))
    for split, source in sources.items():
        logging.info("%s", described(split, source))
    check_classes(sources["train"])
    return sources


def described(split: str, source: Source) -> str:
    """A line about a side of the data: `train: 24 images of 4 classes: 0, 1, 2, 3`; classes without an image are last.

    Long lists are cut.
    """
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    present, absent = ([source.class_names[label] for label in np.flatnonzero(of)] for of in (counts, counts == 0))
    lacking = f"; none of {layout.listed(absent)}" if absent else ""
    images, classes = "image" if len(source) == 1 else "images", "class" if len(present) == 1 else "classes"
    return f"{split}: {len(source)} {images} of {len(present)} {classes}: {layout.listed(present)}{lacking}"


def check_classes(source: Source) -> None:
    """Raises TransferError for images to train on that are all of one class."""
    if len(source) and (source.labels == source.labels[0]).all():
        raise TransferError(
            f"{source.name}: all images to train on are of one class, {source.class_names[source.labels[0]]!r}; "
            "a classifier tells at least two apart: add a folder for another (config.data.source)"
        )
