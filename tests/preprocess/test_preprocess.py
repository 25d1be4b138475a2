"""The recipe before a network: Pillow's pixels on the device, JAX's floats, torchvision's geometry."""

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transfer.errors import UsageError
from transfer.preprocess import recipe as preprocess
from transfer.preprocess import resample
from transfer.preprocess.recipe import Preprocessing

JAX_METHODS = {"bilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos3", "nearest": "nearest"}

# (height, width, new height, new width): up, down, both, one axis only, odd, tall (Pillow 13 starts with rows), tiny
SIZES = [
    (32, 32, 224, 224),
    (32, 32, 75, 41),
    (97, 61, 32, 32),
    (40, 23, 17, 51),
    (30, 50, 11, 50),
    (120, 40, 20, 30),
    (1, 1, 5, 4),
    (400, 300, 9, 13),
]


def pixels(seed, shape, extreme=False):
    """Noise; `extreme` leaves only 0 and 255, where bicubic and Lanczos overshoot most."""
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return np.where(values > 127, 255, 0).astype(np.uint8) if extreme else values


def by_pillow(image, height, width, interpolation):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[interpolation.upper()]))


@functools.partial(jax.jit, static_argnums=0)
def on_device(recipe, images):
    return preprocess.resize(recipe, images)


@pytest.mark.parametrize("interpolation", preprocess.CHOICES["interpolation"])
@pytest.mark.parametrize("height, width, new_height, new_width", SIZES)
def test_pil_is_pillow_bit_for_bit(height, width, new_height, new_width, interpolation):
    recipe = Preprocessing((new_height, new_width), interpolation=interpolation)
    images = np.stack([pixels(0, (height, width, 3)), pixels(1, (height, width, 3), extreme=True)])
    expected = np.stack([by_pillow(image, new_height, new_width, interpolation) for image in images])
    device = on_device(recipe, images)
    assert device.dtype == jnp.uint8
    np.testing.assert_array_equal(device, expected)
    for image, want in zip(images, expected, strict=True):
        np.testing.assert_array_equal(preprocess.resize_on_host(recipe, image), want)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 70)] * 4),
    interpolation=st.sampled_from(preprocess.CHOICES["interpolation"]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_pil_is_pillow_at_any_size(sizes, interpolation, seed, extreme):
    height, width, new_height, new_width = sizes
    recipe = Preprocessing((new_height, new_width), interpolation=interpolation)
    image = pixels(seed, (height, width, 3), extreme)
    expected = by_pillow(image, new_height, new_width, interpolation)
    np.testing.assert_array_equal(on_device(recipe, image[None])[0], expected)
    np.testing.assert_array_equal(preprocess.resize_on_host(recipe, image), expected)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", preprocess.CHOICES["interpolation"])
@pytest.mark.parametrize("height, width, new_height, new_width", [(32, 32, 75, 41), (97, 61, 32, 70)])
def test_float_is_jax_image_resize(height, width, new_height, new_width, interpolation, antialias):
    recipe = Preprocessing((new_height, new_width), interpolation=interpolation, antialias=antialias, resize="float")
    image = pixels(2, (height, width, 3))
    expected = jax.image.resize(
        image.astype(np.float32), (new_height, new_width, 3), JAX_METHODS[interpolation], antialias=antialias
    )
    np.testing.assert_allclose(on_device(recipe, image[None])[0], expected, rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(preprocess.resize_on_host(recipe, image), expected, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_host_and_device_give_the_same_floats(interpolation):
    recipe = Preprocessing((50, 20), resize_to=55, interpolation=interpolation, resize="float")
    image = pixels(3, (61, 37, 3))
    host, device = preprocess.resize_on_host(recipe, image), on_device(recipe, image[None])[0]
    assert host.dtype == device.dtype
    np.testing.assert_allclose(host, device, rtol=1e-5, atol=1e-3)


# torchvision 0.29's Resize(resize_to) and CenterCrop(crop) on a PIL image of (height, width):
# size after the resize, then the box (top, left) of the crop, or the padding where it is negative
TORCHVISION = [
    ((375, 500), 256, 224, (256, 341), (16, 58)),  # round(58.5) is 58: half to even
    ((500, 375), 256, 224, (341, 256), (58, 16)),
    ((333, 500), 256, 224, (256, 384), (16, 80)),
    ((224, 224), 256, 224, (256, 256), (16, 16)),
    ((100, 101), 232, 224, (232, 234), (4, 5)),
    ((61, 53), 47, 40, (54, 47), (7, 4)),  # 3.5 to 4, 7
]


@pytest.mark.parametrize("size, resize_to, crop, resized, corner", TORCHVISION)
def test_torchvision_geometry(size, resize_to, crop, resized, corner):
    recipe = Preprocessing((crop, crop), resize_to=resize_to)
    image = pixels(4, (*size, 3))
    top, left = corner
    expected = by_pillow(image, *resized, "bilinear")[top : top + crop, left : left + crop]
    np.testing.assert_array_equal(on_device(recipe, image[None])[0], expected)
    np.testing.assert_array_equal(preprocess.resize_on_host(recipe, image), expected)


@pytest.mark.parametrize("size, pads", [((20, 31), ((2, 3), (0, 0))), ((31, 20), ((0, 0), (2, 3)))])
def test_an_image_smaller_than_the_crop_is_padded_with_black(size, pads):
    """torchvision pads the odd pixel at the right and at the bottom."""
    recipe = Preprocessing((25, 25), resize_to=20)
    image = pixels(5, (*size, 3))
    expected = np.pad(image[3 if size[0] > 25 else 0 :, 3 if size[1] > 25 else 0 :][:25, :25], (*pads, (0, 0)))
    np.testing.assert_array_equal(on_device(recipe, image[None])[0], expected)
    np.testing.assert_array_equal(preprocess.resize_on_host(recipe, image), expected)


def test_normalise_orders_channels_before_mean_and_std():
    images = np.zeros((1, 1, 1, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    caffe = Preprocessing((1, 1), channels="bgr", mean=(103.939, 116.779, 123.68))
    torch = Preprocessing((1, 1), scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    np.testing.assert_allclose(
        preprocess.apply(caffe, images)[0, 0, 0], [30 - 103.939, 20 - 116.779, 10 - 123.68], rtol=1e-6
    )
    expected = (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(preprocess.apply(torch, images)[0, 0, 0], expected, rtol=1e-6)
    assert preprocess.apply(torch, images).dtype == jnp.float32


def test_a_batch_of_small_images_needs_no_memory_beyond_its_result():
    recipe = Preprocessing((224, 224), interpolation="bicubic")
    program = jax.jit(lambda images: preprocess.apply(recipe, images))
    memory = program.lower(jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.uint8)).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= memory.output_size_in_bytes


def test_another_size_keeps_the_proportion_of_the_crop():
    recipe = Preprocessing((224, 224), resize_to=256, interpolation="bicubic")
    assert recipe.with_image_size(299) == Preprocessing((299, 299), resize_to=342, interpolation="bicubic")
    assert recipe.with_image_size((112, 160)) == Preprocessing((112, 160), resize_to=128, interpolation="bicubic")
    assert Preprocessing((224, 224)).with_image_size(32).resize_to is None


def test_a_recipe_from_json_is_hashable_and_equal():
    recipe = Preprocessing([8, 9], mean=[1, 2, 3])
    assert recipe == Preprocessing((8, 9), mean=(1.0, 2.0, 3.0))
    assert hash(recipe) == hash(Preprocessing((8, 9), mean=(1.0, 2.0, 3.0)))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"interpolation": "cubic"}, "bicubic"),
        ({"resize": "tf"}, "pil, float"),
        ({"channels": "grb"}, "rgb, bgr"),
        ({"mean": (1, 2)}, "each of 3 channels"),
        ({"mean": (1, 1)}, "each of 3 channels"),
        ({"image_size": 0}, "at least one pixel"),
        ({"image_size": "big"}, "pixels"),
        ({"resize_to": 0}, "resize_to"),
    ],
)
def test_a_wrong_recipe_is_a_usage_error(fields, words):
    with pytest.raises(UsageError, match=words):
        Preprocessing(**{"image_size": (8, 8), **fields})


@pytest.mark.parametrize("size", [(28, 28), (33, 50)])
def test_grey_is_pillows(size):
    image = pixels(7, (40, 50, 3))
    recipe = Preprocessing(size, channels="grey", scale=1 / 255, mean=(0.5,))
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR).convert("L"))
    got = np.asarray(preprocess.apply(recipe, image[None]))
    assert got.shape == (1, *size, 1)
    np.testing.assert_allclose((got[0, ..., 0] + 0.5) * 255, expected, atol=1e-4)
    floats = dataclasses.replace(recipe, resize="float")
    np.testing.assert_allclose(preprocess.apply(floats, image[None]), got, atol=2 / 255)


def test_what_is_kept_for_the_next_image_cannot_be_written_to():
    for kept in (resample.band(8, 4, "bilinear").weights, resample.nearest_indices(8, 4, "pil")):
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 0


def test_least_sizes():
    assert Preprocessing((1, 1), resize_to=1).input_shape == (1, 1, 3)
    for fields in (dict(image_size=(0, 1)), dict(image_size=(1, 0)), dict(image_size=(1, 1), resize_to=0)):
        with pytest.raises(UsageError, match="at least one pixel"):
            Preprocessing(**fields)


@pytest.mark.parametrize(
    ("height", "width", "divisor"),
    [(63, 500, 1), (64, 64, 2), (500, 127, 2), (128, 500, 4), (255, 255, 4), (256, 256, 8), (2000, 2000, 8)],
)
def test_a_draft_is_no_smaller_than_what_it_is_resized_to(height, width, divisor):
    """As Pillow's `Image.draft` chooses."""
    recipe = Preprocessing((32, 32), resize="draft")
    assert preprocess.draft_divisor(recipe, height, width) == divisor
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "JPEG")
    image = Image.open(file)
    image.draft("RGB", (32, 32))
    assert image.size == (-(-width // divisor), -(-height // divisor))


def test_grey_of_floats_is_the_same_before_it_is_rounded():
    recipe = Preprocessing((5, 7), channels="grey")
    image = pixels(6, (1, 5, 7, 3))
    weighed = image @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(preprocess.normalise(recipe, image.astype(np.float32))[..., 0], weighed, atol=5e-3)
    np.testing.assert_allclose(preprocess.normalise(recipe, image)[..., 0], weighed, atol=0.505)


def test_grey_leaves_a_grey_image_as_it_is():
    image = np.repeat(pixels(8, (28, 28, 1)), 3, axis=-1)
    got = preprocess.apply(Preprocessing((28, 28), channels="grey"), image[None])
    np.testing.assert_array_equal(got[0], image[..., :1])
