"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

In the form that is taught today: every map of the second convolution sees all six of the first, subsampling is a plain
average, the output layer is linear (the paper: a sparse table, trainable scales, Gaussian connections). It has 61,706
parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from transfer.errors import UsageError
from transfer.models.layers import average_pool, check_images, conv, dense, global_average_pool, max_pool, scaled

# image size -> padding of the first convolution: the paper's 32 px images are MNIST's 28 px in a frame
PADDINGS = {28: 2, 32: 0}
# Cells a side that 32 px leave before `fc1`.
CLASSIFIER_CELLS = 5
FEATURES, HIDDEN = (6, 16), (120, 84)
ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}
POOLS: dict[str, Callable[..., jax.Array]] = {"average": average_pool, "max": max_pool}


class LeNet5(nnx.Module):
    """Two 5x5 convolutions, each with a 2x2 pool, then `fc1`, `fc2`, `logits`.

    Args:
        channels: of the images, 1 (grey) or 3 (colour).
        image_size: 28 pads the first convolution by 2 pixels, 32 (the paper) does not; no other size fits `fc1`.
        activation: "tanh" (the paper) or "relu".
        pool: "average" (the paper) or "max".
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        channels: int = 1,
        image_size: int = 28,
        width: float = 1.0,
        activation: str = "tanh",
        pool: str = "average",
        rngs: nnx.Rngs,
    ) -> None:
        choices = (("image_size", image_size, PADDINGS), ("activation", activation, ACTIVATIONS), ("pool", pool, POOLS))
        for name, value, known in choices:
            if value not in known:
                raise UsageError(f"lenet5: {name}={value!r} is not one of {', '.join(map(str, known))}")
        self.num_classes, self.channels, self.image_size = num_classes, channels, image_size
        self.activation, self.pool = activation, pool
        first, second = (scaled(features, width) for features in FEATURES)
        self.conv1 = conv(channels, first, 5, padding=PADDINGS[image_size], rngs=rngs)
        self.conv2 = conv(first, second, 5, padding=0, rngs=rngs)
        if not num_classes:
            return
        inputs = second * CLASSIFIER_CELLS**2
        hidden = [scaled(size, width) for size in HIDDEN]
        self.fc1 = dense(inputs, hidden[0], rngs=rngs)
        self.fc2 = dense(hidden[0], hidden[1], rngs=rngs)
        self.logits = dense(hidden[1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(B, H, W, channels) preprocessed images -> (logits, or pooled features without a classifier; end points).

        End points: `block1`, `block2` after their pool, `pre_logits` (B, C), `fc1`, `fc2` after their activation,
        `logits`. With a classifier, H and W are `image_size`.
        """
        check_images(images, 16, "LeNet-5", self.channels)
        if self.num_classes and images.shape[1:3] != (self.image_size, self.image_size):
            raise UsageError(
                f"this LeNet-5 takes {self.image_size}x{self.image_size} images, not {images.shape[1]}x"
                f"{images.shape[2]}; image_size takes {' or '.join(map(str, PADDINGS))}"
            )
        activate, pool = ACTIVATIONS[self.activation], POOLS[self.pool]
        endpoints: dict[str, jax.Array] = {}
        x = endpoints["block1"] = pool(activate(self.conv1(images)), 2, 2)
        x = endpoints["block2"] = pool(activate(self.conv2(x)), 2, 2)
        features = endpoints["pre_logits"] = global_average_pool(x)
        if not self.num_classes:
            return features, endpoints
        x = endpoints["fc1"] = activate(self.fc1(x.reshape(x.shape[0], -1)))
        x = endpoints["fc2"] = activate(self.fc2(x))
        x = endpoints["logits"] = self.logits(x)
        return x, endpoints


ARCHITECTURES: dict[str, Callable[..., LeNet5]] = {"lenet5": LeNet5}
