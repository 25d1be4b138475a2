"""Live `keras.applications` beside our models: random weights through a file that Keras writes, every tap compared."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import h5py
import jax
import keras
import numpy as np
from golden import seeded
from keras.src.legacy.saving import legacy_h5_format
from models.parts import QUICK, compiled

from transfer.weights import catalogue, create_model

# Layers that keep a scale of 1 in `keras.applications` have none in the file.
RANGES = {"gamma": (0.3, 0.8), "moving_variance": (0.5, 1.5)}
OTHERS = (-0.2, 0.2)


class Application(NamedTuple):
    """A network of `keras.applications`: the class, its layers at our taps, and the sizes to compare at."""

    cls: str
    taps: Mapping[str, str]
    last: str
    side: int = 224
    odd: tuple[int, int] = (75, 53)


def _resnet(cls: str, units: tuple[int, ...], last: str) -> Application:
    stages = {f"stage{i}": f"conv{i + 1}_block{count}_out" for i, count in enumerate(units, 1)}
    return Application(cls, {"stem": "pool1_pool"} | stages, last or stages["stage4"])


VGG_TAPS = {f"block{i}": f"block{i}_pool" for i in range(1, 6)}
# By the name of our record. The second pool of Inception's stem has no name of its own.
APPLICATIONS = {
    "vgg16.keras": Application("VGG16", VGG_TAPS, "block5_pool"),
    "vgg19.keras": Application("VGG19", VGG_TAPS, "block5_pool"),
    "resnet50.keras": _resnet("ResNet50", (3, 4, 6, 3), ""),
    "resnet101.keras": _resnet("ResNet101", (3, 4, 23, 3), ""),
    "resnet152.keras": _resnet("ResNet152", (3, 8, 36, 3), ""),
    "resnet50v2.keras": _resnet("ResNet50V2", (3, 4, 6, 3), "post_relu"),
    "resnet101v2.keras": _resnet("ResNet101V2", (3, 4, 23, 3), "post_relu"),
    "resnet152v2.keras": _resnet("ResNet152V2", (3, 8, 36, 3), "post_relu"),
    "inception_v3.keras": Application(
        "InceptionV3", {f"mixed{i}": f"mixed{i}" for i in range(11)}, "mixed10", 299, (107, 83)
    ),
}
CLASSIFIER_TAPS = {"fc1": "fc1", "fc2": "fc2", "logits": "predictions"}


def build(name: str, include_top: bool) -> Any:
    """The network as Keras makes it, with random weights that make every layer matter."""
    cls = getattr(keras.applications, APPLICATIONS[name].cls)
    top = dict(classifier_activation=None) if include_top else dict(include_top=False, input_shape=(None, None, 3))
    # its own random weights cost a compilation for each shape, and would be written over
    with mock.patch.object(keras.initializers.VarianceScaling, "__call__", zeros):
        model = cls(weights=None, **top)
    randomise(model)
    return model


def zeros(initializer: Any, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    """In place of a random initializer of Keras."""
    return np.zeros(shape, dtype)


def randomise(model: Any) -> None:
    """He-scaled kernels, batch statistics far from trivial."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        kind = variable.path.rpartition("/")[2]
        low, high = RANGES.get(kind, OTHERS)
        if kind == "kernel":
            high = math.sqrt(6 / math.prod(variable.shape[:-1]))
            low = -high
        values = generator.random(variable.shape, np.float32) * np.float32(high - low) + np.float32(low)
        variable.assign(values)


def layers(name: str, model: Any) -> dict[str, Any]:
    """Tap -> Keras' symbolic output."""
    application = APPLICATIONS[name]
    names = {layer.name for layer in model.layers}
    found = dict(application.taps) | {tap: layer for tap, layer in CLASSIFIER_TAPS.items() if layer in names}
    outputs = {tap: model.get_layer(layer).output for tap, layer in found.items()}
    if "mixed0" in outputs:
        pools = [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
        outputs["stem"] = pools[1].output
    return outputs


def reference(name: str, model: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What Keras computes at each tap; `pre_logits` is the mean of the last feature map."""
    outputs = layers(name, model)
    last = model.get_layer(APPLICATIONS[name].last).output
    tapped = keras.Model(model.input, [*outputs.values(), last])
    evaluate = tapped
    if "stage1" not in outputs:  # op by op, the programs of a ResNet's equal units are shared
        variables = [[v.value for v in tapped.trainable_variables], [v.value for v in tapped.non_trainable_variables]]
        jitted = jax.jit(lambda *arguments: tapped.stateless_call(*arguments)[0], compiler_options=QUICK)
        evaluate = functools.partial(jitted, *variables)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        *values, features = (np.asarray(value) for value in evaluate(images))
        return dict(zip(outputs, values, strict=True)) | {"pre_logits": features.mean(axis=(1, 2), dtype=np.float64)}

    return run


def write_legacy(model: Any, path: Path) -> None:
    """The format of the files that `keras.applications` downloads: weights alone, by `layer_names`."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


# Each with the ending that Keras wants of it.
FORMATS: dict[str, tuple[str, Callable[[Any, Path], None]]] = {
    "legacy weights": ("model_legacy.h5", write_legacy),
    "legacy model": ("model.h5", lambda model, path: model.save(path)),
    "weights": ("model.weights.h5", lambda model, path: model.save_weights(path)),
    "archive": ("model.keras", lambda model, path: model.save(path)),
}


def write(model: Any, file_format: str, folder: Path) -> Path:
    """Has Keras write `model` in one of `FORMATS`; the path."""
    filename, save = FORMATS[file_format]
    save(model, folder / filename)
    return folder / filename


def errors(
    name: str, model: Any, ours: Any, sizes: list[tuple[int, ...]], scale: float = 1
) -> dict[tuple[str, str], float]:
    """(size, tap) -> the largest difference, relative to the largest value of that tap; `scale` of the images."""
    run, found = reference(name, model), {}
    for size in sizes:
        images = seeded.images(size) * np.float32(scale)
        with jax.default_matmul_precision("highest"):
            endpoints, expected = ours(images)[1], run(images)
        assert set(endpoints) == set(expected), set(endpoints) ^ set(expected)
        for tap, values in expected.items():
            difference = np.abs(np.asarray(endpoints[tap]) - values).max() / np.abs(values).max()
            found["x".join(map(str, size)), tap] = float(difference)
    return found


def compare(
    name: str, include_top: bool, file_format: str, folder: Path, every_batch: bool = True
) -> dict[tuple[str, str], float]:
    """The errors of the record `name` against Keras, of one image and of three; or of one, and of three if odd.

    Without classifier at the published and at an odd size; with it at the published one, the only one it takes.
    """
    application = APPLICATIONS[name]
    model = build(name, include_top)
    if include_top:
        assert model.count_params() == catalogue.get(name).num_params
    ours = compiled(create_model(name, weights=write(model, file_format, folder)))
    sides = [(application.side, application.side)] + ([] if include_top else [application.odd])
    batches = itertools.product(sides, (1, 3)) if every_batch else zip(sides, (1, 3), strict=False)
    return errors(name, model, ours, [(batch, *size, 3) for size, batch in batches])
