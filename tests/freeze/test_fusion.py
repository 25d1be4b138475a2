"""A projected shortcut joined with the convolution that it is added to: the same features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transfer.freeze.freeze import freeze
from transfer.models import registry
from transfer.models.resnet import KERAS, Bottleneck, Variant

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TAPS = ["stage1", "stage3", "pre_logits"]


class Unit(nnx.Module):
    """A residual unit by itself."""

    def __init__(self, stride: int, keras: bool) -> None:
        self.unit = Bottleneck(8, 2, stride, Variant(**KERAS if keras else {}), nnx.Rngs(0))

    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        output = self.unit(images)
        return output, {"images": images, "unit": output}


@pytest.mark.parametrize(
    ("stride", "keras", "platform", "algorithm", "joined"),
    [
        (2, False, "tpu", None, True),
        (2, True, "tpu", "direct", True),
        (1, False, "tpu", None, False),
        (2, False, "tpu", "patches", False),
        (2, False, "cpu", "direct", False),
    ],
)
def test_a_projection_is_joined_with_what_it_is_added_to(
    stride: int, keras: bool, platform: str, algorithm: str | None, joined: bool
) -> None:
    model, random = Unit(stride, keras), np.random.default_rng(0)
    state = registry.flat_state(model)
    registry.load_flat_state(
        model, {path: jnp.asarray(random.uniform(0.5, 1.5, array.shape), jnp.float32) for path, array in state.items()}
    )
    images = jnp.asarray(random.standard_normal((2, 5, 4, 8), np.float32))
    plan = algorithm and {f"unit.{layer}": algorithm for layer in ("conv1", "conv2", "conv3", "proj")}
    frozen = freeze(model, images.shape, ["unit"], platform=platform, precision="highest", plan=plan)
    projects = ["unit.proj"] if stride == 2 else []
    assert sorted(frozen.plan) == ["unit.conv1", "unit.conv2", "unit.conv3", *projects]
    kept = {f"unit.conv{i}.{kind}" for i in (1, 2, 3) for kind in ("kernel", "bias")}
    assert set(frozen.arrays) == kept | (set() if joined or not projects else {"unit.proj.kernel", "unit.proj.bias"})
    with jax.default_matmul_precision("highest"):
        found, wanted = (jax.jit(f)(images) for f in (lambda x: frozen(frozen.arrays, x), lambda x: model(x)[1]))
    np.testing.assert_allclose(found["unit"], wanted["unit"], rtol=0, atol=1e-5 * float(jnp.abs(wanted["unit"]).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "fields", "joined"),
    [("resnet50", {}, 4), ("resnet50", dict(stride_in_1x1=True, conv_bias=True), 4), ("resnet18", {}, 0)],
)
def test_the_features_are_those_of_the_model(arch, fields, joined):
    model = registry.build(arch, width=0.125, num_classes=0, **fields)
    model.eval()
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 33, 40, 3), np.float32))
    with jax.default_matmul_precision("highest"):
        wanted = model(images)[1]
        frozen = freeze(model, images.shape, TAPS, platform="tpu", precision="highest")
        found = frozen(frozen.arrays, images)
    kernels = [name for name in frozen.arrays if name.endswith(".kernel")]
    assert len(frozen.convolutions) - len(kernels) == joined
    for tap in TAPS:
        np.testing.assert_allclose(found[tap], wanted[tap], rtol=0, atol=1e-5 * float(jnp.abs(wanted[tap]).max()))
