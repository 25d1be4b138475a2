"""Layers against plain definitions of what they compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from transfer.models.layers import adaptive_average_pool, average_pool, convolve, imagenet_to_half, max_pool


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    window=st.integers(1, 5),
    stride=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_convolve_is_the_convolution(size, window, stride, channels, seed):
    pad = window // 2
    if min(size) + 2 * pad < window:
        return
    random = np.random.default_rng(seed)
    images = random.normal(size=(2, *size, channels[0])).astype(np.float32)
    kernel = random.normal(size=(window, window, *channels)).astype(np.float32)
    options = dict(dimension_numbers=lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)))
    arguments = (images, kernel, (stride, stride), ((pad, pad), (pad, pad)))
    with jax.default_matmul_precision("highest"):
        # jitted as a whole: op by op, each example would compile a dozen programs
        ours, theirs = jax.jit(
            lambda x, k: [f(x, k, *arguments[2:], **options) for f in (convolve, lax.conv_general_dilated)]
        )(images, kernel)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1.0, float(np.abs(theirs).max())))


@pytest.mark.parametrize("height, width", [(1, 1), (7, 7), (3, 10), (14, 9), (20, 20)])
def test_adaptive_average_pool_by_its_definition(height, width):
    images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = np.empty((2, 7, 7, 3))
    for i in range(7):
        for j in range(7):
            rows = slice(i * height // 7, -(-(i + 1) * height // 7))
            columns = slice(j * width // 7, -(-(j + 1) * width // 7))
            expected[:, i, j] = images[:, rows, columns].mean((1, 2))
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(images), 7), expected, atol=1e-6)


@pytest.mark.parametrize("size, stride, padding, pad_value", [(2, 2, 0, -np.inf), (3, 2, 1, -np.inf), (3, 2, 1, 0.0)])
@pytest.mark.parametrize("height, width", [(8, 8), (7, 10)])
def test_max_pool_by_its_definition(size, stride, padding, pad_value, height, width):
    images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32) - 1
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images, pads, constant_values=pad_value)
    rows, columns = ((n + 2 * padding - size) // stride + 1 for n in (height, width))
    expected = np.empty((2, rows, columns, 3), np.float32)
    for i in range(rows):
        for j in range(columns):
            expected[:, i, j] = padded[:, i * stride : i * stride + size, j * stride : j * stride + size].max((1, 2))
    np.testing.assert_array_equal(max_pool(jnp.asarray(images), size, stride, padding, pad_value), expected)


def windows(side, size, stride, padding, ceil_mode):
    """[start, stop) of each window in the padded image: PyTorch's, whose last one may hang over but starts inside."""
    starts = range(0, side + 2 * padding, stride)
    if ceil_mode:
        kept = [s for s in starts if s - stride + size < side + 2 * padding and s < side + padding or s == 0]
    else:
        kept = [s for s in starts if s + size <= side + 2 * padding]
    return [(s, min(s + size, side + 2 * padding)) for s in kept]


@pytest.mark.parametrize("size, stride, padding", [(3, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (2, 3, 0)])
@pytest.mark.parametrize("height, width", [(8, 8), (7, 10), (3, 13)])
def test_ceil_mode_keeps_the_window_at_the_edge(size, stride, padding, height, width):
    images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32) - 1
    padded = np.pad(images, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), constant_values=-np.inf)
    rows, columns = (windows(side, size, stride, padding, True) for side in (height, width))
    expected = [[padded[:, top:bottom, left:right].max((1, 2)) for left, right in columns] for top, bottom in rows]
    got = max_pool(jnp.asarray(images), size, stride, padding, ceil_mode=True)
    np.testing.assert_array_equal(got, np.array(expected).transpose(2, 0, 1, 3))


@pytest.mark.parametrize("size, stride, padding", [(2, 2, 0), (3, 1, 1), (3, 2, 1)])
@pytest.mark.parametrize("count_padding", [True, False])
def test_average_pool_by_its_definition(size, stride, padding, count_padding):
    images = np.random.default_rng(0).normal(size=(2, 9, 6, 3)).astype(np.float32)
    pads = ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))
    padded = np.pad(images, pads, constant_values=0 if count_padding else np.nan)
    rows, columns = (windows(side, size, stride, padding, False) for side in (9, 6))
    expected = [[np.nanmean(padded[:, t:b, le:r], (1, 2)) for le, r in columns] for t, b in rows]
    options = {} if count_padding else {"count_padding": False}
    got = average_pool(jnp.asarray(images), size, stride, padding, **options)
    np.testing.assert_allclose(got, np.array(expected).transpose(2, 0, 1, 3), atol=1e-6)


def test_input_as_imagenet_has_it_becomes_that_from_minus_one_to_one():
    pixels = np.random.default_rng(0).random((2, 3, 4, 3))
    normalised = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(imagenet_to_half(jnp.asarray(normalised, jnp.float32)), 2 * pixels - 1, atol=1e-6)
