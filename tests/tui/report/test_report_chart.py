"""Charts: ticks at round numbers from zero, labels that do not overlap, lines that differ in shape."""

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdeck.tui.panels.ticks import LEAST_SPAN, fitted_ticks, nice_ticks
from rankdeck.tui.report.chart import HEIGHT, WIDTH, apart, draw, in_rows, thinned, width_of
from rankdeck.tui.report.plot import Axis, Bar, Line, Mark, Plot, Point, Wall, spread


@given(st.floats(1e-9, 1e15), st.integers(2, 12), st.booleans())
def test_ticks_go_from_zero_in_even_steps_of_1_2_or_5_until_they_reach_the_largest_value(top, most, whole):
    ticks = nice_ticks(top, most, whole=whole)
    step = ticks.values[1]
    assert ticks.values[0] == 0
    assert ticks.values[-1] >= top > ticks.values[-2] or len(ticks.values) == 2
    assert len(ticks.values) <= most + 1
    assert f"{step:e}"[0] in "125"
    assert f"{step:.15e}"[2:17].strip("0") == ""
    assert all(abs(value - place * step) <= 1e-9 * step * max(1, place) for place, value in enumerate(ticks.values))
    assert not whole or step >= 1


@given(st.floats(1e-9, 1e15), st.integers(2, 12))
def test_the_label_of_a_tick_is_its_exact_value(top, most):
    ticks = nice_ticks(top, most)
    labels = [ticks.label(value) for value in ticks.values]
    assert len(set(labels)) == len(labels)
    assert [float(label.replace(",", "")) for label in labels] == ticks.values


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_fitted_ticks_enclose_their_values_and_do_not_magnify_small_differences(low, gain, most):
    high = low + gain
    ticks = fitted_ticks(low, high, most)
    assert ticks.values[0] <= low * (1 + 1e-9)
    assert ticks.values[-1] >= high * (1 - 1e-9)
    assert 2 <= len(ticks.values) <= most + 1
    assert ticks.values[0] >= 0
    assert (ticks.values[-1] - ticks.values[0]) * most >= LEAST_SPAN * high * 0.99
    assert len({ticks.label(value) for value in ticks.values}) == len(ticks.values)


def test_a_fitted_chart_fills_its_area_and_labels_the_given_values():
    points = [Point(1, 1.0), Point(2, 1.16, 0.02)]
    ideal = Line(name="ideal", points=[Point(1, 1), Point(1.18, 1.18)], reference=True)
    lines = [ideal, Line(name="batch 16", points=points)]
    x, y = Axis("active ranks", values=[1, 2], fitted=True), Axis("speedup", fitted=True)
    svg = drawn(plot(x=x, y=y, lines=lines))
    ticks = [element.text for element in svg.iter("text") if "tick" in element.get("class", "")]
    assert ticks == ["1.00", "1.05", "1.10", "1.15", "1.20", "1", "2"]
    markers = [element.get("transform") for element in svg.iter("path") if element.get("class") == "marker"]
    (left, low), (right, high), *_ = ([float(word) for word in re.findall(r"[0-9.]+", at)] for at in markers)
    assert right - left > 0.7 * (WIDTH - 150)
    assert low - high > 0.5 * HEIGHT


@pytest.mark.parametrize("top", [0, -1, float("nan"), float("inf"), 1e-300])
def test_an_axis_without_usable_values_ends_at_one(top):
    assert nice_ticks(top).values[-1] == 1


@given(st.lists(st.floats(0, 300), max_size=12))
def test_labels_at_line_ends_are_spread_within_the_chart(wanted):
    placed = apart(wanted, 15, 0, 300)
    ordered = sorted(placed)
    assert all(0 <= place <= 300 for place in placed)
    assert all(b - a >= 15 - 1e-6 for a, b in itertools.pairwise(ordered))


@given(st.lists(st.tuples(st.floats(0, 900), st.text("abc ", min_size=1, max_size=30)), max_size=30))
def test_labels_of_marks_and_ticks_never_overlap(items):
    items = sorted(items)
    spans = [
        (place.row, x - width_of(words) if place.left else x, width_of(words))
        for place, (x, words) in zip(in_rows(items, 3, 900), items, strict=True)
        if place.row is not None
    ]
    for row in range(3):
        mine = sorted((start, width) for found, start, width in spans if found == row)
        assert all(a + width <= b for (a, width), (b, _) in itertools.pairwise(mine))
    shown = [item for item, kept in zip(items, thinned(items), strict=True) if kept]
    for (x, words), (y, other) in itertools.pairwise(shown):
        assert x + width_of(words) / 2 <= y - width_of(other) / 2


@given(st.sets(st.integers(1, 300), min_size=1), st.integers(2, 8), st.data())
def test_of_too_many_lines_the_first_the_last_and_the_best_are_kept(values, most, data):
    names = sorted(values)
    keep = data.draw(st.sampled_from(names))
    chosen = spread(names, max(3, most), keep)
    assert len(chosen) <= max(3, most)
    assert {names[0], names[-1], keep} <= set(chosen)


def plot(**changes):
    values = {"key": "k", "title": "t", "description": "d", "x": Axis("time", "s"), "y": Axis("rate")}
    return Plot(**{**values, **changes})


def drawn(found: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(draw(found))


def test_points_are_placed_in_proportion_to_their_values():
    svg = drawn(plot(lines=[Line(name="a", points=[Point(0, 0), Point(5, 50), Point(10, 100, 10)])]))
    line = next(path for path in svg.iter("path") if path.get("class") == "line").get("d")
    (x0, y0), (x1, y1), (x2, y2) = (map(float, pair.split()) for pair in line[1:].split("L"))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.1)
    assert y0 > y2
    error = next(path for path in svg.iter("path") if path.get("class") == "error").get("d")
    top, bottom = float(error.split("V")[0].split()[-1]), float(error.split("V")[1].split("M")[0])
    assert (top + bottom) / 2 == pytest.approx(y2, abs=0.2)
    assert bottom - top == pytest.approx((y0 - y2) * 0.2, abs=0.2)


def test_lines_differ_in_dash_and_marker_not_only_in_colour():
    lines = [Line(name=f"line {number}", points=[Point(1, number), Point(2, number)]) for number in range(8)]
    svg = drawn(plot(lines=lines))
    dashes = [path.get("stroke-dasharray") for path in svg.iter("path") if path.get("class") == "line"]
    markers = {path.get("d") for path in svg.iter("path") if path.get("class") == "marker"}
    assert len(set(dashes)) == len(markers) == 8


def test_texts_in_a_chart_are_escaped():
    name = "<b>&amp; \x1b[31m"
    svg = drawn(plot(title=name, lines=[Line(name=name, points=[Point(1, 1)])], marks=[Mark(0.5, name)]))
    texts = [element.text for element in svg.iter() if element.text and "<b>" in element.text]
    assert len(texts) >= 4
    assert all("\x1b" not in text for text in texts)


@pytest.mark.parametrize(
    "found",
    [
        plot(),
        plot(lines=[Line(name="n" * 300, points=[Point(0, 0)])]),
        plot(lines=[Line(name="", points=[])], marks=[Mark(number, "mark") for number in range(100)]),
        plot(x=Axis("size", scale="log2", values=[7]), lines=[Line(name="a", points=[Point(7, 3, 1)])]),
        plot(x=Axis("size", scale="log2", values=[1, 64]), walls=[Wall(64, "out of memory"), Wall(1, "so", 0.5)]),
        plot(bars=[Bar(0, 1, 3), Bar(4, 5, 1)]),
        plot(lines=[Line(name="huge", points=[Point(1e9, 1e12), Point(2e9, 1e13, 1e13)])]),
    ],
)
def test_odd_charts_are_drawn_inside_their_frame(found):
    svg = drawn(found)
    width, height = map(float, svg.get("viewBox").split()[2:])
    for element in svg.iter("text"):
        assert 0 <= float(element.get("x")) <= width
        assert 0 <= float(element.get("y")) <= height
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode")
