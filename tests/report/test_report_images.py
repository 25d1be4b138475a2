"""The images of a report: at which size they are decoded, shown and put together; how many features a map reads."""

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_runs import made_run, of_classes

from transfer.data.source import BrokenImage
from transfer.report import feature_map, images


class Pictures:
    """Images of one size, whose ids are numbers; the last is broken."""

    def __init__(self, height: int, width: int) -> None:
        self.shape, self.divisors = (height, width), list[int]()
        self.name, self.ids = "pictures", ["0", "1", "broken"]

    def image_into(self, index: int, out: Any = None, divisor: Callable[[int, int], int] | None = None) -> np.ndarray:
        if index == 2:
            raise BrokenImage("broken")
        assert divisor is not None and out is None
        self.divisors.append(divisor(*self.shape))
        return np.arange(np.prod(self.shape) * 3, dtype=np.uint8).reshape(*self.shape, 3)


def of_source(source: Pictures) -> tuple[images.Images, list[str]]:
    notes: list[str] = []
    made = images.Images({"source": "pictures"}, notes.append)
    vars(made)["_source"] = source
    return made, notes


@pytest.mark.parametrize(
    ("shape", "side", "divisor"),
    [
        ((1024, 3), 64, 8),
        ((3, 1024), 64, 8),
        ((1023, 1023), 64, 4),
        ((512, 9), 64, 4),
        ((511, 9), 64, 2),
        ((256, 9), 64, 2),
        ((255, 9), 64, 1),
        ((5000, 9), 64, 8),
    ],
)
def test_a_photograph_is_decoded_at_twice_its_size_at_least(shape: Any, side: int, divisor: int) -> None:
    source = Pictures(*shape)
    of_source(source)[0].get(["0"], side)
    assert source.divisors == [divisor]


@pytest.mark.parametrize(
    ("shape", "top", "left", "size"),
    [
        ((8, 8), 0, 0, (8, 8)),
        ((4, 4), 0, 0, (8, 8)),
        ((8, 4), 0, 2, (8, 4)),
        ((4, 8), 2, 0, (4, 8)),
        ((8, 5), 0, 1, (8, 5)),
        ((100, 1), 0, 3, (8, 1)),
        ((1, 100), 3, 0, (1, 8)),
        ((16, 12), 0, 1, (8, 6)),
    ],
)
def test_an_image_is_whole_and_centred_on_grey(shape: Any, top: int, left: int, size: Any) -> None:
    (image,) = of_source(Pictures(*shape))[0].get(["0"], 8)
    assert image is not None and image.shape == (8, 8, 3) and image.dtype == np.uint8
    inside = np.zeros((8, 8), bool)
    inside[top : top + size[0], left : left + size[1]] = True
    assert (image[~inside] == 236).all()
    if shape == (8, 8) or size == shape:
        pixels = np.arange(np.prod(shape) * 3, dtype=np.uint8).reshape(-1, 3)
        assert (image[inside] == pixels).all()
    if shape == (4, 4):  # pixel by pixel, as large as the network was given it
        assert (image[::2, ::2] == image[1::2, 1::2]).all()


def test_images_that_are_gone_are_counted_and_broken_ones_left_out() -> None:
    made, notes = of_source(Pictures(4, 4))
    shown = made.get(["1", "broken", "gone", "lost"], 8)
    assert [image is None for image in shown] == [False, True, True, True]
    assert notes == ["2 of the validation images are not in pictures any more."]


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (4, 2, 2), (6, 2, 3), (7, 3, 3), (9, 3, 3)]
)
def test_a_sheet_is_about_square(count: int, columns: int, rows: int) -> None:
    tiles = [np.full((8, 8, 3), n, np.uint8) for n in range(count)]
    made = images.sheet(tiles, 8)
    assert made is not None and (made.side, made.columns) == (8, columns)
    canvas = images.tiled(tiles, 8, columns)
    assert canvas.shape == (8 * rows, 8 * columns, 3)
    colours = [*range(count), *[128] * (rows * columns - count)]
    assert canvas[::8, ::8, 0].ravel().tolist() == colours
    assert (canvas == canvas[::8, ::8].repeat(8, axis=0).repeat(8, axis=1)).all()


@pytest.mark.parametrize("flat", [True, False])
def test_an_image_is_png_or_jpeg_whichever_is_smaller(flat: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    address = images.address(np.zeros((64, 64, 3), np.uint8) if flat else noise)
    assert address is not None and address.startswith(f"data:image/{'png' if flat else 'jpeg'};base64,")


def wide_map(monkeypatch: pytest.MonkeyPatch, rows: int, width: int) -> Any:
    """The map of so many rows of so wide features, which nobody lays out."""
    run = made_run(of_classes(3, rows), np.broadcast_to(np.float32(1), (rows, width)))
    vars(run)["images"] = types.SimpleNamespace(get=lambda ids, side: [np.zeros((side, side, 3), np.uint8)] * len(ids))
    monkeypatch.setattr(feature_map, "laid_out", lambda features, *_: (np.zeros((len(features), 2)), "."))
    return feature_map.section(run).data  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rows", "width", "read", "side"),
    [
        (2100, 4, 2000, 32),
        (2100, 8192, 1024, 32),
        (1100, 8389, 999, 48),
        (1100, 8380, 1001, 32),
        (300, 100_000, 200, 48),
        (1000, 4, 1000, 48),
    ],
)
def test_of_wide_features_fewer_rows_are_read(
    monkeypatch: pytest.MonkeyPatch, rows: int, width: int, read: int, side: int
) -> None:
    """At most 2,000 rows and 8 Mi numbers, at least 200 rows; images of 48 pixels for up to a thousand."""
    data = wide_map(monkeypatch, rows, width)
    assert len(data["ids"]) == read and data["sheet"]["side"] == side


def test_numbers_that_are_none_are_zeros_on_the_map() -> None:
    features = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    finite = features.copy()
    features[2], finite[2] = (np.nan, np.inf, -np.inf), 0
    assert (feature_map.laid_out(features, "pca", 0)[0] == feature_map.laid_out(finite, "pca", 0)[0]).all()


def test_of_many_classes_the_chart_tells_right_from_wrong() -> None:
    """Up to 40 have a colour and a shape of their own."""
    for classes, names in ((40, [str(n) for n in range(40)]), (41, ["correct", "misclassified"])):
        predictions = of_classes(classes, 60)
        made = feature_map.section(made_run(predictions, np.random.default_rng(0).normal(size=(60, 3))))
        (chart,) = made.charts()  # type: ignore[union-attr]
        assert [name for _, name in chart.series] == names
        wrong = int((~predictions.right).sum())
        assert str(chart.marks).count("ring") == (wrong if classes == 40 else 0)
        assert str(chart.marks).count('<polygon class="dot s2"') == (wrong if classes == 41 else 0) or classes == 40
        assert chart.title == "Features of 60 images, by PCA" + "; ringed: misclassified" * (classes == 40)
