"""The whole run of a head, from a config to `result.json`; and how it is trained epoch by epoch.

A head that is fitted in one go, and one whose settings are chosen first, is `transfer.experiment.fit_head`'s.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.errors import UsageError
from transfer.experiment import few_shot, head_data, results, workdirs
from transfer.experiment.evaluate_head import evaluate_params
from transfer.experiment.fit_head import fit_head
from transfer.experiment.head_data import Data
from transfer.experiment.head_settings import HeadSettings, resolve_head
from transfer.heads import scaling
from transfer.heads.targets import flat_features
from transfer.runtime import distributed
from transfer.runtime.memory import limit_heaps
from transfer.training import checkpoints
from transfer.training.loop import run_epochs, whole_epochs
from transfer.training.parallel import placement as placements
from transfer.training.parallel.epochs import MeshTrainer
from transfer.training.parallel.placement import Placement
from transfer.training.parallel.reader import Split
from transfer.training.run import Trainer

# Epochs of a head that are on the device at a time; three keep two cores busy.
AHEAD = 3


def train_head(config: ConfigDict, workdir: epath.Path, files: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains the config's head and returns what `result.json` then holds.

    Args:
        files: to train and to validate on, instead of features of the config's images, which are extracted where a
            store is missing.
    """
    head = resolve_head(config)  # once: nothing below asks the config about the head
    protocol = few_shot.protocol_of(config) if files is None else None

    if files is None:
        from transfer.experiment.extract_features import extract_features

        check_bytes = partial(choose_placement, head, config, workdir)
        stores, facts = extract_features(head.config, workdir, check_bytes, head.target)
        data = head_data.of_stores(stores, head.taps)
    else:
        data, hashes = head_data.read_files(files, head.target, config.batch_size)
        facts = dict.fromkeys(("model", "weights_sha256", "tap")) | {"dataset": " ".join(files), "seconds_extract": 0.0}
        bound = ConfigDict({name: head.config[name] for name in ("seed", "head", "sweep")} | hashes)
        head = dataclasses.replace(head, config=bound)
        workdirs.bind_workdir(bound, workdir)
    head, before = with_epochs_begun(head, workdir), results.read(workdir)
    facts |= data.sizes() | {key: before[key] for key in ("few_shot",) if key in before}
    data.print_shapes()
    if distributed.is_main():  # which writes the result
        facts |= data.misleading()

    swept = {**head.grid, **head.choice}
    with settings.named(head.config.head, "config.head"), settings.named(swept, "config.sweep"):
        if head.program is None:
            result, trained = fit_head(head, data, workdir, facts, before)
        else:
            sizes = {"train": data.train.num_bytes, "validation": data.validation.num_bytes}
            placement = choose_placement(head, config, workdir, sizes, data.train.split().dtype.name)
            scaler, train, validation = scaled(head.settings["scaling"], data)
            trainer, state = start_training(head, config, train, validation, data, placement)
            if not before:  # config.json says what is under way
                workdirs.record(head.config, workdir, workdirs.OF_TRAINING)
            how = {"patience": config.head.patience, "checkpoint_seconds": config.checkpoint_seconds, "ahead": AHEAD}
            rows = len(train.labels)
            run = run_epochs(trainer, state, head.settings["epochs"], workdir, rows=rows, **how)
            trained, keep = results.trained(run, before), config.head.keep
            result = results.of_run(run, facts, before, keep) | {"head": head.name, "settings": head.settings}
            if trained and not placement.single_device:
                result |= {"num_devices": placement.mesh.size, "streamed": placement.stream}
            params, done = run.kept_state(keep)["params"], {} if trained else before
            result |= evaluate_params(head, params, run.kept_epoch(keep), scaler, validation, data, workdir, done)
    workdirs.record(head.config, workdir, workdirs.OF_TRAINING if trained else ["head.epochs"])
    results.write(workdir, result)
    results.print_summary(result)

    if protocol is not None:
        result["few_shot"] = few_shot.few_shot(protocol, head.config, workdir, data)
        workdirs.record(head.config, workdir, ["few_shot"])
        results.write(workdir, result)
    return result


def check(config: ConfigDict, *, of_images: bool) -> None:
    """Raises UsageError for settings that contradict each other, and for values that the head would refuse.

    To be called before anything is written, and before JAX is asked for its devices.
    """
    head = resolve_head(config)
    if of_images and head.target != "classes" and config.get("few_shot"):
        raise UsageError(
            f"config.few_shot counts images a class; with config.head.target={head.target} it has no use: "
            "--config.few_shot=None"
        )
    if config.head.order == "chunks":
        limit_heaps()
    placements.check(config, head.reason_for_in_memory)
    if head.program is None:
        head.check_values()
        return
    with settings.named(head.config.head, "config.head"):
        head.program.check(head.settings)
        scaling.check(head.settings["scaling"])
    if (weights := head.settings["class_weight"]) not in (None, "balanced"):
        raise UsageError(f"config.head.class_weight={weights!r} should be 'balanced', or left out")


def choose_placement(
    head: HeadSettings, config: ConfigDict, workdir: epath.Path, sizes: Mapping[str, int], dtype: str | None = None
) -> Placement:
    """Chooses where to train on splits of so many bytes; see `transfer.training.parallel.placement.choose`."""
    within = distributed.broadcast(checkpoints.newest(workdir)[1] > 0, "stopped within an epoch")
    return placements.choose(config, sizes, dtype or config.features_dtype, within, head.reason_for_in_memory)


def with_epochs_begun(head: HeadSettings, workdir: epath.Path) -> HeadSettings:
    """The head with as many epochs as are there already, where they are more than it asks for.

    An epoch that has been begun cannot be undone either. A head without epochs stays as it is.
    """
    asked, begun = head.settings.get("epochs"), epochs_begun(head, workdir)
    if asked is None or begun <= asked:
        return head
    so_far, rest = f"has trained {begun} epochs", "nothing to do"
    if head.program is not None and checkpoints.newest(workdir)[1]:
        so_far, rest = f"is in epoch {begun}", "that one is finished"
    distributed.print_once(
        f"The head {so_far} already; {asked} asked: {rest}; for a head of {asked} give another --workdir."
    )
    head.config.head.epochs = begun
    return dataclasses.replace(head, settings={**head.settings, "epochs": begun})


def epochs_begun(head: HeadSettings, workdir: epath.Path) -> int:
    """Epochs of the head in a workdir, with one that it was stopped within; 0 where there is none."""
    if head.program is None:
        asked = results.read(workdir).get("asked") or {}
        return asked.get("settings", {}).get("epochs") or 0
    epochs, batches = distributed.broadcast(checkpoints.newest(workdir), "epochs begun")
    return epochs + (batches > 0)


def scaled(name: str | None, data: Data) -> tuple[scaling.Scaler | None, Split, Split]:
    """Rows of the only tap, scaled by those to train on, in memory; as they are where nothing is to be done."""
    if distributed.is_main() and (lost := data.untrained_classes()):
        distributed.print_once(lost)
    train, validation = data.train.split(), data.validation.split()
    if name is None:
        return None, train, validation
    scaling.check(name)
    rows = [flat_features(split.features[:]) for split in (train, validation)]
    scaler = scaling.fit(name, rows[0])
    if distributed.is_main() and (line := scaling.dropped(scaler)):
        logging.warning("%s", line)
    done = [np.asarray(scaling.apply(scaler, array)) for array in rows]
    return scaler, Split(done[0], train.labels[:]), Split(done[1], validation.labels[:])


def start_training(
    head: HeadSettings, config: ConfigDict, train: Split, validation: Split, data: Data, placement: Placement
) -> tuple[Trainer, Any]:
    """Puts the rows where they are trained on; returns what trains the epochs, and the state before the first."""
    assert head.program is not None
    given, key = {name: head.settings[name] for name in head.program.defaults}, head.program.init_key(head.seed)
    state = head.program.init_state(train.num_features, data.num_outputs, key, **given)
    if placement.single_device:
        arrays = [array[:] for split in (train, validation) for array in split]
        weights = _class_weights(head.settings["class_weight"], arrays[1], data.num_outputs)
        return whole_epochs(head.program.make_epoch(*arrays, seed=head.seed, class_weight=weights, **given)), state
    steps = given["batch_size"], given["learning_rate"]
    order = dict(seed=head.seed, order=config.head.order, chunk_rows=data.chunk_rows, window_rows=config.head.window)
    rows = train, validation, data.num_outputs, placement.mesh
    trainer = MeshTrainer(*rows, *steps, stream=placement.stream, **order)
    return trainer, trainer.shard_state(state)


def _class_weights(wanted: str | None, labels: Any, num_classes: int) -> np.ndarray | None:
    """Float32 (C,): N / (C n) of a class of n rows, C those that have any, as scikit-learn's "balanced"; 0 of none."""
    if wanted is None:
        return None
    counts = np.bincount(np.asarray(labels).reshape(-1).astype(np.int64), minlength=num_classes)
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0).astype(np.float32)
