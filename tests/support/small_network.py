"""A network of three small blocks that is trained, with batch norm and dropout, and compiles in a moment."""

from collections.abc import Callable

import jax
from flax import nnx

from transfer.models.layers import batch_norm as norm
from transfer.models.layers import dense, global_average_pool, he_normal


class Block(nnx.Module):
    """A convolution at stride 2, batch norm, ReLU."""

    def __init__(self, channels: int, features: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(channels, features, (3, 3), strides=2, kernel_init=he_normal, rngs=rngs)
        self.bn = norm(features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x)))


class SmallNetwork(nnx.Module):
    """`block1` … `block3` of `width` channels, `logits`; `dropout` is its rate."""

    def __init__(self, *, num_classes: int = 2, width: float = 4, dropout: float = 0.0, rngs: nnx.Rngs) -> None:
        features = round(width)
        for i in (1, 2, 3):
            setattr(self, f"block{i}", Block(3 if i == 1 else features, features, rngs))
        self.dropout = nnx.Dropout(dropout, deterministic=True)
        self.logits = dense(features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        endpoints = {}
        for i in (1, 2, 3):
            x = endpoints[f"block{i}"] = getattr(self, f"block{i}")(x)
        x = endpoints["pre_logits"] = global_average_pool(x)
        x = endpoints["logits"] = self.logits(self.dropout(x, rngs=rngs))
        return x, endpoints


ARCHITECTURES: dict[str, Callable[..., nnx.Module]] = {"small": SmallNetwork}
