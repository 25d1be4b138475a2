"""Pools by slices against the models' own: all that the families have, at odd sizes."""

import numpy as np
import pytest
from flax import nnx

from transfer.freeze.freeze import pool_of
from transfer.models.graph.trace import trace
from transfer.models.layers import adaptive_average_pool, average_pool, max_pool

CASES = {
    "halving": lambda x: max_pool(x, 2, 2),
    "overlapping": lambda x: max_pool(x, 3, 2),
    "padded": lambda x: max_pool(x, 3, 2, padding=1),
    "zeros that count": lambda x: max_pool(x, 3, 2, padding=1, pad_value=0.0),
    "ceil mode": lambda x: max_pool(x, 3, 2, ceil_mode=True),
    "average": lambda x: average_pool(x, 3, 1, 1),
    "average inside": lambda x: average_pool(x, 3, 1, 1, count_padding=False),
    "average of halves": lambda x: average_pool(x, 2, 2),
}
ADAPTIVE = {"adaptive": lambda x: adaptive_average_pool(x, 4)}


class Pooled(nnx.Module):
    def __init__(self, name: str) -> None:
        self.scale = nnx.Param(np.ones(()))
        self.name = name

    def __call__(self, images):
        output = (CASES | ADAPTIVE)[self.name](images)
        return output, {"pooled": output}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("size", [(8, 11), *(pytest.param(size, marks=SLOW) for size in ((7, 7), (3, 4)))])
@pytest.mark.parametrize("name", CASES)
def test_a_pool_is_the_models_own(name: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).standard_normal((2, *size, 5), np.float32) - 1
    model = Pooled(name)
    node = trace(model, images.shape, with_values=True).nodes[-1]
    pool = pool_of(node)
    assert pool is not None
    np.testing.assert_allclose(pool(images), model(images)[0], rtol=1e-6, atol=1e-6)


def test_other_nodes_are_no_pools() -> None:
    images = np.zeros((2, 8, 11, 5), np.float32)
    model = Pooled("adaptive")
    nodes = trace(model, images.shape, with_values=True).nodes
    assert nodes[-1].op == "avg_pool" and [pool_of(node) for node in nodes] == [None, None]
