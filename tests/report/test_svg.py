"""Numbers of axes, ranges and series, one by one; what is drawn as a whole is in `test_report_golden.py`."""

import math
import re

import pytest

from transfer.report import chart_files, svg, templates

TICKS = [
    ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ((0, 5), [0, 1, 2, 3, 4, 5]),
    ((0, 5.01), [0, 2, 4]),
    ((0, 10), [0, 2, 4, 6, 8, 10]),
    ((0, 10.1), [0, 2.5, 5, 7.5, 10]),
    ((0, 12.6), [0, 5, 10]),
    ((0, 25), [0, 5, 10, 15, 20, 25]),
    ((0, 26), [0, 10, 20]),
    ((-0.31, 0.19), [-0.3, -0.2, -0.1, 0, 0.1]),
    ((0.1, 0.7), [0.2, 0.4, 0.6]),
    ((3, 3), [3]),
    ((4, 3), [4]),
    ((1e-9, 3e-9), [1e-9, 1.5e-9, 2e-9, 2.5e-9, 3e-9]),
    ((0, 1.2e-12), [0, 2.5e-13, 5e-13, 7.5e-13, 1e-12]),
]


@pytest.mark.parametrize(("ends", "values"), TICKS)
def test_ticks_are_round_numbers_at_most_six(ends, values):
    assert svg.ticks(*ends) == values


def test_ticks_are_written_as_numbers_or_in_per_cent():
    assert svg.named_ticks((0, 5000)) == [(value, str(value)) for value in range(0, 5001, 1000)]
    assert [name for _, name in svg.named_ticks((0.9, 0.95), percent=True)] == [f"{n}%" for n in range(90, 96)]


RANGES = [
    ([0, 1], svg.ALL, (-0.06, 1.06)),
    ([0, 1], (0, 1), (0, 1)),
    ([0.5, math.nan, 0.75], (0, 1), (0.485, 0.765)),
    ([20, 20], svg.ALL, (19, 21)),
    ([-20], svg.ALL, (-21, -19)),
    ([0], svg.ALL, (-0.5, 0.5)),
    ([], svg.ALL, (0, 1)),
    ([math.inf, math.nan], svg.ALL, (0, 1)),
]


@pytest.mark.parametrize(("values", "within", "ends"), RANGES)
def test_a_range_has_some_air_around_its_values(values, within, ends):
    assert svg.around(values, within) == pytest.approx(ends)


def test_lines_of_one_chart_differ_as_much_as_they_can():
    chart = svg.line_chart("t", "l", ["a"], [(f"{i}", [(0, i / 9, math.nan, math.nan)]) for i in range(9)], "x")
    assert re.findall(r'"line s(\d)"', str(chart.svg())) == list("123486571")
    assert len(set(svg.DASHES)) == svg.SERIES == len(svg.DASHES) == len(set(svg.APART))


@pytest.mark.parametrize(
    ("length", "letters", "shown"),
    [(18, 18, "abcdefghijklmnopqr"), (19, 18, "abcdefghi…lmnopqrs"), (9, 4, "ab…i"), (9, 3, "a…i"), (3, 3, "abc")],
)
def test_the_middle_of_a_long_name_is_cut(length, letters, shown):
    assert svg.short("abcdefghijklmnopqrs"[:length], letters) == shown and len(shown) <= letters


def test_names_of_an_axis_lie_flat_where_they_are_short():
    points = [(0, 0.9, math.nan, math.nan), (1, 1.0, math.nan, math.nan)]
    for names, flat in ((["a", "b" * 5], True), (["a", "b" * 6], False)):
        chart = svg.line_chart("t", "l", names, [("", points)], "x label")
        assert ("x label" in str(chart.svg())) == flat == ("rotate" not in str(chart.svg()))
        assert chart.frame.y == pytest.approx((0.894, 1)) and not chart.series
    assert svg.line_chart("t", "l", ["a", "b"], [("n", points)], "x", percent=False).frame.y[1] == pytest.approx(1.006)


def test_a_file_has_the_colours_of_the_light_page_for_every_series():
    style, page = chart_files._style(), templates.asset("page.css").partition("}")[0]
    colours = re.findall(r"--c(\d): (#\w+)", page)
    assert [number for number, _ in colours] == list("12345678") and "var(" not in style and "/*" not in style
    for mark, name in (("line", "stroke"), ("dot", "fill")):
        rules = re.findall(rf"\.{mark}\.s(\d) {{[^}}]*\b{name}: (#\w+)", style)
        assert rules == colours
