"""Images of several sizes, resized by one program, are what the host makes of each of them."""

import numpy as np
import pytest
from real_formats import encoded, pixels, write_files
from tiny_model import RECIPE, TinyModel, TinySource

from transfer.data import frames, open_source
from transfer.data.loader import batches
from transfer.extract import Extractor, extract_to_store, to_store
from transfer.preprocess import recipe as preprocess
from transfer.preprocess.recipe import Preprocessing

SIZES = [(30, 40), (40, 30), (9, 11), (48, 48), (12, 12), (17, 200), (200, 17)]
RECIPES = {
    "bilinear": Preprocessing((12, 12)),
    "bicubic, cropped": Preprocessing((20, 24), resize_to=26, interpolation="bicubic"),
    "lanczos": Preprocessing((31, 12), interpolation="lanczos"),
    "nearest": Preprocessing((12, 15), interpolation="nearest"),
    "padded": Preprocessing((40, 40), resize_to=20),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """PNGs of all `SIZES`, the fourth of them broken, and their pixels."""
    images = [pixels(1, *size, seed)[0] for seed, size in enumerate(SIZES)]
    files = {f"a/{i:02d}.png": encoded(image) for i, image in enumerate(images)}
    files["a/03.png"] = b""
    return open_source(f"folder:{write_files(tmp_path_factory.mktemp('mixed'), files)}"), images


@pytest.mark.parametrize("largest", [frames.LARGEST_SIDE, 45], ids=["all on the device", "large ones by the host"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_device_makes_what_the_host_makes(mixed, recipe, largest, monkeypatch):
    monkeypatch.setattr(frames, "LARGEST_SIDE", largest)
    frames.bands_of_size.cache_clear()
    source, images = mixed
    (batch,) = batches(source, 0, len(SIZES), 9, recipe, on_error="skip", canvases=True)
    assert batch.size == len(SIZES) and batch.failed == [3] and batch.images.dtype == np.uint8
    assert max(batch.images.shape[1:3]) <= (256 if largest > 45 else 64)
    resized = np.asarray(frames.resize(batch.images, batch.bands))
    for slot, image in enumerate(images):
        expected = 0 if slot == 3 else preprocess.resize_on_host(recipe, image)
        np.testing.assert_array_equal(resized[slot], expected)
    assert not resized[len(SIZES) :].any()
    frames.bands_of_size.cache_clear()


def test_floats_are_resized_by_the_host(mixed):
    recipe = Preprocessing((12, 12), resize="float")
    batch = next(batches(mixed[0], 0, 2, 2, recipe, canvases=True))
    assert batch.bands is None and batch.images.dtype == np.float32


def test_a_batch_of_which_nothing_can_be_read(mixed):
    batch = next(batches(mixed[0], 3, 4, 2, RECIPE, on_error="skip", canvases=True))
    assert batch.failed == [3]
    assert not np.asarray(frames.resize(batch.images, batch.bands)).any()


def test_a_store_is_the_same_whoever_resizes(tmp_path, monkeypatch):
    source = TinySource(broken=(2, 9), shape=None)
    extractor = Extractor(TinyModel(), batch_size=4, preprocessing=RECIPE)
    host = extract_to_store(extractor, source, tmp_path / "host", on_error="skip")
    monkeypatch.setattr(to_store, "RESIZING_BACKENDS", ("cpu",))
    device = extract_to_store(extractor, source, tmp_path / "device", on_error="skip")
    np.testing.assert_array_equal(host.features[:], device.features[:])
    assert host.ids == device.ids
