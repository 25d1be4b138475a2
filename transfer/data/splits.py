"""Which images train and which validate: splits as a source names them, stratified fractions, N images a class."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.data import layout
from transfer.data.registry import open_source
from transfer.data.source import Source, rows_of_each, select
from transfer.errors import TransferError, UsageError
from transfer.runtime.files.untrusted import prefix_errors

# What `make_splits` returns, in this order.
SPLITS = ("train", "validation")
# Target of a source -> what is known of an image, and of all of them, of one name and of several.
KNOWN = {
    "classes": ("a class", "of {} class", "of {} classes"),
    "labels": ("several labels", "with {} label", "with {} labels"),
    "values": ("values", "with {} value", "with {} values"),
}
# fields of `config.data` and what they are when left out
DEFAULTS: dict[str, Any] = {
    "source": None,
    "columns": None,
    "root": None,
    "ending": None,
    "class_in_name": None,
    "train": None,
    "validation": None,
    "validation_fraction": 0.2,
    "train_per_class": None,
    "validation_per_class": None,
    "stratify": True,
    "seed": 0,
}


def random_split(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    stratify: bool = True,
    class_names: Sequence[str] | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The (train, validation) indices of scikit-learn's `train_test_split(test_size=fraction)`, by class or not.

    Labels of several columns are not stratified. With `groups` (N,), no group is on both sides, and they are those of
    `GroupShuffleSplit`, or by class of a fold of `StratifiedGroupKFold`: its size is then the nearest to be had of 1/2,
    1/3, 1/4, … of the rows.

    Raises TransferError naming a class with a single image, which cannot be stratified, UsageError for a fraction that
    leaves a side empty or smaller than the number of classes.
    """
    from sklearn.model_selection import train_test_split

    stratify = stratify and labels.ndim == 1
    if not 0 < fraction < 1:
        raise UsageError(f"config.data.validation_fraction={fraction} must lie between 0 and 1")
    if groups is not None:
        return _split_of_groups(labels, groups, fraction, seed, stratify)
    classes, counts = np.unique(labels, return_counts=True)
    if stratify and len(counts) and counts.min() == 1:
        raise TransferError(
            f"class {_name(classes[counts.argmin()], class_names)} has one image, which cannot be on both sides of a "
            "stratified split; add images or set config.data.stratify=False"
        )
    rows, strata = np.arange(len(labels)), labels if stratify else None
    try:
        train, validation = train_test_split(rows, test_size=float(fraction), random_state=seed, stratify=strata)
    except ValueError as error:
        named = layout.listed(class_names or list(map(str, classes)), 5)
        unless = f" (classes: {named}); config.data.stratify=False takes no heed of classes" if stratify else ""
        raise UsageError(
            f"config.data.validation_fraction={fraction} of {len(rows)} images: {error}{unless}"
        ) from error
    return train, validation


def _split_of_groups(
    labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int, stratify: bool
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    rows, smaller = np.arange(len(labels)), min(fraction, 1 - fraction)
    try:
        if not stratify:
            return next(GroupShuffleSplit(1, test_size=float(fraction), random_state=seed).split(rows, None, groups))
        folds = StratifiedGroupKFold(round(1 / smaller), shuffle=True, random_state=seed)
        rest, fold = next(fold_of for fold_of in folds.split(rows, labels, groups) if all(map(len, fold_of)))
    except (ValueError, StopIteration) as error:
        why = str(error) or "one side would be empty"
        raise UsageError(
            f"config.data.validation_fraction={fraction} of {len(np.unique(groups))} groups: {why}"
        ) from error
    return (rest, fold) if smaller == fraction else (fold, rest)


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


def make_splits(data_config: Mapping[str, Any] | Any, on_error: str = "raise") -> tuple[Source, Source]:
    """The (train, validation) sources of `config.data`, whose fields and defaults are `DEFAULTS`.

    `validation` names a split of the source; left out, a fraction of the training split validates. Then
    `train_per_class` and `validation_per_class` thin each side out, by `seed`; seed None takes the first of
    each class and leaves no random split. With `on_error` "skip" damaged shards are read as far as they go.
    Raises UsageError for an unknown field or a value that does not fit.
    """
    unknown = sorted(set(data_config) - set(DEFAULTS))
    if unknown:
        raise UsageError(f"config.data has no field {', '.join(unknown)}; there is {', '.join(DEFAULTS)}")
    config = {**DEFAULTS, **dict(data_config.items())}
    if not config["source"]:
        raise UsageError("config.data.source names no data set; for example digits or folder:PATH")
    reading = {name: config[name] for name in ("columns", "root", "ending", "class_in_name")}
    reading["skip_damage"] = on_error == "skip"
    train, seed = open_source(config["source"], config["train"], **reading), config["seed"]
    if config["validation"]:
        validation = open_source(config["source"], config["validation"], **reading)
        _share_classes(train, validation)
    elif not train.class_names:  # without labels, of all of which features are wanted
        return train, select(train, [])
    elif seed is None:
        raise UsageError("config.data.seed=None goes with a named validation split; a random one needs a seed")
    else:
        if train.groups is None and _are_tracks(train.ids[:1000]):
            why = "by their names, images are frames of tracks or videos, of which both sides get near-copies"
            logging.warning("%s: %s; --config.data.columns.group of a table (csv:FILE) parts none", train.name, why)
        with prefix_errors(train.name):
            settings = config["validation_fraction"], seed, config["stratify"], train.class_names, train.groups
            rows = random_split(train.labels, *settings)
        train, validation = (select(train, np.sort(side) if train.in_order else side) for side in rows)
    return _thinned(train, config, "train_per_class"), _thinned(validation, config, "validation_per_class")


def _are_tracks(ids: Sequence[str]) -> bool:
    """Whether most images are numbered as frames are: in one folder 00003_00000 to 00003_00029, 00004_00000 to …"""
    tracks: dict[tuple[str, str], list[int]] = {}
    for match in filter(None, map(re.compile(r"(.*/|)(\d+)_(\d+)\.\w+").fullmatch, ids)):
        tracks.setdefault((match[1], match[2]), []).append(int(match[3]))
    frames = {at: len(each) for at, each in tracks.items() if len(each) == max(each) - min(each) + 1 >= 10}
    folders = {folder for folder, _ in frames}
    return len(frames) > len(folders) and 2 * sum(frames.values()) > len(ids)


def _share_classes(train: Source, validation: Source) -> None:
    """Numbers the classes of both sides alike: those of `train`, or all where classes are but numbers.

    Warns of groups of images that are on both sides. Raises TransferError for a class with a name that `train` lacks.
    """
    groups = [source.groups for source in (train, validation) if source.groups is not None]
    if len(groups) == 2 and len(shared := np.intersect1d(groups[0], groups[1])):
        logging.warning("%s: %d groups of images are in both splits", train.name, len(shared))
    if bool(train.class_names) != bool(validation.class_names):
        raise TransferError(
            f"{train.name}: of one of the splits images lie in class folders, of the other in none; without "
            "config.data.validation a share of the first is held out, and a table (csv:FILE) may name classes of both"
        )
    if train.target != validation.target:
        raise TransferError(
            f"{train.name}: one split has {KNOWN[train.target][0]}, the other {KNOWN[validation.target][0]}"
        )
    names, lacking = train.class_names, sorted(set(validation.class_names).difference(train.class_names))
    if lacking and all(map(str.isdecimal, (*names, *lacking))):
        names = tuple(sorted((*names, *lacking), key=int))
    elif lacking:
        raise TransferError(
            f"{train.name}: the splits have different classes: {layout.listed(lacking)} of the one to validate on "
            f"{'is' if len(lacking) == 1 else 'are'} not among those to train on: {layout.listed(names)}"
        )
    for source in (train, validation):
        if source.class_names != names:
            source.renumber(names)


def _thinned(source: Source, config: Mapping[str, Any], key: str) -> Source:
    n = config[key]
    if n is None:
        return source
    with prefix_errors(f"config.data.{key}={n} of {source.name}"):
        if source.target != "classes":
            raise UsageError(f"images have {source.target}, not a class each")
        return select(source, per_class(source.labels, n, config["seed"], source.class_names))


def splits_to_train(
    data_config: Mapping[str, Any] | Any, target: str | None = None, on_error: str = "raise"
) -> dict[str, Source]:
    """The sources of `make_splits` by their names, each of them described in the log.

    Raises TransferError for images to train on that are all of one class, UsageError where another `target` is to be
    learned than they have. Images without labels are one split, and nothing can be learned.
    """
    train, validation = make_splits(data_config, on_error)
    sources = dict(zip(SPLITS, (train, validation) if len(validation) else (train,), strict=False))
    for split, source in sources.items():
        logging.info("%s", described(split, source))
    if not train.class_names and target is not None:
        raise TransferError(
            f"{train.name}: its images have no labels, for they lie in no class folders; put each into a folder that "
            "is named after its class, list them in a table (csv:FILE), or say where their names have it "
            r"(--config.data.class_in_name='(\w+)\.' of cat.0.jpg); without labels there are but features (extract.py)"
        )
    check_classes(train)
    known = train.target
    if target not in (None, known):
        raise UsageError(
            f"{train.name} has {KNOWN[known][0]} for each image, not {KNOWN[target][0]}; "
            f"--config.head.target={known} learns them, with --config.train=head"
        )
    return sources


def described(split: str, source: Source) -> str:
    """A line about a side of the data: `train: 24 images of 4 classes: 0, 1, 2, 3`; classes without an image are last.

    Long lists are cut.
    """
    if not source.class_names:
        return f"{split}: {len(source)} images without labels"
    counts = rows_of_each(source, source.labels)
    present, absent = ([source.class_names[label] for label in np.flatnonzero(of)] for of in (counts, counts == 0))
    lacking = f"; none of {layout.listed(absent)}" if absent else ""
    images, of = "image" if len(source) == 1 else "images", KNOWN[source.target][1 + (len(present) != 1)]
    return f"{split}: {len(source)} {images} {of.format(len(present))}: {layout.listed(present)}{lacking}"


def check_classes(source: Source) -> None:
    """Raises TransferError for images to train on that are all of one class."""
    if source.target == "classes" and source.class_names and len(source) and (source.labels == source.labels[0]).all():
        raise TransferError(
            f"{source.name}: all images to train on are of one class, {source.class_names[source.labels[0]]!r}; "
            "a classifier tells at least two apart: add a folder for another (config.data.source)"
        )
