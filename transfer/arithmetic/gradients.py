"""How much of the loss reaches the first layer of a deep network at initialisation, with and without the shortcut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transfer.arithmetic.section import Section
from transfer.models.layers import batch_norm, conv, dense, global_average_pool
from transfer.models.resnet import Unit

# He et al. 2015, section 4.2: 6n + 2 layers, n units at each of three resolutions.
CHANNELS = (16, 32, 64)
DEPTHS = (8, 20, 32, 44, 56)
CLASSES = 10
BATCH, SIDE, SEEDS = 8, 32, 5
# (batch norm in training mode, shortcut)
VARIANTS = ((False, False), (False, True), (True, False), (True, True))
FIRST_LAYER = "stem"


class PlainUnit(Unit):
    """The same two 3x3 convolutions with the same weights, and no shortcut around them."""

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(1, self.depth + 1):
            x = jax.nn.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return x


class CifarNet(nnx.Module):
    """The paper's CIFAR-10 network of `depth` layers: a 3x3 stem, three stages of (depth - 2) / 6 units, a head."""

    def __init__(self, depth: int, unit: type[Unit], rngs: nnx.Rngs) -> None:
        inputs, units = CHANNELS[0], []
        self.stem = conv(3, inputs, 3, bias=False, rngs=rngs)
        self.bn = batch_norm(inputs, rngs=rngs)
        for stage, channels in enumerate(CHANNELS):
            for i in range((depth - 2) // 6):
                stride = 2 if stage and i == 0 else 1
                units.append(_unit(unit, inputs, channels, stride, rngs))
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
def _call(graphdef: nnx.GraphDef[Unit], state: nnx.State, x: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state)(x)


def _unit(unit: type[Unit], inputs: int, channels: int, stride: int, rngs: nnx.Rngs) -> Unit:
    return unit(
        inputs,
        channels,
        stride,
        bottleneck=False,
        groups=1,
        width_per_group=64,
        stride_in_1x1=False,
        conv_bias=False,
        bn_epsilon=1e-5,
        rngs=rngs,
    )


def first_layer_gradient(depth: int, seed: int, *, normalised: bool, shortcut: bool) -> float:
    """The Euclidean norm of the loss's gradient at the first layer's kernel, before any training.

    Args:
      depth: weighted layers, 6n + 2.
      seed: of the weights (He et al., fan-out), the images (standard normal) and the labels.
      normalised: batch norm with the batch's own statistics. Without, its scales and shifts are those it starts
        with, 1 and 0, and its statistics too, so that it changes nothing.
      shortcut: around each pair of 3x3 convolutions.
    """
    model = CifarNet(depth, Unit if shortcut else PlainUnit, nnx.Rngs(seed))
    model.set_attributes(use_running_average=not normalised)
    generator = np.random.default_rng(seed)
    images = jnp.asarray(generator.standard_normal((BATCH, SIDE, SIDE, 3), np.float32))
    labels = jnp.asarray(generator.integers(0, CLASSES, BATCH))

    def loss(model: CifarNet) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(model(images)), labels[:, None], axis=1).mean()

    first_layer = nnx.DiffState(0, nnx.PathContains(FIRST_LAYER))
    (gradient,) = jax.tree.leaves(nnx.grad(loss, argnums=first_layer)(model))
    return float(jnp.linalg.norm(gradient))


def section() -> Section:
    """The norms for every depth and variant: mean and standard deviation over the seeds."""
    means: dict[tuple[int, tuple[bool, bool]], float] = {}
    rows = []
    for depth in DEPTHS:
        cells = [str(depth)]
        for normalised, shortcut in VARIANTS:
            norms = [
                first_layer_gradient(depth, seed, normalised=normalised, shortcut=shortcut) for seed in range(SEEDS)
            ]
            means[depth, (normalised, shortcut)] = float(np.mean(norms))
            cells.append(f"{np.mean(norms):.2e} ± {np.std(norms, ddof=1):.0e}")
        rows.append(tuple(cells))
    growth = {variant: means[DEPTHS[-1], variant] / means[DEPTHS[0], variant] for variant in VARIANTS}
    title = ", ".join(_name(*variant) + f" {growth[variant]:.2g}" for variant in VARIANTS)
    return Section(
        f"The gradient's norm at the first layer, at initialisation: mean ± standard deviation of {SEEDS} seeds",
        f"From {DEPTHS[0]} to {DEPTHS[-1]} layers it changes by these factors: {title}. With batch norm, as these "
        "networks are trained, a plain network's gradient explodes with depth and a shortcut all but stops that; "
        "without batch norm, He's initialisation keeps a plain network nearly level, and shortcuts make it explode.",
        ("layers", *(_name(*variant) for variant in VARIANTS)),
        tuple(rows),
    )


def _name(normalised: bool, shortcut: bool) -> str:
    return f"{'batch norm' if normalised else 'no batch norm'}, {'shortcut' if shortcut else 'plain'}"
