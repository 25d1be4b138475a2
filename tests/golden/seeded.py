"""Weights and images made from names alone, the same bits on every machine; NumPy only.

Used both by the scripts that record what another library computes and by the tests that compare with it.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

SAMPLES = 200
# Coprime to any power of two, so that samples fall on all channels and pixels.
SAMPLE_STEP = 7919


def _uniform(name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """float32 in [low, high); from integers and one multiplication, so free of any platform's math library."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return generator.random(tuple(shape), dtype=np.float32) * np.float32(high - low) + np.float32(low)


def _batch_norm_scale(name: str) -> tuple[float, float]:
    if ".bn." in name:
        return 0.6, 1.2
    in_residual = any(part in name for part in (".bn", ".downsample", ".normalization"))
    return (0.3, 0.8) if in_residual else (0.8, 1.6)


def tensor(name: str, shape: Sequence[int]) -> np.ndarray:
    """The tensor of a PyTorch state dict called `name`: He-scaled kernels, batch statistics far from trivial.

    Scales of batch norm keep activations of the order of 1: below 1 in residual units, whose outputs add up, and
    within 0.6 to 1.2 in Inception's blocks (`.bn.`), which are many layers deep.
    """
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.ones(shape, np.int64)
    if kind == "running_var":
        return _uniform(name, shape, 0.5, 1.5)
    if kind == "weight" and len(shape) == 1:
        return _uniform(name, shape, *_batch_norm_scale(name))
    if kind == "weight":
        bound = math.sqrt(6 / math.prod(shape[1:]))  # variance 2 / fan-in
        return _uniform(name, shape, -bound, bound)
    return _uniform(name, shape, -0.2, 0.2)


def state_dict(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Every tensor of a state dict, from its names and shapes."""
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def images(shape: Sequence[int]) -> np.ndarray:
    """(B, H, W, C) float32 in [-2, 2), as preprocessed images are: nine flat areas, and noise.

    The areas tell images apart after a global pool, where noise alone averages out.
    """
    batch, height, width, channels = shape
    name = f"images {tuple(shape)}"
    areas = _uniform(f"areas of {name}", (batch, 3, 3, channels), -1.5, 1.5)
    rows, columns = (np.arange(side) * 3 // side for side in (height, width))
    return areas[:, rows[:, None], columns] + _uniform(name, shape, -0.5, 0.5)


def sample(values: np.ndarray) -> np.ndarray:
    """Some of the values, spread over the array, as float32: what golden files keep of a large output."""
    flat = values.reshape(-1)
    return flat[np.arange(min(SAMPLES, flat.size)) * SAMPLE_STEP % flat.size].astype(np.float32)


def pixels(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 noise over the whole range, where resampling filters overshoot most."""
    return _uniform(f"pixels {height}x{width}", (height, width, 3), 0, 256).astype(np.uint8)
