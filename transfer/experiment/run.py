"""An experiment from its config to its `result.json`: a head on features, or a network trained end to end."""

import errno
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.data.source import BrokenImage, Source
from transfer.data.splits import SPLITS, splits_to_train
from transfer.errors import TransferError, UsageError
from transfer.experiment import fit_head, head_data, head_settings, results, workdirs
from transfer.experiment import train_head as head_training
from transfer.experiment.few_shot import protocol
from transfer.experiment.seeds import over_seeds
from transfer.report import run_data
from transfer.runtime import distributed
from transfer.runtime.files import atomic, outputs, paths
from transfer.store import feature_files, skipped
from transfer.store import format as store_format
from transfer.store import images as store_images
from transfer.store.store import FeatureStore


def extract(config: ConfigDict, workdir: epath.Path) -> tuple[dict[str, FeatureStore], dict[str, Any]]:
    """Fills `workdir/features/train` and `…/validation` (or `config.features`'), exporting them if the config says so.

    Returns the stores by split, and what `result.json` says of the extraction. One run at a time may do so.
    """
    config = head_settings.resolve(config)
    with workdirs.lock_workdir(workdir):
        found = _extract(config, workdir)
        workdirs.record(config, workdir, workdirs.OF_FEATURES)
        return found


def _extract(
    config: ConfigDict, workdir: epath.Path, planned: Callable[[dict[str, int]], object] | None = None
) -> tuple[dict[str, FeatureStore], dict[str, Any]]:
    """`planned` is told the bytes of each split's features before they are computed, and may raise.

    The batch size of `config` becomes that of stores that are there already.
    """
    # Here, because a head on two feature files is trained before any of this could be imported.
    from transfer.experiment.backbone import build_extractor
    from transfer.extract.to_store import extract_to_store

    if config.export:
        # a wrong suffix, and what is in the way, is better said now than after hours
        feature_files.writer_for(config.export)
        for split in SPLITS:
            outputs.check_output(_exported(config, split), feature_files.is_written, "a feature file", "config.export")
        if "," in config.tap:
            raise UsageError(f"config.tap={config.tap!r}: a feature file holds one tap; export them one by one")
    sources = splits_to_train(config.data)
    folder = epath.Path(paths.expand(config.features or workdir / "features"))
    workdirs.check_workdir(config, workdir)  # other settings, which ask for other images, have not changed any
    _check_images(config, workdir, {str(folder / split): source for split, source in sources.items()})
    extractor = build_extractor(config)
    if planned is not None:
        row = max(head_training.row_bytes(shape, config.features_dtype) for shape in extractor.shapes.values())
        planned({split: len(source) * row for split, source in sources.items()})
    workdirs.bind_workdir(config, workdir)
    start = time.monotonic()
    there = all(store_format.is_complete(folder / split) for split in sources)
    try:
        with settings.named(config):
            stores = {
                split: extract_to_store(
                    extractor, source, folder / split, config.on_error, split, config.features_dtype
                )
                for split, source in sources.items()
            }
    except BrokenImage as error:
        raise BrokenImage(f"{error}; --config.on_error=skip goes on without it") from error
    left_out = _skipped(stores, sources)
    if config.export and distributed.is_main():
        _export(stores, config)
    config.batch_size = stores["train"].metadata["batch_size"]
    seconds = _seconds_so_far(folder, 0.0 if there else time.monotonic() - start)
    return stores, results.facts(config, extractor.model, config.tap, seconds) | left_out


def _check_images(config: ConfigDict, workdir: epath.Path, sources: Mapping[str, Source]) -> None:
    """Raises TransferError where images are not those that the stores, by their paths, were made from."""
    if not distributed.is_main() or not (changes := store_images.changes(sources)):
        return
    # a head that was trained on stale features is as stale as they are
    own = f"--workdir, or delete {workdir}"
    shared = f"--config.features and --workdir, or delete {config.features} and {workdir}"
    raise TransferError(
        f"the images are not those that the features were computed from: {changes}; "
        f"take another {shared if config.features else own}"
    )


def _skipped(stores: Mapping[str, FeatureStore], sources: Mapping[str, Source]) -> dict[str, Any]:
    """What `result.json` says of images that were skipped, which is said; TransferError where a class is lost."""
    found = {split: facts for split in stores if (facts := skipped.facts(stores[split], sources[split]))}
    if distributed.is_main():
        for split, facts in found.items():
            logging.warning("%s", skipped.line(split, facts))
    for split in found:
        skipped.check(split, stores[split], sources[split])
    return {skipped.KEY: found} if found else {}


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


def _export(stores: dict[str, FeatureStore], config: ConfigDict) -> None:
    """Writes the features in a published file format."""
    for split, store in stores.items():
        path = _exported(config, split)
        feature_files.write(path, store.tap(config.tap)[:].astype(np.float32, copy=False), store.labels)
        print(f"Exported {len(store)} rows to {path}")


def _exported(config: ConfigDict, split: str) -> epath.Path:
    """NAME_train.SUFFIX or NAME_validation.SUFFIX of `config.export`."""
    target = epath.Path(paths.expand(config.export))
    return target.with_name(f"{target.stem}_{split}{target.suffix}")


def train(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Runs the experiment to its end, resuming what is there; writes and returns `result.json`."""
    settings.check_use(config)
    if config.train != "head" and distributed.process_count() > 1:
        raise UsageError(
            f"config.train={config.train} runs in one process, on all of its devices; use --num_processes=1"
        )
    with workdirs.lock_workdir(workdir):
        once = config.seeds is None
        result = _train_once(config, workdir) if once else over_seeds(config, workdir, _train_once)
        _report(config, workdir)
    distributed.print_once(f"Workdir: {workdir}")
    return result


def _report(config: ConfigDict, workdir: epath.Path) -> None:
    """Writes `WORKDIR/report.html`, and the features for TensorBoard's projector.

    Whatever goes wrong there is a line, for the run itself has ended well.
    """
    if not config.get("report", True) or not distributed.is_main():
        return
    try:
        from transfer.report import board_projector, page

        # both look at the same rows and images, which are read once
        (run,) = run_data.load([str(workdir)])
        board_projector.write(run)
        path = page.write([run], workdir / page.FILE, page.Options())
    except Exception as error:  # a page is worth no run
        logging.debug("the report", exc_info=error)
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        logging.warning("no report was written (%s); `python -m transfer report %s` tries again", why, workdir)
        return
    distributed.print_once(f"Report: {path}")


def _train_once(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    with workdirs.unless_refused(workdir):
        if config.train == "head":
            return train_head(config, workdir)
        from transfer.experiment.finetune import train_network

        return train_network(config, workdir)


def train_head(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Extracts where a store is missing, then trains the config's head on the features."""
    config = head_settings.resolve(config)  # a mistyped head is better named now than after hours
    if config.head.target != "classes":
        raise UsageError(f"config.head.target={config.head.target} is for --training_file; images have a class each")
    head_training.check(config)
    few_shot = protocol.protocol_of(config)
    stores, facts = _extract(config, workdir, partial(head_training.plan, config, workdir))
    before = results.read(workdir)
    if "few_shot" in before:  # it is of the features, whatever the head: it stays until another one is there
        facts["few_shot"] = before["few_shot"]
    data = head_data.of_stores(stores, [tap.strip() for tap in config.tap.split(",")])
    result = _fit(config, workdir, data, facts, config.batch_size)
    workdirs.record(config, workdir, workdirs.OF_FEATURES)
    if few_shot is not None:
        result["few_shot"] = protocol.few_shot(few_shot, config, workdir, data)
        workdirs.record(config, workdir, ["few_shot"])
        results.write(workdir, result)
    return result


def _fit(
    config: ConfigDict,
    workdir: epath.Path,
    data: head_data.Data,
    facts: dict[str, Any],
    chunk_rows: int,
    identity: ConfigDict | None = None,
) -> dict[str, Any]:
    """Epoch by epoch where the head and the config allow it, else in one go; the fewest epochs are those done already.

    `identity` is what binds the workdir, where `config` has not been settled.
    """
    if identity is not None:
        workdirs.bind_workdir(identity, workdir)
    bound = config if identity is None else identity
    config.head.epochs = bound.head.epochs = head_training.epochs(config, workdir)
    with (
        settings.named(config.head, "config.head"),
        settings.named(head_settings.grid(config), "config.sweep"),
    ):
        if not head_training.in_one_go(config):
            return head_training.fit(config, workdir, data, facts, chunk_rows, bound)
        return fit_head.fit(config, workdir, data, facts, bound)


def train_on_files(config: ConfigDict, training_file: str, validation_file: str, workdir: epath.Path) -> dict[str, Any]:
    """Trains the config's head on two feature files, as the published `feature_extraction.py` does."""
    config = head_settings.resolve(config)
    with config.unlocked():
        config.tap = None
    head_training.check(config)
    with workdirs.lock_workdir(workdir):
        distributed.print_once(f"Training file {training_file}")
        distributed.print_once(f"Validation file {validation_file}")
        target = config.head.target
        rows = {
            split: feature_files.read(path, target)
            for split, path in (("train", training_file), ("validation", validation_file))
        }
        hashes = {
            "training": feature_files.content_hash(*rows["train"]),
            "validation": feature_files.content_hash(*rows["validation"]),
        }
        _check_same_rows(hashes, (training_file, validation_file))
        identity = ConfigDict({"seed": config.seed, "head": config.head, "sweep": config.sweep, **hashes})
        facts = {
            "model": None,
            "weights_sha256": None,
            "tap": None,
            "dataset": f"{training_file} {validation_file}",
            "seconds_extract": 0.0,
        }
        result = _fit(config, workdir, head_data.of_files(rows, target), facts, config.batch_size, identity)
        _report(config, workdir)
    distributed.print_once(f"Workdir: {workdir}")
    return result


def _check_same_rows(hashes: Mapping[str, str], paths: Sequence[str]) -> None:
    """Raises TransferError unless all processes have read the same rows, from whatever files."""
    for (name, ours), path in zip(hashes.items(), paths, strict=True):
        other = distributed.broadcast(ours, "rows") != ours
        reason = f"has --{name}_file={path}, whose rows are not those of process 0; give all processes the same files"
        distributed.fail_everywhere(reason if other else "", "other rows")
