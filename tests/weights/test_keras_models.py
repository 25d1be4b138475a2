"""Keras models that people built on a network of `keras.applications`: the network is found inside, by what it does."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import jax
import numpy as np
import pytest
from flax import nnx

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.preprocess import recipe
from transfer.weights import catalogue, create_model, keras_units, readers
from transfer.weights.create import convert_file
from transfer.weights.keras_units import DEEPEST, KerasUnits, image_shape

keras = pytest.importorskip("keras")
layers = keras.layers

WIDTH = 1 / 16
SIDE = 64
BLOCKS = {1: (4, 2), 2: (8, 2), 3: (16, 3), 4: (32, 3), 5: (32, 3)}
SMALL = {"width": WIDTH}
MEANS = np.array([103.939, 116.779, 123.68], "f4")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


def vgg16(value: Any, function: str = "relu", pool: Any = layers.MaxPooling2D) -> Any:
    """The layers of VGG16 by Keras' names, a sixteenth as wide."""
    for block, (channels, count) in BLOCKS.items():
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            value = layers.Conv2D(channels, 3, padding="same", activation=function, name=name)(value)
        value = pool(2, name=f"block{block}_pool")(value)
    return value


@pytest.fixture(autouse=True)
def quick_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers of Keras take a compilation for each shape, and are written over."""
    zeros = lambda initializer, shape, dtype=None: np.zeros(shape, dtype)  # noqa: E731
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)


def base(side: int | None = SIDE, channels: int = 3, name: str = "vgg16") -> Any:
    """The network as `keras.applications.VGG16(include_top=False)` gives it."""
    images = keras.Input((side, side, channels))
    return keras.Model(images, vgg16(images), name=name)


def randomised(model: Any) -> Any:
    """The model with numbers that make every layer matter."""
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        scale = np.sqrt(2 / max(1, np.prod(variable.shape[:-1]))) if len(variable.shape) > 1 else 0.1
        variable.assign(generator.normal(0, scale, variable.shape).astype("f4"))
    return model


# How the whole is put together: what stands in front, and the head.
def inlined(before: Callable[[Any], Any], head: Callable[[Any], Any]) -> Any:
    """One model of it all."""
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, head(vgg16(before(images))))


def nested(before: Callable[[Any], Any], head: Callable[[Any], Any]) -> Any:
    """The guide's: the network is a layer, called with `training=False`."""
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, head(base()(before(images), training=False)))


def on_its_output(before: Callable[[Any], Any], head: Callable[[Any], Any]) -> Any:
    """`Model(base.input, Dense(…)(base.output))`, in a model with what stands in front."""
    inner, images = base(), keras.Input((SIDE, SIDE, 3))
    whole = keras.Model(inner.input, head(inner.output))
    return keras.Model(images, whole(before(images)))


def sequence(before: Callable[[Any], Any], head: Callable[[Any], Any]) -> Any:
    """A list of models and layers."""
    images, inputs = keras.Input((SIDE, SIDE, 3)), keras.Input((2, 2, 32))
    parts = [keras.Model(images, before(images)), base(), keras.Model(inputs, head(inputs))]
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), *parts])


BUILT = [inlined, nested, on_its_output, sequence]


def nothing(x: Any) -> Any:
    return x


def mean_dense(x: Any) -> Any:
    return layers.Dense(3, "softmax")(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x)))


def flattened(x: Any) -> Any:
    return layers.Dense(3, "softmax")(layers.Dropout(0.5)(layers.Dense(16, "relu")(layers.Flatten()(x))))


def adapted(images: Any) -> Any:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)))
    return layer(images)


def stacked(x: Any) -> Any:
    """Red, green and blue turned as Keras' own `preprocess_input` does it in a model."""
    return keras.ops.stack([x[..., 2], x[..., 1], x[..., 0]], axis=-1)


# What stands in front that is a preprocessing -> its channels; None for none.
FRONTS: dict[str, tuple[Callable[[Any], Any], str | None]] = {
    "nothing": (nothing, None),
    "augmentation": (lambda x: layers.RandomZoom(0.1)(layers.RandomRotation(0.1)(layers.RandomFlip()(x))), None),
    "noise": (lambda x: layers.GaussianNoise(0.1)(layers.Dropout(0.1)(layers.Identity()(x))), None),
    "rescaling": (lambda x: layers.Rescaling(1 / 255)(x), "rgb"),
    "-1 to 1": (lambda x: layers.Rescaling(1 / 127.5, offset=-1)(layers.RandomFlip()(x)), "rgb"),
    "rescaling by channel": (lambda x: layers.Rescaling([1 / 60, 1 / 50, 1 / 40], [-2.0, -1.0, 0.5])(x), "rgb"),
    "normalization": (lambda x: layers.Normalization(mean=[124.0, 117.0, 104.0], variance=[1.0, 2.0, 3.0])(x), "rgb"),
    "adapted": (adapted, "rgb"),
    "both": (
        lambda x: layers.Normalization(mean=[0.5] * 3, variance=[0.25] * 3)(layers.Rescaling(1 / 255)(x)), "rgb"
    ),
    "preprocess_input caffe": (keras.applications.vgg16.preprocess_input, "bgr"),
    "preprocess_input tf": (keras.applications.inception_v3.preprocess_input, "rgb"),
    "preprocess_input torch": (lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="torch"), "rgb"),
    "slice and mean": (lambda x: x[..., ::-1] - MEANS, "bgr"),
    "flip and division": (lambda x: keras.ops.flip(x, -1) / 255.0, "bgr"),
    "stack": (stacked, "bgr"),
    "arithmetic": (lambda x: (x * 2.0 - 3.0 + 1.0) / 7.0, "rgb"),
    "cast": (lambda x: keras.ops.cast(x, "float32") / 255.0, "rgb"),
    "batch norm": (lambda x: layers.BatchNormalization()(x), "rgb"),
    "one more axis": (lambda x: layers.Reshape((SIDE, SIDE, 3))(keras.ops.flip(x[..., ::-1], -1) / 7.0), "rgb"),
}  # fmt: skip


def probabilities(model: Any, recipe_of: Any, images: np.ndarray = IMAGES) -> np.ndarray:
    """The classes of pixels 0..255, by the model and its preprocessing."""
    pixels = images.astype("f4") if recipe_of is None else recipe.apply(recipe_of, images)
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.nn.softmax(nnx.jit(lambda model, pixels: model(pixels)[0])(model, pixels)))


def close(ours: np.ndarray, theirs: Any) -> None:
    with jax.default_matmul_precision("highest"):
        theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape and theirs.std() > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def answers(model: Any, images: np.ndarray = IMAGES) -> Any:
    with jax.default_matmul_precision("highest"):
        return model(images.astype("f4"), training=False)


# The others take as long and find as little.
QUICK = (
    "augmentation",
    "both",
    "preprocess_input caffe",
    "preprocess_input tf",
    "slice and mean",
    "convolution",
    "crop",
)
QUICK += ("lambda", "negative", "cycle", "no bias", "class", "text", "hidden", "several labels")


def table(rows: Any) -> Any:
    """The rows of a table as parameters of a test, the most of them slow."""
    marks = [() if name in QUICK else pytest.mark.slow for name in rows]
    return [pytest.param(i, id=name, marks=mark) for i, (name, mark) in enumerate(zip(rows, marks, strict=True))]


@pytest.mark.parametrize("number", table(FRONTS))
def test_the_whole_model_with_what_stands_in_front(number: int, tmp_path: Path) -> None:
    before, order = list(FRONTS.values())[number]
    saved = randomised(BUILT[number % 4](before, mean_dense))
    path = tmp_path / ("x.keras", "x.h5")[number // 4 % 2]
    saved.save(path)
    ours = create_model("vgg16", path, head="file", **SMALL)
    own = ours.preprocessing
    assert (own and own.channels) == order and (own is None or own.image_size == (SIDE, SIDE))
    close(probabilities(ours, own), answers(saved))
    assert dict(ours.fields)["hidden"] == ()


def test_a_head_that_is_converted_too(tmp_path: Path) -> None:
    randomised(nested(FRONTS["rescaling"][0], mean_dense)).save(tmp_path / "x.keras")
    convert_file(tmp_path / "x.keras", "vgg16", tmp_path / "x.safetensors", head="file", **SMALL)
    ours = create_model("vgg16", tmp_path / "x.safetensors")
    theirs = create_model("vgg16", tmp_path / "x.keras", head="file", **SMALL)
    assert ours.fields == theirs.fields and ours.preprocessing == theirs.preprocessing
    arrays = registry.flat_state(theirs)
    for path, array in registry.flat_state(ours).items():
        np.testing.assert_array_equal(array, arrays[path], err_msg=path)


@pytest.mark.parametrize(
    ("file", "build"),
    [("x.keras", nested), ("x.h5", nested), ("x.keras", inlined)]
    + [
        pytest.param(file, build, marks=pytest.mark.slow)
        for file in ("x.keras", "x.h5")
        for build in (on_its_output, sequence)
    ],
)
def test_the_base_alone(file: str, build: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    saved = randomised(build(FRONTS["rescaling"][0], flattened))
    saved.save(tmp_path / file)
    ours = create_model("vgg16", tmp_path / file, **SMALL)
    kernels = {v.path.split("/")[-2]: np.asarray(v) for v in saved.variables if v.path.endswith("kernel")}
    arrays = registry.flat_state(ours)
    assert len(arrays) == 26 and ours.num_classes == 0
    for block, (_, count) in BLOCKS.items():
        name = f"block{block}_conv{count}"
        np.testing.assert_array_equal(arrays[f"block{block}.conv{count}.kernel"], kernels[name])
    text = next(r.getMessage() for r in caplog.records if "left out" in r.getMessage())
    assert [word for word in ("flatten", "(Dense), dense") if word not in text] == []
    assert "rescaling" not in text and "dropout" not in text
    again = create_model("vgg16", tmp_path / file, num_classes=5, hidden=(), **SMALL)
    assert again.num_classes == 5 and set(again.renewed) == {"logits.kernel", "logits.bias"}


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "convolution": (lambda x: layers.Conv2D(3, 1, name="front")(x), r"the graph has front \(Conv2D\)"),
    "lambda": (lambda x: layers.Lambda(lambda y: y / 255.0, name="front")(x), r"front \(Lambda\) holds code"),
    "resize": (lambda x: layers.Resizing(SIDE, SIDE, name="front")(x), r"front \(Resizing\) is of a class that is not"),
    "pool": (
        lambda x: layers.AveragePooling2D(2, strides=1, padding="same", name="front")(x),
        r"the graph has front \(AveragePooling2D\)",
    ),
    "crop": (lambda x: layers.ZeroPadding2D(1)(x[:, 1:-1, 1:-1]), r"the graph has get_item\w* \(GetItem\)"),
    "mirror": (lambda x: keras.ops.flip(x, 2), r"the graph has flip\w* \(Flip\)"),
    "negative": (lambda x: 255.0 - x, r"the graph has subtract\w* \(Subtract\) \(images \* -1 \+ 255\)"),
    "grey": (lambda x: keras.ops.stack([x[..., 0]] * 3, axis=-1), r"\(channels 0 0 0, images \* 1 \+ 0\)"),
    "whole numbers": (lambda x: keras.ops.cast(x, "uint8") / 2.0, r"cast\w* \(Cast\) makes whole numbers"),
    "relu": (lambda x: layers.ReLU()(x), r"the graph has relu of re_lu\w* \(ReLU\)"),
    "one for each pixel": (lambda x: x - np.ones((SIDE, SIDE, 3)), r"takes numbers of shape \(64, 64, 3\), not one"),
    "one for each column": (lambda x: x - np.arange(SIDE * 1.0)[:, None], r"takes numbers of shape \(64, 1\), not one"),
}


@pytest.mark.parametrize("number", table(REFUSED))
def test_another_function_in_front_is_refused(number: int, tmp_path: Path) -> None:
    before, words = list(REFUSED.values())[number]
    path = tmp_path / ("x.keras", "x.h5")[number % 2]
    saved = BUILT[number % 2](before, mean_dense)
    saved.save(path)
    name = ("vgg16", "vgg16.keras")[number // 2 % 2]
    with pytest.raises(TransferError, match=rf"^{path} does not fit {name}: .*{words}") as caught:
        create_model(name, path, num_classes=0, **SMALL)
    assert "\n" not in str(caught.value)


class Own(layers.Layer):
    def call(self, images: Any) -> Any:
        return images * 2


# In front, the function inside -> what is said.
OF_FULL_WIDTH: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "class": (lambda x: Own(name="front")(x), "relu", r"front \(Own\) is of a class that is not known here"),
    "lambda": (
        lambda x: layers.Lambda(lambda y: y[..., ::-1], name="front")(x),
        "relu",
        "holds code, which is not run",
    ),
    "layers": (
        lambda x: layers.ZeroPadding2D(2)(layers.Cropping2D(2, name="front")(x)),
        "relu",
        r"front \(Cropping2D\)",
    ),
    "inside": (nothing, "leaky_relu", r"the graph has leaky_relu of block1_conv1 \(Conv2D\)"),
}


@pytest.mark.parametrize("what", ["class", *(pytest.param(w, marks=pytest.mark.slow) for w in list(OF_FULL_WIDTH)[1:])])
def test_the_layer_is_named_where_every_name_and_size_fits(what: str, tmp_path: Path) -> None:
    before, function, words = OF_FULL_WIDTH[what]
    images = keras.Input((32, 32, 3))
    inner = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    for layer in inner.layers:
        if isinstance(layer, layers.Conv2D):
            layer.activation = keras.activations.get(function)
    keras.Model(images, inner(before(images))).save(tmp_path / "x.keras")
    with pytest.raises(TransferError, match=rf"does not fit vgg16: .*{words}.*; by_names=True") as caught:
        create_model("vgg16", tmp_path / "x.keras")
    assert "look like" not in str(caught.value)


def test_names_alone_take_what_another_function_stands_in_front_of(tmp_path: Path) -> None:
    saved = nested(REFUSED["lambda"][0], mean_dense)
    saved.save(tmp_path / "x.h5")
    ours = create_model("vgg16", tmp_path / "x.h5", num_classes=0, by_names=True, **SMALL)
    kernel = next(np.asarray(v) for v in saved.variables if v.path.endswith("block5_conv3/kernel"))
    np.testing.assert_array_equal(registry.flat_state(ours)["block5.conv3.kernel"], kernel)


@pytest.mark.parametrize("changes", [{"function": "elu"}, {"pool": layers.AveragePooling2D}], ids=str)
def test_a_model_of_ones_own_with_our_names_is_refused(changes: Any, tmp_path: Path) -> None:
    images = keras.Input((SIDE, SIDE, 3))
    keras.Model(images, mean_dense(vgg16(images, **changes))).save(tmp_path / "x.keras")
    where = "elu of block1_conv1" if "function" in changes else "block1_pool"
    with pytest.raises(TransferError, match=rf"where the model has .*, the graph has {where} \(.*by_names=True"):
        create_model("vgg16.keras", tmp_path / "x.keras", num_classes=0, **SMALL)


def test_the_numbers_of_a_record_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    nested(FRONTS["preprocess_input caffe"][0], mean_dense).save(path)
    ours = create_model("vgg16.keras", path, **SMALL)
    assert ours.preprocessing == catalogue.get("vgg16.keras").preprocessing
    nested(FRONTS["rescaling"][0], mean_dense).save(path)
    text = (
        r"makes 0 to 1 of pixels .*, where vgg16.keras has .* in bgr, before .*; the architecture by itself \(vgg16\)"
    )
    with pytest.raises(TransferError, match=text):
        create_model("vgg16.keras", path, **SMALL)
    assert create_model("vgg16", path, **SMALL).preprocessing.scale == pytest.approx(1 / 255)


def test_what_is_written_of_a_whole_model_keeps_its_preprocessing(tmp_path: Path) -> None:
    inner = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), inner]).save(tmp_path / "x.keras")
    assert convert_file(tmp_path / "x.keras", "vgg16", tmp_path / "x.safetensors") == 26
    ours = create_model("vgg16", tmp_path / "x.safetensors")
    assert ours.preprocessing.scale == pytest.approx(1 / 255) and ours.num_classes == 0


HEADS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "hidden": (flattened, r"behind the network stand flatten\w* \(Flatten\), dense\w* \(Dense\), dense\w* \(Dense\)"),
    "maximum": (lambda x: layers.Dense(3)(layers.GlobalMaxPooling2D()(x)), r"GlobalMaxPooling2D"),
    "several labels": (
        lambda x: layers.Dense(3, "sigmoid", name="d")(layers.GlobalAveragePooling2D()(x)),
        r"it ends in sigmoid of d \(Dense\): the classes do not exclude each other",
    ),
    "none": (layers.GlobalAveragePooling2D(), "it does not end in a Dense layer"),
    "twice": (
        lambda x: layers.Softmax()(layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(x))),
        r"it ends in softmax of dense\w* \(Dense\) and softmax\w* \(Softmax\): another function than a softmax",
    ),
    "over images": (
        lambda x: layers.Softmax(axis=0, name="s")(layers.Dense(3)(layers.GlobalAveragePooling2D()(x))),
        r"it ends in s \(Softmax\): another function than a softmax",
    ),
    "positive": (
        lambda x: layers.Dense(3, "relu", name="d")(layers.GlobalAveragePooling2D()(x)),
        r"it ends in relu of d \(Dense\): another function than a softmax",
    ),
    "unknown": (
        lambda x: layers.Dense(3)(layers.LayerNormalization(name="n")(layers.GlobalAveragePooling2D()(x))),
        r"n \(LayerNormalization\) is of a class that is not known here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("number", table(HEADS))
def test_a_head_that_is_not_ours_is_refused_by_its_layers(number: int, tmp_path: Path) -> None:
    head, words = list(HEADS.values())[number]
    nested(nothing, head).save(tmp_path / "x.keras")
    with pytest.raises(
        TransferError, match=rf"no head that vgg16 can have \(head='file'\): .*{words}.*; num_classes=0"
    ):
        create_model("vgg16", tmp_path / "x.keras", head="file", **SMALL)
    assert create_model("vgg16", tmp_path / "x.keras", **SMALL).num_classes == 0


@pytest.mark.parametrize(
    "pool",
    [layers.GlobalMaxPooling2D(keepdims=True), lambda x: layers.MaxPooling2D(2, padding="same")(x)],
    ids=["global", "same"],
)
def test_a_head_that_is_ours_on_one_pixel_alone_is_refused(pool: Any, tmp_path: Path) -> None:
    """Images of 32 pixels make a map of 1x1, of which every pool is the mean."""
    images = keras.Input((32, 32, 3))
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(pool(base(32)(images)))
    keras.Model(images, layers.Dense(3)(layers.Flatten()(pooled))).save(tmp_path / "x.keras")
    with pytest.raises(TransferError, match=r"no head that vgg16 can have .*, the graph has .*MaxPooling2D\)"):
        create_model("vgg16", tmp_path / "x.keras", head="file", **SMALL)
    assert create_model("vgg16", tmp_path / "x.keras", **SMALL).num_classes == 0


@pytest.mark.parametrize(("count", "function"), [(1, "sigmoid"), (4, "linear"), (1, "linear")])
def test_other_last_functions(count: int, function: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dense = layers.Dense(count, function)
    saved = randomised(nested(nothing, lambda x: dense(layers.GlobalAveragePooling2D()(x))))
    saved.save(tmp_path / "x.keras")
    ours = create_model("vgg16", tmp_path / "x.keras", head="file", **SMALL)
    theirs = np.asarray(answers(saved))
    assert ("has no function: what it makes is taken for logits" in caplog.text) == (function == "linear")
    if count == 1:
        theirs = theirs if function == "sigmoid" else np.asarray(jax.nn.sigmoid(theirs))
        theirs = np.concatenate([1 - theirs, theirs], axis=1)
    else:
        theirs = np.asarray(jax.nn.softmax(theirs))
    close(probabilities(ours, None), theirs)


@pytest.mark.slow
def test_hidden_layers_at_224_pixels(tmp_path: Path) -> None:
    images = keras.Input((224, 224, 3))
    head = layers.Dense(3, "softmax")(layers.Dense(16, "relu")(layers.Flatten()(base(224)(images))))
    saved = randomised(keras.Model(images, head))
    saved.save(tmp_path / "x.h5")
    ours = create_model("vgg16", tmp_path / "x.h5", head="file", **SMALL)
    pixels = np.random.default_rng(3).integers(0, 256, (1, 224, 224, 3), np.uint8)
    assert dict(ours.fields)["hidden"] == (256,)
    close(probabilities(ours, None, pixels), answers(saved, pixels))


def test_two_networks_in_one_model(tmp_path: Path) -> None:
    images = keras.Input((SIDE, SIDE, 3))
    pooled = [layers.GlobalAveragePooling2D()(base(name=name)(images)) for name in ("left", "right")]
    saved = randomised(keras.Model(images, layers.Dense(2)(layers.Concatenate()(pooled))))
    for file in ("x.keras", "x.h5"):
        saved.save(tmp_path / file)
        with pytest.raises(
            TransferError, match=r"holds several networks, under 'left', 'right'; choose one by prefix="
        ):
            create_model("vgg16", tmp_path / file, **SMALL)
        for name in ("left", "right"):
            kernel = registry.flat_state(create_model("vgg16", tmp_path / file, prefix=name, **SMALL))[
                "block1.conv1.kernel"
            ]
            np.testing.assert_array_equal(kernel, np.asarray(saved.get_layer(name).get_layer("block1_conv1").kernel))
        with pytest.raises(TransferError, match=r"has no such network under prefix='middle'"):
            create_model("vgg16", tmp_path / file, prefix="middle", **SMALL)
    names = set(readers.read(tmp_path / "x.h5"))
    assert {"left/block1_conv1/kernel", "right/block1_conv1/kernel"} <= names


@pytest.mark.slow
def test_one_network_called_twice(tmp_path: Path) -> None:
    images, other, inner = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3)), base()
    joined = layers.Subtract()([inner(images), inner(other)])
    randomised(keras.Model([images, other], layers.GlobalAveragePooling2D()(joined))).save(tmp_path / "x.keras")
    assert create_model("vgg16", tmp_path / "x.keras", **SMALL).num_classes == 0


@pytest.mark.slow
def test_models_in_models_in_models(tmp_path: Path) -> None:
    inner = base()
    for depth in range(4):
        images = keras.Input((SIDE, SIDE, 3))
        inner = keras.Model(images, inner(images), name=f"m{depth}")
    images = keras.Input((SIDE, SIDE, 3))
    saved = randomised(keras.Model(images, mean_dense(inner(layers.Rescaling(1 / 255)(images)))))
    for file in ("x.keras", "x.h5"):
        saved.save(tmp_path / file)
        ours = create_model("vgg16", tmp_path / file, head="file", **SMALL)
        close(probabilities(ours, ours.preprocessing), answers(saved))


@pytest.mark.slow
def test_images_of_any_size(tmp_path: Path) -> None:
    images = keras.Input((None, None, 3))
    saved = randomised(keras.Model(images, mean_dense(base(None)(layers.Rescaling(1 / 255)(images)))))
    saved.save(tmp_path / "x.keras")
    ours = create_model("vgg16", tmp_path / "x.keras", head="file", **SMALL)
    assert ours.preprocessing.image_size == (224, 224)
    close(probabilities(ours, ours.preprocessing.with_image_size(SIDE)), answers(saved))


@pytest.mark.parametrize("build", [inlined, nested])
def test_weights_alone(build: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    saved = randomised(build(nothing, flattened))
    path = tmp_path / "x.weights.h5"
    saved.save_weights(path)
    ours = create_model("vgg16", path, **SMALL)
    assert "has other tensors beside it: 4 outside of it are left out (dense" in caplog.text
    kernel = next(np.asarray(v) for v in saved.variables if v.path.endswith("block5_conv3/kernel"))
    np.testing.assert_array_equal(registry.flat_state(ours)["block5.conv3.kernel"], kernel)
    with pytest.raises(TransferError, match="does not say what follows the network"):
        create_model("vgg16", path, head="file", **SMALL)


@pytest.mark.parametrize("what", ["adapted", "convolution"])
def test_weights_alone_of_what_may_stand_in_front_are_refused(what: str, tmp_path: Path) -> None:
    nested({"adapted": adapted, "convolution": REFUSED["convolution"][0]}[what], mean_dense).save_weights(
        tmp_path / "x.weights.h5"
    )
    with pytest.raises(TransferError, match=r"unexpected \((normalization\w*/|front/)"):
        create_model("vgg16", tmp_path / "x.weights.h5", **SMALL)


@pytest.mark.parametrize(("more", "layer"), [("block5_conv4", 32), ("block5_conv9", 0)])
def test_weights_of_a_larger_network_are_not_taken_for_a_head(more: str, layer: int, tmp_path: Path) -> None:
    images = keras.Input((SIDE, SIDE, 3))
    end = layers.Conv2D(layer, 1, name="block5_conv4")(vgg16(images)) if layer else vgg16(images)
    saved = keras.Model(images, end if layer else layers.Dense(8, name="block5_conv9")(end))
    saved.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(TransferError, match=rf"unexpected \({more}"):
        create_model("vgg16", tmp_path / "x.weights.h5", **SMALL)


# Keras 2 wrote functions of TensorFlow by their names, and what a layer takes as lists.
OF_KERAS_2: dict[str, tuple[list[tuple[str, dict]], str]] = {
    "caffe": (
        [("__operators__.getitem", {"slice_spec": {"class_name": "__tuple__", "items": [
            {"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1}]}}),
         ("nn.bias_add", {"bias": [-103.939, -116.779, -123.68], "data_format": None})], "bgr",
    ),
    "tf": ([("math.truediv", {"y": 127.5, "name": None}), ("math.subtract", {"y": 1.0, "name": None})], "rgb"),
}  # fmt: skip


@pytest.mark.parametrize("what", OF_KERAS_2)
def test_keras_2(what: str, tmp_path: Path) -> None:
    steps, order = OF_KERAS_2[what]
    saved = randomised(nested(FRONTS["slice and mean" if what == "caffe" else "preprocess_input tf"][0], mean_dense))
    saved.save(tmp_path / "x.h5")

    def row(kind: str, name: str, config: dict, source: str | None, more: dict) -> dict:
        nodes = [[[source, 0, 0, more]]] if source else []
        return {"class_name": kind, "config": {"name": name, **config}, "name": name, "inbound_nodes": nodes}

    def functional(name: str, rows: list[dict], source: str | None) -> dict:
        ends = {"input_layers": [[rows[0]["name"], 0, 0]], "output_layers": [[rows[-1]["name"], 0, 0]]}
        config = {"name": name, "layers": rows, **ends}
        return {**row("Functional", name, config, source, {})}

    shape = {"batch_input_shape": [None, SIDE, SIDE, 3]}
    rows, inner = [row("InputLayer", "input_2", shape, None, {})], [row("InputLayer", "input_1", shape, None, {})]
    for number, (function, more) in enumerate(steps):
        kind = "SlicingOpLambda" if "getitem" in function else "TFOpLambda"
        rows.append(row(kind, f"tf.{function}_{number}", {"function": function}, rows[-1]["name"], more))
    for layer in saved.get_layer("vgg16").layers[1:]:
        kept = ("padding", "strides", "activation", "use_bias", "pool_size", "dilation_rate", "groups")
        config = {key: value for key, value in layer.get_config().items() if key in kept}
        inner.append(row(type(layer).__name__, layer.name, config, inner[-1]["name"], {}))
    rows.append(functional("vgg16", inner, rows[-1]["name"]))
    for layer in saved.layers[-3:]:
        config = {k: v for k, v in layer.get_config().items() if k in ("activation", "use_bias", "rate", "keepdims")}
        rows.append(row(type(layer).__name__, layer.name, config, rows[-1]["name"], {}))
    rows[-3]["inbound_nodes"] = [[["vgg16", 1, 0, {}]]]  # after the one that made it
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file.attrs["model_config"] = json.dumps(functional("model", rows, None))
        file.attrs["keras_version"] = "2.11.0"
    ours = create_model("vgg16", tmp_path / "x.h5", head="file", **SMALL)
    assert ours.preprocessing.channels == order
    close(probabilities(ours, ours.preprocessing), answers(saved))


APPLICATIONS = {"ResNet50": "resnet50", "ResNet50V2": "resnet50v2", "InceptionV3": "inception_v3"}


@pytest.mark.slow
@pytest.mark.parametrize("cls", APPLICATIONS)
@pytest.mark.parametrize("is_nested", [True, False])
def test_networks_of_keras(cls: str, is_nested: bool, tmp_path: Path) -> None:
    side = 75
    layers.Conv2D(3, 1)(keras.Input((side, side, 3)))  # so that names count from elsewhere
    inner = getattr(keras.applications, cls)(weights=None, include_top=False, input_shape=(side, side, 3))
    images = keras.Input((side, side, 3))
    scaled = layers.Rescaling(1 / 127.5, -1)(images)
    if is_nested:
        saved = keras.Model(images, mean_dense(inner(scaled)))
    else:
        after = layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(inner.output))
        saved = keras.Model(inner.input, [after, layers.Conv2D(2, 1)(inner.output)])
    randomised(saved).save(tmp_path / "x.keras")
    ours = create_model(APPLICATIONS[cls], tmp_path / "x.keras", head="file")
    pixels = np.random.default_rng(3).integers(0, 256, (1, side, side, 3), np.uint8)
    theirs = answers(saved, pixels)
    assert (ours.preprocessing is not None) == is_nested
    close(probabilities(ours, ours.preprocessing, pixels), theirs if is_nested else theirs[0])


def test_a_head_of_no_file_is_refused(tmp_path: Path) -> None:
    for more in ({"head": "files"}, {"head": "file", "weights": False}):
        with pytest.raises(UsageError, match="head="):
            create_model("vgg16", **{"weights": tmp_path / "x.keras", **more})  # type: ignore[arg-type]


def changed(path: Path, change: Callable[[dict], Any]) -> None:
    """Another configuration in an `.h5` file."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        new = change(config)
        file.attrs["model_config"] = new if isinstance(new, str) else json.dumps(config)


def layer_of(config: dict, name: str) -> dict:
    return next(row for row in config["config"]["layers"] if row["config"]["name"] == name)


LIES: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no list": (lambda c: c["config"].update(layers=3), "its configuration is none of a model"),
    "no bias": (
        lambda c: layer_of(c, "block1_conv1")["config"].update(use_bias=False),
        "has the weights kernel, bias, ",
    ),
    "strides": (lambda c: layer_of(c, "block1_conv1")["config"].update(strides=[0, 0]), "a window, padding or side"),
    "text": (lambda c: layer_of(c, "block1_conv1")["config"].update(strides="a"), r"block1_conv1 \(Conv2D\)"),
    "padding": (lambda c: layer_of(c, "block1_conv1")["config"].update(padding="x"), "makes no sense"),
    "first": (lambda c: layer_of(c, "block1_conv1")["config"].update(data_format="channels_first"), "channels first"),
    "activation": (
        lambda c: layer_of(c, "block1_conv1")["config"].update(activation="dense"),
        r"the graph has dense of block1_conv1 \(Conv2D\)",
    ),
    "class": (lambda c: layer_of(c, "block1_conv1").update(class_name="os.system"), "is of a class that is not known"),
    "cycle": (
        lambda c: layer_of(c, "block1_conv1").update(inbound_nodes=layer_of(c, "block5_pool")["inbound_nodes"]),
        "its configuration is none of a model",
    ),
    "missing": (lambda c: c["config"].update(output_layers=["nowhere", 0, 0]), "its configuration is none of a model"),
}


@pytest.mark.parametrize("number", table(LIES))
def test_a_configuration_that_lies(number: int, tmp_path: Path, vgg_file: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(vgg_file.read_bytes())
    change, words = list(LIES.values())[number]
    changed(path, change)
    with pytest.raises(TransferError, match=words) as caught:
        create_model("vgg16", path, num_classes=0, **SMALL)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "x.h5"
    base().save(path)
    return path


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"config": {"layers": [{"config": ' * 5000], ids=range(3))
def test_a_configuration_that_is_no_json_is_damage(text: str, tmp_path: Path, vgg_file: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(vgg_file.read_bytes())
    changed(path, lambda config: text)
    with pytest.raises(TransferError, match=r"x.h5: a damaged or truncated Keras .h5 file"):
        readers.read(path)


def bomb(depth: int, calls: int) -> dict:
    """A model that calls another `calls` times, that one another, …"""
    model: dict = {"class_name": "Dropout", "config": {"name": "d"}}
    for number in range(depth):
        model = {"class_name": "Sequential", "config": {"name": f"m{number}", "layers": [model] * calls}}
    return model


def test_models_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransferError, match=f"more than {DEEPEST} deep"):
        KerasUnits(bomb(DEEPEST + 10, 1), {}, (8, 8, 3))
    monkeypatch.setattr(keras_units, "MOST_CALLS", 200)
    with pytest.raises(TransferError, match="calls layers more than 200 times"):
        KerasUnits(bomb(15, 2), {}, (8, 8, 3))
    doubled = [{"class_name": "Concatenate", "config": {"name": "c"}, "inbound_nodes": []}]
    assert image_shape({"config": {"layers": doubled}}) == (0, 0, 0)


def test_channels_without_end_are_refused() -> None:
    def row(kind: str, number: int) -> dict:
        nodes = [[[f"l{number - 1}", 0, 0, {}]] * 2] if number else []
        return {"class_name": kind, "config": {"name": f"l{number}"}, "inbound_nodes": nodes}

    rows = [row("InputLayer", 0), *(row("Concatenate", number) for number in range(1, 40))]
    config = {"layers": rows, "input_layers": [["l0", 0, 0]], "output_layers": [["l39", 0, 0]]}
    graph = KerasUnits({"class_name": "Functional", "config": config}, {}, (8, 8, 3))
    assert "channels: no network has as many" in str(graph.problem)


def test_the_size_of_images_that_a_model_says() -> None:
    assert image_shape({"config": {"layers": [{"config": {"batch_shape": [None, 8, None, 3]}}]}}) == (8, 0, 3)
    assert image_shape({"config": {"layers": [3, {"config": {"batch_shape": [1, -8, "a", 1 << 40]}}]}})[:2] == (0, 0)
    for config in (None, 3, [], {"config": 3}, {"config": {"layers": 3}}, {"config": {"layers": [3, None, {}]}}):
        assert image_shape(config) == (0, 0, 0)
