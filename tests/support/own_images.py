"""A person's folder of class folders, of real images: crops of two photographs, and digits; of many modes and names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

CLASSES = ("flower", "handwritten digit", "temple")
# How a camera, a scanner or a web site may have stored a picture: (conversion, suffix, options of saving).
STORED: list[tuple[Any, str, dict[str, Any]]] = [
    (lambda picture: picture, ".jpg", {"quality": 92}),
    (lambda picture: picture.convert("L"), ".png", {}),
    (lambda picture: picture.quantize(64), ".png", {}),
    (lambda picture: picture.convert("RGBA"), ".png", {}),
    (lambda picture: picture.convert("CMYK"), ".jpeg", {"quality": 92}),
    (lambda picture: picture.transpose(Image.Transpose.ROTATE_90), ".jpg", {"quality": 92, "lies": True}),
    (lambda picture: picture, ".ppm", {}),
]
NAMES = ("IMG {}", "it's {}", 'the "red" {}', "Blüte {}", "<b>{}</b> & more", "写真 {}", "{}")
LIES, TAG = 6, 0x0112  # the camera was held upright: turn by a quarter


def pictures(name: str, count: int, seed: int) -> Iterator[Image.Image]:
    """Crops of various sizes of a photograph, or digits drawn larger."""
    numbers = np.random.default_rng(seed)
    if name == "handwritten digit":
        digits = load_digits().images
        for index in numbers.choice(len(digits), count, replace=False):
            side = int(numbers.integers(20, 120))
            picture = Image.fromarray((255 - digits[index] * 255 / 16).astype(np.uint8)).convert("RGB")
            yield picture.resize((side, side + side // 4))
        return
    photograph = Image.fromarray(load_sample_image({"flower": "flower.jpg", "temple": "china.jpg"}[name]))
    for _ in range(count):
        width, height = (int(side) for side in numbers.integers(90, 320, 2))
        left, top = int(numbers.integers(640 - width)), int(numbers.integers(427 - height))
        yield photograph.crop((left, top, left + width, top + height))


def save(picture: Image.Image, path: Path, how: int) -> Path:
    """Stores a picture the `how`-th way; returns its path, with the suffix."""
    convert, suffix, options = STORED[how % len(STORED)]
    options = dict(options)
    if options.pop("lies", False):
        exif = Image.Exif()
        exif[TAG] = LIES
        options["exif"] = exif
    path = path.with_name(path.name + suffix)
    convert(picture).save(path, **options)
    return path


def write(folder: Path, count: int = 21) -> None:
    """`count` images a class, in `folder`/CLASS."""
    for seed, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(pictures(name, count, seed)):
            save(picture, folder / name / NAMES[number % len(NAMES)].format(number).replace("/", "∕"), number)


def write_new(folder: Path) -> None:
    """Three images that are in no class folder, with a name for each."""
    folder.mkdir()
    stems = ('rot & gelb "é"', "seven", "a temple")
    for stem, name, how in zip(stems, CLASSES, (1, 1, 0), strict=True):
        picture = next(iter(pictures(name, 1, 7)))
        save(picture, folder / stem, how)
