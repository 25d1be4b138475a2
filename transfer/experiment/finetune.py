"""A network trained end to end, or from some layer on: an experiment with `config.train="finetune"`."""

import json
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from transfer.data.frames import needs_resizing
from transfer.data.loader import load_all
from transfer.data.source import Source
from transfer.data.splits import SPLITS, splits_to_train
from transfer.errors import RowsError
from transfer.evaluation import predictions
from transfer.evaluation.predictions import Predictions
from transfer.evaluation.summary import summary
from transfer.experiment import results, workdirs
from transfer.experiment.backbone import build_network, build_preprocessing
from transfer.experiment.evaluate_head import is_evaluated
from transfer.experiment.head_data import Data, Labelled
from transfer.models.registry import flat_state, layers_of
from transfer.preprocess.recipe import Preprocessing
from transfer.store import skipped
from transfer.training import finetune, init_from
from transfer.training.finetune import folded, trained_layers
from transfer.training.loop import run_epochs, whole_epochs
from transfer.training.run import State
from transfer.weights import native


def train_network(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Trains the layers that `config.unfreeze` names (None: all) and a classifier for the data set's classes.

    The last epoch's weights become `workdir/model.safetensors`, which `create_model(ARCH, FILE)` reads, preprocessing
    included. The best epoch's only with `config.finetune.keep="best"`: chosen by the validation images, their accuracy
    flatters.
    """
    finetune.check(config.finetune)
    sources = splits_to_train(config.data, "classes")
    num_classes = len(sources["train"].class_names)
    model: Any = build_network(config, num_classes)
    preprocessing = build_preprocessing(config, model)
    started = init_from.start(config, model, workdir)
    layers = trained_layers(model, config.unfreeze)
    report_layers(config, model, layers, started)
    # one road for both splits: the host's where sizes are mixed, else the device's
    resized = any(needs_resizing(source, preprocessing) for source in sources.values())
    rows = {split: _on_device(source, preprocessing if resized else None) for split, source in sources.items()}
    for images, labels in rows.values():
        print(images.shape, labels.shape)
    with jax.default_matmul_precision(config.precision):
        network = finetune.Network(
            model, preprocessing, config.finetune, len(sources["train"]), trained=layers, resized=resized
        )
        epoch = finetune.make_epoch(network, rows["train"], rows["validation"], config.seed)
        state = network.init_state()
        workdirs.bind_workdir(config, workdir)
        init_from.keep(started, workdir)
        keep, patience, seconds = config.finetune.keep, config.finetune.patience, config.checkpoint_seconds
        how = {"patience": patience, "checkpoint_seconds": seconds, "rows": len(sources["train"])}
        run = run_epochs(whole_epochs(epoch), state, config.finetune.epochs, workdir, **how)
    state = run.kept_state(keep)
    classes = {native.CLASSES_KEY: json.dumps(list(sources["train"].class_names))}
    described = native.describe(model.arch, dict(model.fields), preprocessing, **classes)
    known = results.facts(config, model) | {"unfreeze": config.unfreeze, "trained_layers": len(layers)}
    known |= {"init_from": started} if started is not None else {}
    train, validation = (
        Labelled({"pixels": np.asarray(rows[split][0])}, sources[split].labels, sources[split].ids) for split in SPLITS
    )
    data = Data(train, validation, "classes", np.arange(num_classes), sources["train"].class_names)
    known |= data.sizes() | data.misleading("pixels") | skipped.left_out(sources.values())
    before, path = results.read(workdir), workdir / "model.safetensors"
    result, done = results.of_run(run, known, before, keep), {} if results.trained(run, before) else before
    same = bool(done) and done.get("kept_epoch") == result.get("kept_epoch")
    if not same or not path.exists():  # other runs may have begun with the file, which they know by its hash
        native.write(path, flat_state(network.model(state)), described)
    with jax.default_matmul_precision(config.precision):
        result |= _measured(network, state, rows["validation"], sources["validation"], workdir, done)
    workdirs.record(config, workdir, workdirs.OF_TRAINING)
    results.write(workdir, result)
    return result


def report_layers(
    config: ConfigDict, model: nnx.Module, layers: frozenset[str], started: dict[str, Any] | None
) -> None:
    """Logs what is trained, and warns of layers that stay at random numbers."""
    if config.unfreeze is None:
        return
    everything = layers_of(flat_state(model))
    frozen = [layer for layer in everything if layer not in layers]
    logging.info("%d of %d layers are trained, %s frozen", len(layers), len(everything), folded(frozen) or "none")
    random = started["left"] if started else frozen if config.model.weights == "random" else ()
    if frozen_at_random := [layer for layer in frozen if layer in set(random)]:
        logging.warning("frozen at random numbers: %s", folded(frozen_at_random))


def _on_device(source: Source, preprocessing: Preprocessing | None) -> finetune.LabelledImages:
    """All images of a source and their labels, on the device."""
    start = time.monotonic()
    images = load_all(source, preprocessing)
    logging.info("%s: %d images read in %.1f s", source.name, len(images), time.monotonic() - start)
    return jnp.asarray(images), jnp.asarray(source.labels, jnp.int32)


def _measured(
    network: finetune.Network,
    state: State,
    rows: finetune.LabelledImages,
    source: Source,
    workdir: epath.Path,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes what the network predicts of the validation images; their measures, for the result.

    Those of the result `before` stay, if it has any and the predictions are there.
    """
    path = workdir / predictions.FILE
    if is_evaluated(workdir, before):
        return {"measures": before["measures"]}
    try:
        made = Predictions.of_logits(
            finetune.logits(network, state, rows), source.labels, source.ids, class_names=source.class_names
        )
    except RowsError as error:  # training has gone astray, which its losses say
        logging.warning("no predictions are kept: %s", error)
        path.unlink(missing_ok=True)
        return {}
    made.write(path)
    return {"measures": summary(made)}
