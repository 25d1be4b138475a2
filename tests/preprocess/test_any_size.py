"""Images whose size only the program knows: the pixels that the host's resize gives."""

import jax
import numpy as np
import pytest

from transfer.preprocess import recipe as preprocess
from transfer.preprocess.any_size import resize
from transfer.preprocess.recipe import Preprocessing

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# An image of 37x23 pixels, and: an odd number of pixels to crop, whose half is rounded up and down; a crop larger than
# what it is cut from, of whose odd number of black pixels one more is at the end; neither.
RECIPES = [
    Preprocessing((13, 15), resize_to=18, interpolation="bicubic"),
    Preprocessing((12, 15), resize_to=20, interpolation="nearest"),
    Preprocessing((21, 14), resize_to=11, resize="float"),
    Preprocessing((24, 14), resize_to=11, resize="float", interpolation="nearest"),
    Preprocessing((50, 31), resize="float", interpolation="lanczos", antialias=False),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.resize}-{recipe.interpolation}")
def test_pixels_are_those_of_the_host(recipe: Preprocessing) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 37, 23, 3)).astype(np.uint8)
    got = np.asarray(jax.jit(lambda pixels: resize(recipe, pixels))(images))
    expected = np.stack([preprocess.resize_on_host(recipe, image) for image in images])
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, atol=1e-3 if got.dtype == np.float32 else 0, rtol=0)
