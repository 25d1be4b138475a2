"""Which images train and which validate: splits as a source names them, stratified fractions, N images a class."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.data import layout
from transfer.data.registry import open_source
from transfer.data.source import Source, select
from transfer.errors import TransferError, UsageError

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


def stratified(
    labels: np.ndarray, fraction: float, seed: int, class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices by scikit-learn's `train_test_split(test_size=fraction, stratify=labels)`.

    Raises TransferError naming a class with a single image, UsageError for a fraction that leaves a side empty
    or smaller than the number of classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(counts) and counts.min() == 1:
        name = _name(int(classes[counts.argmin()]), class_names)
        raise TransferError(
            f"class {name} has one image, which cannot be on both sides of a stratified split; "
            "add images or set config.data.stratify=False"
        )
    return _split(labels, fraction, seed, labels)


def shuffled(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) indices by scikit-learn's `train_test_split(test_size=fraction)`, classes ignored."""
    return _split(labels, fraction, seed, None)


def _split(
    labels: np.ndarray, fraction: float, seed: int, stratify: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise UsageError(f"config.data.validation_fraction={fraction} must lie between 0 and 1")
    rows = np.arange(len(labels))
    try:
        train, validation = train_test_split(rows, test_size=float(fraction), random_state=seed, stratify=stratify)
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
            raise UsageError(f"class {_name(int(label), class_names)} has {len(rows)} images, fewer than the {n} asked")
        chosen.append(rows[:n] if generator is None else generator.permutation(rows)[:n])
    return np.sort(np.concatenate(chosen))


def drawn_alike(draws: Iterable[np.ndarray]) -> bool:
    """Whether several draws are of the same rows, so that what differs between them says nothing of the draws."""
    first, *others = draws
    return bool(others) and all(np.array_equal(first, other) for other in others)


def make_splits(data_config: Mapping[str, Any] | Any) -> tuple[Source, Source]:
    """(train, validation) sources of `config.data`, whose fields and defaults are `DEFAULTS`.

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
    train = open_source(config["source"], config["train"])
    if config["validation"]:
        validation = open_source(config["source"], config["validation"])
        if validation.class_names != train.class_names:
            odd = sorted(set(train.class_names) ^ set(validation.class_names))
            raise TransferError(f"{train.name}: the splits have different classes: {', '.join(odd[:8])}")
    else:
        train, validation = _divide(train, config)
    return (
        _thin(train, config, "train_per_class"),
        _thin(validation, config, "validation_per_class"),
    )


def splits_to_train(data_config: Mapping[str, Any] | Any) -> dict[str, Source]:
    """The sources of `make_splits` by their names, each of them said in the log.

    Raises TransferError for images to train on that are all of one class.
    """
    sources = dict(zip(SPLITS, make_splits(data_config), strict=True))
    for split, source in sources.items():
        logging.info("%s", described(split, source))
    check_classes(sources["train"])
    return sources


def described(split: str, source: Source) -> str:
    """What a side of the data set is: `train: 24 images of 4 classes: 0, 1, 2, 3`; classes without an image are last.

    Long lists are cut.
    """
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    there, absent = ([source.class_names[label] for label in np.flatnonzero(of)] for of in (counts, counts == 0))
    lacking = f"; none of {layout.listed(absent)}" if absent else ""
    return f"{split}: {_many(len(source), 'image')} of {_many(len(there), 'class')}: {layout.listed(there)}{lacking}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def check_classes(source: Source) -> None:
    """Raises TransferError for images to train on that are all of one class."""
    if len(source) and (source.labels == source.labels[0]).all():
        only = _name(int(source.labels[0]), source.class_names)
        raise TransferError(
            f"{source.name}: all images to train on are of one class, {only}; "
            "a classifier tells at least two apart: add a folder for another (config.data.source)"
        )


def _divide(source: Source, config: Mapping[str, Any]) -> tuple[Source, Source]:
    if config["seed"] is None:
        raise UsageError("config.data.seed=None goes with a named validation split; a random one needs a seed")
    fraction, seed = config["validation_fraction"], config["seed"]
    try:
        if config["stratify"]:
            train, validation = stratified(source.labels, fraction, seed, source.class_names)
        else:
            train, validation = shuffled(source.labels, fraction, seed)
    except TransferError as error:
        raise type(error)(f"{source.name}: {error}") from error
    return select(source, train), select(source, validation)


def _thin(source: Source, config: Mapping[str, Any], key: str) -> Source:
    n = config[key]
    if n is None:
        return source
    try:
        return select(source, per_class(source.labels, n, config["seed"], source.class_names))
    except TransferError as error:
        raise type(error)(f"config.data.{key}={n} of {source.name}: {error}") from error


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return str(label) if class_names is None else repr(class_names[label])
