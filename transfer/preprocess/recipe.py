"""What stands between the pixels of an image and the input of a network, as data: one `Preprocessing`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from transfer.errors import UsageError
from transfer.preprocess import resample

CHOICES = {
    "interpolation": ("bilinear", "bicubic", "nearest", "lanczos"),
    "resize": ("pil", "float", "draft"),
    "channels": ("rgb", "bgr", "grey"),
}
# ITU-R 601 luma in 65536ths, as Pillow's `convert("L")` weighs red, green, blue.
LUMA = (19595, 38470, 7471)
LUMA_BITS = 16


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The recipe that a weight set was trained with: network input = (pixels[channels] * scale - mean) / std.

    Attributes:
      image_size: (height, width) of the network input, pixels.
      resize_to: length of the shorter side before a centre crop to `image_size` (torchvision's geometry);
        None resizes straight to `image_size` and ignores the aspect.
      interpolation: "bilinear", "bicubic", "lanczos" or "nearest".
      antialias: whether shrinking widens the kernel; counts for `resize="float"`, Pillow always does.
      resize: "pil" equals Pillow's 8-bit result exactly, "float" keeps floats as `jax.image.resize` does. "draft" is
        "pil" on JPEGs that their decoder has shrunk already, to a half, a quarter or an eighth that is no smaller
        than what they are resized to (Pillow's `Image.draft`): large files load faster, pixels differ by some levels.
      channels: order that the network wants, "rgb" or "bgr"; `mean` and `std` are in this order. "grey": one channel,
        Pillow's `convert("L")` of the resized pixels.
      scale: multiplies the values 0..255 first.
      mean: subtracted, one value a channel (or one for all).
      std: divided by, one value a channel (or one for all).

    Hashable; lists (from JSON) become tuples. A value outside the choices raises UsageError.
    """

    image_size: tuple[int, int]
    resize_to: int | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    resize: str = "pil"
    channels: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input."""
        return (*self.image_size, 1 if self.channels == "grey" else 3)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _height_and_width(self.image_size))
        for name in ("mean", "std"):
            try:
                values = tuple(float(v) for v in getattr(self, name))
            except ValueError:
                raise UsageError(f"{name}={getattr(self, name)!r} must be numbers, one a channel") from None
            object.__setattr__(self, name, _one_a_channel(name, values, 1 if self.channels == "grey" else 3))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        if self.resize_to is not None and self.resize_to < 1:
            raise UsageError(f"resize_to={self.resize_to} must be at least one pixel")

    def with_image_size(self, size: int | tuple[int, int]) -> "Preprocessing":
        """The same recipe at another size (an int is square); `resize_to` stays in proportion."""
        new = _height_and_width(size)
        resize_to = self.resize_to
        if resize_to is not None:
            resize_to = round(resize_to * min(new) / min(self.image_size))
        return dataclasses.replace(self, image_size=new, resize_to=resize_to)


def _one_a_channel(name: str, values: tuple[float, ...], count: int) -> tuple[float, ...]:
    if len(values) in (1, 3) and len(set(values)) == 1:
        return values[:1] * count
    if len(values) != count:
        raise UsageError(f"{name} needs one value for each of {count} channels, or one for all; got {len(values)}")
    return values


def _height_and_width(size: Any) -> tuple[int, int]:
    try:
        height, width = (size, size) if isinstance(size, (int, np.integer)) else size
        height, width = int(height), int(width)
    except (TypeError, ValueError):
        raise UsageError(f"image_size must be one or two whole numbers of pixels, not {size!r}") from None
    if height < 1 or width < 1:
        raise UsageError(f"image_size={height}x{width} must be at least one pixel each way")
    return height, width


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The steps along one axis: resize `size` to `resized`, keep `crop`, then pad with zeros by `pad`."""

    size: int
    resized: int
    crop: slice
    pad: tuple[int, int]


def _crop_axis(size: int, resized: int, length: int) -> _Axis:
    """torchvision's `center_crop` along one axis, which pads what is smaller than the crop."""
    if resized < length:
        missing = length - resized
        return _Axis(size, resized, slice(0, resized), (missing // 2, (missing + 1) // 2))
    start = int(round((resized - length) / 2.0))
    return _Axis(size, resized, slice(start, start + length), (0, 0))


def _geometry(preprocessing: Preprocessing, height: int, width: int) -> tuple[_Axis, _Axis]:
    """The vertical and the horizontal axis of an image of this size."""
    rows, columns = preprocessing.image_size
    if preprocessing.resize_to is None:
        return _crop_axis(height, rows, rows), _crop_axis(width, columns, columns)
    short, long = (
        preprocessing.resize_to,
        int(preprocessing.resize_to * max(height, width) / min(height, width)),
    )
    new_height, new_width = (short, long) if height <= width else (long, short)
    return _crop_axis(height, new_height, rows), _crop_axis(width, new_width, columns)


def _kept_band(preprocessing: Preprocessing, axis: _Axis) -> resample.Band:
    """The band of the pixels that the crop keeps; the others are never computed."""
    antialias = preprocessing.antialias or preprocessing.resize != "float"
    starts, weights = resample.band(axis.size, axis.resized, preprocessing.interpolation, antialias)
    return resample.Band(starts[axis.crop], weights[axis.crop])


def gives_floats(preprocessing: Preprocessing) -> bool:
    """True if resized pixels are float32 and not uint8."""
    return preprocessing.resize == "float" and preprocessing.interpolation != "nearest"


def bands(preprocessing: Preprocessing, height: int, width: int) -> tuple[resample.Band, resample.Band, bool]:
    """(rows, columns, whether rows come first): what `resize` does to images of this size, padding included."""
    vertical, horizontal = _geometry(preprocessing, height, width)
    rows_first = _passes(preprocessing, vertical, horizontal)[0][1] == 0
    return _padded_band(preprocessing, vertical), _padded_band(preprocessing, horizontal), rows_first


def _padded_band(preprocessing: Preprocessing, axis: _Axis) -> resample.Band:
    if axis.size == axis.resized or preprocessing.interpolation == "nearest":
        indices = _kept_indices(preprocessing, axis)
        starts, weights = indices, np.ones((len(indices), 1))
    else:
        starts, weights = _kept_band(preprocessing, axis)
    return resample.Band(np.pad(starts, axis.pad), np.pad(weights, (axis.pad, (0, 0))))


def resize(preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """Resizes and crops (B, h, w, 3) uint8 to (B, H, W, 3) on the device; jit-able, static shapes.

    Returns uint8 for `resize="pil"` (and for "nearest"), float32 0..255 for "float". A pass whose size does
    not change is left out, as Pillow does.
    """
    vertical, horizontal = _geometry(preprocessing, images.shape[1], images.shape[2])
    for axis, number in _passes(preprocessing, vertical, horizontal):
        images = _resize_axis(preprocessing, images, axis, number + 1)
    if gives_floats(preprocessing):
        images = images.astype(jnp.float32)
    if any(vertical.pad + horizontal.pad):
        images = jnp.pad(images, ((0, 0), vertical.pad, horizontal.pad, (0, 0)))
    return images


def _passes(preprocessing: Preprocessing, vertical: _Axis, horizontal: _Axis) -> list[tuple[_Axis, int]]:
    """(axis, its number in (h, w, 3)) in the order of the passes: columns first, or as Pillow decides."""
    passes = [(horizontal, 1), (vertical, 0)]
    pillow = preprocessing.resize != "float"
    if pillow and resample.rows_first(vertical.size, horizontal.size, vertical.resized, horizontal.resized):
        passes.reverse()
    return passes


def _resize_axis(preprocessing: Preprocessing, images: jax.Array, axis: _Axis, number: int) -> jax.Array:
    if axis.size == axis.resized:
        return jax.lax.slice_in_dim(images, axis.crop.start, axis.crop.stop, axis=number)
    if preprocessing.interpolation == "nearest":
        return jnp.take(images, jnp.asarray(_kept_indices(preprocessing, axis)), axis=number, mode="clip")
    road = resample.resize_axis_float if preprocessing.resize == "float" else resample.resize_axis_8bit
    return road(images, _kept_band(preprocessing, axis), number)


def _kept_indices(preprocessing: Preprocessing, axis: _Axis) -> np.ndarray:
    if axis.size == axis.resized:
        return np.arange(axis.crop.start, axis.crop.stop)
    return resample.nearest_indices(axis.size, axis.resized, preprocessing.resize)[axis.crop]


def resize_on_host(preprocessing: Preprocessing, image: np.ndarray) -> np.ndarray:
    """`resize` for one (h, w, 3) uint8 image without compiling anything: for sources of mixed sizes.

    Returns (H, W, 3): uint8 by Pillow itself for "pil", float32 for "float" (the device's numbers up to the
    rounding of a float32 sum, about 1e-4 of a level). "nearest" gives uint8 in both.
    """
    vertical, horizontal = _geometry(preprocessing, image.shape[0], image.shape[1])
    if preprocessing.resize == "float" or preprocessing.interpolation == "nearest":
        image = _by_passes(preprocessing, image, vertical, horizontal)
    else:
        image = _by_pillow(preprocessing, image, vertical, horizontal)
    if any(vertical.pad + horizontal.pad):
        image = np.pad(image, (vertical.pad, horizontal.pad, (0, 0)))
    return image


def _by_passes(preprocessing: Preprocessing, image: np.ndarray, vertical: _Axis, horizontal: _Axis) -> np.ndarray:
    for axis, number in _passes(preprocessing, vertical, horizontal):
        if axis.size == axis.resized or preprocessing.interpolation == "nearest":
            image = np.take(image, _kept_indices(preprocessing, axis), axis=number)
        else:
            image = resample.resize_axis_on_host(image, _kept_band(preprocessing, axis), number)
    return image.astype(np.float32) if gives_floats(preprocessing) else image


def _by_pillow(preprocessing: Preprocessing, image: np.ndarray, vertical: _Axis, horizontal: _Axis) -> np.ndarray:
    """Resizes by one call of Pillow, which orders its passes as `resample.rows_first` says, then crops.

    Pillow's own `box` would not compute what the crop drops, but keeps its corners in float32 and so other weights.
    """
    if (vertical.size, horizontal.size) != (vertical.resized, horizontal.resized):
        method = getattr(Image.Resampling, preprocessing.interpolation.upper())
        resized = Image.fromarray(image).resize((horizontal.resized, vertical.resized), method)
        image = np.asarray(resized)
    return image[vertical.crop, horizontal.crop]


def draft_divisor(preprocessing: Preprocessing, height: int, width: int) -> int:
    """The divisor of an image's sides that `resize="draft"` asks of the JPEG decoder: 1, 2, 4 or 8, as Pillow does."""
    vertical, horizontal = _geometry(preprocessing, height, width)
    scale = min(height // vertical.resized, width // horizontal.resized)
    return next((divisor for divisor in (8, 4, 2) if divisor <= scale), 1)


def _grey(pixels: jax.Array) -> jax.Array:
    """(…, 3) RGB -> (…, 1): rounded as Pillow does for uint8, not rounded for floats."""
    if pixels.dtype == jnp.uint8:
        sums = (pixels.astype(jnp.int32) * jnp.array(LUMA, jnp.int32)).sum(-1, keepdims=True)
        return ((sums + (1 << (LUMA_BITS - 1))) >> LUMA_BITS).astype(jnp.uint8)
    weights = jnp.array(LUMA, jnp.float32) / (1 << LUMA_BITS)
    return (pixels.astype(jnp.float32) * weights).sum(-1, keepdims=True)


def normalise(preprocessing: Preprocessing, resized: jax.Array | np.ndarray) -> jax.Array:
    """(B, H, W, 3) RGB values 0..255, any dtype -> float32 network input: channels, scale, mean, std."""
    pixels = jnp.asarray(resized)
    if preprocessing.channels == "grey":
        pixels = _grey(pixels)
    values = pixels.astype(jnp.float32)
    if preprocessing.channels == "bgr":
        values = values[..., ::-1]
    mean = jnp.asarray(preprocessing.mean, jnp.float32)
    std = jnp.asarray(preprocessing.std, jnp.float32)
    return (values * jnp.float32(preprocessing.scale) - mean) / std


def apply(preprocessing: Preprocessing, images: jax.Array | np.ndarray) -> jax.Array:
    """(B, h, w, 3) uint8 RGB at native size -> (B, H, W, 3) float32 network input; jit-able, on the device."""
    return normalise(preprocessing, resize(preprocessing, jnp.asarray(images)))
