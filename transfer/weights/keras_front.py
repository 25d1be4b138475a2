"""What a whole Keras model does to its images before the first layer with weights, compared with a preprocessing."""

from collections.abc import Sequence

import numpy as np

from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import printable
from transfer.weights.names import family
from transfer.weights.readers import Layer

# Keras' layers in front that do nothing to an image once trained.
IDLE = {"InputLayer", "Identity", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "Cast"}
IDLE |= {f"Random{what}" for what in ("Flip", "Rotation", "Zoom", "Translation", "Contrast", "Brightness", "Shear")}
# Keras' layers that scale: what they take from their configuration, and in place of what it lacks.
SCALING = {"Rescaling": (("scale", None), ("offset", 0)), "Normalization": (("mean", None), ("variance", None))}
PIXELS = np.array([[0.0], [255.0]])
ADVICE = "save the layers behind it as a model of their own"


def problem(layers: Sequence[Layer], arch: str, preprocessing: Preprocessing | None, name: str) -> str:
    """The problem with what a Keras model does to its images before its first weights; empty if there is none.

    Nothing is where it does nothing, and where it does to pixels from 0 to 255 what `preprocessing` does.
    """
    values, doing = PIXELS, []
    for layer in layers:
        if _is_idle(layer) or _is_own_padding(layer, arch):
            continue
        doing.append(f"{printable(layer.name)} ({printable(layer.kind)})")
        scaled = _scaled(layer, values)
        if scaled is None:
            return f"{doing[-1]} stands before its first weights, and {name} has nothing like it; {ADVICE}"
        values = scaled
    if not doing:
        return ""
    they, make = ("stand", "make") if doing[1:] else ("stands", "makes")
    who = f"{' and '.join(doing)} {they} before its first weights"
    if preprocessing is None:
        return f"{who}, and {name} does not say how its images are made; {ADVICE}"
    wanted = (PIXELS * preprocessing.scale - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    if preprocessing.channels == "rgb" and np.allclose(values, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max()):
        return ""
    ours = f"{_range(wanted)} in {preprocessing.channels}"
    return f"{who} and {make} {_range(values)} of pixels from 0 to 255, where {name} has {ours}; {ADVICE}"


def _is_idle(layer: Layer) -> bool:
    return layer.kind in IDLE or (layer.kind == "Activation" and layer.config.get("activation") == "linear")


def _range(values: np.ndarray) -> str:
    low, high = (", ".join(f"{value:.4g}" for value in np.unique(row)) for row in values)
    return f"{low} to {high}"


def _is_own_padding(layer: Layer, arch: str) -> bool:
    """Whether a layer is the padding that Keras has in front of the first convolution of `arch`."""
    padding = getattr(family(arch), "KERAS_PADDING", None)
    alike = () if padding is None else (padding, [padding] * 2, [[padding] * 2] * 2)
    return layer.kind == "ZeroPadding2D" and layer.config.get("padding") in alike


def _scaled(layer: Layer, values: np.ndarray) -> np.ndarray | None:
    """The values after a layer that scales; None for another, and for numbers other than one, or one a channel."""
    if layer.kind not in SCALING or layer.config.get("invert"):
        return None
    try:
        first, second = (np.asarray(layer.config.get(*key), float).reshape(-1) for key in SCALING[layer.kind])
        with np.errstate(all="ignore"):
            if layer.kind == "Rescaling":
                result = values * first + second
            else:
                result = (values - first) / np.maximum(np.sqrt(second), 1e-7)
    except (TypeError, ValueError):
        return None
    return result if result.shape in ((2, 1), (2, 3)) and np.isfinite(result).all() else None
