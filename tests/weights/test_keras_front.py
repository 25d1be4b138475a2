"""Whole Keras models with something in front of the first weights: compared with the preprocessing, never ignored."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
import pytest

from transfer.errors import TransferError
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import catalogue, claims, create_model, readers
from transfer.weights.readers import Layer
from transfer.weights.readers._described import MOST_IN_FRONT, front

keras = pytest.importorskip("keras")
layers = keras.layers

WIDTH = 1 / 16
SIDE = 32
BLOCKS = {1: (4, 2), 2: (8, 2), 3: (16, 3), 4: (32, 3), 5: (32, 3)}
SMALL = {"width": WIDTH, "num_classes": 0}


def vgg16(value: Any) -> Any:
    """The layers of VGG16 by Keras' names, a sixteenth as wide."""
    for block, (channels, count) in BLOCKS.items():
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            value = layers.Conv2D(channels, 3, padding="same", activation="relu", name=name)(value)
        value = layers.MaxPooling2D(name=f"block{block}_pool")(value)
    return value


def model(before: Callable[[Any], Any]) -> Any:
    """One model of it all."""
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, vgg16(before(images)))


def nested(before: Callable[[Any], Any]) -> Any:
    """A model with VGG16 as a layer."""
    images, values = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, keras.Model(values, vgg16(values))(before(images)))


def sequence(before: Callable[[Any], Any]) -> Any:
    """A list of layers, the first of them models."""
    images, values = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3))
    parts = [keras.Model(images, before(images)), keras.Model(values, vgg16(values))]
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), *parts])


def adapted(images: Any) -> Any:
    layer = layers.Normalization(name="front")
    layer.adapt(np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)))
    return layer(images)


# What stands in front -> a word of the message that names it.
OTHERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "rescaling": (lambda x: layers.Rescaling(1 / 255, name="front")(x), r"front \(Rescaling\) stands"),
    "both": (
        lambda x: layers.Normalization(mean=[0.5] * 3, variance=[0.25] * 3, name="b")(layers.Rescaling(1 / 255)(x)),
        r"rescaling\w* \(Rescaling\) and b \(Normalization\) stand before its first weights",
    ),
    "normalization": (
        lambda x: layers.Normalization(mean=[124.0, 117.0, 104.0], variance=[1.0, 2.0, 3.0], name="front")(x),
        r"front \(Normalization\)",
    ),
    "flip and mean": (lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68], "f4"), r"\(GetItem\) stands"),
    "mean": (lambda x: x - 127.0, r"\(Subtract\) stands"),
    "division": (lambda x: x / 255.0, r"\(TrueDivide\) stands"),
    "flip": (lambda x: keras.ops.flip(x, -1), r"\(Flip\) stands"),
    "lambda": (lambda x: layers.Lambda(lambda y: y / 255.0, name="front")(x), r"front \(Lambda\) stands"),
    "rotation, then scaling": (
        lambda x: layers.Rescaling(1 / 255, name="front")(layers.RandomRotation(0.1)(x)),
        r"front \(Rescaling\) stands",
    ),
    "padding": (lambda x: layers.ZeroPadding2D(3, name="front")(x), r"front \(ZeroPadding2D\) stands"),
    "pool": (
        lambda x: layers.AveragePooling2D(2, strides=1, padding="same", name="front")(x),
        r"front \(AveragePooling2D\) stands",
    ),
    "resize": (lambda x: layers.Resizing(64, 64, name="front")(x), r"front \(Resizing\) stands"),
}
# From here on the images' size is another, so that what follows cannot be a model by itself.
CHANGE_SIZE = list(OTHERS).index("padding")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(OTHERS)), ids=list(OTHERS))
def test_another_function_is_refused(number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, words = list(OTHERS.values())[number]
    saved = (model, nested, sequence)[number % 3](before) if number < CHANGE_SIZE else model(before)
    path, name = tmp_path / ("x.keras", "x.h5")[number % 2], ("vgg16.keras", "vgg16")[number // 2 % 2]
    saved.save(path)
    with pytest.raises(TransferError, match=rf"{path} does not fit {name}: .*{words}.*; save the layers behind it"):
        create_model(name, weights=path, **SMALL)
    ours = create_model(name, weights=path, by_names=True, **SMALL)
    assert "(loaded by its names, which fit)" in caplog.text
    kernel = next(np.asarray(each) for each in saved.variables if each.path.endswith("block5_conv3/kernel"))
    np.testing.assert_array_equal(registry.flat_state(ours)["block5.conv3.kernel"], kernel)


@pytest.mark.parametrize("file", ["x.keras", "x.h5"])
def test_what_was_learned_in_front_is_refused_too(file: str, tmp_path: Path) -> None:
    model(adapted).save(tmp_path / file)
    with pytest.raises(TransferError, match="front/"):
        create_model("vgg16.keras", weights=tmp_path / file, **SMALL)


@pytest.mark.parametrize("kind", sorted(claims.IDLE))
def test_a_layer_of_keras_that_does_nothing_once_trained(kind: str) -> None:
    assert hasattr(keras.layers, kind) or kind == "Cast"
    assert claims.front_problem([Layer("x", kind, {})], "vgg16", None, "vgg16") == ""
    assert "x (Resizing) stands" in claims.front_problem([Layer("x", "Resizing", {})], "vgg16", None, "vgg16")


NOTHING: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda x: x,
    "augmentation": lambda x: layers.RandomZoom(0.1)(layers.RandomRotation(0.1)(layers.RandomFlip()(x))),
    "noise": lambda x: layers.GaussianNoise(0.1)(layers.Dropout(0.1)(x)),
    "identity": lambda x: layers.Activation("linear")(layers.Identity()(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["x.keras", "x.h5", "x.weights.h5"])
@pytest.mark.parametrize("what", NOTHING)
def test_what_does_nothing_to_images_is_taken(
    what: str, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = (nested if what == "noise" else model)(NOTHING[what])
    saved.save_weights(tmp_path / file) if "weights" in file else saved.save(tmp_path / file)
    caplog.clear()
    create_model("vgg16" if file == "x.h5" else "vgg16.keras", weights=tmp_path / file, **SMALL)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# Front, and the preprocessing that it is the same as.
SAME: dict[str, tuple[Callable[[Any], Any], dict]] = {
    "-1 to 1": (lambda x: layers.Rescaling(1 / 127.5, offset=-1)(x), {"scale": 2 / 255, "mean": (1.0,)}),
    "0 to 1": (lambda x: layers.Rescaling(1 / 255)(x), {"scale": 1 / 255}),
    "ImageNet's": (
        lambda x: layers.Normalization(
            mean=[0.485, 0.456, 0.406], variance=[0.229**2, 0.224**2, 0.225**2]
        )(layers.Rescaling(1 / 255)(x)),
        {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    ),
    "the same in one": (
        lambda x: layers.Rescaling(
            [1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
        )(x),
        {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", SAME)
def test_the_numbers_of_the_record_are_fine(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, numbers = SAME[what]
    record = catalogue.get("vgg16.keras")
    model(before).save(tmp_path / "x.keras")
    path = tmp_path / "x.keras"

    def with_images_of(**changes: Any) -> Any:
        own = Preprocessing(image_size=(SIDE, SIDE), **{**numbers, **changes})
        changed = dataclasses.replace(record, preprocessing=own)
        monkeypatch.setattr(catalogue, "records", lambda: {record.name: changed})
        return create_model(record.name, weights=path, **SMALL)

    with_images_of()
    mean = numbers.get("mean", (0.0,))
    for changes in ({"channels": "bgr"}, {"scale": 1 / 128}, {"mean": (mean[0] + 0.02, *mean[1:])}):
        with pytest.raises(TransferError, match="stands? before its first weights and makes? .* of pixels"):
            with_images_of(**changes)


@pytest.mark.slow
def test_kerass_own_models_have_nothing_in_front() -> None:
    whole = keras.applications.ResNet50V2(weights=None, include_top=False)
    found = front(json.loads(whole.to_json()), {layer.name for layer in whole.layers if layer.weights})
    assert [layer.kind for layer in found] == ["InputLayer", "ZeroPadding2D"]
    assert claims.front_problem(found, "resnet50v2", catalogue.get("resnet50v2.keras").preprocessing, "x") == ""


def test_padding_of_another_width() -> None:
    own, other = ([Layer("conv1_pad", "ZeroPadding2D", {"padding": [[n, n], [n, n]]})] for n in (3, 2))
    for arch in ("resnet50", "resnet152v2"):
        assert claims.front_problem(own, arch, None, arch) == ""
        assert "conv1_pad (ZeroPadding2D) stands" in claims.front_problem(other, arch, None, arch)
    assert "conv1_pad" in claims.front_problem(own, "inception_v3", None, "inception_v3")


@pytest.mark.parametrize(
    "config",
    [
        {"scale": "a lot"}, {"scale": None}, {}, {"scale": {"class_name": "Tensor"}}, {"scale": [1, 2]},
        {"scale": float("nan")}, {"scale": 1e400}, {"scale": [[[1], 2]]},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_are_none_are_refused(config: dict) -> None:
    wanted = Preprocessing(image_size=(8, 8))
    assert "front (Rescaling)" in claims.front_problem([Layer("front", "Rescaling", config)], "vgg16", wanted, "x")
    assert "f (Normalization)" in claims.front_problem([Layer("f", "Normalization", config)], "vgg16", wanted, "x")


@pytest.mark.parametrize(
    "config",
    [
        None,
        3,
        [],
        {"config": 3},
        {"config": {"layers": 3}},
        {"config": {"layers": [3, None, {"config": None}, [], {}]}},
    ],
    ids=str,
)
def test_configs_of_another_form(config: object) -> None:
    assert front(config, ()) == []


def test_a_list_of_layers_as_keras_1_has_it() -> None:
    rows = [{"class_name": "Lambda", "config": {"name": "a"}}, {"class_name": "Convolution2D", "config": {"name": "b"}}]
    assert front({"class_name": "Sequential", "config": rows}, ()) == [Layer("a", "Lambda", {})]
    many = [{"class_name": "Dropout", "config": {"name": str(i)}} for i in range(1000)]
    assert len(front({"config": many}, ())) == MOST_IN_FRONT


def test_hostile_configs_are_damage(tmp_path: Path) -> None:
    import h5py

    model(lambda x: x).save(tmp_path / "x.h5")
    for text in ("{", "[" * 100_000, '{"config": {"layers": [{"config": ' * 5000):
        with h5py.File(tmp_path / "x.h5", "r+") as file:
            file.attrs["model_config"] = text
        with pytest.raises(TransferError, match=r"x.h5: a damaged or truncated Keras .h5 file"):
            readers.read(tmp_path / "x.h5")
