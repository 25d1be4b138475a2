"""ResNet 18 to 152 (He et al. 2015, arXiv:1512.03385), and with wider or grouped 3x3 convolutions:

Wide ResNet (Zagoruyko & Komodakis 2016, arXiv:1605.07146) and ResNeXt (Xie et al. 2016, arXiv:1611.05431). The
defaults are torchvision's (v1.5: the 3x3 carries the stride); `KERAS` holds what `keras.applications` differs in.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from transfer.models.layers import (
    batch_norm,
    check_images,
    conv,
    dense,
    global_average_pool,
    max_pool,
    scaled,
)

# name: (units in each of the four stages, bottleneck units)
SIZES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
# The same depths with other 3x3 convolutions inside the bottlenecks.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "wide_resnet50_2": ("resnet50", dict(width_per_group=128)),
    "wide_resnet101_2": ("resnet101", dict(width_per_group=128)),
    "resnext50_32x4d": ("resnet50", dict(groups=32, width_per_group=4)),
    "resnext101_32x8d": ("resnet101", dict(groups=32, width_per_group=8)),
}
KERAS: dict[str, Any] = dict(stride_in_1x1=True, conv_bias=True, bn_epsilon=1.001e-5, pool_pad_value=0.0)
STAGE_CHANNELS = (64, 128, 256, 512)
EXPANSION = 4


class Unit(nnx.Module):
    """A residual unit: 1x1-3x3-1x1 (`bottleneck`) or 3x3-3x3, projecting the shortcut only when the shape changes."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        *,
        bottleneck: bool,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
        conv_bias: bool = False,
        bn_epsilon: float = 1e-5,
        rngs: nnx.Rngs,
    ) -> None:
        outputs = channels * EXPANSION if bottleneck else channels
        inner = int(channels * width_per_group / STAGE_CHANNELS[0]) * groups
        first, second = (stride, 1) if stride_in_1x1 or not bottleneck else (1, stride)
        # (features, kernel size, stride, groups) of each convolution.
        plan = (
            ((inner, 1, first, 1), (inner, 3, second, groups), (outputs, 1, 1, 1))
            if bottleneck
            else ((channels, 3, first, 1), (channels, 3, second, 1))
        )
        self.depth = len(plan)
        features = inputs
        for i, (size_out, size, step, split) in enumerate(plan, 1):
            layer = conv(features, size_out, size, stride=step, groups=split, bias=conv_bias, rngs=rngs)
            setattr(self, f"conv{i}", layer)
            setattr(self, f"bn{i}", batch_norm(size_out, epsilon=bn_epsilon, rngs=rngs))
            features = size_out
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.proj = conv(inputs, outputs, 1, stride=stride, bias=conv_bias, rngs=rngs)
            self.proj_bn = batch_norm(outputs, epsilon=bn_epsilon, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = self.proj_bn(self.proj(x)) if self.projects else x
        for i in range(1, self.depth + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = jax.nn.relu(x if i < self.depth else x + shortcut)
        return x


class Stem(nnx.Module):
    """7x7 convolution at stride 2, batch norm, ReLU, 3x3 max-pool at stride 2."""

    def __init__(
        self, features: int, *, conv_bias: bool, bn_epsilon: float, pool_pad_value: float, rngs: nnx.Rngs
    ) -> None:
        self.pool_pad_value = pool_pad_value
        self.conv = conv(3, features, 7, stride=2, bias=conv_bias, rngs=rngs)
        self.bn = batch_norm(features, epsilon=bn_epsilon, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(jax.nn.relu(self.bn(self.conv(x))), 3, 2, padding=1, pad_value=self.pool_pad_value)


class Stage(nnx.Module):
    """`depth` units at one resolution; the first carries the stride."""

    def __init__(self, inputs: int, channels: int, depth: int, stride: int, rngs: nnx.Rngs, **fields: Any) -> None:
        self.depth = depth
        outputs = channels * EXPANSION if fields["bottleneck"] else channels
        for i in range(1, depth + 1):
            first = i == 1
            unit = Unit(inputs if first else outputs, channels, stride if first else 1, rngs=rngs, **fields)
            setattr(self, f"unit{i}", unit)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(1, self.depth + 1):
            x = getattr(self, f"unit{i}")(x)
        return x


class ResNet(nnx.Module):
    """Stem, four stages, global average pool, linear classifier.

    Args:
        depths: units in each stage.
        bottleneck: 1x1-3x3-1x1 units instead of pairs of 3x3.
        num_classes: 0 leaves the classifier out.
        width: multiplies every channel count.
        groups, width_per_group: of the bottlenecks' 3x3, in the first stage; 1 and 64 in the paper, 32 and 4 in
            ResNeXt-50 32x4d, 1 and 128 in Wide ResNet-50-2.
        stride_in_1x1: the first 1x1 of a bottleneck carries the stride (the paper, Keras), not the 3x3 (torchvision).
        conv_bias: convolutions carry a bias before batch norm (Keras).
        bn_epsilon: 1e-5 in torchvision, 1.001e-5 in Keras.
        pool_pad_value: padding of the stem's max-pool, -inf in torchvision, 0 in Keras (equal after a ReLU).
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        bottleneck: bool,
        *,
        num_classes: int = 1000,
        width: float = 1.0,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
        conv_bias: bool = False,
        bn_epsilon: float = 1e-5,
        pool_pad_value: float = -jnp.inf,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_classes = num_classes
        norm = dict(conv_bias=conv_bias, bn_epsilon=bn_epsilon)
        channels = [scaled(c, width) for c in STAGE_CHANNELS]
        self.stem = Stem(channels[0], pool_pad_value=pool_pad_value, rngs=rngs, **norm)  # type: ignore[arg-type]
        inputs = channels[0]
        for i, (depth, features) in enumerate(zip(depths, channels, strict=True), 1):
            stage = Stage(
                inputs,
                features,
                depth,
                1 if i == 1 else 2,
                rngs,
                bottleneck=bottleneck,
                groups=groups,
                width_per_group=width_per_group,
                stride_in_1x1=stride_in_1x1,
                **norm,
            )
            setattr(self, f"stage{i}", stage)
            inputs = features * (EXPANSION if bottleneck else 1)
        if num_classes:
            self.logits = dense(inputs, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(B, H, W, 3) preprocessed images -> (logits, or pooled features without a classifier; end points).

        End points: `stem` (after its pool), `stage1`…`stage4`, `pre_logits` (B, C), `logits`. Any size from 1 px up.
        """
        check_images(images, 1, "ResNet")
        endpoints = {}
        x = endpoints["stem"] = self.stem(images)
        for i in range(1, 5):
            x = endpoints[f"stage{i}"] = getattr(self, f"stage{i}")(x)
        x = endpoints["pre_logits"] = global_average_pool(x)
        if self.num_classes:
            x = endpoints["logits"] = self.logits(x)
        return x, endpoints


ARCHITECTURES: dict[str, Callable[..., ResNet]] = {
    **{name: partial(ResNet, depths, bottleneck) for name, (depths, bottleneck) in SIZES.items()},
    **{name: partial(ResNet, *SIZES[depth], **fields) for name, (depth, fields) in VARIANTS.items()},
}
