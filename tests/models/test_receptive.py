"""The receptive field by arithmetic is the one that a changed pixel shows."""

import math
from typing import Any

import numpy as np
import pytest
from flax import nnx

from transfer.models import registry
from transfer.models.graph.trace import Field, Graph, Node, fields, receptive_field, trace

# A tap of each kind of geometry (large strides, windows over the edge, shortcuts), an image that its field fits into.
CASES: list[tuple[str, str, int, dict[str, Any]]] = [
    ("alexnet", "conv5", 256, {"num_classes": 0, "width": 0.1}),
    ("vgg11", "block4", 160, {"num_classes": 0, "width": 0.1}),
    ("resnet18", "stage2", 128, {"num_classes": 0, "width": 0.1}),
    ("googlenet", "inception4a", 160, {"num_classes": 0, "width": 0.1}),
]


def averaging(arch: str, **settings: Any) -> nnx.Module:
    """A model whose layers average, so that nothing in the field cancels and a large value wins every max-pool."""
    model = registry.build(arch, **settings)
    arrays = registry.flat_state(model)
    kernels = {path: np.ones_like(a) / math.prod(a.shape[:-1]) for path, a in arrays.items() if path.endswith("kernel")}
    registry.load_flat_state(model, arrays | kernels)
    return model


@pytest.mark.parametrize(("arch", "tap", "side", "settings"), CASES)
def test_only_the_field_matters_and_all_of_it(arch: str, tap: str, side: int, settings: dict[str, Any]) -> None:
    model = averaging(arch, **settings)
    graph = trace(model, (1, side, side, 3))
    position = graph.endpoints[tap]
    field = fields(graph)[position]
    assert field is not None
    rows, columns = field
    assert rows == columns
    centre = graph.nodes[position].shape[1] // 2
    first, last = rows.stride * centre + rows.first, rows.stride * centre + rows.last
    assert first > 0 and last < side - 1
    # as it is, and with other rows outside the field, as its first, as its last
    images = np.ones((4, side, side, 3), np.float32)
    images[1, :first] = images[1, last + 1 :] = images[2, first] = images[3, last] = 1e6
    run = nnx.jit(lambda model, images: model(images)[1][tap])
    for turned in (images, images.transpose(0, 2, 1, 3)):
        plain, outside, at_first, at_last = np.asarray(run(model, turned))
        if turned is not images:
            plain, outside, at_first, at_last = (x.transpose(1, 0, 2) for x in (plain, outside, at_first, at_last))
        np.testing.assert_allclose(outside[centre], plain[centre], rtol=1e-5)
        assert (at_first[centre] > 1.01 * plain[centre]).any(axis=-1).all()
        assert (at_last[centre] > 1.01 * plain[centre]).any(axis=-1).all()


@pytest.mark.parametrize(
    ("side", "padding", "first"),
    [(10, "SAME", 0), (9, "SAME", -1), (11, "VALID", 0), (9, ((1, 1), (1, 1)), -1), (10, ((0, 1), (0, 1)), 0)],
)
def test_padding_shifts_the_field(side: int, padding: object, first: int) -> None:
    """Five windows of 3 pixels in steps of 2; `SAME` puts the odd pixel of its padding at the end."""
    settings = dict(kernel=(3, 3), strides=(2, 2), padding=padding)
    images, pooled = Node("input", (), (1, side, side, 3)), Node("max_pool", (0,), (1, 5, 5, 3), attributes=settings)
    nodes = (images, pooled, Node("mean", (1,), (1, 3)))
    assert fields(Graph(nodes, 2, {}, {}))[1:] == [(Field(2, first, first + 2),) * 2, None]
    assert receptive_field(Graph(nodes, 1, {}, {})) == "3×3" and receptive_field(Graph(nodes, 2, {}, {})) == "all"
