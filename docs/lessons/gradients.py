"""How much of the loss reaches the first layer of a deep network at initialisation, with and without the shortcut.

python docs/lessons/gradients.py    # a minute
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transfer.models.layers import batch_norm, conv, dense, global_average_pool
from transfer.models.resnet import BasicUnit, Variant
from transfer.runtime import tables

# He et al. 2015, section 4.2: 6n + 2 layers, n units at each of three resolutions.
CHANNELS = (16, 32, 64)
DEPTHS = (8, 20, 32, 44, 56)
CLASSES = 10
BATCH, SIDE, SEEDS = 4, 32, 5
# (batch norm in training mode, shortcut)
VARIANTS = ((False, False), (False, True), (True, False), (True, True))
FIRST_LAYER = "stem"


class OptionalUnit(BasicUnit):
    """A unit of two 3x3 convolutions whose shortcut can be left out, with the same weights."""

    shortcut = True

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.shortcut:
            return super().__call__(x)
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        return jax.nn.relu(self.bn2(self.conv2(x)))


class CifarNet(nnx.Module):
    """The paper's CIFAR-10 network of `depth` layers: a 3x3 stem, three stages of (depth - 2) / 6 units, a head."""

    def __init__(self, depth: int, rngs: nnx.Rngs) -> None:
        inputs, units = CHANNELS[0], []
        self.stem = conv(3, inputs, 3, bias=False, rngs=rngs)
        self.bn = batch_norm(inputs, rngs=rngs)
        for stage, channels in enumerate(CHANNELS):
            for i in range((depth - 2) // 6):
                stride = 2 if stage and i == 0 else 1
                units.append(OptionalUnit(inputs, channels, stride, Variant(), rngs))
                inputs = channels
        self.units = nnx.List(units)
        self.logits = dense(inputs, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.bn(self.stem(images)))
        for unit in self.units:
            x = _call(*nnx.split(unit), x)
        return self.logits(global_average_pool(x))


# Units of one shape share their compiled program, whatever the depth; new batch statistics are thrown away.
@partial(jax.jit, static_argnums=0)
def _call(graphdef: nnx.GraphDef[BasicUnit], state: nnx.State, x: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state)(x)


def first_layer_gradients(depth: int, seed: int) -> list[float]:
    """The Euclidean norms of the loss's gradient at the first layer's kernel before any training, one a variant.

    Without batch norm means with the scales, shifts and statistics that it starts with (1 and 0), so that it changes
    nothing; with it, the batch's own statistics.

    Args:
      depth: weighted layers, 6n + 2.
      seed: of the weights (He et al., fan-out), the images (standard normal) and the labels.
    """
    model = CifarNet(depth, nnx.Rngs(seed))
    generator = np.random.default_rng(seed)
    images = jnp.asarray(generator.standard_normal((BATCH, SIDE, SIDE, 3), np.float32))
    labels = jnp.asarray(generator.integers(0, CLASSES, BATCH))

    def loss(model: CifarNet) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(model(images)), labels[:, None], axis=1).mean()

    first_layer = nnx.DiffState(0, nnx.PathContains(FIRST_LAYER))
    norms = []
    for normalised, shortcut in VARIANTS:
        model.set_attributes(OptionalUnit, shortcut=shortcut)
        model.set_attributes(nnx.BatchNorm, use_running_average=not normalised)
        (gradient,) = jax.tree.leaves(nnx.grad(loss, argnums=first_layer)(model))
        norms.append(float(jnp.linalg.norm(gradient)))
    return norms


def significant(value: float, digits: int) -> str:
    """A number with so many significant digits: 219.4, 2 -> "220"; 0.001974, 3 -> "0.00197"."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if rounded >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def named(normalised: bool, shortcut: bool) -> str:
    """The name of a variant in the table."""
    return f"{'batch norm' if normalised else 'no batch norm'}, {'shortcut' if shortcut else 'plain'}"


def main() -> None:
    """Prints the table of docs/lessons/gradients.md, and what can be read from it."""
    norms = np.array([[first_layer_gradients(depth, seed) for seed in range(SEEDS)] for depth in DEPTHS])
    means, deviations = norms.mean(axis=1), norms.std(axis=1, ddof=1)
    rows = [["layers", *(named(*variant) for variant in VARIANTS)]]
    for depth, *measured in zip(DEPTHS, means, deviations, strict=True):
        cells = (f"{significant(mean, 3)} ± {significant(spread, 2)}" for mean, spread in zip(*measured, strict=True))
        rows.append([str(depth), *cells])
    growth = zip(VARIANTS, means[-1] / means[0], strict=True)
    factors = "; ".join(f"{named(*variant)}: × {significant(factor, 2)}" for variant, factor in growth)
    print(tables.markdown(rows, left=1))
    print(
        f"\nFrom {DEPTHS[0]} to {DEPTHS[-1]} layers ({factors}). With batch norm, as these networks are trained, a "
        "plain network's gradient explodes with depth, and with the shortcut it grows far slower. Without batch norm, "
        "He's initialisation keeps a plain network nearly level, and the shortcuts make it explode."
    )


if __name__ == "__main__":
    main()
