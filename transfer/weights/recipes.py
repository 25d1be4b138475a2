"""Preprocessing that a weight file speaks of, compared with that of the model's images."""

from collections.abc import Mapping

import numpy as np

from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import printable
from transfer.weights.asked import Told
from transfer.weights.named_graph import IMAGES, USUAL_IMAGE

# What networks that normalise their images call the mean -> the deviation (robustness, detectron2, …).
DEVIATIONS = {"new_mean": "new_std", "mean": "std", "pixel_mean": "pixel_std", "image_mean": "image_std"}
GEOMETRY = ("image_size", "resize_to", "interpolation")
PIXELS = np.array([[0.0], [255.0]])


def differences(theirs: Preprocessing, ours: Preprocessing, name: str) -> list[str]:
    """`interpolation=bicubic where resnet50.tv1 has bilinear`, …: what two recipes make otherwise of an image."""
    keys = [key for key in GEOMETRY if getattr(theirs, key) != getattr(ours, key)]
    texts = [f"{key}={getattr(theirs, key)} where {name} has {getattr(ours, key)}" for key in keys]
    return [*texts, *filter(None, [difference(theirs, ours, name)])]


def difference(theirs: Preprocessing, ours: Preprocessing, name: str) -> str:
    """The values that black and white become by two recipes, where they are not the same ones; else empty."""
    made, wanted = _made(theirs), _made(ours)
    is_near = made.shape == wanted.shape and np.allclose(made, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
    if theirs.channels == ours.channels and is_near:
        return ""
    order = "" if theirs.channels == "rgb" else f" in {theirs.channels}"
    return f"{_range(made)}{order} of pixels from 0 to 255, where {name} has {_range(wanted)} in {ours.channels}"


def normalisers(tensors: Mapping[str, np.ndarray], arch: str) -> dict[str, Preprocessing]:
    """The means and deviations of images among a file's tensors, in words -> the recipe, for images of 0..1 or 0..255.

    A network beside them normalises its images itself; the model takes images that are.
    """
    found: dict[Preprocessing, str] = {}
    for mean in tensors:
        before, _, last = mean.rpartition(".")
        std = f"{before}.{DEVIATIONS.get(last)}" if before else DEVIATIONS.get(last, "")
        if std not in tensors or not tensors[mean].size == tensors[std].size == 3:
            continue
        center, spread = (tensors[tensor].astype(np.float64).ravel() for tensor in (mean, std))
        size, scale = IMAGES.get(arch, USUAL_IMAGE)[:2], 1 / 255 if center.max() <= 1 else 1.0
        recipe = Preprocessing(size, scale=scale, mean=tuple(center), std=tuple(spread))
        found.setdefault(recipe, f"{printable(mean)} {_numbers(center)}, {DEVIATIONS[last]} {_numbers(spread)}")
    return {numbers: recipe for recipe, numbers in found.items()}


def take_up(told: Told, arch: str) -> None:
    """Makes the numbers with which the network in a file normalises its images its preprocessing, if nothing else is.

    Those for images of 0..1 alone: colours of 0..255 come as red, green, blue and as blue, green, red.
    """
    found = normalisers(told.tensors, arch)
    if len(found) != 1 or told.preprocessing or told.tensors.preprocessing:
        return
    ((numbers, recipe),) = found.items()
    if max(recipe.mean) > 0 and all(0 <= mean <= 1 for mean in recipe.mean) and all(0 < std <= 1 for std in recipe.std):
        told.tensors.preprocessing = recipe
        does = f"its network, which normalises the images itself ({numbers})"
        told.tensors.assumed.append("{}, takes them from 0 to 1, of {}x{} pixels".format(does, *recipe.image_size))


def _made(preprocessing: Preprocessing) -> np.ndarray:
    """The values (2, channels) that a preprocessing makes of black pixels and of white ones."""
    with np.errstate(all="ignore"):
        return (PIXELS * preprocessing.scale - np.array(preprocessing.mean)) / np.array(preprocessing.std)


def _range(values: np.ndarray) -> str:
    low, high = (_numbers(np.unique(row)) for row in values)
    return f"{low} to {high}"


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
