"""Each format is told by its first bytes, and its pixels are Pillow's: the first picture, upright."""

import io
import logging
import shutil
import struct
import warnings

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageFilter, ImageOps, features
from real_formats import pixels, write_files

from transfer.bench import photographs
from transfer.data import BrokenImage, decode, folder, formats, open_source
from transfer.data.decode import ORIENTATION
from transfer.errors import TransferError

PHOTOGRAPH = Image.fromarray(photographs.draw(np.random.default_rng(0), 40, 64)).filter(ImageFilter.GaussianBlur(2))
OTHER = Image.fromarray(pixels(1, 40, 64)[0])
pillow_heif.register_heif_opener()


def saved(kind, image=PHOTOGRAPH, **options):
    stream = io.BytesIO()
    if "append_images" in options:  # an image keeps settings of its last file
        options["append_images"] = [OTHER.copy()]
    image.copy().save(stream, kind, **options)
    return stream.getvalue()


def deep(top, kind="PNG", **options):
    """Grey of 16 bits, whose brightest value is `top`."""
    values = np.linspace(0, top, 40 * 64).astype(np.uint16).reshape(40, 64)
    return saved(kind, Image.fromarray(values), **options)


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


TIFFS = {
    f"TIFF {mode} {how}": ("TIFF", PHOTOGRAPH.convert(mode), {"compression": how})
    for mode, how in (("RGB", None), ("RGB", "tiff_lzw"), ("RGB", "jpeg"), ("CMYK", "tiff_adobe_deflate"))
    + (("L", "packbits"), ("1", "group4"), ("P", None), ("RGBA", "tiff_lzw"), ("YCbCr", None))
}
# what it is -> Pillow's format, image and options of the file
FILES = {
    "JPEG": ("JPEG", PHOTOGRAPH, {}),
    "JPEG of several": ("MPO", PHOTOGRAPH, {"save_all": True, "append_images": [OTHER]}),
    "PNG": ("PNG", PHOTOGRAPH, {}),
    "PNG that moves": ("PNG", PHOTOGRAPH, {"save_all": True, "append_images": [OTHER]}),
    "PPM": ("PPM", PHOTOGRAPH, {}),
    "WebP": ("WEBP", PHOTOGRAPH, {}),
    "WebP without loss": ("WEBP", PHOTOGRAPH, {"lossless": True}),
    "WebP that moves": ("WEBP", PHOTOGRAPH, {"save_all": True, "append_images": [OTHER]}),
    "BMP": ("BMP", PHOTOGRAPH, {}),
    "BMP of a palette": ("BMP", PHOTOGRAPH.quantize(16), {}),
    "BMP of one bit": ("BMP", PHOTOGRAPH.convert("1"), {}),
    "GIF": ("GIF", PHOTOGRAPH, {}),
    "GIF that moves": ("GIF", PHOTOGRAPH, {"save_all": True, "append_images": [OTHER]}),
    "GIF of grey": ("GIF", PHOTOGRAPH.convert("L"), {}),
    **TIFFS,
    "TIFF of pages": ("TIFF", PHOTOGRAPH, {"save_all": True, "append_images": [OTHER]}),
    "BigTIFF": ("TIFF", PHOTOGRAPH, {"big_tiff": True}),
    "JPEG 2000": ("JPEG2000", PHOTOGRAPH, {}),
    "JPEG 2000 without boxes": ("JPEG2000", PHOTOGRAPH.convert("L"), {"no_jp2": True}),
    "AVIF": ("AVIF", PHOTOGRAPH, {}),
    "AVIF that moves": ("AVIF", PHOTOGRAPH, {"save_all": True, "append_images": [OTHER]}),
    "HEIC": ("HEIF", PHOTOGRAPH, {}),
    "HEIC of several": ("HEIF", PHOTOGRAPH, {"save_all": True, "append_images": [OTHER]}),
}


@pytest.mark.parametrize("kind, image, options", FILES.values(), ids=FILES)
def test_the_pixels_are_those_of_pillows_first_picture(kind, image, options):
    data = saved(kind, image, **options)
    decoded = decode.decode(data, "a", np.zeros(image.width * image.height * 3, np.uint8), lambda height, width: 1)
    np.testing.assert_array_equal(decoded, by_pillow(data))
    difference = np.abs(decoded.astype(int) - np.asarray(image.convert("RGB")))
    assert difference.mean() < 8 and decoded.flags.c_contiguous  # of `OTHER`, which is noise, it is 80
    assert decode.size(data) == decoded.shape == (40, 64, 3)
    assert formats.of(data) == ("JPEG" if kind == "MPO" else kind)


def test_every_format_is_tried():
    assert {formats.of(saved(kind, image, **options)) for kind, image, options in FILES.values()} == set(
        formats.ENDINGS
    )
    assert features.check("avif") and features.check("webp") and features.check("jpg_2000")
    for kind, endings in formats.ENDINGS.items():  # none is an ending of another format to Pillow
        known = {Image.registered_extensions().get(ending, kind) for ending in endings}
        assert known <= {kind, "MPO"}, endings


@pytest.mark.parametrize("turned", range(10))
@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "TIFF by zip", "AVIF", "HEIF"])
def test_photographs_are_upright(kind, turned):
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    options = {"compression": "tiff_adobe_deflate"} if "zip" in kind else {}
    options |= {} if kind == "HEIF" else {"exif": exif}  # pillow-heif asks the image itself
    image = PHOTOGRAPH.copy()
    image.info["exif"] = exif.tobytes()
    if turned in range(1, 9) or kind not in ("HEIF", "TIFF by zip"):  # these are not written
        data = saved(kind.split()[0], image, **options)
    else:
        data = saved(kind.split()[0])
    expected = np.asarray(ImageOps.exif_transpose(image))
    decoded = decode.decode(data, "a")
    assert decoded.shape == expected.shape == decode.size(data)
    assert np.abs(decoded.astype(int) - expected).mean() < 8
    for end in (100, 200, 400):  # of the header alone, the size is right or not known
        assert decode.size(data[:end]) in (None, expected.shape)


def test_transparency_is_dropped_as_of_png():
    image = PHOTOGRAPH.copy()
    image.putalpha(Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (40, 1))))
    expected = decode.decode(saved("PNG", image), "a")
    for kind, options in {"WEBP": {"lossless": True, "exact": True}, "TIFF": {}, "JPEG2000": {}}.items():
        np.testing.assert_array_equal(decode.decode(saved(kind, image, **options), "a"), expected)
    palette = PHOTOGRAPH.quantize(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode.decode(saved("GIF", palette, transparency=3), "a")
    np.testing.assert_array_equal(decoded, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind, ending", [("JPEG", ".webp"), ("WEBP", ".jpg"), ("PNG", ".gif"), ("HEIF", ".jpg")])
def test_content_and_not_the_name_tells_the_format(kind, ending, tmp_path):
    data = saved(kind)
    write_files(tmp_path, {f"a/1{ending}": data, "b/1.png": saved("PNG")})
    np.testing.assert_array_equal(open_source(f"folder:{tmp_path}").image(0), by_pillow(data))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bits_become_8(kind):
    expected = np.linspace(0, 65535, 40 * 64).astype(np.uint16).reshape(40, 64) >> 8
    decoded = decode.decode(deep(65535, kind), "a")
    np.testing.assert_array_equal(decoded, np.repeat(expected.astype(np.uint8)[..., None], 3, -1))


def rgb_of_16_bits(top):
    """A PNG of colours of 16 bits, which Pillow does not write."""
    import zlib

    values = np.full((4, 5, 3), top, ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


DARK = (
    "a: of its 16 bits only the upper 8 are read, and it is nearly black; stretch such images beforehand: values of 12 "
)
DARK += "bits times 16 (said of the first alone)"


@pytest.mark.parametrize(
    "data, said",
    [
        (deep(4095), [DARK]),
        (deep(4096), []),
        (deep(1023, "TIFF"), [DARK]),
        (deep(4095, "TIFF", compression="tiff_lzw"), [DARK]),
        (rgb_of_16_bits(4000), [DARK]),
        (rgb_of_16_bits(40000), []),
        (saved("PNG", Image.new("L", (4, 4))), []),
        (saved("BMP", Image.new("RGB", (4, 4))), []),
    ],
)
def test_values_of_12_bits_are_warned_of_once(data, said, caplog):
    from absl import logging as absl_logging

    absl_logging._log_counter_per_token.clear()
    with caplog.at_level(logging.WARNING):
        decode.decode(data, "a")
        decode.decode(data, "b")
    assert [record.getMessage() for record in caplog.records] == said


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_black_and_a_white_are_refused(mode):
    with pytest.raises(BrokenImage, match="^a: not a readable image .numbers of 32 bits, or with a sign, .* 8 bits.$"):
        decode.decode(saved("TIFF", PHOTOGRAPH.convert(mode)), "a")


STRANGERS = {
    b"": "the file is empty",
    b"  <!DOCTYPE html>": "it is a web page",
    b"version https://git-lfs.github.com/spec/v1": "it is a pointer of Git LFS; `git lfs pull` fetches the image",
    b"/annex/objects/SHA256E-s9": "it is a pointer of git-annex; `git annex get` fetches the image",
    b"%PDF-1.4": "it is a PDF",
    b"RIFF\0\0\0\0WAVEfmt ": "it begins with RIFF....WAVE",
    b"\0\0\0\x18ftypisom\0\0\0\0isommp41": "it begins with ....ftypisom",
}


@pytest.mark.parametrize("data, words", STRANGERS.items())
def test_what_is_no_image_is_named(data, words):
    with pytest.raises(BrokenImage) as caught:
        decode.decode(data, "a")
    message = str(caught.value)
    assert message.startswith("a: not a readable image (") and words in message and "\n" not in message
    assert decode.size(data) is None


def test_a_kind_of_a_format_that_pillow_does_not_read():
    data = saved("TIFF")
    with pytest.raises(
        BrokenImage, match="^a: not a readable image .a damaged TIFF, or of a kind that Pillow does not"
    ):
        decode.decode(data[:100], "a")


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in FILES.values()} - {"MPO", "PPM"}))
def test_blank_images_of_photographs_sizes_are_read(kind):
    data = saved(kind, Image.new("RGB", (2400, 1600)))
    assert decode.decode(data, "a").shape == (1600, 2400, 3)


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF", "HEIF"])
def test_limits_of_size_hold(kind, monkeypatch):
    data = saved(kind)
    monkeypatch.setattr(decode, "MOST_UNPACKED", 0)
    monkeypatch.setattr(decode, "MOST_BLANK", 40 * 64)
    decode.decode(data, "a")
    monkeypatch.setattr(decode, "MOST_BLANK", 40 * 64 - 1)
    with pytest.raises(BrokenImage, match=f"a: .*it claims 64x40 pixels in {len(data)} bytes"):
        decode.decode(data, "a")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 64 - 1)
    with warnings.catch_warnings(), pytest.raises(BrokenImage, match="a: .*it claims 64x40 pixels, more than"):
        warnings.simplefilter("ignore")
        decode.decode(data, "a")


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setattr(formats, "reads_heif", lambda: False)


HINT = r"HEIC needs pillow-heif: pip install 'transfer-flax\[heic\]'"


def test_without_its_decoder_heic_is_refused_before_anything_starts(without_heif, tmp_path):
    write_files(tmp_path, {"a/1.HEIC": saved("HEIF"), "a/2.heif": saved("HEIF"), "b/1.png": saved("PNG")})
    with pytest.raises(TransferError, match=f"^folder:{tmp_path}: 2 of the images are HEIC. {HINT}"):
        open_source(f"folder:{tmp_path}")
    with pytest.raises(TransferError, match=f"^images: 1 of the images is HEIC. {HINT}"):
        folder.open_images([tmp_path / "a" / "1.HEIC"])


def test_without_its_decoder_a_heic_of_another_name_is_named(without_heif):
    with pytest.raises(BrokenImage, match=f"^a.jpg: not a readable image .{HINT}"):
        decode.decode(saved("HEIF"), "a.jpg")
    assert decode.size(saved("HEIF")) is None
    assert decode.decode(saved("AVIF"), "a").shape == (40, 64, 3)  # which Pillow reads


def test_a_brand_of_any_codec_is_told_by_the_others():
    for kind in ("AVIF", "HEIF"):
        data = saved(kind)
        length = int.from_bytes(data[:4], "big")
        changed = data[:8] + b"mif1" + data[12:16] + data[8:12] + data[16:]  # the brand itself comes later
        changed = struct.pack(">I", length) + changed[4:]
        assert formats.of(changed) == kind


def test_predict_says_what_is_left_out(tmp_path, monkeypatch):
    write_files(tmp_path, {"1.webp": saved("WEBP"), "a.mp4": b"", "deep/b.MP4": b"", "deep/c.txt": b""})
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: said.append(text % values))
    assert folder.open_images([tmp_path]).ids == [str(tmp_path / "1.webp")]
    assert said == [f"{tmp_path}: left out: 2 .mp4, 1 .txt"]
    for form in ("zip", "tar"):
        said.clear()
        archive = shutil.make_archive(str(tmp_path.parent / f"{tmp_path.name}_packed"), form, tmp_path)
        assert folder.open_images([archive]).ids == [f"{archive}/1.webp"]
        assert said == [f"{archive}: left out: 2 .mp4, 1 .txt"]
    (tmp_path / "1.webp").unlink()
    with pytest.raises(TransferError, match=f"^{tmp_path}: no images below it; there is 2 .mp4, 1 .txt$"):
        folder.open_images([tmp_path])
