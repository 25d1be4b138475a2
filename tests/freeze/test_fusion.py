"""A projected shortcut joined with the convolution that it is added to: the same features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfer.freeze.freeze import freeze
from transfer.models import registry

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TAPS = ["stage1", "stage3", "pre_logits"]


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
