"""Depthwise kernels of Keras are a convolution in as many groups as channels."""

import jax
import numpy as np
import pytest
from flax import nnx

from transfer.weights.names import from_keras
from transfer.weights.readers import _hdf5

keras = pytest.importorskip("keras")


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_depthwise_kernel_equals_keras(multiplier: int) -> None:
    channels, random = 4, np.random.default_rng(0)
    images = random.normal(size=(2, 9, 7, channels)).astype(np.float32)
    theirs = keras.layers.DepthwiseConv2D(3, depth_multiplier=multiplier, use_bias=False)
    theirs.build(images.shape)
    kernel = random.normal(size=theirs.kernel.shape).astype(np.float32)
    theirs.kernel.assign(kernel)
    ours = nnx.Conv(
        channels,
        channels * multiplier,
        (3, 3),
        padding="VALID",
        feature_group_count=channels,
        use_bias=False,
        rngs=nnx.Rngs(0),
    )
    ours.kernel.set_value(jax.numpy.asarray(from_keras(kernel, ours.kernel.shape)))
    np.testing.assert_allclose(np.asarray(ours(images)), np.asarray(theirs(images)), rtol=1e-5, atol=1e-5)


def test_a_kernel_that_does_not_fit_is_left_as_it_is() -> None:
    kernel = np.zeros((3, 3, 4, 2), np.float32)
    assert from_keras(kernel, (3, 3, 1, 9)).shape == kernel.shape
    assert from_keras(kernel, (3, 3, 4, 2)) is kernel


def test_keras_2_called_it_something_else() -> None:
    assert _hdf5._variable("conv_dw_1", "conv_dw_1/depthwise_kernel:0") == ("conv_dw_1", "conv_dw_1", "kernel")
