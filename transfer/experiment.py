"""An experiment from its config to its `result.json`: a head on features, or a network trained end to end."""

import hashlib
import inspect
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from transfer import config as settings
from transfer import feature_files, heads, results
from transfer.errors import UsageError
from transfer.training import run_epochs

if TYPE_CHECKING:
    from transfer.features import FeatureStore

# Epochs of a head that are on the device at a time; three keep two cores busy.
AHEAD = 3


def extract(config: ConfigDict, workdir: epath.Path) -> tuple[dict[str, "FeatureStore"], dict[str, Any]]:
    """Fills `workdir/features/train` and `…/validation` (or `config.features`'), exporting them if the config says so.

    Returns the stores by split, and what `result.json` says of the extraction.
    """
    # Here, because a head on two feature files is trained before any of this could be imported.
    from transfer.backbone import build_extractor
    from transfer.data.splits import SPLITS, make_splits
    from transfer.extract import extract_to_store

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
    return stores, results.facts(config, extractor.model, config.tap, seconds)


def _seconds_so_far(folder: epath.Path, seconds: float) -> float:
    """Adds this run's seconds to those of the runs that it goes on from, so that a resumed run reports them all."""
    path = folder / "seconds.json"
    before = json.loads(path.read_text())["seconds_extract"] if path.exists() else 0.0
    settings.write_text(path, json.dumps({"seconds_extract": round(before + seconds, 3)}))
    return round(before + seconds, 3)


def _export(stores: dict[str, "FeatureStore"], target: epath.Path) -> None:
    """Writes `NAME_train.SUFFIX` and `NAME_validation.SUFFIX` in a published file format."""
    for split, store in stores.items():
        path = target.with_name(f"{target.stem}_{split}{target.suffix}")
        feature_files.write(path, store.features[:], store.labels)
        print(f"Exported {len(store)} rows to {path}")


def train(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Runs the experiment to its end, resuming what is there; writes and returns `result.json`."""
    settings.check_use(config)
    if config.seeds is not None:
        from transfer.repeats import over_seeds

        result = over_seeds(config, workdir, _train_once)
    else:
        result = _train_once(config, workdir)
    print(f"Workdir: {workdir}")
    return result


def _train_once(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    if config.train == "head":
        return train_head(config, workdir)
    from transfer.end_to_end import train_network

    return train_network(config, workdir)


def train_head(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Extracts where a store is missing, then trains the config's head on the features."""
    if "," in config.tap:
        raise UsageError(f"config.tap={config.tap!r}: a head is trained on one tap; extract.py stores several")
    _head(config)  # a mistyped head is better named now than after hours
    stores, facts = extract(config, workdir)
    rows = {split: (store.features[:], store.labels) for split, store in stores.items()}
    num_classes = len(stores["train"].class_names)
    before = results.read(workdir)
    result = _fit_head(config, workdir, rows, num_classes, facts)
    if config.get("few_shot"):
        from transfer import comparison

        done = before.get("few_shot", {})
        same = all(done.get(key) == value for key, value in config.few_shot.items())
        result["few_shot"] = done if same else comparison.few_shot(config, rows)
        results.write(workdir, result)
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
    recipe = {key: value for key, value in config.head.items() if key not in ("name", "epochs")}
    program = heads.program(config.head.name)
    unknown = recipe.keys() - inspect.signature(program.make_epoch).parameters.keys()
    if unknown:
        raise UsageError(f"config.head: {config.head.name} has no setting {', '.join(sorted(unknown))}")
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
    run = run_epochs(
        epoch, state, config.head.epochs, workdir, checkpoint_seconds=config.checkpoint_seconds, ahead=AHEAD
    )
    sizes = {f"num_{split}": len(labels) for split, (_, labels) in rows.items()}
    result = results.of_run(run, facts, num_classes=num_classes, **sizes)
    results.write(workdir, result)
    return result
