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
            count = self.input_shape[-1]
            if len(values) in (1, 3) and len(set(values)) == 1:
                values = values[:1] * count
            if len(values) != count:
                text = f"{name} needs one value for each of {count} channels, or one for all; got {len(values)}"
                raise UsageError(text)
            object.__setattr__(self, name, values)
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


def _height_and_width(size: Any) -> tuple[int, int]:
    try:
        height, width = (size, size) if isinstance(size, (int, np.integer)) else size
        height, width = int(height), int(width)
    except (TypeError, ValueError):
        raise UsageError(f"image_size must be one or two whole numbers of pixels, not {size!r}") from None
    if height < 1 or width < 1:
        raise UsageError(f"image_size={height}x{width} must be at least one pixel each way")
    return height, width


def gives_floats(preprocessing: Preprocessing) -> bool:
    """True if resized pixels are float32 and not uint8."""
    return preprocessing.resize == "float" and preprocessing.interpolation != "nearest"


def _resized(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """The height and width that an image is resized to before the crop."""
    if preprocessing.resize_to is None:
        return preprocessing.image_size
    short, long = preprocessing.resize_to, int(preprocessing.resize_to * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def _crop(resized: int, length: int) -> tuple[slice, tuple[int, int]]:
    """The pixels that torchvision's `center_crop` keeps along one axis, and the zeros that it puts before and after."""
    missing = max(length - resized, 0)
    start = 0 if missing else round((resized - length) / 2)
    return slice(start, start + length - missing), (missing // 2, (missing + 1) // 2)


def bands(preprocessing: Preprocessing, height: int, width: int) -> tuple[resample.Band, resample.Band, bool]:
    """(rows, columns, whether rows come first): what `resize` does to images of this size, crop and padding included.

    Pixels that the crop drops are never computed; those of the padding have weights of zero.
    """

    def band(size: int, resized: int, length: int) -> resample.Band:
        kept, pad = _crop(resized, length)
        if size == resized or preprocessing.interpolation == "nearest":
            same = size == resized
            starts = np.arange(size) if same else resample.nearest_indices(size, resized, preprocessing.resize)
            weights = np.ones((resized, 1))
        else:
            antialias = preprocessing.antialias or preprocessing.resize != "float"
            starts, weights = resample.band(size, resized, preprocessing.interpolation, antialias)
        return resample.Band(np.pad(starts[kept], pad), np.pad(weights[kept], (pad, (0, 0))))

    (new_height, new_width), (rows, columns) = _resized(preprocessing, height, width), preprocessing.image_size
    rows_first = preprocessing.resize != "float" and resample.rows_first(height, width, new_height, new_width)
    return band(height, new_height, rows), band(width, new_width, columns), rows_first


def resize(preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """Resizes and crops (B, h, w, 3) uint8 to (B, H, W, 3) on the device; jit-able, static shapes.

    Returns uint8 for `resize="pil"` (and for "nearest"), float32 0..255 for "float". A pass whose size does
    not change is left out, as Pillow does.
    """
    rows, columns, rows_first = bands(preprocessing, images.shape[1], images.shape[2])
    for band, axis in ((rows, 1), (columns, 2)) if rows_first else ((columns, 2), (rows, 1)):
        images = resample.resize_axis(images, band, axis, preprocessing.resize == "float")
    return images.astype(jnp.float32) if gives_floats(preprocessing) else images


def resize_on_host(preprocessing: Preprocessing, image: np.ndarray) -> np.ndarray:
    """`resize` for one (h, w, 3) uint8 image without compiling anything: for sources of mixed sizes.

    Returns (H, W, 3): uint8 by Pillow itself for "pil", float32 for "float" (the device's numbers up to the
    rounding of a float32 sum, about 1e-4 of a level). "nearest" gives uint8 in both.
    """
    height, width = image.shape[:2]
    if preprocessing.resize == "float" or preprocessing.interpolation == "nearest":
        rows, columns, rows_first = bands(preprocessing, height, width)
        for band, axis in ((rows, 0), (columns, 1)) if rows_first else ((columns, 1), (rows, 0)):
            image = resample.resize_axis(image, band, axis, True)
        return image.astype(np.float32) if gives_floats(preprocessing) else image
    # Pillow orders its passes as `resample.rows_first` says. Its own `box` would not compute what the crop drops, but
    # keeps its corners in float32 and so other weights.
    new_height, new_width = _resized(preprocessing, height, width)
    if (height, width) != (new_height, new_width):
        method = getattr(Image.Resampling, preprocessing.interpolation.upper())
        image = np.asarray(Image.fromarray(image).resize((new_width, new_height), method))
    sides = zip((new_height, new_width), preprocessing.image_size, strict=True)
    (down, row_pad), (across, column_pad) = (_crop(resized, length) for resized, length in sides)
    image = image[down, across]
    return np.pad(image, (row_pad, column_pad, (0, 0))) if any(row_pad + column_pad) else image


def draft_divisor(preprocessing: Preprocessing, height: int, width: int) -> int:
    """The divisor of an image's sides that `resize="draft"` asks of the JPEG decoder: 1, 2, 4 or 8, as Pillow does."""
    new_height, new_width = _resized(preprocessing, height, width)
    scale = min(height // new_height, width // new_width)
    return next((divisor for divisor in (8, 4, 2) if divisor <= scale), 1)


def normalise(preprocessing: Preprocessing, resized: jax.Array | np.ndarray) -> jax.Array:
    """(B, H, W, 3) RGB values 0..255, any dtype -> float32 network input: channels, scale, mean, std."""
    pixels = jnp.asarray(resized)
    if preprocessing.channels == "grey" and pixels.dtype == jnp.uint8:  # rounded, as Pillow does
        sums = (pixels.astype(jnp.int32) * jnp.array(LUMA, jnp.int32)).sum(-1, keepdims=True)
        pixels = ((sums + (1 << (LUMA_BITS - 1))) >> LUMA_BITS).astype(jnp.uint8)
    elif preprocessing.channels == "grey":
        weights = jnp.array(LUMA, jnp.float32) / (1 << LUMA_BITS)
        pixels = (pixels.astype(jnp.float32) * weights).sum(-1, keepdims=True)
    values = pixels.astype(jnp.float32)
    if preprocessing.channels == "bgr":
        values = values[..., ::-1]
    mean = jnp.asarray(preprocessing.mean, jnp.float32)
    std = jnp.asarray(preprocessing.std, jnp.float32)
    return (values * jnp.float32(preprocessing.scale) - mean) / std


def apply(preprocessing: Preprocessing, images: jax.Array | np.ndarray) -> jax.Array:
    """(B, h, w, 3) uint8 RGB at native size -> (B, H, W, 3) float32 network input; jit-able, on the device."""
    return normalise(preprocessing, resize(preprocessing, jnp.asarray(images)))
