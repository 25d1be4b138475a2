"""Keras on its JAX backend: `keras.applications` filled with our weights, `predict_on_batch`."""

import os
from typing import Any

from transfer.bench.peers.case import Case
from transfer.bench.worker import Prepared, Skipped
from transfer.weights import catalogue
from transfer.weights.names import name_map

# Our architecture -> the class; the record `ARCH.keras` says with which settings ours is that network.
APPLICATIONS = {
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "resnet50v2": "ResNet50V2",
    "resnet101v2": "ResNet101V2",
    "resnet152v2": "ResNet152V2",
    "inception_v3": "InceptionV3",
}
# Settings that only a classifier has a use for.
OF_CLASSIFIER = ("adaptive_pool", "num_classes")


def application(case: Case) -> Prepared:
    """Images from NumPy, one jitted program."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if case.arch not in APPLICATIONS:
        raise Skipped(f"keras.applications has no {case.arch} of this layout")
    theirs = dict(catalogue.get(f"{case.arch}.keras").fields)
    ours = {name: value for name, value in case.fields.items() if name not in OF_CLASSIFIER}
    if ours != {name: value for name, value in theirs.items() if name not in OF_CLASSIFIER}:
        raise Skipped(f"keras.applications' {APPLICATIONS[case.arch]} is another network; it is {case.arch}.keras")
    keras.config.set_dtype_policy(case.dtype)
    images = case.images()
    model = getattr(keras.applications, APPLICATIONS[case.arch])(
        weights=None, include_top=False, pooling="avg", input_shape=images.shape[1:]
    )
    _fill(model, case)
    return case.prepared(lambda: model.predict_on_batch(images))


def _fill(model: Any, case: Case) -> None:
    arrays = case.weights()
    names = name_map(case.arch, "keras", {path: array.shape for path, array in arrays.items()})
    tensors = {source.name: arrays[path] for path, source in names.sources.items()}
    variables: Any = names.rename({variable.path: variable for variable in model.variables})
    for name, variable in variables.items():
        if name not in tensors:
            raise Skipped(f"keras.applications' network has {name}, ours has not")
        variable.assign(tensors[name])
