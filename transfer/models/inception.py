"""Inception v3 (Szegedy et al. 2015, arXiv:1512.00567), as torchvision, timm and `keras.applications` have it.

The auxiliary classifier, which counts in training only, is left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from transfer.models.layers import (
    ConvNorm,
    average_pool,
    check_images,
    check_transform_input,
    dense,
    global_average_pool,
    imagenet_to_half,
    max_pool,
    scaled,
)

BN_EPSILON = 1e-3
KERAS: dict[str, Any] = dict(bn_scale=False, count_padding=False)

# (features, kernel size, stride, padding) of the stem's convolutions; a 3x3 max-pool at stride 2 follows the third and
# the last.
STEM = ((32, 3, 2, 0), (32, 3, 1, 0), (64, 3, 1, 1), (80, 1, 1, 0), (192, 3, 1, 0))
POOLED_AFTER = (3, 5)

# A module is its branches, joined in this order: branch -> steps, one after the other. A step is a convolution's
# (features, kernel size); two such are siblings on the same input, joined. `branch_pool` begins with an average pool.
Step = tuple[Any, Any]
Branches = dict[str, tuple[Step, ...]]


def _square(pooled: int) -> Branches:
    """Figure 5 of the paper."""
    double = ((64, 1), (96, 3), (96, 3))
    return {
        "branch1x1": ((64, 1),),
        "branch5x5": ((48, 1), (64, 5)),
        "branch3x3dbl": double,
        "branch_pool": ((pooled, 1),),
    }


def _factorised(inner: int) -> Branches:
    """Figure 6: 7x7 as 1x7 and 7x1."""
    row, column = (inner, (1, 7)), (inner, (7, 1))
    return {
        "branch1x1": ((192, 1),),
        "branch7x7": ((inner, 1), row, (192, (7, 1))),
        "branch7x7dbl": ((inner, 1), column, row, column, (192, (1, 7))),
        "branch_pool": ((192, 1),),
    }


def _wide() -> Branches:
    """Figure 7: 3x3 as 1x3 beside 3x1."""
    fork = ((384, (1, 3)), (384, (3, 1)))
    return {
        "branch1x1": ((320, 1),),
        "branch3x3": ((384, 1), fork),
        "branch3x3dbl": ((448, 1), (384, 3), fork),
        "branch_pool": ((192, 1),),
    }


# Modules that halve the size: their branches end in a 3x3 at stride 2 without padding, a max-pool joins them.
REDUCTIONS = ("mixed3", "mixed8")
MODULES: dict[str, Branches] = {
    "mixed0": _square(32),
    "mixed1": _square(64),
    "mixed2": _square(64),
    "mixed3": {"branch3x3": ((384, 3),), "branch3x3dbl": ((64, 1), (96, 3), (96, 3))},
    "mixed4": _factorised(128),
    "mixed5": _factorised(160),
    "mixed6": _factorised(160),
    "mixed7": _factorised(192),
    "mixed8": {
        "branch3x3": ((192, 1), (320, 3)),
        "branch7x7x3": ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)),
    },
    "mixed9": _wide(),
    "mixed10": _wide(),
}


def step_names(branch: str, steps: tuple[Step, ...]) -> tuple[tuple[str, ...], ...]:
    """The layers of each step, as torchvision calls them: `branch5x5_1`, siblings `branch3x3_2a` and `_2b`."""
    if len(steps) == 1:
        return ((branch,),)
    return tuple(
        (f"{branch}_{i}a", f"{branch}_{i}b") if isinstance(step[0], tuple) else (f"{branch}_{i}",)
        for i, step in enumerate(steps, 1)
    )


class Mixed(nnx.Module):
    """A module: branches side by side, joined; `reduces` halves the size."""

    def __init__(
        self,
        channels: int,
        branches: Branches,
        *,
        reduces: bool,
        count_padding: bool,
        width: float,
        brick: Callable[..., ConvNorm],
    ) -> None:
        self.reduces, self.count_padding = reduces, count_padding
        self.plan = tuple((branch, step_names(branch, steps)) for branch, steps in branches.items())
        self.features = channels if reduces else 0  # what the max-pool passes on
        for (_, names), steps in zip(self.plan, branches.values(), strict=True):
            inputs = channels
            for position, (layers, step) in enumerate(zip(names, steps, strict=True), 1):
                halves = reduces and position == len(steps)
                geometry = dict(stride=2, padding=0) if halves else {}
                convolutions = step if len(layers) > 1 else (step,)
                for layer, (features, size) in zip(layers, convolutions, strict=True):
                    setattr(self, layer, brick(inputs, scaled(features, width), size, **geometry))
                inputs = sum(scaled(features, width) for features, _ in convolutions)
            self.features += inputs

    def __call__(self, x: jax.Array) -> jax.Array:
        joined = []
        for branch, steps in self.plan:
            y = average_pool(x, 3, 1, 1, self.count_padding) if branch == "branch_pool" else x
            for layers in steps:
                outputs = [getattr(self, layer)(y) for layer in layers]
                y = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
            joined.append(y)
        if self.reduces:
            joined.append(max_pool(x, 3, 2))
        return jnp.concatenate(joined, axis=-1)


class Stem(nnx.Module):
    """Five convolutions and two max-pools: an eighth of the size each way."""

    def __init__(self, channels: int, width: float, brick: Callable[..., ConvNorm]) -> None:
        for i, (features, size, stride, padding) in enumerate(STEM, 1):
            features = scaled(features, width)
            setattr(self, f"conv{i}", brick(channels, features, size, stride=stride, padding=padding))
            channels = features

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(1, len(STEM) + 1):
            x = getattr(self, f"conv{i}")(x)
            x = max_pool(x, 3, 2) if i in POOLED_AFTER else x
        return x


class InceptionV3(nnx.Module):
    """Stem, eleven modules, global average pool, linear classifier.

    Args:
        channels: of the images.
        transform_input: the images are normalised as for the other torchvision models, the weights want [-1, 1]
            (torchvision's own weight set; not timm's, whose preprocessing gives [-1, 1]).
        bn_scale: batch norm has a scale (torchvision; not Keras).
        count_padding: average pools count the padding at an edge (torchvision; not Keras).
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        transform_input: bool = False,
        bn_scale: bool = True,
        count_padding: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        check_transform_input(transform_input, channels)
        self.num_classes, self.transform_input, self._channels = num_classes, transform_input, channels
        brick = partial(ConvNorm, epsilon=BN_EPSILON, use_scale=bn_scale, rngs=rngs)
        self.stem = Stem(channels, width, brick)
        inputs = scaled(STEM[-1][0], width)
        for name, branches in MODULES.items():
            reduces = name in REDUCTIONS
            module = Mixed(inputs, branches, reduces=reduces, count_padding=count_padding, width=width, brick=brick)
            setattr(self, name, module)
            inputs = module.features
        self.dropout = nnx.Dropout(0.5, deterministic=True)
        if num_classes:
            self.logits = dense(inputs, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(B, H, W, channels) preprocessed images -> (logits, or pooled features without a classifier; end points).

        End points: `stem`, `mixed0`…`mixed10`, `pre_logits` (B, C), `logits`. From 75 px up. `rngs` feeds the dropout
        in training mode.
        """
        check_images(images, 75, "Inception v3", self._channels)
        endpoints: dict[str, jax.Array] = {}
        x = imagenet_to_half(images) if self.transform_input else images
        x = endpoints["stem"] = self.stem(x)
        for name in MODULES:
            x = endpoints[name] = getattr(self, name)(x)
        x = endpoints["pre_logits"] = global_average_pool(x)
        if self.num_classes:
            x = endpoints["logits"] = self.logits(self.dropout(x, rngs=rngs))
        return x, endpoints


ARCHITECTURES: dict[str, Callable[..., InceptionV3]] = {"inception_v3": InceptionV3}
