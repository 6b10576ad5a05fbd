"""Scales, thinning and paths, as numbers."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from simnet.charts import (
    COLUMNS,
    Axis,
    Piece,
    Span,
    Times,
    area_path,
    axis_of,
    between,
    even_steps,
    highest_of,
    line_path,
    mean_of,
    plot,
    stacked_areas,
    step_path,
    strip,
    thinned,
    time_steps,
    whole_steps,
)
from simnet.markup import Markup

HOUR = Times(3600.0, bands=((600.0, 1200.0),), moments=(600.0,))
LENGTHS = st.floats(0.01, 1e6)


def spans_of(values: list[float], step: float = 10.0) -> list[Span]:
    """One after the other, as long as each other."""
    return [Span(index * step, (index + 1) * step, value) for index, value in enumerate(values)]


def points_of(path: str) -> list[tuple[float, float]]:
    """The ends of the straight lines of a path's commands."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


@given(st.floats(-1e9, 1e9), LENGTHS, st.integers(2, 8))
def test_steps_are_round_numbers_within_the_ends(low, span, count):
    """Multiples of 1, 2 or 5 times a power of ten; neither too many nor so few that nothing can be read."""
    assume(span > abs(low) * 1e-6)
    steps = even_steps(low, low + span, count)
    assert len(steps) <= 2 * count + 1
    assert all(low - span * 1e-6 <= step <= low + span * (1 + 1e-6) for step in steps)
    if len(steps) > 1:
        mantissa = f"{steps[1] - steps[0]:.3e}"[0]
        assert mantissa in "125"


@given(st.lists(st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=30), st.booleans())
def test_an_axis_holds_every_number_that_is_one(values, from_zero):
    """Also of no values, of equal ones, and with some that are none."""
    axis = axis_of(values, from_zero=from_zero)
    assert axis.low < axis.high
    slack = (axis.high - axis.low) * 1e-6
    assert all(axis.low - slack <= value <= axis.high + slack for value in values if math.isfinite(value))
    if from_zero:
        assert axis.low <= 0


@given(st.floats(0.1, 1e7))
def test_a_clock_shows_few_moments_and_round_ones(seconds):
    """From the beginning; every 10 minutes, never every 7."""
    steps = time_steps(seconds)
    assert steps[0] == 0
    assert len(steps) <= 7
    assert steps[-1] <= seconds


@pytest.mark.parametrize(
    ("seconds", "step"), [(3600, 600), (60, 10), (14_400, 3600), (86_400, 21_600), (7, 2), (900, 300)]
)
def test_a_clocks_steps_are_those_of_clocks(seconds, step):
    """Ten seconds of a minute, ten minutes of an hour, hours of a day."""
    assert time_steps(seconds)[1] == step


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=1000), st.integers(1, 240))
def test_thinning_keeps_the_sum_or_the_peak(values, count):
    """Traffic keeps what is under its line, a queue keeps its worst moment."""
    spans = spans_of(values)
    thin = thinned(spans, mean_of, count)
    assert len(thin) <= count
    assert (thin[0].begins, thin[-1].ends) == (0.0, spans[-1].ends)
    total = sum(span.value * (span.ends - span.begins) for span in thin)
    assert total == pytest.approx(10 * sum(values), rel=1e-9)
    assert max(span.value for span in thinned(spans, highest_of, count)) == max(values)


def test_thinning_keeps_a_gap_that_can_be_seen():
    """Ten minutes in which nothing was seen are not covered by the sample before them."""
    before, after = spans_of([1.0] * 1005), [Span(20_000.0 + at * 10, 20_010.0 + at * 10, 2.0) for at in range(1005)]
    thin = thinned(before + after, highest_of, 100)
    assert len(thin) <= 200
    assert [(one.ends, other.begins) for one, other in pairwise(thin) if one.ends != other.begins] == [
        (10_050.0, 20_000.0)
    ]


def test_a_mean_of_no_time_is_that_of_the_values():
    """Two samples at one moment."""
    assert mean_of([Span(5.0, 5.0, 1.0), Span(5.0, 5.0, 3.0)]) == 2.0


def test_the_top_of_a_plot_is_the_highest_value():
    """y grows downwards, x with time."""
    path = line_path(HOUR, Axis(0, 10), 100, [(0, 0), (1800, 5), (3600, 10)], "c1")
    assert points_of(path) == [(0, 100), (500, 50), (1000, 0)]


def test_a_line_has_a_gap_where_there_is_no_number():
    """It begins anew behind it; a line of no numbers is none."""
    path = line_path(HOUR, Axis(0, 10), 100, [(0, 1), (60, math.nan), (120, 2), (180, math.inf)], "c1")
    assert path.count("M") == 2
    assert path.count("L") == 0
    assert line_path(HOUR, Axis(0, 10), 100, [(0, math.nan)], "c1") == ""


def test_a_line_that_leaves_the_plot_is_not_bent_along_its_edge():
    """It goes on beyond, where it is cut off, but not to numbers that no picture holds."""
    (_, first), (_, second) = points_of(line_path(HOUR, Axis(0, 10), 100, [(0, 20), (60, 1e30)], "c1"))
    assert (first, second) == (-100, -200)


def test_a_level_line_has_a_gap_between_spans_that_do_not_touch():
    """Nothing was seen there; a line across would say that something was."""
    spans = [Span(0, 900, 5), Span(900, 1800, 10), Span(2700, 3600, 5)]
    assert 'd="M0 50V50H250V0H500M750 50V50H1000"' in step_path(HOUR, Axis(0, 10), 100, spans, "c1")
    assert 'd="M0 100V50H250V0H500V100ZM750 100V50H1000V100Z"' in area_path(HOUR, Axis(0, 10), 100, spans, "c1")


def test_what_is_counted_has_no_halves():
    """An axis from nothing to one has two steps."""
    assert whole_steps(0, 1, 2) == [0, 1]


def test_layers_stand_on_each_other():
    """The sum is drawn first, and what lies at the bottom last, over it."""
    layers = [("c1", spans_of([1, 2])), ("c2", spans_of([3, 1]))]
    drawn = stacked_areas(Times(20.0), Axis(0, 4), 100, layers)
    heights = re.findall(r'class="area (c\d)" d="M0 100V([\d.]+)H500V([\d.]+)H1000V100Z"', drawn)
    assert heights == [("c2", "0", "25"), ("c1", "75", "50")]
    assert stacked_areas(HOUR, Axis(0, 4), 100, []) == ""


def test_no_spans_are_no_line():
    """Rather than a path without commands."""
    assert step_path(HOUR, Axis(0, 1), 100, [], "c1") == ""


def test_a_column_of_time_has_the_parts_that_lie_in_it():
    """A span over its edge belongs to both sides, each with its part."""
    assert between(spans_of([1, 2, 3]), 5, 20) == [Span(5, 10, 1), Span(10, 20, 2)]


def made_plot(times: Times, **more: object) -> ElementTree.Element:
    """A plot of nothing, parsed."""
    return ElementTree.fromstring(
        plot(
            times, Axis(0, 1), 100, Markup(""), name="n", title="A title", description="What it shows", label=str, **more
        )
    )  # fmt: skip


def test_a_moment_is_at_the_same_place_in_every_picture():
    """So cause and effect are one above the other."""
    pictures = [
        made_plot(HOUR),
        ElementTree.fromstring(strip(HOUR, [("row", [])], name="s", title="t", description="d")),
    ]
    for picture in pictures:
        (band,) = (each for each in picture.iter("rect") if each.get("class") == "band")
        (moment,) = (each for each in picture.iter("line") if each.get("class") == "moment")
        assert (band.get("x"), band.get("width"), moment.get("x1")) == ("16.67%", "16.67%", "16.67%")


def test_a_picture_is_told_to_who_does_not_see_it():
    """A title and a description, named by the picture."""
    picture = made_plot(HOUR)
    assert picture.get("role") == "img"
    named = [each.text for each in picture if each.get("id") in picture.get("aria-labelledby").split()]
    assert named == ["A title", "What it shows"]


def test_each_column_tells_its_own_time():
    """From the first to the last, without a hole."""
    heard: list[tuple[float, float]] = []
    made_plot(HOUR, told=lambda begins, ends: heard.append((begins, ends)) or "")
    assert len(heard) == COLUMNS
    assert heard[0][0] == 0
    assert heard[-1][1] == HOUR.seconds
    assert all(one[1] == other[0] for one, other in pairwise(heard))


def test_what_is_beyond_the_time_axis_is_at_its_edge():
    """A fault of a scenario may last longer than its run."""
    assert (HOUR.percent(-5), HOUR.percent(9999), HOUR.width(3000, 9999)) == ("0%", "100%", "16.67%")


def test_a_strip_has_a_row_for_each_label():
    """And says what a piece is to a pointer over it."""
    rows = [("a", [Piece(0, 1800, "c1", "a: mine")]), ("b", [Piece(1800, 3600, "c2", "b: yours")])]
    drawn = ElementTree.fromstring(strip(HOUR, rows, name="s", title="t", description="d", row_pixels=10))
    pieces = [each for each in drawn.iter("rect") if (each.get("class") or "").startswith("piece")]
    assert [(each.get("x"), each.get("width"), each.get("y"), each[0].text) for each in pieces] == [
        ("0%", "50%", "1", "a: mine"),
        ("50%", "50%", "11", "b: yours"),
    ]
