"""Starts a network from another one: layers of the same name and shapes are copied, the rest stays as it is.

Simonyan & Zisserman (arXiv:1409.1556, section 3.1) trained the shallow net A (VGG11) first and began the deeper ones
with its first four convolutions and its three fully connected layers, the rest random. By name and shape a little more
fits: all eight convolutions of VGG11 (`block1.conv1`, `block2.conv1`, `block3.conv1`, `block3.conv2`, … `block5.conv2`)
have a counterpart in VGG16; `logits` only where the classes are as many.
"""

import json
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from transfer import config as settings
from transfer.errors import UsageError
from transfer.models.registry import flat_state, load_flat_state
from transfer.runtime.files import atomic
from transfer.training import checkpoints
from transfer.training.finetune import folded
from transfer.weights.create import create_model


def copy_matching(source: nnx.Module, model: nnx.Module, name: str) -> dict[str, Any]:
    """Copies into `model`, in place, each layer of `source` (called `name`) that has all its names and shapes.

    A layer is copied whole or not at all: never a kernel without its bias, or a batch norm's scale without its mean.

    Returns the report, JSON values: `model`, the name, and `weights_sha256` of its file, None for random weights; how
    many `arrays` were copied; the layers, by dotted path, that were `copied`, those of the new network that are `left`
    as they were, and those of the other that are `unused`.
    """
    theirs, ours = _by_layer(source), _by_layer(model)
    shapes, our_shapes = (jax.tree.map(np.shape, layers) for layers in (theirs, ours))
    fits = {layer for layer in ours if our_shapes[layer] == shapes.get(layer)}
    arrays = {path: array for layer in ours for path, array in (theirs if layer in fits else ours)[layer].items()}
    load_flat_state(model, arrays)
    return {
        "model": name,
        "weights_sha256": getattr(source, "weights_sha256", None),
        "arrays": sum(len(ours[layer]) for layer in fits),
        "copied": [layer for layer in ours if layer in fits],
        "left": [layer for layer in ours if layer not in fits],
        "unused": [layer for layer in theirs if layer not in fits],
    }


def _by_layer(model: nnx.Module) -> dict[str, dict[str, Any]]:
    """The arrays of each layer, by its dotted path."""
    layers: dict[str, dict[str, Any]] = {}
    for path, array in flat_state(model).items():
        layers.setdefault(path.rpartition(".")[0], {})[path] = array
    return layers


def start(config: ConfigDict, model: nnx.Module, workdir: epath.Path) -> dict[str, Any] | None:
    """Fills `model` from the network of `config.model.init_from`; None where the config has none.

    Returns the report for `result.json`, which `keep` writes to `workdir/init_from.json`, too. Where the workdir has a
    checkpoint, training goes on from that: nothing is copied, and the other network's file is not needed.

    Raises UsageError for networks without a common layer, TransferError for weights of another network.
    """
    if not config.model.init_from.get("model"):
        return None
    path = workdir / "init_from.json"
    if any(checkpoints.newest(workdir)) and path.exists():
        logging.info(
            "init_from %s: copied when this run began; going on from its checkpoint", config.model.init_from.model
        )
        return atomic.read_json(path)
    name, ours = config.model.init_from.model, config.model.name
    report = copy_matching(_source(config), model, name)
    copied, left, unused = (folded(report[layers]) or "nothing" for layers in ("copied", "left", "unused"))
    if not report["copied"]:
        raise UsageError(
            f"config.model.init_from: {name} and {ours} have no layer of the same name and shape; "
            f"{name} has {unused}, {ours} has {left}"
        )
    text = "init_from %s: %d arrays copied (%s); left random in %s: %s; unused: %s"
    logging.info(text, name, report["arrays"], copied, ours, left, unused)
    return report


def keep(report: dict[str, Any] | None, workdir: epath.Path) -> None:
    """Writes `workdir/init_from.json`, for the runs that go on from this one."""
    if report is not None:
        atomic.write_text(workdir / "init_from.json", json.dumps(report, indent=2) + "\n")


def _source(config: ConfigDict) -> nnx.Module:
    """The network that is copied from."""
    chosen, fields = config.model.init_from, settings.given(config.model.fields)
    choices: dict[str, Any] = {name: chosen[name] for name in settings.IN_FILE if chosen.get(name)}
    try:
        if chosen.get("weights") == "random":  # of the same width, or nothing would fit
            return create_model(chosen.model, False, seed=config.seed, **fields, **choices)
        return create_model(chosen.model, chosen.get("weights"), **choices)
    except UsageError as error:
        raise UsageError(f"config.model.init_from: {error}") from error
