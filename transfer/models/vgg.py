"""VGG 11, 13, 16, 19, plain and with batch norm (Simonyan & Zisserman 2014, arXiv:1409.1556).

Agrees with torchvision's `vgg*` (`adaptive_pool=True`) and with `keras.applications` (`adaptive_pool=False`).
"""

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx

from transfer.errors import UsageError
from transfer.models.layers import (
    adaptive_average_pool,
    batch_norm,
    check_images,
    conv,
    dense,
    global_average_pool,
    max_pool,
    scaled,
)

CHANNELS = (64, 128, 256, 512, 512)
# Convolutions in each of the five blocks.
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
# Both sources train their classifier on 224 px, which leaves 7x7 cells.
CLASSIFIER_CELLS = 7


class Block(nnx.Module):
    """`depth` 3x3 convolutions, each with ReLU (after batch norm where there is one), then a 2x2 max-pool."""

    def __init__(self, channels: int, features: int, depth: int, use_batch_norm: bool, rngs: nnx.Rngs) -> None:
        self.depth, self.use_batch_norm = depth, use_batch_norm
        for i in range(1, depth + 1):
            setattr(self, f"conv{i}", conv(channels if i == 1 else features, features, 3, rngs=rngs))
            if use_batch_norm:
                setattr(self, f"bn{i}", batch_norm(features, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(1, self.depth + 1):
            x = getattr(self, f"conv{i}")(x)
            if self.use_batch_norm:
                x = getattr(self, f"bn{i}")(x)
            x = jax.nn.relu(x)
        return max_pool(x, 2, 2)


class VGG(nnx.Module):
    """Five blocks, then the classifier `fc1`, `fc2`, `logits`.

    Args:
        depths: convolutions in each block.
        use_batch_norm: batch norm between each convolution and its ReLU.
        channels: of the images.
        hidden: sizes of the hidden layers; empty: one linear layer on the pooled features.
        adaptive_pool: average to 7x7 cells before `fc1`, so that a classifier takes any size (torchvision);
            without it, a hidden classifier takes 224 px only (Keras).
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        use_batch_norm: bool = False,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        hidden: tuple[int, ...] = (4096, 4096),
        adaptive_pool: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_classes, self.adaptive_pool, self._channels = num_classes, adaptive_pool, channels
        self.num_hidden = len(hidden) if num_classes else 0
        sizes = [channels, *(scaled(c, width) for c in CHANNELS)]
        for i, depth in enumerate(depths, 1):
            setattr(self, f"block{i}", Block(sizes[i - 1], sizes[i], depth, use_batch_norm, rngs))
        inputs = sizes[-1] * (CLASSIFIER_CELLS**2 if hidden else 1)
        for i, size in enumerate((scaled(h, width) for h in hidden[: self.num_hidden]), 1):
            setattr(self, f"fc{i}", dense(inputs, size, rngs=rngs))
            inputs = size
        if num_classes:
            self.logits = dense(inputs, num_classes, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(B, H, W, channels) preprocessed images -> (logits, or pooled features without a classifier; end points).

        End points: `block1`…`block5` after their pool, `pre_logits` (B, C), `fc1`, `fc2` after ReLU, `logits`.
        `rngs` feeds the dropout in training mode.
        """
        check_images(images, 32, "VGG", self._channels)
        endpoints: dict[str, jax.Array] = {}
        x = images
        for i in range(1, 6):
            x = endpoints[f"block{i}"] = getattr(self, f"block{i}")(x)
        pooled = endpoints["pre_logits"] = global_average_pool(x)
        if not self.num_classes:
            return pooled, endpoints
        if not self.num_hidden:
            x = pooled
        elif self.adaptive_pool or x.shape[1:3] == (CLASSIFIER_CELLS, CLASSIFIER_CELLS):
            x = adaptive_average_pool(x, CLASSIFIER_CELLS).reshape(x.shape[0], -1)
        else:
            raise UsageError(
                f"this VGG's classifier takes 224x224 images, not ones that leave {x.shape[1]}x{x.shape[2]} cells; "
                "use num_classes=0 for its features, or adaptive_pool=True"
            )
        for i in range(1, self.num_hidden + 1):
            x = endpoints[f"fc{i}"] = jax.nn.relu(getattr(self, f"fc{i}")(x))
            x = self.dropout(x, rngs=rngs)
        x = endpoints["logits"] = self.logits(x)
        return x, endpoints


ARCHITECTURES: dict[str, Callable[..., VGG]] = {
    name + ("_bn" if use_batch_norm else ""): partial(VGG, depths, use_batch_norm)
    for name, depths in DEPTHS.items()
    for use_batch_norm in (False, True)
}
