"""Photographs stand upright, whichever way the camera was held; every mode of a file is the picture that it means."""

import io
import itertools
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps
from real_formats import pixels

from transfer.bench import photographs
from transfer.data import decode
from transfer.data.decode import MOST_ENTRIES, ORIENTATION, TURNS, orientation

PHOTOGRAPH = photographs.draw(np.random.default_rng(0), 40, 64)


def photograph(kind, turned, **options):
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "A camera"
    exif[ORIENTATION] = turned
    Image.fromarray(PHOTOGRAPH).save(stream, kind, exif=exif, **options)
    return stream.getvalue()


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.fixture(params=["turbo", "pillow"])
def road(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(decode, "_turbo", lambda: None)


@pytest.mark.parametrize("turned", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_turned_as_pillow_turns_them(kind, turned, road):
    data = photograph(kind, turned)
    image = decode.decode(data, "a", np.zeros(PHOTOGRAPH.size, np.uint8))
    np.testing.assert_array_equal(image, by_pillow(data))
    assert image.flags.c_contiguous
    assert decode.size(data) == decode.size(data[:4096]) == image.shape


@pytest.mark.parametrize("turned", [1, 6])
def test_the_divisor_is_asked_about_what_is_seen(turned, road):
    asked = []

    def divisor(height, width):
        asked.append((height, width))
        return 2

    image = decode.decode(photograph("JPEG", turned), "a", None, divisor)
    seen = by_pillow(photograph("JPEG", turned)).shape[:2]
    assert set(asked) == {seen} and image.shape[:2] == tuple(side // 2 for side in seen)


def test_exif_that_is_cut_off_or_damaged_turns_nothing():
    data = photograph("JPEG", 6)
    place = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
    assert orientation(data) == 6
    for end in range(place + 20):
        assert orientation(data[:end]) == 1
    numbers = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(data)
        for at in numbers.integers(0, place + 60, 4):
            changed[at] = numbers.integers(256)
        assert orientation(bytes(changed)) in (1, *TURNS)


def jpeg_with(tiff):
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff


# TIFF type, count -> what 6 in it means. Pillow takes a byte too, which no camera writes.
TYPES = {(3, 1): 6, (4, 1): 6, (8, 1): 6, (9, 1): 6, (1, 1): 1, (2, 1): 1, (6, 1): 1, (5, 1): 1, (3, 2): 1, (99, 1): 1}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind, count", TYPES)
def test_an_orientation_of_every_type_of_number(kind, count, order):
    """It may be the last entry, with nothing behind it, behind others, and anywhere in the segment."""
    value = struct.pack(order + {3: "Hxx", 8: "hxx", 4: "I", 9: "i"}.get(kind, "Bxxx"), 6)
    entry = struct.pack(order + "HHI", ORIENTATION, kind, count) + value
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    for other, gap in itertools.product((0, 2, MOST_ENTRIES - 1), (0, 5)):
        others = struct.pack(order + "HHII", 0x0100, 4, 1, 3) * other
        tiff = start + struct.pack(order + "I", 8 + gap) + bytes(gap)
        tiff += struct.pack(order + "H", other + 1) + others + entry
        assert orientation(jpeg_with(tiff)) == TYPES[kind, count]
        assert orientation(jpeg_with(tiff[:-1])) in (1, TYPES[kind, count])
        assert orientation(jpeg_with(tiff[:-3])) == 1
    behind = struct.pack(order + "HHII", 0x0100, 4, 1, 3) * MOST_ENTRIES + entry
    tiff = start + struct.pack(order + "IH", 8, MOST_ENTRIES + 1) + behind
    assert orientation(jpeg_with(tiff)) == 1, "no entry beyond the most that are read"


@pytest.mark.parametrize("endian", ["<", ">"])
def test_damaged_exif_never_turns_otherwise_than_pillow(endian):
    stream, exif = io.BytesIO(), Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[ORIENTATION], exif[0x0132] = "cam", 6, "2024:01:01 00:00:00"  # at odd offsets
    Image.fromarray(PHOTOGRAPH).save(stream, "JPEG", exif=exif)
    data = stream.getvalue()
    place, numbers, agreed = data.index(b"II*\0" if endian == "<" else b"MM\0*"), np.random.default_rng(0), 0
    assert orientation(data) == 6
    for _ in range(500):
        changed = bytearray(data)
        for at in numbers.integers(place, place + 60, 2):
            changed[at] = numbers.integers(256)
        try:
            with warnings.catch_warnings(action="ignore"):
                parsed = Image.Exif()
                parsed.load(bytes(changed[place : place + 200]))
                theirs = parsed.get(ORIENTATION, 1)
        except Exception:  # as Pillow raises where the whole EXIF makes no sense to it
            continue
        ours = orientation(bytes(changed))
        # where another tag is damaged, Pillow may give up before it comes to this one
        assert ours in (1, theirs) or theirs not in TURNS, (ours, theirs, bytes(changed[place : place + 60]))
        agreed += ours == theirs
    assert agreed > 300


RGBA = np.dstack([PHOTOGRAPH, np.full(PHOTOGRAPH.shape[:2], 9, np.uint8)])
GREY = PHOTOGRAPH[..., 1]
FRAMES = [Image.fromarray(frame) for frame in pixels(3, 8, 9)]
# What a file holds -> (picture, how it is saved, the RGB that it means).
MODES = {
    "grey": (Image.fromarray(GREY), {}, np.repeat(GREY[..., None], 3, -1)),
    "1 bit": (Image.fromarray(GREY > 99), {}, np.repeat(np.where(GREY > 99, 255, 0)[..., None], 3, -1)),
    "16 bits": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, np.repeat(GREY[..., None], 3, -1)),
    "alpha": (Image.fromarray(RGBA), {}, PHOTOGRAPH),
    "grey and alpha": (Image.merge("LA", [Image.fromarray(GREY)] * 2), {}, np.repeat(GREY[..., None], 3, -1)),
    "palette": (Image.fromarray(GREY).convert("P"), {"transparency": 3}, np.repeat(GREY[..., None], 3, -1)),
    "animated": (FRAMES[0], {"save_all": True, "append_images": FRAMES[1:]}, np.asarray(FRAMES[0])),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_a_png_is_the_picture_that_it_means(mode):
    picture, options, expected = MODES[mode]
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    np.testing.assert_array_equal(decode.decode(stream.getvalue(), "a"), expected)


def test_cmyk_is_near_the_picture_that_it_means():
    stream = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).convert("CMYK").save(stream, "JPEG", quality=95)
    error = np.abs(decode.decode(stream.getvalue(), "a").astype(int) - PHOTOGRAPH)
    assert error.mean() < 5
