"""JPEG files like photographs, to measure loading on: detail at every scale and hard edges, the same ones each time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

DISTINCT = 8  # images drawn; a folder repeats them, for a decoder does the same work again
QUALITY = 90
DETAIL = 0.72  # amplitude of each octave against the one before; 0.3 to 0.5 bytes a pixel, as in ImageNet
SHAPES = 12


def draw(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: octaves of smooth noise, mostly grey as in nature, and outlined shapes on top."""
    total: np.ndarray = np.zeros((height, width, 3), np.float32)
    cells, amplitude = 4, 1.0
    while cells < 2 * max(height, width):
        noise = generator.standard_normal((cells, cells, 3)).astype(np.float32)
        noise = 0.4 * noise + 0.7 * noise.mean(axis=-1, keepdims=True)
        layers = [Image.fromarray(noise[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        total += amplitude * np.stack([np.asarray(layer) for layer in layers], axis=-1)
        cells, amplitude = 2 * cells, amplitude * DETAIL
    pixels = (total - total.mean()) / total.std() * 50 + 120
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(SHAPES):
        x, y, radius = (int(generator.integers(1, side)) for side in (width, height, max(width // 6, 2)))
        red, green, blue = (int(value) for value in generator.integers(0, 256, 3))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(red, green, blue), width=3)
    return np.asarray(image)


def write(folder: Path, sizes: Sequence[tuple[int, int]], count: int, seed: int = 0) -> None:
    """Writes `count` files of (height, width) pixels, the sizes in turn, into a class folder below `folder`.

    JPEGs with colours at half the resolution, as cameras make them.
    """
    generator = np.random.default_rng(seed)
    distinct = min(count, max(DISTINCT, len(sizes)))
    images = [Image.fromarray(draw(generator, *sizes[i % len(sizes)])) for i in range(distinct)]
    (folder / "a").mkdir(parents=True)
    for i in range(count):
        images[i % distinct].save(folder / "a" / f"{i:05d}.jpg", quality=QUALITY, subsampling="4:2:0")
