"""ResNet V2 50, 101, 152 (He et al. 2016, arXiv:1603.05027) as `keras.applications` has it: norm and ReLU come first.

Unlike the paper and most others, the last unit of a stage carries its stride, not the first of the next.
"""

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx

from transfer.models.layers import Stage, batch_norm, conv, dense, max_pool, scaled
from transfer.models.resnet import STAGE_CHANNELS, ResNet

SIZES = {"resnet50v2": (3, 4, 6, 3), "resnet101v2": (3, 4, 23, 3), "resnet152v2": (3, 8, 36, 3)}
EXPANSION = 4
BN_EPSILON = 1.001e-5


class Unit(nnx.Module):
    """Norm, ReLU, then 1x1-3x3-1x1 with norm and ReLU between; the sum is left as it is.

    The first unit of a stage projects its normalised input; the others pass their input on, thinned at a stride.
    """

    def __init__(self, inputs: int, channels: int, stride: int, projects: bool, rngs: nnx.Rngs) -> None:
        self.projects, self.stride = projects, stride
        outputs = channels * EXPANSION
        self.preact_bn = batch_norm(inputs, epsilon=BN_EPSILON, rngs=rngs)
        self.conv1 = conv(inputs, channels, 1, bias=False, rngs=rngs)
        self.bn1 = batch_norm(channels, epsilon=BN_EPSILON, rngs=rngs)
        self.conv2 = conv(channels, channels, 3, stride=stride, bias=False, rngs=rngs)
        self.bn2 = batch_norm(channels, epsilon=BN_EPSILON, rngs=rngs)
        self.conv3 = conv(channels, outputs, 1, rngs=rngs)
        if projects:
            self.proj = conv(inputs, outputs, 1, stride=stride, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        preact = jax.nn.relu(self.preact_bn(x))
        shortcut = self.proj(preact) if self.projects else x[:, :: self.stride, :: self.stride]
        x = jax.nn.relu(self.bn1(self.conv1(preact)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        return shortcut + self.conv3(x)


class Stem(nnx.Module):
    """7x7 convolution and 3x3 max-pool, each at stride 2; no norm, no ReLU, so the pool's padding of zeros counts."""

    def __init__(self, channels: int, features: int, rngs: nnx.Rngs) -> None:
        self.conv = conv(channels, features, 7, stride=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(self.conv(x), 3, 2, padding=1, pad_value=0.0)


class ResNetV2(ResNet):
    """Stem, four stages of so many units, norm and ReLU, global average pool, linear classifier."""

    def __init__(
        self,
        depths: tuple[int, ...],
        *,
        num_classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_classes, self._channels = num_classes, channels
        inputs, *_ = sizes = [scaled(c, width) for c in STAGE_CHANNELS]
        self.stem = Stem(channels, inputs, rngs)
        for i, (depth, features) in enumerate(zip(depths, sizes, strict=True), 1):
            outputs, units = features * EXPANSION, []
            for j in range(depth):
                stride = 2 if i < len(depths) and j == depth - 1 else 1
                units.append(Unit(outputs if j else inputs, features, stride, j == 0, rngs))
            setattr(self, f"stage{i}", Stage(units))
            inputs = outputs
        self.post_bn = batch_norm(inputs, epsilon=BN_EPSILON, rngs=rngs)
        if num_classes:
            self.logits = dense(inputs, num_classes, rngs=rngs)

    def before_pool(self, x: jax.Array) -> jax.Array:
        """Applies norm and ReLU, which the end points `stage1`…`stage4` (sums) do not have yet."""
        return jax.nn.relu(self.post_bn(x))


ARCHITECTURES: dict[str, Callable[..., ResNetV2]] = {name: partial(ResNetV2, depths) for name, depths in SIZES.items()}
