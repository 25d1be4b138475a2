"""The parts that an ONNX graph is compared by, each alone: pools that do nothing, limits, numbers by channel."""

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from transfer.models import registry
from transfer.weights.onnx import follow, spatial, windows
from transfer.weights.onnx.images import View, next_view
from transfer.weights.onnx.our_units import Ours
from transfer.weights.onnx.reading import LARGEST_SIDE, Data, UnsupportedNode
from transfer.weights.onnx.units import Differs, Norm, Unit, Units, paired

SIZE = (2, 3)


@pytest.mark.parametrize("op", ["average", "max_pool"])
def test_a_pool_of_each_single_pixel_is_none(op: str) -> None:
    units = Units()
    source = units.add(Unit("input", "x"))
    each, all_of_it = (
        ([windows.adaptive(side, cells or side) for side in SIZE] for cells in (0, 1))
        if op == "average"
        else ([windows.picked(range(side)) for side in SIZE], [(tuple(range(side)),) for side in SIZE])
    )
    assert units.add_pool(op, "idle", source, each, SIZE, "") == source and len(units.units) == 1
    assert units.add_pool(op, "pool", source, all_of_it, SIZE, "") == 1
    assert units.units[1] == Unit(op, "pool", (source,), tuple(all_of_it), dict(size=SIZE))


@pytest.mark.parametrize(("op", "is_ordered"), [("add", False), ("mul", False), ("concat", True), ("sub", True)])
def test_only_of_a_sum_and_a_product_the_inputs_have_no_order(op: str, is_ordered: bool) -> None:
    ours, theirs = Units(), Units()
    for units, inputs in ((ours, (1, 2)), (theirs, (2, 1))):
        units.add(Unit("input", "x"))
        units.add(Unit("relu", "a", (0,)))
        units.add(Unit("tanh", "b", (0,)))
        units.output = units.add(Unit(op, "joined", inputs))
    if is_ordered:
        with pytest.raises(Differs, match="where the model has joined, the graph has joined"):
            paired(ours, theirs)
    else:
        assert [(our.op, their.op) for our, their in paired(ours, theirs)] == [(unit.op,) * 2 for unit in ours.units]


def windows_of(**attributes: Any) -> Any:
    """The windows of a pool of 3x3 on a map of 8x8 pixels."""
    given = {name: value for name, value in attributes.items() if name not in ("kernel", "size", "zeros")}
    graph = SimpleNamespace(taps=0)
    node = SimpleNamespace(attributes=given, title="Pool 'x'", graph=graph, problem=UnsupportedNode)
    side = attributes.get("size", 8)
    data = Data(0, dict(b=1, c=1, h=side, w=side), zeros=attributes.get("zeros", ((0, 0), (0, 0))))
    return spatial.windows_of(node, data, attributes.get("kernel", (3, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (dict(pads=[0, LARGEST_SIDE, 0, 0]), dict(pads=[0, LARGEST_SIDE + 1, 0, 0])),
        (dict(pads=[0, 0, 0, LARGEST_SIDE]), dict(pads=[0, 0, 0, LARGEST_SIDE + 1])),
        (dict(size=LARGEST_SIDE), dict(size=LARGEST_SIDE + 1)),
        (dict(zeros=((LARGEST_SIDE, 0), (0, 0))), dict(zeros=((0, 0), (0, LARGEST_SIDE + 1)))),
        (dict(strides=(1, 1)), dict(strides=(1, 0))),
        (dict(dilations=(1, 1)), dict(dilations=(0, 1))),
        (dict(kernel=(1, 1)), dict(kernel=(1, 0))),
        (dict(pads=[0, 0, 0, 0]), dict(pads=[0, 0, -1, 0])),
    ],
)
def test_windows_up_to_a_limit(most: dict[str, Any], more: dict[str, Any]) -> None:
    assert all(window.outputs for window in windows_of(**most))
    with pytest.raises(UnsupportedNode, match="has a window, padding or side of no network"):
        windows_of(**more)


def test_dilation_counts_towards_the_limit() -> None:
    with pytest.raises(UnsupportedNode, match="has a window, padding or side of no network"):
        windows_of(kernel=(2, 2), dilations=(LARGEST_SIDE // 2 + 1, 1))
    with pytest.raises(UnsupportedNode, match=f"its window of 2 does not fit into a side of {LARGEST_SIDE // 2}"):
        windows_of(kernel=(2, 2), size=LARGEST_SIDE // 2, dilations=(LARGEST_SIDE // 2, 1))


@pytest.mark.parametrize(
    ("shape", "is_by_channel"),
    [((), True), ((1,), True), ((3,), True), ((1, 1, 1, 3), True), ((3, 1), False), ((2,), False), ((3, 1, 1), False)],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_a_number_for_each_channel_is_a_view(shape: tuple[int, ...], is_by_channel: bool, is_first: bool) -> None:
    number = 1.0 + np.arange(np.prod(shape, dtype=int)).reshape(shape)
    node: Any = SimpleNamespace(op="sub", chain=[SimpleNamespace(constants={0 if is_first else 1: number})])
    view = next_view(View.of(3), node, number)
    assert (view is not None) == is_by_channel and next_view(None, node, number) is next_view(view, node, None) is None
    if view is not None:
        sign = -1 if is_first else 1
        expected = View(np.arange(3), np.full(3, sign), -sign * np.broadcast_to(number.ravel(), 3))
        assert view.positions_in(expected) == [0, 1, 2]


def test_a_graph_of_another_architecture_is_known_by_its_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {arch: registry.architectures()[arch] for arch in ("alexnet", "lenet5")}
    monkeypatch.setattr(registry, "architectures", lambda: few)
    theirs = Units()
    for path, array in registry.flat_state(registry.build("lenet5", seed=None)).items():
        op = {4: "conv", 2: "dense"}.get(array.ndim)
        if op:
            theirs.add(Unit(op, path, parts=dict(kernel=array)))
    for arch, fields, hint in (
        ("alexnet", {}, "; its convolutions are those of lenet5"),
        ("alexnet", {"width": 1}, "; its convolutions are those of lenet5"),
        ("alexnet", {"width": 0.5}, ""),
        ("lenet5", {}, ""),
    ):
        assert follow._hint(follow.Model(arch, fields, None), theirs.units, False) == hint


@pytest.mark.parametrize("before", [(0, 0), (1, 0), (0, 1), (2, 3)])
@pytest.mark.parametrize("kernel, stride", [(2, 1), (3, 2), (3, 1)])
def test_zeros_beside_a_map_are_values_and_padding_is_none(before: tuple[int, int], kernel: int, stride: int) -> None:
    """The same as NumPy's, of values that zeros were put beside; of padding nothing counts."""
    size = 4
    padded = [None] * before[0] + list(range(size)) + [None] * before[1]
    under = [padded[i : i + kernel] for i in range(0, len(padded) - kernel + 1, stride)]
    inside = [tuple(i for i in each if i is not None) for each in under]
    of_values, of_padding = (windows.Window(size, kernel, stride, **{name: before}) for name in ("zeros", "pads"))
    assert of_values.maxima() == tuple((*i, None) if None in u else i for i, u in zip(inside, under, strict=True))
    assert of_padding.maxima() == tuple(inside)
    shares = [[tuple((i, Fraction(1, n or 1)) for i in each) for each, n in zip(inside, counts, strict=True)]
              for counts in ([kernel] * len(inside), list(map(len, inside)))]  # fmt: skip
    assert of_values.averages(False) == of_values.averages(True) == of_padding.averages(True) == tuple(shares[0])
    assert of_padding.averages(False) == tuple(shares[1])


def test_a_zero_beside_a_map_is_no_maximum_where_nothing_is_negative() -> None:
    units = Units()
    positive, signed = (units.add(Unit(op, op)) for op in ("relu", "conv"))
    taps = ((0, None), (0, 1), (None,))
    of_positive, of_signed = (units.add_pool("max_pool", "pool", each, [taps, taps], (2, 2), "") for each in (0, 1))
    assert (positive, signed) == (0, 1)
    assert units.units[of_positive].about == (((0,), (0, 1), (None,)),) * 2
    assert units.units[of_signed].about == (taps, taps)


def test_the_shape_of_a_map_counts_what_was_put_beside_it() -> None:
    data = Data(0, {"b": 2, "c": 3, "h": 4, "w": 5}, zeros=((1, 2), (0, 3)))
    assert data.shape == (2, 3, 7, 8)


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("norm_scale", [True, False])
def test_a_layer_of_ours_computes_what_the_two_of_a_file_do(norm_scale: bool, has_bias: bool, has_norm: bool) -> None:
    """Whatever ours has a place for: the file's bias and batch norm, with another epsilon, are carried over."""
    random = np.random.default_rng(0)
    values, kernel = random.normal(size=(5, 3)), random.normal(size=(3, 4)).astype("f4")
    bias = random.normal(size=4).astype("f4")
    weights = {name: random.uniform(0.5, 2, 4).astype("f4") for name in ("scale", "bias", "mean", "var")}
    expected = values @ kernel + bias
    if has_norm:
        norm = (expected - weights["mean"]) / np.sqrt(weights["var"] + 1e-3)
        expected = norm * weights["scale"] + weights["bias"]
    parts = {"kernel": kernel, "bias": bias, **({"norm": Norm(weights, 1e-3)} if has_norm else {})}
    ours = Ours("fc", has_bias, norm="bn", norm_scale=norm_scale, epsilon=1e-5)
    arrays = follow._filled(Unit("dense", "fc", parts={"ours": ours}), Unit("dense", "Gemm_1", parts=parts))
    layer = values @ arrays["fc.kernel"] + arrays.get("fc.bias", 0)
    factor = arrays.get("bn.scale", 1) / np.sqrt(arrays["bn.var"] + 1e-5)
    np.testing.assert_allclose((layer - arrays["bn.mean"]) * factor + arrays["bn.bias"], expected, rtol=1e-5)
    assert arrays.keys() >= {"fc.kernel", "bn.mean", "bn.var", "bn.bias"}
    assert ("fc.bias" in arrays, "bn.scale" in arrays) == (has_bias, norm_scale)
