"""Images of several sizes, resized by one program, are what the host makes of each of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from real_formats import encoded, pixels, write_files
from tiny_model import RECIPE, TinyModel, TinySource

from transfer.data import frames, open_source
from transfer.data.loader import batches
from transfer.extract import Extractor, extract_to_store, to_store
from transfer.preprocess import recipe as preprocess
from transfer.preprocess import resample
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


# (size, recipe) -> whether the device resizes it
SIDES = {
    "columns first": ((100, 90), Preprocessing((40, 40)), True),
    "rows first": ((100, 90), Preprocessing((40, 40)), False),
    "16 taps down": ((8 * 12, 12), Preprocessing((12, 12)), True),
    "17 taps down": ((8 * 12 + 6, 12), Preprocessing((12, 12)), False),
    "16 taps across": ((12, 8 * 12), Preprocessing((12, 12)), True),
    "17 taps across": ((12, 8 * 12 + 6), Preprocessing((12, 12)), False),
    "as wide as may be": ((200, 1024), Preprocessing((100, 512)), True),
    "too wide": ((200, 1025), Preprocessing((100, 512)), False),
    "as high as may be": ((1024, 200), Preprocessing((512, 100)), True),
    "too high": ((1025, 200), Preprocessing((512, 100)), False),
}


@pytest.mark.parametrize("case", SIDES)
def test_what_the_device_resizes(case, monkeypatch):
    size, recipe, on_device = SIDES[case]
    monkeypatch.setattr(resample, "rows_first", lambda *sides: case == "rows first")  # versions of Pillow differ in it
    frames.bands_of_size.cache_clear()
    bands = frames.bands_of_size(recipe, *size)
    frames.bands_of_size.cache_clear()
    assert (bands is not None) == on_device
    if bands is not None:
        rows, columns, _ = preprocess.bands(recipe, *size)
        for band, starts, weights in ((rows, *bands[:2]), (columns, *bands[2:])):
            assert starts.dtype == weights.dtype == np.int32 and starts.tolist() == band.starts.tolist()
            np.testing.assert_allclose(weights / 2**22, band.weights, atol=2**-22)


@pytest.mark.parametrize("side, room", [(1, 16), (16, 16), (17, 24), (24, 24), (25, 32), (33, 48), (769, 1024)])
def test_canvases_have_few_sizes(side, room):
    bands = frames.identity_bands((3, 4))
    canvases, together = frames.assemble([None, (np.ones((side, 2, 3), np.uint8), bands)], frames.Buffers())
    assert canvases.shape == (2, room, 16, 3) and canvases[1, :side, :2].all()
    assert [field.shape for field in together] == [(2, 3), (2, 3, 2), (2, 4), (2, 4, 2)]
    assert not any(field[0].any() for field in together)
    assert [field[1].tolist() for field in together[::2]] == [[0, 1, 2], [0, 1, 2, 3]]


def test_what_travels_at_its_size(monkeypatch):
    def source(*shape):
        return SimpleNamespace(uniform_shape=shape or None)

    monkeypatch.setattr(frames, "LARGEST_ON_DEVICE", 35)
    assert [frames.needs_resizing(source(*size, 3)) for size in [(5, 7), (6, 6), (1, 36)]] == [False, True, True]
    assert frames.needs_resizing(source())
    monkeypatch.setattr(frames, "LARGEST_ON_DEVICE", 10**4)
    # JPEGs are shrunk as they decode where they are twice as large as what is wanted, or more
    for resize, expected in {"draft": [False, False, True, True], "pil": [False] * 4}.items():
        recipe = Preprocessing((12, 12), resize=resize)
        sizes = [(12, 12), (23, 24), (24, 24), (48, 50)]
        assert [frames.needs_resizing(source(*size, 3), recipe) for size in sizes] == expected


def test_slots_without_an_image_are_black():
    images = np.full((3, 2, 2, 3), 7, np.uint8)
    batch = frames.Array(images, 2)
    batch.drop(0)
    assert [image.any() for image in batch.finish()[0]] == [False, True, False]


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
