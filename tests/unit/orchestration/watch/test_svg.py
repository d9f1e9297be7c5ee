"""Charts: ticks, gaps, thinning and nothing to draw."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from orchestration.watch.svg import MAX_POINTS, Series, line_chart, nice_ticks, number, share, stacked_chart


def drawing(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html[html.index("<svg") :])


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0021, 0.0049), (-3.0, 17.0), (5.0, 5.0), (0.0, 0.0), (1e6, 3e6)]
)
def test_ticks_span_the_values_and_are_few(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 3 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_a_line_is_broken_where_nothing_was_measured() -> None:
    html = line_chart([Series("a", [0, 1, 2, 3, 4], [0.1, 0.2, None, 0.4, 0.5])], shown=share)
    lines = [element for element in drawing(html).iter("polyline")]
    assert [len(element.attrib["points"].split()) for element in lines] == [2, 2]
    assert "a <b>50%</b>" in html


def test_a_single_point_is_drawn_as_a_dot() -> None:
    root = drawing(line_chart([Series("a", [0], [0.5], [0.4], [0.6])]))
    assert len(list(root.iter("circle"))) == 1 and not list(root.iter("polyline"))


def test_all_points_lie_inside_the_picture() -> None:
    html = line_chart([Series("a", range(50), [(-1) ** i * i for i in range(50)])])
    points = [pair for element in drawing(html).iter("polyline") for pair in element.attrib["points"].split()]
    for x, y in (map(float, pair.split(",")) for pair in points):
        assert 0 <= x <= 440 and 0 <= y <= 224


def test_long_series_are_thinned_to_their_averages() -> None:
    html = line_chart([Series("a", range(10_000), [float(i % 2) for i in range(10_000)])], shown=share)
    (line,) = drawing(html).iter("polyline")
    points = line.attrib["points"].split()
    assert len(points) == MAX_POINTS
    assert len({pair.split(",")[1] for pair in points}) <= 2


def test_nothing_measured_draws_nothing() -> None:
    assert line_chart([]) == "" and line_chart([Series("a", [], []), Series("b", [0], [None])]) == ""
    assert stacked_chart([]) == "" and stacked_chart([Series("a", [], [])]) == ""


def test_stacked_areas_end_at_the_sum() -> None:
    html = stacked_chart([Series("a", [0, 1], [1.0, 1.0]), Series("b", [0, 1], [3.0, None])])
    first, second = drawing(html).iter("polygon")
    tops = [float(pair.split(",")[1]) for pair in second.attrib["points"].split()[:2]]
    floor = float(first.attrib["points"].split()[-1].split(",")[1])
    base = float(first.attrib["points"].split()[0].split(",")[1])
    assert floor - tops[0] == pytest.approx(4 * (floor - base), abs=0.5)
    assert tops[1] == base


def test_another_horizontal_axis_than_steps_is_named_and_written_as_told() -> None:
    series = [Series("a", [0.0, 0.25, 0.5, 1.0], [0.1, 0.2, 0.3, None])]
    html = line_chart(series, shown=share, x_name="agreement at least", x_shown=share)
    root = drawing(html)
    assert "<b>" not in html, "the last value of a curve that is not over time is nothing to state"
    labels = [element.text for element in root.iter("text") if element.attrib["text-anchor"] == "middle"]
    assert labels == ["0%", "25%", "50%", "75%", "100%"]
    assert [element.text for element in root.iter("title")][1] == "a, agreement at least 25%: 20%"
    assert [element.text for element in root.iter("text")][-1] == "agreement at least"


def test_steps_have_whole_ticks_only() -> None:
    root = drawing(line_chart([Series("a", [0, 1, 2], [0.1, 0.2, 0.3])]))
    labels = [element.text for element in root.iter("text") if element.attrib["text-anchor"] == "middle"]
    assert labels == ["0", "1", "2"]


def test_names_are_escaped_and_numbers_short() -> None:
    html = line_chart([Series("<a & b>", [0, 1], [1, 2])])
    assert "<a &" not in html and "&lt;a &amp; b&gt;" in html
    assert [number(0.000123), number(1234.5), share(1.0)] == ["0.000123", "1,234", "100%"]
    assert not re.search("nan|inf", html)
