"""The fast road for JPEGs gives Pillow's pixels, and leaves to Pillow what it should judge."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from real_formats import encoded

from transfer import preprocess
from transfer.bench import photographs
from transfer.data import BrokenImage, decode
from transfer.preprocess import Preprocessing

PHOTOGRAPH = photographs.draw(np.random.default_rng(0), 67, 93)
SAVED = itertools.product(("RGB", "L"), ("4:4:4", "4:2:2", "4:2:0"), (30, 95), (False, True))
JPEGS = [
    encoded(np.asarray(Image.fromarray(PHOTOGRAPH).convert(mode)), "JPEG", quality=q, subsampling=s, progressive=p)
    for mode, s, q, p in SAVED
]


def by_pillow(data, size=None):
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, size)
        return np.asarray(image.convert("RGB"))


def divided_by(by):
    return lambda height, width: by


@pytest.fixture
def only_pillow(monkeypatch):
    monkeypatch.setattr(decode, "_turbo", lambda: None)


def test_the_pixels_are_pillows():
    pytest.importorskip("simplejpeg")
    for data in JPEGS:
        fast = decode._by_turbo(data, None, None)
        np.testing.assert_array_equal(fast, by_pillow(data))
        assert decode.size(data) == fast.shape


@pytest.mark.parametrize("by", [2, 4, 8])
def test_shrunk_as_pillows_draft_does(by):
    pytest.importorskip("simplejpeg")
    for data in JPEGS:
        fast = decode._by_turbo(data, None, divided_by(by))
        np.testing.assert_array_equal(fast, by_pillow(data, (93 // by, 67 // by)))


@pytest.mark.parametrize("by", [1, 2, 8])
def test_without_simplejpeg_nothing_changes(by, only_pillow):
    for data in JPEGS[:4]:
        np.testing.assert_array_equal(
            decode.decode(data, "", None, divided_by(by)), by_pillow(data, (93 // by, 67 // by))
        )
        assert decode.size(data) == (67, 93, 3)


@pytest.mark.parametrize("room", [(67, 93, 3), (100, 100, 3), (67 * 93 * 3,)])
def test_decoded_into_memory_with_room_for_it(room):
    pytest.importorskip("simplejpeg")
    out = np.zeros(room, np.uint8)
    image = decode.decode(JPEGS[0], "", out)
    assert np.shares_memory(image, out)
    np.testing.assert_array_equal(image, by_pillow(JPEGS[0]))
    assert not np.shares_memory(decode.decode(JPEGS[0], "", out.reshape(-1)[: 67 * 93 * 3 - 1]), out)


def test_other_colours_and_kinds_are_left_to_pillow():
    cmyk = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).convert("CMYK").save(cmyk, "JPEG")
    for data in (cmyk.getvalue(), encoded(PHOTOGRAPH)):
        assert decode._by_turbo(data, None, None) is None
        np.testing.assert_array_equal(decode.decode(data, ""), by_pillow(data))


def test_a_huge_image_is_left_to_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BrokenImage, match="big.jpg: not a readable image .*decompression bomb"):
        decode.decode(JPEGS[0], "big.jpg")


@pytest.mark.parametrize("cut", [3, 200, len(JPEGS[0]) // 2, len(JPEGS[0]) - 100])
def test_a_truncated_file_is_broken(cut):
    with pytest.raises(BrokenImage, match="cut.jpg: not a readable image"):
        decode.decode(JPEGS[0][:cut], "cut.jpg", np.zeros(67 * 93 * 3, np.uint8))


@pytest.mark.parametrize(
    "resize_to, size", [(None, (20, 30)), (None, (67, 93)), (16, (14, 14)), (4, (4, 4)), (80, (80, 80))]
)
def test_the_divisor_is_that_of_draft(resize_to, size):
    recipe = Preprocessing(size, resize_to=resize_to, resize="draft")
    divisor = preprocess.draft_divisor(recipe, 67, 93)
    wanted = size[::-1] if resize_to is None else (int(resize_to * 93 / 67), resize_to)
    np.testing.assert_array_equal(decode.decode(JPEGS[0], "", None, divided_by(divisor)), by_pillow(JPEGS[0], wanted))
