"""What a convolution's cost depends on: its shapes, and what happens to its output right after."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from transfer.models.layers import max_pool

Pairs = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Geometry:
    """An ordinary convolution over NHWC images: no dilation.

    Attributes:
      batch, height, width, channels: of the input.
      features: output channels.
      window, strides: (height, width).
      padding: zeros (low, high) of each side.
      groups: of channels.
    """

    batch: int
    height: int
    width: int
    channels: int
    features: int
    window: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    groups: int = 1

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = zip((self.height, self.width), self.window, self.strides, self.padding, strict=True)
        rows, columns = [(size + low + high - window) // stride + 1 for size, window, stride, (low, high) in sides]
        return rows, columns

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch, as the definition has them."""
        return self.batch * math.prod((*self.output, *self.window)) * self.channels // self.groups * self.features


@dataclass(frozen=True)
class Epilogue:
    """The operations after a convolution that are cheapest where its output is made.

    Attributes:
      bias: (K,), or None.
      relu: whether a ReLU follows (after the residual).
      pool: whether a 2x2 max-pool at stride 2 follows, odd rows and columns left out.
      residual: of the output's shape, added before the ReLU; not together with `pool`.
    """

    bias: jax.Array | None = None
    relu: bool = False
    pool: bool = False
    residual: jax.Array | None = None

    def pointwise(self, values: jax.Array) -> jax.Array:
        """Applies bias and ReLU to (..., K), where there is no residual."""
        if self.bias is not None:
            values = values + self.bias
        return jax.nn.relu(values) if self.relu else values

    def __call__(self, values: jax.Array) -> jax.Array:
        """Applies bias, residual, ReLU and pool to (B, H, W, K)."""
        if self.bias is not None:
            values = values + self.bias
        if self.residual is not None:
            values = values + self.residual
        values = jax.nn.relu(values) if self.relu else values
        return max_pool(values, 2, 2) if self.pool else values


Finish = Callable[[jax.Array], jax.Array]


def padded(images: jax.Array, padding: Pairs) -> jax.Array:
    """Pads images with zeros; a negative count crops."""
    if padding == ((0, 0), (0, 0)):
        return images
    zero = jnp.zeros((), images.dtype)
    return jax.lax.pad(images, zero, ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))
