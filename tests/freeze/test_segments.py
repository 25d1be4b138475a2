"""Stretches of a model that go through a batch in chunks: the same values, and where the cuts may lie."""

import jax
import numpy as np
import pytest

from transfer.freeze.freeze import freeze
from transfer.freeze.fusion import Segment, segments
from transfer.models import registry
from transfer.models.graph.trace import Graph, Node, trace

pytestmark = pytest.mark.usefixtures("compiled_quickly")

IMAGES = np.random.default_rng(0).standard_normal((6, 37, 37, 3), np.float32)
TAPS = ("stem", "stage2", "pre_logits")


# (inputs, numbers of the value) of each node: a fork after the first, joined by the fourth; a row from there on.
NODES = (((), 128), ((0,), 64), ((1,), 32), ((1,), 16), ((2, 3), 16), ((4,), 8), ((5,), 2))
GRAPH = Graph(tuple(Node("", inputs, (12, size)) for inputs, size in NODES), 6, {}, {})


# Bytes of each stretch and its inputs, of numbers of 2 bytes: 384 (node 1), 192 (2 to 4), 48 (5), 20 (6).
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, [(1, 7, 12)]),
        (12 * 384, [(1, 7, 12)]),
        (12 * 384 - 1, [(1, 2, 6), (2, 7, 12)]),
        (12 * 192 - 1, [(1, 2, 3), (2, 5, 6), (5, 7, 12)]),
        (12 * 48 - 1, [(1, 2, 1), (2, 5, 2), (5, 6, 6), (6, 7, 12)]),
        (1, [(1, 7, 1)]),
    ],
)
def test_cuts_are_made_where_only_one_value_is_needed(limit: int | None, expected: list[tuple[int, ...]]) -> None:
    assert segments(GRAPH, range(7), 12, limit, itemsize=2) == [Segment(*each) for each in expected]


def test_no_cut_is_made_after_a_node_without_a_value() -> None:
    assert segments(GRAPH, {4, 6}, 12, 12 * 48 - 1, itemsize=2) == [Segment(1, 5, 1), Segment(5, 7, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 30_000, 100_000, None])
def test_a_frozen_model_in_chunks_gives_the_same(limit: int | None) -> None:
    model = registry.build("resnet18", width=0.125, num_classes=0)
    whole = freeze(model, IMAGES.shape, TAPS, precision="highest")
    chunked = freeze(model, IMAGES.shape, TAPS, precision="highest", chunk_bytes=limit, plan=whole.plan)
    assert (len(chunked.segments) > 1 or chunked.segments[0].chunk < 6) == (limit is not None)
    expected, got = jax.jit(whole)(whole.arrays, IMAGES), jax.jit(chunked)(chunked.arrays, IMAGES)
    for tap in TAPS:
        np.testing.assert_allclose(got[tap], expected[tap], atol=1e-5 * np.abs(expected[tap]).max())


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "size"), [("resnet50", 64), ("vgg16", 64), ("inception_v3", 96), ("resnet50v2", 64)])
@pytest.mark.parametrize("limit", [10**5, 10**6, 10**9])
def test_segments_follow_each_other_and_grow(arch: str, size: int, limit: int) -> None:
    graph = trace(registry.build(arch, seed=None, num_classes=0), (12, size, size, 3))
    found = segments(graph, range(len(graph.nodes)), 12, limit)
    assert [part.start for part in found] == [1, *(part.stop for part in found[:-1])]
    assert found[-1].stop == len(graph.nodes)
    chunks = [part.chunk for part in found]
    assert chunks == sorted(chunks) and all(12 % chunk == 0 for chunk in chunks)
    for part in found:
        for node in graph.nodes[part.start : part.stop]:
            assert all(source >= part.start - 1 for source in node.inputs)
    assert limit < 10**9 or found == [Segment(1, len(graph.nodes), 12)]
