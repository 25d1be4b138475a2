"""From a config to the backbone, its preprocessing and the extractor that it names."""

import dataclasses
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from transfer.config import given
from transfer.errors import UsageError
from transfer.extract import Extractor, parse_taps, recipe
from transfer.preprocess import Preprocessing
from transfer.weights import create_model

CLASSIFIER_TAPS = ("fc", "logits")


def build_model(config: ConfigDict, **fields: Any) -> nnx.Module:
    """The config's backbone: `model.weights` is None (catalogue), a path, or "random"."""
    weights = False if config.model.weights == "random" else config.model.weights
    return create_model(config.model.name, weights, seed=config.seed, **{**given(config.model.fields), **fields})


def build_preprocessing(config: ConfigDict, model: nnx.Module) -> Preprocessing:
    """The record's preprocessing with the config's own fields, image size and resize on top."""
    record, own = getattr(model, "record", None), given(config.preprocessing)
    preprocessing = None
    try:
        if own and record is not None:
            preprocessing = dataclasses.replace(record.preprocessing, **own)
        elif own:
            preprocessing = Preprocessing(**{"image_size": config.image_size, **own})
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UsageError(f"config.preprocessing: {str(error).split('() ')[-1]}") from error
    return recipe(model, preprocessing, config.image_size, config.resize)


def build_extractor(config: ConfigDict) -> Extractor:
    """The config's backbone as an extractor of its taps, without a classifier that no tap needs.

    So VGG's pooled features take images of any size, and the smaller file where the catalogue has one.
    """
    classifier = any(tap.endpoint.startswith(CLASSIFIER_TAPS) for tap in parse_taps(config.tap))
    model = build_model(config) if classifier else build_model(config, num_classes=0)
    return Extractor(
        model,
        tap=config.tap,
        batch_size=config.batch_size,
        dtype=config.dtype,
        precision=config.precision,
        preprocessing=build_preprocessing(config, model),
    )
