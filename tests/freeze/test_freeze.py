"""A frozen model computes what the model computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.parts import QUICK, compiled

from transfer.freeze.convolutions import ALGORITHMS
from transfer.freeze.freeze import Frozen, freeze
from transfer.models.layers import batch_norm, conv, max_pool
from transfer.models.registry import architectures, build, flat_state, load_flat_state

# Relative to a tap's largest value.
EXACT, HIGH = 1e-5, 1e-4
SHAPES = {
    "lenet5": (2, 28, 28, 1),
    "alexnet": (2, 70, 67, 3),
    "inception_v3": (2, 80, 75, 3),
    # odd sizes at every stage, down to 1x1
    **dict.fromkeys((arch for arch in architectures() if "res" in arch), (2, 37, 45, 3)),
}
# The deeper ones are more of the same units, and the wide ones are the same with more channels.
MORE = ("34", "101", "152", "13", "16", "19", "wide")
ARCHITECTURES = [arch for arch in architectures() if not any(part in arch for part in MORE)]


def randomised(model: nnx.Module) -> nnx.Module:
    """With parameters and statistics none of which is 0 or 1; kernels stay."""
    random, state = np.random.default_rng(0), flat_state(model)
    ranges = {"bias": (-0.3, 0.3), "mean": (-0.3, 0.3), "scale": (0.5, 1.5), "var": (0.5, 2.0)}
    kinds = {path: path.rpartition(".")[2] for path in state}
    drawn = {path: random.uniform(*ranges[kinds[path]], state[path].shape) for path in state if kinds[path] in ranges}
    load_flat_state(model, state | {path: jnp.asarray(values, jnp.float32) for path, values in drawn.items()})
    return model


def network(arch: str) -> tuple[nnx.Module, np.ndarray]:
    """A slim one, and images for it."""
    slim = {"lenet5": 1 / 8, "resnext50_32x4d": 1 / 4}.get(arch, 1 / 16)
    shape = SHAPES.get(arch, (2, 37, 32, 3))
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return randomised(build(arch, width=slim, num_classes=5)), images


def run(frozen: Frozen, images: Any) -> dict[str, np.ndarray]:
    found = jax.jit(frozen, compiler_options=QUICK)(frozen.arrays, images)
    return {name: np.asarray(value) for name, value in found.items()}


def assert_close(got: dict[str, np.ndarray], wanted: dict[str, Any], tolerance: float) -> None:
    """At every tap."""
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        value = np.asarray(value, np.float32)
        largest = np.abs(value).max()
        assert got[name].shape == value.shape and largest > 0, name
        np.testing.assert_allclose(
            got[name].astype(np.float32) / largest, value / largest, rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_at_every_tap(arch: str) -> None:
    model, images = network(arch)
    frozen = freeze(model, images.shape, precision="highest")
    assert all(ALGORITHMS[name].exact for name in frozen.plan.values())
    assert_close(run(frozen, images), compiled(model)(images)[1], EXACT)


@pytest.mark.slow
def test_winograd_wherever_it_fits() -> None:
    """Not what a planner would choose for so few channels, but the most rounding that it could."""
    model, images = network("vgg11_bn")
    first = freeze(model, images.shape, precision="high")
    fits = [planned for planned in first.convolutions if ALGORITHMS["winograd4"].fits(planned.geometry)]
    assert len(fits) == 8
    frozen = freeze(model, images.shape, plan=first.plan | {planned.layer: "winograd4" for planned in fits})
    assert_close(run(frozen, images), compiled(model)(images)[1], HIGH)


class Bricks(nnx.Module):
    """A stem with a pool, a unit with a residual, and end points inside of what is fused."""

    def __init__(self, channels: int = 8, rngs: nnx.Rngs | None = None) -> None:
        rngs = rngs or nnx.Rngs(0)
        self.stem = conv(3, channels, 3, rngs=rngs)
        self.conv1 = conv(channels, channels, 3, bias=False, rngs=rngs)
        self.bn1 = batch_norm(channels, rngs=rngs)
        self.conv2 = conv(channels, channels, 1, bias=False, rngs=rngs)
        self.bn2 = batch_norm(channels, use_scale=False, rngs=rngs)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        taps = {}
        taps["relu"] = jax.nn.relu(self.stem(images))
        x = taps["pooled"] = max_pool(taps["relu"], 2, 2)
        taps["conv"] = self.conv1(x)
        taps["norm"] = self.bn1(taps["conv"])
        taps["sum"] = x + self.bn2(self.conv2(jax.nn.relu(taps["norm"])))
        taps["last"] = jax.nn.relu(taps["sum"])
        return taps["last"], taps


BRICK_TAPS = ("relu", "pooled", "conv", "norm", "sum", "last")
IMAGES = np.random.default_rng(2).normal(size=(3, 9, 7, 3)).astype(np.float32)


# One end point at a time is fused as far as it goes; together, nothing is fused past any.
@pytest.mark.parametrize("taps", [*((tap,) for tap in BRICK_TAPS), BRICK_TAPS], ids="+".join)
def test_a_tap_anywhere_in_what_is_fused(taps: tuple[str, ...]) -> None:
    model = randomised(Bricks())
    got = run(freeze(model, IMAGES.shape, taps, precision="highest"), IMAGES)
    wanted = compiled(model)(IMAGES)[1]
    assert_close(got, {tap: wanted[tap] for tap in taps}, EXACT)


def test_a_unit_is_one_step() -> None:
    frozen = freeze(randomised(Bricks()), IMAGES.shape, ("last",))
    layers = ["stem", "conv1", "conv2"]
    assert set(frozen.arrays) == {f"{layer}.{kind}" for layer in layers for kind in ("kernel", "bias")}
    assert list(frozen.plan) == layers


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_plan_of_one_algorithm_as_far_as_it_fits(name: str) -> None:
    model = randomised(Bricks())
    images = np.random.default_rng(2).normal(size=(2, *((4, 4) if name == "whole" else (33, 29)), 3))
    images = images.astype(np.float32)
    planned = freeze(model, images.shape, ("last",)).convolutions
    plan = {p.layer: name if ALGORITHMS[name].fits(p.geometry) else "direct" for p in planned}
    assert name in plan.values()
    got = run(freeze(model, images.shape, ("last",), plan=plan), images)
    assert_close(got, {"last": compiled(model)(images)[1]["last"]}, HIGH)


@pytest.mark.parametrize("chunk_bytes", [None, 12_000])
def test_any_number_of_images(chunk_bytes: int | None) -> None:
    model = randomised(Bricks())
    frozen = freeze(model, (8, *IMAGES.shape[1:]), ("last",), chunk_bytes=chunk_bytes)
    assert {segment.chunk for segment in frozen.segments} == ({2, 8} if chunk_bytes else {8})
    for count in (1, 2, 3):
        assert_close(run(frozen, IMAGES[:count]), {"last": compiled(model)(IMAGES[:count])[1]["last"]}, HIGH)


def test_bfloat16() -> None:
    """Folded in float64 and then rounded: no further from the model in float32 than eight bits of mantissa allow."""
    model = randomised(Bricks())
    frozen = freeze(model, IMAGES.shape, ("last",), dtype=jnp.bfloat16)
    assert {array.dtype for array in frozen.arrays.values()} == {jnp.dtype(jnp.bfloat16)}
    assert all(ALGORITHMS[name].exact for name in frozen.plan.values())
    got = run(frozen, jnp.asarray(IMAGES, jnp.bfloat16))
    assert got["last"].dtype == jnp.bfloat16
    assert_close(got, {"last": compiled(model)(IMAGES)[1]["last"]}, 0.03)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_the_layouts_of_other_platforms(platform: str) -> None:
    model = randomised(Bricks())
    frozen = freeze(model, IMAGES.shape, ("last",), platform=platform)
    assert set(frozen.plan.values()) == {"direct_ohwi" if platform == "gpu" else "direct"}
    assert_close(run(frozen, IMAGES), {"last": compiled(model)(IMAGES)[1]["last"]}, EXACT)


def test_the_model_is_left_as_it_is() -> None:
    model = Bricks()
    model.train()
    before = flat_state(model)
    freeze(model, IMAGES.shape, ("last",))
    assert model.bn1.use_running_average is False
    assert all(before[path] is array for path, array in flat_state(model).items())


class Odd(nnx.Module):
    """What a graph has no name for, or what is no ordinary convolution.

    Args:
      kind: of the convolution between two ordinary ones, or of what stands there.
    """

    def __init__(self, kind: str) -> None:
        rngs = nnx.Rngs(0)
        self.kind = kind
        self.first, self.last = conv(3, 8, 3, rngs=rngs), conv(8, 8, 3, rngs=rngs)
        self.inner = {
            "excitation": lambda: nnx.Linear(8, 8, rngs=rngs),
            "layer_norm": lambda: nnx.LayerNorm(8, rngs=rngs),
            "dilated": lambda: nnx.Conv(8, 8, (3, 3), kernel_dilation=2, padding=((2, 2), (2, 2)), rngs=rngs),
            "transposed": lambda: nnx.Conv(8, 8, (3, 3), input_dilation=2, padding=((1, 1), (1, 1)), rngs=rngs),
            "SAME": lambda: nnx.Conv(8, 8, (3, 3), strides=2, padding="SAME", rngs=rngs),
            "VALID": lambda: nnx.Conv(8, 8, (3, 3), padding="VALID", rngs=rngs),
            "CIRCULAR": lambda: nnx.Conv(8, 8, (3, 3), padding="CIRCULAR", rngs=rngs),
            "groups": lambda: conv(8, 16, 3, groups=4, rngs=rngs),
            "twice": lambda: conv(8, 8, 3, stride=2, rngs=rngs),
        }[kind]()
        features = 16 if kind == "groups" else 8
        self.norms = nnx.List([batch_norm(features, rngs=rngs) for _ in range(2)])

    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = jax.nn.relu(self.first(images))
        if self.kind == "excitation":
            x = x * jax.nn.sigmoid(self.inner(x.mean(axis=(1, 2))))[:, None, None]
        else:
            x = jax.nn.relu(self.norms[0](self.inner(x)))
        if self.kind == "twice":
            x = self.norms[1](self.inner(x))
        if self.kind != "groups":
            x = jax.nn.gelu(self.last(x))
        return x, {"last": x}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["excitation", "layer_norm", "dilated", "transposed", "SAME", "VALID", "CIRCULAR", "groups", "twice"],
)
def test_what_is_no_ordinary_convolution_runs_as_traced(kind: str) -> None:
    """One layer called twice, at two sizes and with two norms, is two convolutions."""
    model = randomised(Odd(kind))
    frozen = freeze(model, IMAGES.shape, precision="highest")
    assert_close(run(frozen, IMAGES), compiled(model)(IMAGES)[1], EXACT)
    assert "first" in frozen.plan
