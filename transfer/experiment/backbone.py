"""From a config to the backbone, its preprocessing and the extractor that it names."""

import dataclasses
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from transfer.config import IN_FILE, given, named
from transfer.errors import UsageError
from transfer.extract.extractor import Extractor, resolve_preprocessing
from transfer.extract.taps import parse_taps
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import channels
from transfer.weights.create import create_model

CLASSIFIER_TAPS = ("fc", "logits")


def build_model(config: ConfigDict, **fields: Any) -> nnx.Module:
    """The config's backbone: `model.weights` is None (catalogue), a path, or "random".

    With `model.init_from` it is random, to be filled from the other network (`transfer.training.init_from`).
    """
    weights, filled_later = config.model.weights, config.model.init_from.get("model")
    if filled_later and weights not in (None, "random"):
        raise UsageError(f"config.model.weights={weights!r} and config.model.init_from both fill the model; take one")
    weights = False if filled_later or weights == "random" else weights
    try:
        own = {name: config.model.get(name) for name in ("in_channels", *IN_FILE)}
        own |= {**given(config.model.fields), **fields}
        model: Any = create_model(config.model.name, weights, seed=config.seed, **own)
        if model.in_channels not in channels.MADE:
            raise UsageError(
                f"in_channels={model.in_channels} is for Python; a run's images have 3 channels, grey ones 1"
            )
        return model
    except UsageError as error:
        raise UsageError(f"config.model: {error}") from error


def build_network(config: ConfigDict, num_classes: int) -> nnx.Module:
    """The config's network, to be trained: `build_model` with a new classifier, as `finetune.new_head` has it.

    None there means new where the weights are the catalogue's, which were trained on other classes even if they are as
    many; a file of the user's own keeps its classifier, if that has as many classes.
    """
    is_new, of_catalogue = config.finetune.new_head, config.model.weights is None
    return build_model(config, num_classes=num_classes, new_classifier=of_catalogue if is_new is None else is_new)


def build_preprocessing(config: ConfigDict, model: nnx.Module) -> Preprocessing:
    """The model's own preprocessing with the config's fields, image size and resize on top.

    The model's own is that of its weight file, if we wrote it, or of its record.
    """
    base, own, preprocessing = getattr(model, "preprocessing", None), given(config.preprocessing), None
    made = channels.MADE[getattr(model, "in_channels", channels.COLOURS)]
    try:
        with named(own, "config.preprocessing"), named(config):
            if own and base is not None:
                preprocessing = dataclasses.replace(base, **own)
            elif own:
                preprocessing = Preprocessing(**{"image_size": config.image_size, "channels": made, **own})
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UsageError(f"config.preprocessing: {str(error).split('() ')[-1]}") from error
    with named(config):
        return resolve_preprocessing(model, preprocessing, config.image_size, config.resize)


def build_frozen(config: ConfigDict) -> tuple[nnx.Module, Preprocessing]:
    """The config's backbone, without a classifier that no tap of the config needs, and its preprocessing.

    So VGG's pooled features take images of any size, and the smaller file where the catalogue has one.
    """
    if config.model.init_from.get("model"):
        raise UsageError(
            "config.model.init_from starts a network that is trained (config.train=finetune), not features"
        )
    with named(config):
        classifier = any(tap.endpoint.startswith(CLASSIFIER_TAPS) for tap in parse_taps(config.tap))
    model = build_model(config) if classifier else build_model(config, num_classes=0)
    return model, build_preprocessing(config, model)


def build_extractor(config: ConfigDict) -> Extractor:
    """The config's frozen backbone as an extractor of its taps."""
    model, preprocessing = build_frozen(config)
    with named(config):
        return Extractor(
            model,
            tap=config.tap,
            batch_size=config.batch_size,
            dtype=config.dtype,
            precision=config.precision,
            preprocessing=preprocessing,
        )
