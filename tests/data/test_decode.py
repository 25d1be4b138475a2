"""The fast road for JPEGs gives Pillow's pixels, and leaves to Pillow what it should judge."""

import io
import itertools
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from real_formats import encoded

from transfer.bench import photographs
from transfer.data import BrokenImage, decode
from transfer.preprocess import recipe as preprocess
from transfer.preprocess.recipe import Preprocessing

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


def ppm(kind, levels, values, size=b"3 2"):
    """A binary PPM."""
    form = ">u2" if levels > 255 else "u1"
    return b"%s %s %d\n" % (kind, size, levels) + np.asarray(values).astype(form).tobytes()


@pytest.mark.parametrize("levels", [1, 9, 100, 254, 255, 256, 1000, 65534, 65535])
@pytest.mark.parametrize("kind", [b"P5", b"P6"])
def test_ppms_of_any_number_of_levels_are_pillows(kind, levels):
    # values above the largest level are cut, as Pillow cuts them
    values = np.linspace(0, min(levels * 1.2, 255 if levels < 256 else 65535), 18 if kind == b"P6" else 6)
    data = ppm(kind, levels, values)
    with Image.open(io.BytesIO(data)) as image:
        grey = image.mode.startswith("I")
        expected = np.asarray(image)
    expected = (expected >> 8).clip(0, 255) if grey else expected
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, -1)
    np.testing.assert_array_equal(decode.decode(data, "a.ppm"), expected)


def test_a_truncated_ppm():
    with pytest.raises(BrokenImage, match="a.ppm: .*truncated"):
        decode.decode(ppm(b"P6", 100, range(17)), "a.ppm")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM"])
def test_more_pixels_than_pillow_takes(kind, monkeypatch):
    data = encoded(PHOTOGRAPH, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 67 * 93)
    assert decode.decode(data, "a").shape == (67, 93, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 67 * 93 - 1)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(BrokenImage, match="a: .*claims 93x67 pixels"):
        decode.decode(data, "a")


def test_scans_of_a_baseline_jpeg_are_not_counted():
    """A thumbnail has the marker of a scan too, and so may a comment."""
    data = encoded(PHOTOGRAPH, "JPEG", comment=b"\xff\xda" * 200)
    np.testing.assert_array_equal(decode.decode(data, "a"), by_pillow(data))
    progressive = encoded(PHOTOGRAPH, "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    with pytest.raises(BrokenImage, match="more than 100 scans"):
        decode.decode(progressive[:-2] + scan * 100 + b"\xff\xd9", "a")
    # the same of arithmetic coding, and of four colours in one scan
    assert decode._has_too_many_scans(progressive.replace(b"\xff\xc2", b"\xff\xca") + scan * 100)
    stream = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).convert("CMYK").save(stream, "JPEG", comment=b"\xff\xda" * 200)
    np.testing.assert_array_equal(decode.decode(stream.getvalue(), "a"), by_pillow(stream.getvalue()))


PROGRESSIVE = encoded(PHOTOGRAPH, "JPEG", progressive=True)
TEXT = b"P3 # one\n# two\n2 1 255\n1 2 3 4 5 6\n"
# limit -> a file that keeps it, the value that it keeps, what is said where the limit is a little less
LIMITS = {
    "MOST_SCANS": (PROGRESSIVE, PROGRESSIVE.count(b"\xff\xda"), "it has more than {} scans"),
    "MOST_COMMENTS": (TEXT, 2, "a PPM in text, too long to read"),
    "MOST_TEXT": (TEXT, len(TEXT), "a PPM in text, too long to read"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_what_keeps_decoding_in_proportion(limit, monkeypatch):
    data, most, message = LIMITS[limit]
    monkeypatch.setattr(decode, limit, most)
    np.testing.assert_array_equal(decode.decode(data, "a"), by_pillow(data))
    monkeypatch.setattr(decode, limit, most - 1)
    with pytest.raises(BrokenImage, match=f"^a: not a readable image .{message.format(most - 1)}.$"):
        decode.decode(data, "a")
    assert limit != "MOST_SCANS" or decode.size(data) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM"])
def test_pixels_for_every_byte(kind, only_pillow, monkeypatch):
    data = encoded(PHOTOGRAPH, kind)
    monkeypatch.setitem(decode.MOST_PIXELS, kind, Fraction(67 * 93, len(data)))
    assert decode.decode(data, "a").shape == (67, 93, 3)
    monkeypatch.setitem(decode.MOST_PIXELS, kind, Fraction(67 * 93 - 1, len(data)))
    with pytest.raises(BrokenImage, match=f"it claims 93x67 pixels in {len(data)} bytes"):
        decode.decode(data, "a")


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("JPEG", {"quality": 1, "progressive": True}), ("PPM", {})])
def test_nothing_in_an_image_is_no_reason_to_refuse_it(kind, options, only_pillow):
    """As few bytes as a format takes for its pixels."""
    stream = io.BytesIO()
    Image.new("L" if kind == "JPEG" else "1", (2400, 1600)).save(stream, kind, **options)
    assert decode.decode(stream.getvalue(), "a").max() <= 1
