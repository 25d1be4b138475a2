"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842) as torchvision has it: batch norm, and 3x3 for the "5x5" branch.

The two auxiliary classifiers, which count in training only, are left out.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from transfer.models.layers import (
    ConvNorm,
    check_images,
    check_transform_input,
    dense,
    global_average_pool,
    imagenet_to_half,
    max_pool,
    scaled,
)

BN_EPSILON = 1e-3
# Features of (1x1; 1x1 then 3x3; 1x1 then the second 3x3; 1x1 after the pool) of each module.
Plan = tuple[int, tuple[int, int], tuple[int, int], int]
MODULES: dict[str, Plan] = {
    "inception3a": (64, (96, 128), (16, 32), 32),
    "inception3b": (128, (128, 192), (32, 96), 64),
    "inception4a": (192, (96, 208), (16, 48), 64),
    "inception4b": (160, (112, 224), (24, 64), 64),
    "inception4c": (128, (128, 256), (24, 64), 64),
    "inception4d": (112, (144, 288), (32, 64), 64),
    "inception4e": (256, (160, 320), (32, 128), 128),
    "inception5a": (256, (160, 320), (32, 128), 128),
    "inception5b": (384, (192, 384), (48, 128), 128),
}
# Module -> window of the max-pool at stride 2 before it.
POOLED_BEFORE = {"inception4a": 3, "inception5a": 2}


class Module(nnx.Module):
    """Four branches side by side, joined in their order: 1x1, 1x1-3x3, 1x1-3x3, pool-1x1."""

    def __init__(self, channels: int, plan: Plan, brick: Callable[..., ConvNorm]) -> None:
        single, pair, second_pair, pooled = plan
        self.branch1 = brick(channels, single, 1)
        self.branch2_1, self.branch2_2 = brick(channels, pair[0], 1), brick(*pair, 3)
        self.branch3_1, self.branch3_2 = brick(channels, second_pair[0], 1), brick(*second_pair, 3)
        self.branch4 = brick(channels, pooled, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        branches = (
            self.branch1(x),
            self.branch2_2(self.branch2_1(x)),
            self.branch3_2(self.branch3_1(x)),
            self.branch4(max_pool(x, 3, 1, padding=1)),
        )
        return jnp.concatenate(branches, axis=-1)


class Stem(nnx.Module):
    """7x7 at stride 2, pool, 1x1, 3x3, pool: an eighth of the size each way."""

    def __init__(self, channels: int, width: float, brick: Callable[..., ConvNorm]) -> None:
        first, last = scaled(64, width), scaled(192, width)
        self.conv1 = brick(channels, first, 7, stride=2)
        self.conv2 = brick(first, first, 1)
        self.conv3 = brick(first, last, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = max_pool(self.conv1(x), 3, 2, ceil_mode=True)
        return max_pool(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)


class GoogLeNet(nnx.Module):
    """Stem, nine inception modules, global average pool, linear classifier.

    Args:
        channels: of the images.
        transform_input: the images are normalised as for the other torchvision models, the weights want [-1, 1]
            (torchvision's own weight set).
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        transform_input: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        check_transform_input(transform_input, channels)
        self.num_classes, self.transform_input, self._channels = num_classes, transform_input, channels
        brick = partial(ConvNorm, epsilon=BN_EPSILON, rngs=rngs)
        self.stem = Stem(channels, width, brick)
        inputs = scaled(192, width)
        for name, plan in MODULES.items():
            single, pair, second_pair, pooled = plan = jax.tree.map(lambda features: scaled(features, width), plan)
            setattr(self, name, Module(inputs, plan, brick))
            inputs = single + pair[1] + second_pair[1] + pooled
        self.dropout = nnx.Dropout(0.2, deterministic=True)
        if num_classes:
            self.logits = dense(inputs, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(B, H, W, channels) preprocessed images -> (logits, or pooled features without a classifier; end points).

        End points: `stem`, `inception3a`…`inception5b`, `pre_logits` (B, C), `logits`. From 15 px up. `rngs` feeds the
        dropout in training mode.
        """
        check_images(images, 15, "GoogLeNet", self._channels)
        endpoints: dict[str, jax.Array] = {}
        x = imagenet_to_half(images) if self.transform_input else images
        x = endpoints["stem"] = self.stem(x)
        for name in MODULES:
            if name in POOLED_BEFORE:
                x = max_pool(x, POOLED_BEFORE[name], 2, ceil_mode=True)
            x = endpoints[name] = getattr(self, name)(x)
        x = endpoints["pre_logits"] = global_average_pool(x)
        if self.num_classes:
            x = endpoints["logits"] = self.logits(self.dropout(x, rngs=rngs))
        return x, endpoints


ARCHITECTURES: dict[str, Callable[..., GoogLeNet]] = {"googlenet": GoogLeNet}
