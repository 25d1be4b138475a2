"""A layer's arrays from another implementation's layer that computes the same, with batch norm folded in either.

`y = scale * (conv(x) + bias - mean) / sqrt(var + epsilon) + shift`: any of these may be missing on either side.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer.weights.onnx.units import Differs

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Norm:
    """Batch norm as stored: `scale`, `bias`, `mean`, `var` (C,), and what is added to the variance."""

    weights: Arrays
    epsilon: float


@dataclasses.dataclass(frozen=True)
class Ours:
    """The parts of a layer of a model: dotted paths of its parts, None or False for what it lacks."""

    layer: str | None = None
    bias: bool = False
    norm: str | None = None
    norm_scale: bool = False
    epsilon: float = 0.0


def filled(
    ours: Ours, kernel: np.ndarray, bias: np.ndarray | None, norm: Norm | None, where: str
) -> dict[str, np.ndarray]:
    """The arrays of a convolution or dense layer and of the batch norm after it, by dotted path.

    Args:
      kernel: in our layout, output channels last.
      bias, norm: what follows it in the file, None if nothing does.
      where: in the message.

    Raises:
      Differs: the file's layer has a bias, and the model no place for it.
    """
    zeros = np.zeros(kernel.shape[-1], np.float32)
    bias = zeros if bias is None else bias
    if ours.norm is None:
        if norm is not None:
            weights = {name: array.astype(np.float64) for name, array in norm.weights.items()}
            factor = weights["scale"] / np.sqrt(weights["var"] + norm.epsilon)
            kernel, bias = kernel * factor, bias * factor + (weights["bias"] - weights["mean"] * factor)
        if not ours.bias and np.any(bias != 0):
            raise Differs(f"{where} has a bias, and {ours.layer} has none")
        return {f"{ours.layer}.kernel": kernel} | ({f"{ours.layer}.bias": bias} if ours.bias else {})
    if norm is None:  # one that at most adds the bias: the variance and epsilon make 1
        shift, bias = (zeros, bias) if ours.bias else (bias, zeros)
        var = zeros + np.float32(1 - ours.epsilon)
        norm = Norm(dict(scale=zeros + 1, bias=shift, mean=zeros, var=var), ours.epsilon)
    arrays, factor = _norm(ours, norm)
    if ours.bias:
        arrays[f"{ours.layer}.bias"] = bias * factor
    else:
        arrays[f"{ours.norm}.mean"] = arrays[f"{ours.norm}.mean"] - bias * factor
    return arrays | {f"{ours.layer}.kernel": kernel if ours.norm_scale else kernel * factor}


def filled_norm(ours: Ours, norm: Norm, where: str) -> dict[str, np.ndarray]:
    """The arrays of a batch norm that follows no layer.

    Raises:
      Differs: the file's has a scale, and the model's has none.
    """
    arrays, factor = _norm(ours, norm)
    if np.any(factor != 1):
        raise Differs(f"{where} has a scale, and {ours.norm} has none")
    return arrays


def affine(scale: np.ndarray, shift: np.ndarray, channels: int) -> Norm:
    """A scale and a shift by channel, as a batch norm."""
    weights = dict(scale=scale, bias=shift, mean=np.zeros(()), var=np.ones(()))
    return Norm({name: np.broadcast_to(array, (channels,)) for name, array in weights.items()}, 0.0)


def after_affine(parts: Mapping[str, Any], scale: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    """The parts of a layer or batch norm whose output is scaled and shifted by channel."""
    if "norm" in parts:
        norm: Norm = parts["norm"]
        weights = dict(scale=norm.weights["scale"] * scale, bias=norm.weights["bias"] * scale + shift)
        return dict(norm=Norm({**norm.weights, **weights}, norm.epsilon))
    kernel, bias = parts["kernel"], parts.get("bias", np.zeros((), np.float32)) * scale + shift
    return dict(kernel=kernel * scale if np.any(scale != 1) else kernel, bias=np.broadcast_to(bias, kernel.shape[-1:]))


def _norm(ours: Ours, norm: Norm) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Our batch norm's arrays, and the scale that belongs into the layer before it where ours has none."""
    weights = norm.weights
    # the float32 that files store of an epsilon is not a change of it
    same = np.float32(norm.epsilon) == np.float32(ours.epsilon)
    arrays = {
        f"{ours.norm}.bias": weights["bias"],
        f"{ours.norm}.mean": weights["mean"],
        f"{ours.norm}.var": weights["var"] if same else weights["var"] + (norm.epsilon - ours.epsilon),
    }
    if ours.norm_scale:
        return arrays | {f"{ours.norm}.scale": weights["scale"]}, np.ones((), np.float32)
    factor = weights["scale"]
    return arrays | {f"{ours.norm}.mean": weights["mean"] * factor}, factor
