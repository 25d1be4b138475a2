"""Records what torchvision's and timm's own transforms make of images; writes `preprocessing.npz` beside it.

    pip install torch torchvision timm && python tests/golden/make_preprocessing.py

For every weight set of `torchvision.models` and timm that the catalogue has: which recipe it uses. For every recipe and
a few images: a checksum of all 8-bit pixels after Pillow's resize and the crop, and samples of the network's input.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import seeded
import timm
import torch
import torchvision
from PIL import Image
from torch_models import RESNETS, VGGS
from torchvision.transforms import functional

HERE = Path(__file__).parent
ARCHS = [*VGGS, *RESNETS, "alexnet", "googlenet", "inception_v3"]
SOURCES = {"IMAGENET1K_FEATURES": "tv_features", "IMAGENET1K_V2": "tv2"}
TIMM = [f"{arch}.tv_in1k" for arch in (*VGGS, *RESNETS, "inception_v3")]
TIMM += [f"resnet{depth}.a1_in1k" for depth in (18, 34, 50, 101, 152)]
# (height, width): shrunk, enlarged, one of each, tall, wide, odd, and as large as the crop
IMAGES = ((375, 500), (501, 333), (61, 53), (97, 301), (640, 129), (224, 224))


def torchvision_recipes() -> dict[str, Callable[[Image.Image], torch.Tensor]]:
    """Record name -> `weights.transforms()`."""
    found = {}
    for arch in ARCHS:
        weights = {w.name: w for w in torchvision.models.get_model_weights(arch)}
        first = "tv1" if "IMAGENET1K_V2" in weights else "tv"
        found |= {f"{arch}.{SOURCES.get(name, first)}": w.transforms() for name, w in weights.items()}
    return found


def timm_recipes() -> dict[str, Callable[[Image.Image], torch.Tensor]]:
    """Record name -> what `timm.data.create_transform` makes of the weight set's configuration, at its test size."""
    found = {}
    for name in TIMM:
        config = timm.get_pretrained_cfg(name).to_dict()
        resolved = timm.data.resolve_data_config(pretrained_cfg=config, use_test_size=True)
        found[name] = timm.data.create_transform(**resolved, is_training=False)
    return found


def resized(transform: Any, image: Image.Image) -> np.ndarray:
    """The 8-bit pixels between the geometry and the rest."""
    if hasattr(transform, "crop_size"):
        size, crop = transform.resize_size, transform.crop_size
        image = functional.resize(image, size, interpolation=transform.interpolation, antialias=transform.antialias)
        return np.asarray(functional.center_crop(image, crop))
    resize, crop, *_ = transform.transforms
    return np.asarray(crop(resize(image)))


def main() -> None:
    """Writes the golden file."""
    samples: dict[str, np.ndarray] = {}
    cases: list[dict[str, Any]] = []
    records: dict[str, str] = {}
    for name, transform in (torchvision_recipes() | timm_recipes()).items():
        text = repr(transform)
        if text not in records.values():
            for size in IMAGES:
                image = Image.fromarray(seeded.pixels(*size))
                pixels, values = resized(transform, image), transform(image).numpy().transpose(1, 2, 0)
                key = f"{name} {size[0]}x{size[1]}"
                samples[key] = seeded.sample(values)
                checksum = zlib.crc32(pixels.tobytes())
                cases.append(dict(recipe=text, size=size, key=key, shape=pixels.shape, crc32=checksum))
            print(name, text, flush=True)
        records[name] = text
    versions = {"torchvision": torchvision.__version__, "timm": timm.__version__, "pillow": PIL.__version__}
    made_with = {library: version.partition("+")[0] for library, version in versions.items()}
    index = json.dumps({"made_with": made_with, "records": records, "cases": cases})
    np.savez_compressed(HERE / "preprocessing.npz", index=np.frombuffer(index.encode(), np.uint8), **samples)


if __name__ == "__main__":
    main()
