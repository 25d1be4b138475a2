"""Every algorithm of the registry against `lax.conv_general_dilated` in float64, on random geometries."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from transfer.freeze.convolutions import ALGORITHMS, Epilogue, Geometry, Work

# Relative to the output's largest value; by whether the algorithm is exact. Tiles of 4x4 multiply by up to 8 and divide
# by 24 on the way.
TOLERANCES = {True: 1e-5, False: 1e-4}
# Half of the time is compilation.
QUICK = {"xla_backend_optimization_level": 0}
SIDES = st.integers(1, 13)
NONE, ONE = ((0, 0), (0, 0)), (1, 1)
WINDOWS = [(1, 1), (2, 2), (3, 3), (5, 5), (1, 3), (3, 1), (4, 2)]


def pads(most: int) -> st.SearchStrategy[Any]:
    pair = st.tuples(st.integers(0, most), st.integers(0, most))
    return st.tuples(pair, pair)


@st.composite
def geometries(draw: st.DrawFn, kind: str) -> Geometry:
    """Of a kind: most algorithms fit few of those that are random in everything."""
    side, groups = SIDES, draw(st.integers(1, 3)) if kind == "any" else 1
    window = draw(st.sampled_from(WINDOWS))
    strides, padding = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), draw(pads(2))
    if kind in ("3x3", "tall"):
        window, strides = (3, 3), ONE
    elif kind == "1x1":
        window, padding = ONE, NONE
    elif kind == "tiny":
        side = st.integers(1, 2)
    channels, features = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))
    height = draw(st.integers(11, 18)) if kind == "tall" else draw(side)
    return Geometry(draw(st.integers(1, 3)), height, draw(side), channels, features, window, strides, padding, groups)


def fitting(name: str) -> st.SearchStrategy[Geometry]:
    """Of every kind, those with an output that the algorithm fits."""
    kinds = st.sampled_from(["any", "3x3", "tall", "1x1", "tiny"]).flatmap(geometries)
    return kinds.filter(lambda g: min(g.output) >= 1 and ALGORITHMS[name].fits(g))


def expected(images: np.ndarray, kernel: np.ndarray, geometry: Geometry, epilogue: Epilogue) -> np.ndarray:
    """By the library in float64, the epilogue by NumPy."""
    with jax.enable_x64(True):
        result = lax.conv_general_dilated(
            jnp.asarray(images, jnp.float64),
            jnp.asarray(kernel, jnp.float64),
            geometry.strides,
            geometry.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=geometry.groups,
        )
        values = np.asarray(result)
    assert values.dtype == np.float64
    for term in (epilogue.bias, epilogue.residual):
        values = values if term is None else values + np.asarray(term, np.float64)
    values = np.maximum(values, 0) if epilogue.relu else values
    if epilogue.pool:
        rows, columns = values.shape[1] // 2 * 2, values.shape[2] // 2 * 2
        values = values[:, :rows, :columns]
        values = np.maximum(values[:, ::2], values[:, 1::2])
        values = np.maximum(values[:, :, ::2], values[:, :, 1::2])
    return values


def computed(name: str, images: np.ndarray, kernel: np.ndarray, geometry: Geometry, epilogue: Epilogue) -> np.ndarray:
    algorithm = ALGORITHMS[name]
    prepared = jnp.asarray(algorithm.prepare(np.asarray(kernel, np.float64), geometry), jnp.float32)

    @partial(jax.jit, compiler_options=QUICK)
    def run(images: Any, kernel: Any, bias: Any, residual: Any) -> jax.Array:
        return algorithm.run(images, kernel, geometry, Epilogue(bias, epilogue.relu, epilogue.pool, residual))

    return np.asarray(run(images, prepared, epilogue.bias, epilogue.residual))


def check(name: str, geometry: Geometry, epilogue: str, relu: bool, bias: bool, batch: int) -> None:
    """`batch`: images that it is run on; a plan is made for one number of them and serves any."""
    random = np.random.default_rng(geometry.height * 13 + geometry.width)
    shape = (batch, *geometry.output, geometry.features)
    images = random.normal(size=(batch, geometry.height, geometry.width, geometry.channels)).astype(np.float32)
    inputs = geometry.channels // geometry.groups
    kernel = random.normal(size=(*geometry.window, inputs, geometry.features)).astype(np.float32)
    after = Epilogue(
        jnp.asarray(random.normal(size=geometry.features), jnp.float32) if bias else None,
        relu,
        epilogue == "pool" and min(geometry.output) >= 2,
        jnp.asarray(random.normal(size=shape), jnp.float32) if epilogue == "residual" else None,
    )
    wanted = expected(images, kernel, geometry, after)
    got = computed(name, images, kernel, geometry, after)
    assert got.shape == wanted.shape and got.dtype == np.float32
    largest = max(np.abs(wanted).max(), 1e-3)
    np.testing.assert_allclose(got / largest, wanted / largest, rtol=0, atol=TOLERANCES[ALGORITHMS[name].exact])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data(), epilogue=st.sampled_from(["", "pool", "residual"]), relu=st.booleans(), bias=st.booleans())
def test_as_the_library_in_float64(name: str, data: st.DataObject, epilogue: str, relu: bool, bias: bool) -> None:
    geometry = data.draw(fitting(name))
    batch = data.draw(st.sampled_from([geometry.batch, geometry.batch + 1]))
    check(name, geometry, epilogue, relu, bias, batch)


# The rounding of many channels, and an image that the tiles do not divide.
@pytest.mark.parametrize("name", ALGORITHMS)
def test_many_channels(name: str) -> None:
    around = ((1, 1), (1, 1))
    tried = [
        Geometry(1, 13, 11, 256, 32, (3, 3), ONE, around),
        Geometry(1, 7, 11, 256, 32, ONE, (2, 2)),
        Geometry(1, 2, 2, 256, 32, (3, 3), ONE, around),
    ]
    fits = [g for g in tried if ALGORITHMS[name].fits(g)]
    assert fits
    check(name, fits[0], "", True, True, 1)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if not name.startswith("direct")])
def test_no_algorithm_but_the_librarys_takes_groups(name: str) -> None:
    assert not ALGORITHMS[name].fits(Geometry(1, 2, 2, 4, 4, (3, 3), ONE, ((1, 1), (1, 1)), groups=2))
    assert not ALGORITHMS[name].fits(Geometry(1, 8, 8, 4, 4, ONE, ONE, NONE, groups=2))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "winograd" in name])
@pytest.mark.parametrize("window, strides", [((3, 3), (2, 2)), ((3, 3), (1, 2)), ((5, 5), ONE), ((1, 3), ONE)])
def test_winograd_is_for_3x3_at_stride_1(name: str, window: tuple[int, int], strides: tuple[int, int]) -> None:
    assert not ALGORITHMS[name].fits(Geometry(1, 32, 32, 8, 8, window, strides))


def test_output() -> None:
    geometry = Geometry(2, 15, 8, 4, 6, (3, 2), (2, 1), ((1, 0), (0, 1)), groups=2)
    assert geometry.output == (7, 8)


# Counted by hand: 448 numbers in and 672 out, tiles of 2x2 or 4x4 pixels; 32 of 112 pixels at stride 2; four pixels.
AROUND = ((1, 1), (1, 1))
SMALL, HALF = Geometry(2, 8, 7, 4, 6, (3, 3), ONE, AROUND), Geometry(2, 8, 7, 4, 6, (3, 3), ONE, AROUND, groups=2)
WORK = [
    ("direct", SMALL, Work(1, 112, 36, 6, 4 * (448 + 672 + 216), 4 * (448 + 672 + 216))),
    ("direct", HALF, Work(2, 112, 18, 3, 4 * (448 + 672 + 108), 4 * (448 + 672 + 108))),
    ("patches", SMALL, Work(1, 112, 36, 6, 4 * (2 * 448 + 2 * 4032 + 2 * 672 + 216), 4 * 4032)),
    ("pointwise", Geometry(2, 8, 7, 4, 6, ONE), Work(1, 112, 4, 6, 7264, 7264)),
    ("pointwise", Geometry(2, 8, 7, 4, 6, ONE, (2, 2)), Work(1, 32, 4, 6, 3168, 3168)),
    ("whole", Geometry(3, 2, 2, 4, 6, (3, 3), ONE, AROUND), Work(1, 3, 16, 24, 2304, 2304)),
    ("winograd2", SMALL, Work(16, 32, 4, 6, 4 * (448 + 672 + 2 * 7680 + 384), 4 * (7680 + 384))),
    ("winograd4_strip1", SMALL, Work(4 * 36, 2, 4, 6, 4 * (448 + 672 + 4 * (2400 + 864)), 4 * (1200 + 864))),
]


@pytest.mark.parametrize(("name", "geometry", "work"), WORK)
def test_work(name: str, geometry: Geometry, work: Work) -> None:
    assert ALGORITHMS[name].work(geometry) == work


@pytest.mark.parametrize(
    ("name", "geometry", "fits"),
    [
        ("whole", Geometry(1, 1, 4, 3, 3, (1, 3), ONE, ((0, 0), (1, 1))), True),
        ("whole", Geometry(1, 1, 5, 3, 3, (1, 3), ONE, ((0, 0), (1, 1))), False),
        ("whole", Geometry(1, 1, 2, 3, 3, (1, 3), ONE, ((0, 0), (2, 3))), False),
        ("whole", Geometry(1, 2, 2, 3, 3, ONE), False),
        ("pointwise", Geometry(1, 2, 2, 3, 3, ONE, ONE, ((0, 0), (0, 1))), False),
        ("winograd4_strip2", Geometry(1, 5, 5, 3, 3, (3, 3), ONE, AROUND), True),
        ("winograd4_strip2", Geometry(1, 4, 5, 3, 3, (3, 3), ONE, AROUND), False),
        ("winograd2", Geometry(1, 3, 3, 3, 3, (3, 3)), True),
        ("winograd2", Geometry(1, 2, 3, 3, 3, (3, 3)), False),
    ],
)
def test_what_just_fits_and_what_just_does_not(name: str, geometry: Geometry, fits: bool) -> None:
    assert ALGORITHMS[name].fits(geometry) is fits
