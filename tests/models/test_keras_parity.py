"""Every tap against `keras.applications` itself on the JAX backend, through files that Keras writes."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from transfer.weights import create_model

keras = pytest.importorskip("keras")

TOLERANCE = 1e-5
SIZES = ((64, 64), (75, 53))

VGG_TAPS = {f"block{i}": f"block{i}_pool" for i in range(1, 6)}
RESNET_TAPS = {"stem": "pool1_pool"} | {
    f"stage{i}": f"conv{i + 1}_block{units}_out" for i, units in enumerate((3, 4, 6, 3), 1)
}
RESNET101_TAPS = RESNET_TAPS | {"stage3": "conv4_block23_out"}


def randomise(model: Any) -> None:
    """Weights that make every layer matter: He-scaled kernels, batch statistics far from trivial."""
    generator = np.random.default_rng(0)
    scales = {"gamma": (0.3, 0.8), "moving_variance": (0.5, 1.5)}
    for variable in model.variables:
        kind = variable.path.rpartition("/")[2]
        low, high = scales.get(kind, (-0.2, 0.2))
        if kind == "kernel":
            high = math.sqrt(6 / math.prod(variable.shape[:-1]))
            low = -high
        variable.assign(generator.uniform(low, high, variable.shape).astype(np.float32))


def vgg(arch: str) -> Any:
    return getattr(keras.applications, arch)(weights=None, include_top=False, input_shape=(None, None, 3))


def resnet(arch: str) -> Any:
    base = getattr(keras.applications, arch)(
        weights=None, include_top=False, input_shape=(None, None, 3), pooling="avg"
    )
    return keras.Model(base.input, keras.layers.Dense(12, name="predictions")(base.output))


def vgg_with_classifier(arch: str) -> Any:
    """`include_top=True` with narrow hidden layers: the same flattening, without its 400 MB."""
    base = getattr(keras.applications, arch)(weights=None, include_top=False, input_shape=(224, 224, 3))
    x = keras.layers.Flatten(name="flatten")(base.output)
    x = keras.layers.Dense(24, activation="relu", name="fc1")(x)
    x = keras.layers.Dense(20, activation="relu", name="fc2")(x)
    return keras.Model(base.input, keras.layers.Dense(12, name="predictions")(x))


def expected(model: Any, taps: Mapping[str, str], images: np.ndarray) -> dict[str, np.ndarray]:
    """What Keras computes at each tap; `pre_logits` is the mean of the last one."""
    layers = keras.Model(model.input, [model.get_layer(layer).output for layer in taps.values()])
    found = {tap: np.asarray(value) for tap, value in zip(taps, layers(images), strict=True)}
    last = found["block5"] if "block5" in found else found["stage4"]
    return found | {"pre_logits": last.mean(axis=(1, 2), dtype=np.float64)}


def worst(
    ours: Callable[[np.ndarray], tuple[Any, Mapping[str, Any]]], model: Any, taps: Mapping[str, str], images: np.ndarray
) -> float:
    """The largest difference at any tap, relative to the largest value of that tap."""
    with jax.default_matmul_precision("highest"):
        endpoints = ours(images)[1]
        reference = expected(model, taps, images)
    assert set(reference) == set(endpoints)
    differences = {tap: np.abs(np.asarray(endpoints[tap]) - value).max() for tap, value in reference.items()}
    return max(float(differences[tap] / np.abs(value).max()) for tap, value in reference.items())


def images(height: int, width: int, batch: int = 1) -> np.ndarray:
    generator = np.random.default_rng(height * width)
    return generator.uniform(-2, 2, (batch, height, width, 3)).astype(np.float32)


# Each architecture in another of the formats that Keras writes; `.h5` is the legacy full model.
@pytest.mark.parametrize(
    ("name", "make", "keras_arch", "taps", "file", "write"),
    [
        ("vgg16.keras", vgg, "VGG16", VGG_TAPS, "model.h5", "save"),
        ("vgg19.keras", vgg, "VGG19", VGG_TAPS, "model.weights.h5", "save_weights"),
        ("resnet50.keras", resnet, "ResNet50", RESNET_TAPS | {"logits": "predictions"}, "model.keras", "save"),
        ("resnet101.keras", resnet, "ResNet101", RESNET101_TAPS | {"logits": "predictions"}, "model.h5", "save"),
    ],
)
def test_every_tap_equals_keras(
    name: str,
    make: Callable[[str], Any],
    keras_arch: str,
    taps: Mapping[str, str],
    file: str,
    write: str,
    tmp_path: Path,
) -> None:
    model = make(keras_arch)
    randomise(model)
    getattr(model, write)(tmp_path / file)
    ours = create_model(name, weights=tmp_path / file)
    for size in SIZES:
        assert worst(ours, model, taps, images(*size)) <= TOLERANCE


def test_vggs_classifier_equals_keras_at_its_native_size(tmp_path: Path) -> None:
    model = vgg_with_classifier("VGG16")
    randomise(model)
    model.save(tmp_path / "model.keras")
    ours = create_model("vgg16.keras", weights=tmp_path / "model.keras", hidden=(24, 20))
    taps = VGG_TAPS | {"fc1": "fc1", "fc2": "fc2", "logits": "predictions"}
    assert worst(ours, model, taps, images(224, 224)) <= TOLERANCE


def test_a_real_file_of_keras_equals_keras(shared_data: Path) -> None:
    path = shared_data / "vgg16_keras_notop.h5"
    model = keras.applications.VGG16(weights=str(path), include_top=False)
    ours = create_model("vgg16.keras", weights=path)
    for size in SIZES:
        assert worst(ours, model, VGG_TAPS, images(*size) * 60) <= TOLERANCE
