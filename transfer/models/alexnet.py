"""AlexNet (Krizhevsky et al. 2012), in the one-tower form of Krizhevsky 2014 (arXiv:1404.5997) that torchvision has."""

from collections.abc import Callable

import jax
from flax import nnx

from transfer.models.layers import (
    adaptive_average_pool,
    check_images,
    conv,
    dense,
    global_average_pool,
    max_pool,
    scaled,
)

# (features, kernel size, stride, padding, whether a 3x3 max-pool at stride 2 follows) of each convolution.
PLAN = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False), (256, 3, 1, 1, True))
# Cells a side to which torchvision pools before the classifier, and which 224 px leave anyway.
CLASSIFIER_CELLS = 6


class AlexNet(nnx.Module):
    """Five convolutions with ReLU, three max-pools, then the classifier `fc1`, `fc2`, `logits`.

    Args:
        channels: of the images.
        hidden: sizes of the hidden layers; empty: one linear layer on the pooled features.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        hidden: tuple[int, ...] = (4096, 4096),
        rngs: nnx.Rngs,
    ) -> None:
        self.num_classes, self._channels = num_classes, channels
        self.num_hidden = len(hidden) if num_classes else 0
        for i, (features, size, stride, padding, _) in enumerate(PLAN, 1):
            features = scaled(features, width)
            setattr(self, f"conv{i}", conv(channels, features, size, stride=stride, padding=padding, rngs=rngs))
            channels = features
        inputs = channels * (CLASSIFIER_CELLS**2 if hidden else 1)
        for i, size in enumerate((scaled(h, width) for h in hidden[: self.num_hidden]), 1):
            setattr(self, f"fc{i}", dense(inputs, size, rngs=rngs))
            inputs = size
        if num_classes:
            self.logits = dense(inputs, num_classes, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(B, H, W, channels) preprocessed images -> (logits, or pooled features without a classifier; end points).

        End points: `conv1`…`conv5` after their ReLU and pool, `pre_logits` (B, C), `fc1`, `fc2` after ReLU, `logits`.
        `rngs` feeds the dropout in training mode.
        """
        check_images(images, 63, "AlexNet", self._channels)
        endpoints: dict[str, jax.Array] = {}
        x = images
        for i, (*_, pooled) in enumerate(PLAN, 1):
            x = jax.nn.relu(getattr(self, f"conv{i}")(x))
            x = endpoints[f"conv{i}"] = max_pool(x, 3, 2) if pooled else x
        features = endpoints["pre_logits"] = global_average_pool(x)
        if not self.num_classes:
            return features, endpoints
        x = adaptive_average_pool(x, CLASSIFIER_CELLS).reshape(x.shape[0], -1) if self.num_hidden else features
        for i in range(1, self.num_hidden + 1):
            x = self.dropout(x, rngs=rngs)
            x = endpoints[f"fc{i}"] = jax.nn.relu(getattr(self, f"fc{i}")(x))
        x = endpoints["logits"] = self.logits(x)
        return x, endpoints


ARCHITECTURES: dict[str, Callable[..., AlexNet]] = {"alexnet": AlexNet}
