"""From an image's pixels to a network's input: torchvision's and timm's own transforms (golden), Keras' live.

The recipe is each catalogue record's. "A step" is the step between two 8-bit values.
"""

import dataclasses
import functools
import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import seeded

from transfer.preprocess import recipe as preprocess
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import catalogue

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocessing.npz"
# Steps; both compute the input from the same 8-bit value in float32, in another order. A 255th would be 4e-3.
TOLERANCE = 1e-4
RECORDS = [r.name for r in catalogue.records().values() if r.source.startswith(("torchvision ", "timm "))]


@functools.cache
def golden() -> dict:
    with np.load(GOLDEN) as stored:
        return json.loads(stored["index"].tobytes()) | {"samples": {k: stored[k] for k in stored if k != "index"}}


def cases() -> list[tuple[Preprocessing, dict]]:
    """Each recipe of our records beside what its source made of each image; records that agree in both count once."""
    pairs = {(catalogue.get(name).preprocessing, golden()["records"][name]) for name in RECORDS}
    found = [(ours, case) for ours, theirs in pairs for case in golden()["cases"] if case["recipe"] == theirs]
    return sorted(found, key=lambda pair: pair[1]["key"])


@functools.partial(jax.jit, static_argnums=0)
def on_device(recipe: Preprocessing, images: jax.Array) -> jax.Array:
    return preprocess.resize(recipe, images)


CASES = cases()
IDS = [case["key"].replace(" ", "-") for _, case in CASES]


KERAS = [r.name for r in catalogue.records().values() if r.name_map == "keras"]
# Its package in `keras.applications`, where that is not the name of the architecture.
PACKAGES = {f"resnet{depth}": "resnet" for depth in (50, 101, 152)}
PACKAGES |= {f"resnet{depth}v2": "resnet_v2" for depth in (50, 101, 152)}
MODES = {"vgg11.tv": "torch", "vgg16.keras": "caffe", "inception_v3.keras": "tf"}


def steps_off(recipe: Preprocessing, values: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in steps of the input between two 8-bit values."""
    step = recipe.scale / np.asarray(recipe.std)
    difference = np.abs(values - expected).max()
    return float(difference / step.max())


def test_every_record_of_torchvision_and_timm_is_recorded_in_its_own_recipe() -> None:
    assert set(RECORDS) <= set(golden()["records"]) and len(RECORDS) > 45
    # one recipe of ours for one of theirs
    assert len({case["key"] for _, case in CASES}) == len(CASES) == len(golden()["cases"])


@pytest.mark.parametrize(("recipe", "case"), CASES, ids=IDS)
def test_pillows_road_is_exact_on_the_host_and_on_the_device(recipe: Preprocessing, case: dict) -> None:
    """All 8-bit pixels are theirs, by their checksum; the input follows."""
    image = seeded.pixels(*case["size"])
    host, device = preprocess.resize_on_host(recipe, image), np.asarray(on_device(recipe, image[None])[0])
    assert list(host.shape) == case["shape"] and host.dtype == device.dtype == np.uint8
    assert zlib.crc32(host.tobytes()) == zlib.crc32(device.tobytes()) == case["crc32"]
    values = seeded.sample(np.asarray(preprocess.normalise(recipe, device[None])[0]))
    assert steps_off(recipe, values, golden()["samples"][case["key"]]) <= TOLERANCE


@pytest.mark.parametrize(("recipe", "case"), CASES, ids=IDS)
def test_floats_are_off_by_pillows_rounding_only(recipe: Preprocessing, case: dict) -> None:
    """Two roundings of half a step each; bicubic weights magnify the first, and Pillow clips between the passes."""
    floats = dataclasses.replace(recipe, resize="float")
    pixels = np.clip(np.asarray(on_device(floats, seeded.pixels(*case["size"])[None])), 0, 255)
    values = seeded.sample(np.asarray(preprocess.normalise(floats, pixels)[0]))
    off = np.abs(values - golden()["samples"][case["key"]]) / (recipe.scale / max(recipe.std))
    assert off.max() <= (1.0001 if recipe.interpolation == "bilinear" else 16)
    assert off.mean() <= (0.35 if recipe.interpolation == "bilinear" else 0.6)


@pytest.mark.parametrize("name", KERAS)
def test_kerass_preprocess_input(name: str) -> None:
    """Every 8-bit value in every channel, by the network's own function."""
    keras = pytest.importorskip("keras")
    record = catalogue.get(name)
    package = getattr(keras.applications, PACKAGES.get(record.arch, record.arch))
    pixels = np.stack([np.arange(256), np.arange(256)[::-1], np.arange(256) * 7 % 256], -1).astype(np.uint8)[None, None]
    expected = package.preprocess_input(pixels.astype(np.float32))
    ours = np.asarray(preprocess.apply(record.preprocessing.with_image_size((1, 256)), pixels))
    assert steps_off(record.preprocessing, ours, expected) <= TOLERANCE


@pytest.mark.parametrize(("name", "mode"), MODES.items())
def test_kerass_modes(name: str, mode: str) -> None:
    keras = pytest.importorskip("keras")
    recipe = catalogue.get(name).preprocessing
    pixels = seeded.pixels(*recipe.image_size)[None]
    expected = keras.applications.imagenet_utils.preprocess_input(pixels.astype(np.float32), mode=mode)
    assert steps_off(recipe, np.asarray(preprocess.normalise(recipe, pixels)), expected) <= TOLERANCE
