"""An experiment from its config to its `result.json`: a head on features, or a network trained end to end."""

import hashlib
import inspect
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer import feature_files
from transfer.backbone import build_extractor, build_model, build_preprocessing
from transfer.data import Source
from transfer.data.splits import make_splits
from transfer.errors import UsageError
from transfer.extract import extract_to_store
from transfer.features import FeatureStore
from transfer.training import Run, run_epochs, weights_of

SPLITS = ("train", "validation")


def extract(config: ConfigDict, workdir: epath.Path) -> tuple[dict[str, FeatureStore], dict[str, Any]]:
    """Fills `workdir/features/train` and `…/validation` (or `config.features`'), exporting them if the config says so.

    Returns the stores by split, and what `result.json` says of the extraction.
    """
    if config.export:
        feature_files.writer_for(config.export)  # a wrong suffix is better said now than after hours
        if "," in config.tap:
            raise UsageError(f"config.tap={config.tap!r}: a feature file holds one tap; export them one by one")
    sources = dict(zip(SPLITS, make_splits(config.data), strict=True))
    extractor = build_extractor(config)
    settings.settle(config, workdir)
    start = time.monotonic()
    folder = epath.Path(config.features or workdir / "features")
    stores = {
        split: extract_to_store(extractor, source, folder / split, config.on_error, split)
        for split, source in sources.items()
    }
    if config.export:
        _export(stores, epath.Path(config.export))
    seconds = _seconds_so_far(folder, time.monotonic() - start)
    return stores, _facts(config, extractor.model, config.tap, seconds)


def _facts(config: ConfigDict, model: Any, tap: str | None = None, seconds: float = 0.0) -> dict[str, Any]:
    return {
        "model": config.model.name,
        "weights_sha256": getattr(model, "weights_sha256", None),
        "tap": tap,
        "dataset": config.data.source,
        "seconds_extract": seconds,
    }


def _seconds_so_far(folder: epath.Path, seconds: float) -> float:
    """Adds this run's seconds to those of the runs that it goes on from, so that a resumed run reports them all."""
    path = folder / "seconds.json"
    before = json.loads(path.read_text())["seconds_extract"] if path.exists() else 0.0
    settings.write_text(path, json.dumps({"seconds_extract": round(before + seconds, 3)}))
    return round(before + seconds, 3)


def _export(stores: dict[str, FeatureStore], target: epath.Path) -> None:
    """Writes `NAME_train.SUFFIX` and `NAME_validation.SUFFIX` in a published file format."""
    for split, store in stores.items():
        path = target.with_name(f"{target.stem}_{split}{target.suffix}")
        feature_files.write(path, store.features[:], store.labels)
        print(f"Exported {len(store)} rows to {path}")


def train(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Runs the experiment to its end, resuming what is there; writes and returns `result.json`."""
    known = {"head": train_head, "finetune": train_network}
    if config.train not in known:
        raise UsageError(f"config.train={config.train!r} is not one of {', '.join(known)}")
    result = known[config.train](config, workdir)
    print(f"Workdir: {workdir}")
    return result


def train_head(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Extracts where a store is missing, then trains the config's head on the features."""
    if "," in config.tap:
        raise UsageError(f"config.tap={config.tap!r}: a head is trained on one tap; extract.py stores several")
    _head(config)  # a mistyped head is better named now than after hours
    stores, facts = extract(config, workdir)
    rows = {split: (store.features[:], store.labels) for split, store in stores.items()}
    num_classes = len(stores["train"].class_names)
    before = _read_result(workdir)
    result = _fit_head(config, workdir, rows, num_classes, facts)
    if config.get("few_shot"):
        from transfer import comparison

        done = before.get("few_shot", {})
        same = all(done.get(key) == value for key, value in config.few_shot.items())
        result["few_shot"] = done if same else comparison.few_shot(config, rows)
        _write_result(workdir, result)
        print(comparison.table(result["few_shot"]))
    return result


def train_on_files(config: ConfigDict, training_file: str, validation_file: str, workdir: epath.Path) -> dict[str, Any]:
    """Trains the config's head on two feature files, as the published `feature_extraction.py` does."""
    print("Training file", training_file)
    print("Validation file", validation_file)
    rows = {"train": feature_files.read(training_file), "validation": feature_files.read(validation_file)}
    identity = ConfigDict(
        {
            "seed": config.seed,
            "head": config.head,
            "training": _content_hash(*rows["train"]),
            "validation": _content_hash(*rows["validation"]),
        }
    )
    facts = {
        "model": None,
        "weights_sha256": None,
        "tap": None,
        "dataset": f"{training_file} {validation_file}",
        "seconds_extract": 0.0,
    }
    result = _fit_head(config, workdir, rows, int(rows["train"][1].max()) + 1, facts, identity)
    print(f"Workdir: {workdir}")
    return result


def _content_hash(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _head(config: ConfigDict) -> tuple[Any, dict[str, Any]]:
    """The program of the config's head and its settings; UsageError for one that is not known."""
    from transfer.heads import HEADS

    recipe = {key: value for key, value in config.head.items() if key not in ("name", "epochs")}
    name = config.head.name
    program: Any = getattr(HEADS[name], "program", None)
    if program is None:
        raise UsageError(f"config.head.name={name!r} has no program for train.py; use transfer.heads.HEADS[{name!r}]")
    unknown = recipe.keys() - inspect.signature(program.make_epoch).parameters.keys()
    if unknown:
        raise UsageError(f"config.head: {name} has no setting {', '.join(sorted(unknown))}")
    return program, recipe


def _fit_head(
    config: ConfigDict,
    workdir: epath.Path,
    rows: dict[str, tuple[np.ndarray, np.ndarray]],
    num_classes: int,
    facts: dict[str, Any],
    identity: ConfigDict | None = None,
) -> dict[str, Any]:
    """Trains on the rows; `identity` is what the workdir is bound to, where nothing has bound it yet."""
    program, recipe = _head(config)
    for features, labels in rows.values():
        print(features.shape, labels.shape)
    epoch = program.make_epoch(*rows["train"], *rows["validation"], seed=config.seed, **recipe)
    num_features = int(np.prod(rows["train"][0].shape[1:]))
    state = program.init_state(num_features, num_classes, program.init_key(config.seed))
    if identity is not None:
        settings.settle(identity, workdir)
    run = run_epochs(epoch, state, config.head.epochs, workdir, checkpoint_seconds=config.checkpoint_seconds)
    sizes = {f"num_{split}": len(labels) for split, (_, labels) in rows.items()}
    result = _result(run, facts, num_classes=num_classes, **sizes)
    _write_result(workdir, result)
    return result


def train_network(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Trains the whole network end to end; the last epoch's weights become `workdir/model.safetensors`.

    Not the best epoch's: chosen by the validation images, their accuracy would flatter.
    """
    from transfer import finetune
    from transfer.models.registry import flat_state
    from transfer.weights import catalogue, native

    sources = dict(zip(SPLITS, make_splits(config.data), strict=True))
    num_classes = len(sources["train"].class_names)
    model = build_model(config, num_classes=num_classes)
    preprocessing = build_preprocessing(config, model)
    rows = {split: _on_device(source) for split, source in sources.items()}
    for images, labels in rows.values():
        print(images.shape, labels.shape)
    with jax.default_matmul_precision(config.precision):
        network = finetune.Network(model, preprocessing, config.finetune, len(sources["train"]))
        epoch = finetune.make_epoch(network, rows["train"], rows["validation"], config.seed)
        state = network.init_state()
        settings.settle(config, workdir)
        run = run_epochs(epoch, state, config.finetune.epochs, workdir, checkpoint_seconds=config.checkpoint_seconds)
    arrays = flat_state(network.model(weights_of(run.state)))
    fields = {**settings.given(config.model.fields), "num_classes": num_classes}
    described = native.describe(*catalogue.architecture(config.model.name, fields))
    native.write(workdir / "model.safetensors", arrays, described)
    sizes = {f"num_{split}": len(source) for split, source in sources.items()}
    result = _result(run, _facts(config, model), num_classes=num_classes, **sizes)
    _write_result(workdir, result)
    return result


def _on_device(source: Source) -> tuple[jax.Array, jax.Array]:
    from transfer.data.loader import load_all

    start = time.monotonic()
    images = load_all(source)
    logging.info("%s: %d images read in %.1f s", source.name, len(images), time.monotonic() - start)
    return jnp.asarray(images), jnp.asarray(source.labels, jnp.int32)


def _result(run: Run, facts: dict[str, Any], **sizes: int) -> dict[str, Any]:
    last, best = run.history[-1], run.history[run.best_epoch - 1]
    return {
        **facts,
        **sizes,
        "train_loss": last["loss"],
        "train_accuracy": last["accuracy"],
        "validation_loss": last["validation_loss"],
        "validation_accuracy": last["validation_accuracy"],
        "best_validation_accuracy": best["validation_accuracy"],
        "best_epoch": run.best_epoch,
        "epochs": run.epoch,
        "seconds_train": round(run.seconds, 3),
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
    }


def _read_result(workdir: epath.Path) -> dict[str, Any]:
    path = workdir / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write_result(workdir: epath.Path, result: dict[str, Any]) -> None:
    settings.write_text(workdir / "result.json", json.dumps(result, indent=2) + "\n")
