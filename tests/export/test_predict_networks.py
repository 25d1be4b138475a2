"""`predict --model`: a network that has a classifier of its own says of image files what its own library says."""

import json
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import pytest
from PIL import Image

import transfer
from transfer.__main__ import main

keras = pytest.importorskip("keras")
layers = keras.layers

pytestmark = pytest.mark.usefixtures("compiled_quickly")

SIDE = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of files, of the size that the models take: how others resize is another question."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    return folder


def lab(in_front):
    """The guide's model: a network of `keras.applications`, a mean over its map, a dense layer."""
    quick = keras.initializers.RandomNormal(stddev=0.05, seed=1)
    inner = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
    images = keras.Input((SIDE, SIDE, 3))
    value = layers.GlobalAveragePooling2D()(inner(in_front(images), training=False))
    model = keras.Model(images, layers.Dense(3, "softmax", kernel_initializer=quick)(layers.Dropout(0.2)(value)))
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables[:-2]:
        if len(variable.shape) > 1:
            scale = np.sqrt(2 / np.prod(variable.shape[:-1]))
            variable.assign(scale * generator.standard_normal(variable.shape, np.float32))
    return model


def of_keras(model, folder, preprocess):
    """Its probabilities of the files in a folder, in the order of their names."""
    images = [keras.utils.img_to_array(keras.utils.load_img(path)) for path in sorted(folder.iterdir())]
    with jax.default_matmul_precision("highest"):
        return np.asarray(model(preprocess(np.stack(images)), training=False))


def by_command(capsys, *arguments):
    assert main(["predict", *map(str, arguments), "--all", "--format=jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return rows, np.array([list(row["probabilities"].values()) for row in rows])


# The file -> the name of the model, what stands in front in the file, what its user does to the images before.
LABS = {
    "x.keras": ("vgg16", lambda x: layers.Rescaling(1 / 255)(x), lambda x: x),
    "x.h5": ("vgg16.keras", lambda x: x, keras.applications.vgg16.preprocess_input),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", LABS)
def test_a_keras_model_of_ones_own_gives_its_probabilities(file, photos, tmp_path, capsys):
    name, in_front, before = LABS[file]
    model, path = lab(in_front), tmp_path / file
    model.save(path)
    theirs = of_keras(model, photos, before)
    assert theirs.std() > 1e-3
    rows, ours = by_command(capsys, "--model", name, "--weights", path, "--head=file", photos)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert [row["class"] for row in rows] == list(map(str, theirs.argmax(axis=1)))

    predictor = transfer.Predictor.of_model(name, path, head="file")
    pixels = np.stack([np.asarray(Image.open(each)) for each in sorted(photos.iterdir())])
    np.testing.assert_allclose(predictor(pixels), theirs, rtol=0, atol=1e-5)
