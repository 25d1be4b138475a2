"""Features of a config's images: stores, extracted where missing, exported where the config says so; and baselines."""

import errno
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.data.loader import load_all
from transfer.data.source import BrokenImage, Source
from transfer.data.splits import SPLITS, make_splits, splits_to_train
from transfer.errors import TransferError, UsageError
from transfer.experiment import results, workdirs
from transfer.experiment.backbone import build_extractor
from transfer.extract.extractor import batch_for
from transfer.extract.to_store import extract_to_store
from transfer.runtime import distributed
from transfer.runtime.files import atomic, paths
from transfer.store import feature_files, skipped
from transfer.store import format as store_format
from transfer.store import images as store_images
from transfer.store.store import FeatureStore

# Names of the baselines.
PIXELS, RANDOM = "raw pixels", "{}, random weights"


def extract_features(
    config: ConfigDict,
    workdir: epath.Path,
    check_bytes: Callable[[dict[str, int]], object] | None = None,
    target: str | None = None,
) -> tuple[dict[str, FeatureStore], dict[str, Any]]:
    """Fills the stores of both splits, which `config.json` is then bound to.

    Args:
        config: in which every setting of the head has its value.
        check_bytes: is told the bytes of each split's features before they are computed, and may raise.
        target: what is to be learned, "classes", "labels" or "values"; None: nothing, for now.

    Returns the stores by split, and what `result.json` says of the extraction.
    """
    _check_export(config)
    sources = splits_to_train(config.data, target, config.on_error)
    folder = epath.Path(paths.expand(config.features or workdir / "features"))
    workdirs.check_workdir(config, workdir)  # other settings, which ask for other images, have not changed any
    _check_images(config, workdir, {str(folder / split): source for split, source in sources.items()})
    config.batch_size = batch_for(max(map(len, sources.values())), config.batch_size)
    extractor = build_extractor(config)
    if check_bytes is not None:
        row = max(map(math.prod, extractor.shapes.values())) * (2 if config.features_dtype == "bfloat16" else 4)
        check_bytes({split: len(source) * row for split, source in sources.items()})
    workdirs.bind_workdir(config, workdir)
    start, stores = time.monotonic(), {}
    complete = all(store_format.is_complete(folder / split) for split in sources)
    try:
        with settings.named(config):
            for split, source in sources.items():
                how = config.on_error, split, config.features_dtype
                stores[split] = extract_to_store(extractor, source, folder / split, *how)
    except BrokenImage as error:
        raise BrokenImage(f"{error}; --config.on_error=skip goes on without it") from error
    facts = _check_skipped(stores, sources)
    if config.export and distributed.is_main():
        for split, store in stores.items():
            path = _export_path(config, split)
            feature_files.write(
                path, store.tap(config.tap)[:].astype(np.float32, copy=False), store.labels, store.target
            )
            print(f"Exported {len(store)} rows to {path}")
    config.batch_size = stores["train"].metadata["batch_size"]  # of stores that were there already, that of those
    workdirs.record(config, workdir, workdirs.OF_FEATURES)
    seconds = _seconds_so_far(folder, 0.0 if complete else time.monotonic() - start)
    return stores, results.facts(config, extractor.model, config.tap, seconds) | facts


def _check_export(config: ConfigDict) -> None:
    """Raises UsageError for a wrong suffix, what is in the way, and several taps: better now than after hours."""
    if not config.export:
        return
    feature_files.writer_for(config.export)
    for split in SPLITS:
        atomic.check_output(_export_path(config, split), feature_files.is_written, "a feature file", "config.export")
    if "," in config.tap:
        raise UsageError(f"config.tap={config.tap!r}: a feature file holds one tap; export them one by one")


def _export_path(config: ConfigDict, split: str) -> epath.Path:
    """NAME_train.SUFFIX or NAME_validation.SUFFIX of `config.export`."""
    target = epath.Path(paths.expand(config.export))
    return target.with_name(f"{target.stem}_{split}{target.suffix}")


def _check_images(config: ConfigDict, workdir: epath.Path, sources: Mapping[str, Source]) -> None:
    """Raises TransferError where images are not those that the stores, by their paths, were made from."""
    if not distributed.is_main() or not (changes := store_images.changes(sources)):
        return
    # a head that was trained on stale features is as stale as they are
    other, stale = ("--config.features and ", f"{config.features} and ") if config.features else ("", "")
    raise TransferError(
        f"the images are not those that the features were computed from: {changes}; "
        f"take another {other}--workdir, or delete {stale}{workdir}"
    )


def _check_skipped(stores: Mapping[str, FeatureStore], sources: Mapping[str, Source]) -> dict[str, Any]:
    """The facts in `result.json` on what no store has, skipped images logged; TransferError where a class is lost."""
    facts = {split: lost for split in stores if (lost := skipped.facts(stores[split], sources[split]))}
    if distributed.is_main():
        for split, lost in facts.items():
            logging.warning("%s", skipped.line(split, lost))
    for split in facts:
        skipped.check(split, stores[split], sources[split])
    return ({skipped.KEY: facts} if facts else {}) | skipped.left_out(sources.values())


def _seconds_so_far(folder: epath.Path, seconds: float) -> float:
    """Adds this run's seconds to those of the runs that it goes on from, so that a resumed run reports them all."""
    path = folder / "seconds.json"
    before = float(atomic.read_json(path).get("seconds_extract", 0)) if path.exists() else 0.0
    if not seconds:
        return before
    try:
        if distributed.is_main():
            atomic.write_text(path, json.dumps({"seconds_extract": round(before + seconds, 3)}))
    except OSError as error:
        # finished stores may lie in a folder that is only read, where this run had nothing to do
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
    return round(before + seconds, 3)


def baselines(config: ConfigDict, workdir: epath.Path, num_rows: Mapping[str, int]) -> dict[str, tuple[Any, Any]]:
    """Raw pixels, and each tap with random weights (by `config.seed`): rows to train and to validate on, by name.

    Of several processes all have to call it: they share the extraction, whose stores are WORKDIR/random_features.
    Raises UsageError where a split has not `num_rows` images: some were skipped, and rows would be other images'.
    """
    sources = dict(zip(SPLITS, make_splits(config.data, config.on_error), strict=True))
    if any(len(source) != num_rows[split] for split, source in sources.items()):
        raise UsageError(
            "config.few_shot.baselines compares with the raw pixels of every image, and some were skipped; repair "
            "those images, or leave it out"
        )
    random = config.copy_and_resolve_references()
    random.model.update(weights="random", key=None, prefix=None, ema=False, head=None)
    extractor = build_extractor(random)
    rows: dict[str, list[Any]] = {PIXELS: [], **{RANDOM.format(tap): [] for tap in extractor.shapes}}
    for split, source in sources.items():
        path = workdir / "random_features" / split
        store = extract_to_store(extractor, source, path, config.on_error, split, config.features_dtype)
        for tap in store.taps:
            rows[RANDOM.format(tap)].append(store.tap(tap))
    for images in map(load_all, sources.values()):
        rows[PIXELS].append(images.reshape(len(images), -1) / np.float32(255))
    return {name: (train, validation) for name, (train, validation) in rows.items()}
