"""ResNet 18 to 152 (He et al. 2015, arXiv:1512.03385), and with wider or grouped 3x3 convolutions:

Wide ResNet (Zagoruyko & Komodakis 2016, arXiv:1605.07146) and ResNeXt (Xie et al. 2016, arXiv:1611.05431). The
defaults are torchvision's (v1.5: the 3x3 carries the stride); `KERAS` holds what `keras.applications` differs in.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from transfer.models.layers import Stage, batch_norm, check_images, conv, dense, global_average_pool, max_pool, scaled

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
STAGE_CHANNELS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Variant:
    """The differences between implementations of ResNet; the defaults are torchvision's.

    Attributes:
        stride_in_1x1: the first 1x1 of a bottleneck carries the stride (the paper, Keras), not the 3x3 (torchvision).
        conv_bias: convolutions carry a bias before batch norm (Keras).
        bn_epsilon: 1e-5 in torchvision, 1.001e-5 in Keras.
        pool_pad_value: padding of the stem's max-pool, -inf in torchvision, 0 in Keras (equal after a ReLU).
        groups, width_per_group: of the bottlenecks' 3x3, in the first stage; 1 and 64 in the paper, 32 and 4 in
            ResNeXt-50 32x4d, 1 and 128 in Wide ResNet-50-2.
    """

    stride_in_1x1: bool = False
    conv_bias: bool = False
    bn_epsilon: float = 1e-5
    pool_pad_value: float = -jnp.inf
    groups: int = 1
    width_per_group: int = 64

    def layers(self, rngs: nnx.Rngs) -> tuple[Callable[..., nnx.Conv], Callable[..., nnx.BatchNorm]]:
        """The convolution and the batch norm of this variant, which take channel counts and geometry."""
        return partial(conv, bias=self.conv_bias, rngs=rngs), partial(batch_norm, epsilon=self.bn_epsilon, rngs=rngs)


KERAS: dict[str, Any] = dict(stride_in_1x1=True, conv_bias=True, bn_epsilon=1.001e-5, pool_pad_value=0.0)


class BasicUnit(nnx.Module):
    """Two 3x3 convolutions and a shortcut, which is projected only where the shape changes."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, variant: Variant, rngs: nnx.Rngs) -> None:
        conv, batch_norm = variant.layers(rngs)
        self.conv1 = conv(inputs, channels, 3, stride=stride)
        self.bn1 = batch_norm(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = batch_norm(channels)
        self.projects = stride != 1 or inputs != channels
        if self.projects:
            self.proj = conv(inputs, channels, 1, stride=stride)
            self.proj_bn = batch_norm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = self.proj_bn(self.proj(x)) if self.projects else x
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return jax.nn.relu(x + shortcut)


class Bottleneck(nnx.Module):
    """1x1, 3x3 (of `variant.groups`) and 1x1 convolutions and a shortcut, projected only where the shape changes."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, variant: Variant, rngs: nnx.Rngs) -> None:
        conv, batch_norm = variant.layers(rngs)
        inner = int(channels * variant.width_per_group / STAGE_CHANNELS[0]) * variant.groups
        outputs = channels * self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if variant.stride_in_1x1 else (1, stride)
        self.conv1 = conv(inputs, inner, 1, stride=stride_1x1)
        self.bn1 = batch_norm(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride_3x3, groups=variant.groups)
        self.bn2 = batch_norm(inner)
        self.conv3 = conv(inner, outputs, 1)
        self.bn3 = batch_norm(outputs)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.proj = conv(inputs, outputs, 1, stride=stride)
            self.proj_bn = batch_norm(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = self.proj_bn(self.proj(x)) if self.projects else x
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return jax.nn.relu(x + shortcut)


class Stem(nnx.Module):
    """7x7 convolution at stride 2, batch norm, ReLU, 3x3 max-pool at stride 2."""

    def __init__(self, channels: int, features: int, variant: Variant, rngs: nnx.Rngs) -> None:
        conv, batch_norm = variant.layers(rngs)
        self.pool_pad_value = variant.pool_pad_value
        self.conv = conv(channels, features, 7, stride=2)
        self.bn = batch_norm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(jax.nn.relu(self.bn(self.conv(x))), 3, 2, padding=1, pad_value=self.pool_pad_value)


class ResNet(nnx.Module):
    """Stem, four stages, global average pool, linear classifier.

    Args:
        depths: units in each stage.
        bottleneck: `Bottleneck` units instead of `BasicUnit`.
        channels: of the images.
        variant: the fields of `Variant`.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        bottleneck: bool,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        rngs: nnx.Rngs,
        **variant: Any,
    ) -> None:
        self.num_classes, self._channels = num_classes, channels
        fields, unit = Variant(**variant), Bottleneck if bottleneck else BasicUnit
        inputs, *_ = sizes = [scaled(c, width) for c in STAGE_CHANNELS]
        self.stem: Any = Stem(channels, inputs, fields, rngs)  # V2 has its own
        for i, (depth, features) in enumerate(zip(depths, sizes, strict=True), 1):
            outputs, units = features * unit.expansion, []
            for j in range(depth):
                stride = 2 if i > 1 and j == 0 else 1
                units.append(unit(outputs if j else inputs, features, stride, fields, rngs))
            setattr(self, f"stage{i}", Stage(units))
            inputs = outputs
        if num_classes:
            self.logits = dense(inputs, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(B, H, W, channels) preprocessed images -> (logits, or pooled features without a classifier; end points).

        End points: `stem` (after its pool), `stage1`…`stage4`, `pre_logits` (B, C), `logits`. Any size from 1 px up.
        """
        check_images(images, 1, type(self).__name__, self._channels)
        endpoints = {}
        x = endpoints["stem"] = self.stem(images)
        for i in range(1, 5):
            x = endpoints[f"stage{i}"] = getattr(self, f"stage{i}")(x)
        x = endpoints["pre_logits"] = global_average_pool(self.before_pool(x))
        if self.num_classes:
            x = endpoints["logits"] = self.logits(x)
        return x, endpoints

    def before_pool(self, x: jax.Array) -> jax.Array:
        """Applies what comes between the last stage and its pool: nothing here, norm and ReLU in V2."""
        return x


def _builder(size: str, **fields: Any) -> Callable[..., ResNet]:
    """The builder of a size, with every field of its variant as a keyword (`registry.defaults` reads them)."""
    depths, bottleneck = SIZES[size]
    return partial(ResNet, depths, bottleneck, **asdict(Variant(**fields)))


ARCHITECTURES: dict[str, Callable[..., ResNet]] = {
    **{size: _builder(size) for size in SIZES},
    **{name: _builder(size, **fields) for name, (size, fields) in VARIANTS.items()},
}
