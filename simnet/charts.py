"""Drawing over time: scales, ticks that people read, lines, areas and strips. Pure: numbers in, SVG out.

A plot is as wide as the page lets it be and its letters stay as tall as they are, without a script that lays it out:

    <svg> 100 % wide, so many pixels high, no viewBox     letters, dots and bars stand at per cents of the width
      <svg viewBox="0 0 1000 height"> stretched           paths only; their strokes are not stretched (`vector-effect`)

All plots of a page share one ``Times``, so a moment is at the same place in each of them, and what happened then is drawn
through all. Colours are classes (``c1`` and so on); ``simnet/page_style.py`` says what they look like by day and by night.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from simnet.markup import Markup, join, number, tag
from simnet.text import duration_text

WIDTH: Final = 1000.0  # of a plot in the units of its own paths
POINTS_MAX: Final = 200  # of one line: about one for every five pixels of a wide page
TEXT_PIXELS: Final = 4  # from a line to the middle of the letters beside it

TIME_STEPS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, 86_400),
)

# -- scales -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from the bottom of a plot to its top."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value is, from 0 (bottom) to 1; what is outside is at the edge."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def even_steps(low: float, high: float, count: int) -> list[float]:
    """About so many multiples of 1, 2 or 5 times a power of ten from `low` to `high`, both ends included if they are some."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    rough = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if power * factor >= rough * 0.75), power * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def whole_steps(low: float, high: float, count: int) -> list[float]:
    """The same for things that are counted: no halves of them."""
    return [step for step in even_steps(low, high, count) if step == round(step)]


def axis_of(values: Iterable[float], *, from_zero: bool = True, count: int = 3) -> Axis:
    """An axis that holds the values and ends at a step; values that are not finite are not looked at."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if from_zero:
        low = min(0.0, low)
    if high <= low:
        high = low + (abs(low) if low else 1.0)
    marks = even_steps(low, high, count)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    top = math.ceil(high / step - 1e-9) * step
    return Axis(low if from_zero else math.floor(low / step + 1e-9) * step, top)


def time_steps(seconds: float, count: int = 6) -> list[float]:
    """At most so many moments after the beginning that a clock would show: every 10 minutes, never every 7."""
    step = next((step for step in TIME_STEPS if seconds / step <= count), 0)
    while step == 0 or seconds / step > count:
        step = step * 2 or 2 * TIME_STEPS[-1]
    return [float(index * step) for index in range(int(seconds // step) + 1)]


# -- thinning -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """What was measured from one moment to another."""

    begins: float
    ends: float
    value: float


def thinned(spans: Sequence[Span], fold: Callable[[list[Span]], float], count: int = POINTS_MAX) -> list[Span]:
    """Neighbours folded into one until there are at most `count`, or twice as many if there are gaps.

    A gap that would be seen stays one: nobody is folded with who is across it.
    """
    if len(spans) <= count:
        return list(spans)
    size = -(-len(spans) // count)
    seen = (spans[-1].ends - spans[0].begins) / count
    groups: list[list[Span]] = []
    for span in spans:
        if not groups or len(groups[-1]) == size or span.begins - groups[-1][-1].ends > seen:
            groups.append([])
        groups[-1].append(span)
    return [Span(group[0].begins, group[-1].ends, fold(group)) for group in groups]


def mean_of(group: list[Span]) -> float:
    """Weighted by time: what is under the line stays what it was."""
    seconds = sum(span.ends - span.begins for span in group)
    if seconds <= 0:
        return sum(span.value for span in group) / len(group)
    return sum(span.value * (span.ends - span.begins) for span in group) / seconds


def highest_of(group: list[Span]) -> float:
    """The worst of them: a peak of one sample is still seen in a long run."""
    return max(span.value for span in group)


def median_of(group: list[Span]) -> float:
    """The one in the middle."""
    return median(span.value for span in group)


# -- time, and what happened --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Times:
    """The time axis of every plot of a page. ``bands``: from when to when something was wrong; ``moments``: when it was."""

    seconds: float
    bands: tuple[tuple[float, float], ...] = ()
    moments: tuple[float, ...] = ()

    def share(self, seconds: float) -> float:
        """From 0 (the beginning) to 1 (the end)."""
        return min(1.0, max(0.0, seconds / self.seconds))

    def percent(self, seconds: float) -> str:
        return f"{number(self.share(seconds) * 100)}%"

    def width(self, begins: float, ends: float) -> str:
        return f"{number((self.share(ends) - self.share(begins)) * 100)}%"


def happenings_through(times: Times, height: float) -> Markup:
    """Bands and hair lines from the top of a plot to its bottom."""
    bands = (
        tag("rect", class_="band", x=times.percent(begins), y="0", width=times.width(begins, ends), height=height)
        for begins, ends in times.bands
    )
    moments = (
        tag("line", class_="moment", x1=times.percent(at), x2=times.percent(at), y1="0", y2=height)
        for at in times.moments
    )
    return join(*bands, *moments)


def time_labels(times: Times, y: float) -> Markup:
    """The clock under a plot. On a narrow page every other one is hidden, and one too near the right edge ends there."""
    steps = time_steps(times.seconds)
    labels = []
    for index, seconds in enumerate(steps):
        share = times.share(seconds)
        anchor = "start" if share < 0.02 else "end" if share > 0.97 else "middle"
        labels.append(
            tag("text", duration_text(seconds), class_=f"tick {'' if index % 2 == 0 else 'odd'}".strip(), y=y,
                x=times.percent(seconds), text_anchor=anchor)
        )  # fmt: skip
    return join(*labels)


# -- paths --------------------------------------------------------------------------------------------------------------


def line_path(times: Times, axis: Axis, height: float, points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points (seconds, value); where a value is not finite, there is a gap."""
    commands, is_drawing = [], False
    for seconds, value in points:
        if math.isfinite(value):
            commands.append(f"{'L' if is_drawing else 'M'}{_x(times, seconds)} {_y(axis, height, value)}")
        is_drawing = math.isfinite(value)
    return tag("path", class_=f"line {class_}", d="".join(commands)) if commands else Markup("")


def step_path(times: Times, axis: Axis, height: float, spans: Sequence[Span], class_: str) -> Markup:
    """A line that is level during each span; between spans that do not touch there is a gap."""
    commands = "".join(
        f"M{_x(times, run[0].begins)} {_y(axis, height, run[0].value)}{_levels(times, axis, height, run)}"
        for run in unbroken(spans)
    )
    return tag("path", class_=f"line {class_}", d=commands) if commands else Markup("")


def area_path(times: Times, axis: Axis, height: float, spans: Sequence[Span], class_: str) -> Markup:
    """What is between the bottom and such a line."""
    bottom = number(height)
    commands = "".join(
        f"M{_x(times, run[0].begins)} {bottom}{_levels(times, axis, height, run)}V{bottom}Z" for run in unbroken(spans)
    )
    return tag("path", class_=f"area {class_}", d=commands) if commands else Markup("")


def unbroken(spans: Sequence[Span]) -> list[list[Span]]:
    """Runs of spans of which each begins where the one before ends."""
    runs: list[list[Span]] = []
    for span in spans:
        if runs and runs[-1][-1].ends == span.begins:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def stacked_areas(times: Times, axis: Axis, height: float, layers: Sequence[tuple[str, Sequence[Span]]]) -> Markup:
    """Layers (class, spans) on each other, the first at the bottom; all have the same spans.

    The whole sum is drawn first and each lower sum over it, so that every layer needs its upper edge only.
    """
    totals = [0.0] * (len(layers[0][1]) if layers else 0)
    drawn = []
    for class_, spans in layers:
        totals = [total + span.value for total, span in zip(totals, spans, strict=True)]
        upper = [Span(span.begins, span.ends, total) for total, span in zip(totals, spans, strict=True)]
        drawn.append(area_path(times, axis, height, upper, class_))
    return join(*reversed(drawn))


def _levels(times: Times, axis: Axis, height: float, spans: Sequence[Span]) -> str:
    return "".join(f"V{_y(axis, height, span.value)}H{_x(times, span.ends)}" for span in spans)


def _x(times: Times, seconds: float) -> str:
    return f"{times.share(seconds) * WIDTH:.1f}".removesuffix(".0")


def _y(axis: Axis, height: float, value: float) -> str:
    """Beyond the plot, too: what leaves it is cut off there, not bent along its edge."""
    share = min(3.0, max(-2.0, (value - axis.low) / (axis.high - axis.low)))
    return f"{(1 - share) * height:.1f}".removesuffix(".0")


# -- whole pictures -----------------------------------------------------------------------------------------------------

PLOT_FOOT: Final = 20  # pixels under a plot, for the clock
EDGE: Final = 2  # pixels around a plot's paths, so that a line at the top is not half a line
COLUMNS: Final = 60  # of time, each of which a pointer can be held over: a minute of an hour


def picture(name: str, title: str, description: str, height: float, *children: str, class_: str = "plot") -> Markup:
    """An SVG of its own with what a reader who does not see it is told."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        *children,
        class_=class_,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        width="100%",
        height=height,
    )


def plot(
    times: Times,
    axis: Axis,
    height: int,
    paths: Markup,
    *,
    name: str,
    title: str,
    description: str,
    label: Callable[[float], str],
    steps: Sequence[float] | None = None,
    over: str = "",
    told: Callable[[float, float], str] | None = None,
) -> Markup:
    """Paths with their axes.

    ``over``: what is not stretched with them, dots for example. ``told``: what a pointer is told of a column of time.
    """
    rows = []
    for value in steps if steps is not None else even_steps(axis.low, axis.high, 3):
        y = (1 - axis.share(value)) * height
        rows.append(tag("line", class_="grid", x1="0", x2="100%", y1=y, y2=y))
        rows.append(tag("text", label(value), class_="tick", x="-8", y=y + TEXT_PIXELS, text_anchor="end"))
    return picture(
        name,
        title,
        description,
        height + PLOT_FOOT,
        happenings_through(times, height),
        *rows,
        tag("svg", paths, viewBox=f"0 {-EDGE} {number(WIDTH)} {height + 2 * EDGE}", preserveAspectRatio="none",
            y=-EDGE, width="100%", height=height + 2 * EDGE),
        over,
        time_labels(times, height + PLOT_FOOT - 5),
        columns(times, height, told),
    )  # fmt: skip


def columns(
    times: Times, height: float, told: Callable[[float, float], str] | None = None, *, y: float = 12, class_: str = "columns"
) -> Markup:  # fmt: skip
    """Columns of time over a whole plot; the style sheet lights the same one in all plots when a pointer is over one.

    That is a hair line through everything that moves with the pointer, and the values where it is, without a script.
    """
    halves: tuple[list[Markup], list[Markup]] = ([], [])
    wide = f"{number(100 / COLUMNS)}%"
    for index in range(COLUMNS):
        begins, ends = (times.seconds * edge / COLUMNS for edge in (index, index + 1))
        words = told(begins, ends) if told is not None else ""
        is_late = index >= COLUMNS // 2  # then the words stand on the other side
        rect = tag("rect", x=f"{number(100 * index / COLUMNS)}%", width=wide, height=height)
        text = tag("text", words, x=f"{number(100 * (index if is_late else index + 1) / COLUMNS)}%") if words else ""
        halves[is_late].append(tag("g", rect, text, class_=f"k{index}"))
    early, late = (tag("g", *half, class_=name) for half, name in zip(halves, ("early", "late"), strict=True))
    return tag("g", early, late, class_=class_, aria_hidden="true", style=f"--y:{number(y)}px")


def between(spans: Sequence[Span], begins: float, ends: float) -> list[Span]:
    """The parts of spans that lie in a column of time."""
    return [
        Span(max(begins, span.begins), min(ends, span.ends), span.value)
        for span in spans
        if span.begins < ends and span.ends > begins
    ]


def dots(times: Times, axis: Axis, height: float, points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A dot at each point (seconds, value) that is finite."""
    return join(
        *(
            tag("circle", class_=f"dot {class_}", cx=times.percent(at), cy=(1 - axis.share(value)) * height, r="3")
            for at, value in points
            if math.isfinite(value)
        )
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a strip's row. ``says``: what a pointer over it is told."""

    begins: float
    ends: float
    class_: str
    says: str


def strip(
    times: Times, rows: Sequence[tuple[str, Sequence[Piece]]], *, name: str, title: str, description: str, row_pixels: int = 14
) -> Markup:  # fmt: skip
    """A row of coloured pieces for each label, on the time axis. Bands are under them, so that colours stay what they are."""
    height = len(rows) * row_pixels
    edges = [
        tag("line", class_="edge", x1=times.percent(at), x2=times.percent(at), y1=0, y2=height)
        for band in times.bands
        for at in band
    ]
    drawn = []
    for index, (label, pieces) in enumerate(rows):
        top = index * row_pixels
        drawn.append(
            tag("text", label, class_="tick row", x="-8", y=top + row_pixels / 2 + TEXT_PIXELS, text_anchor="end")
        )
        drawn += [
            tag("rect", tag("title", piece.says), class_=f"piece {piece.class_}", x=times.percent(piece.begins), y=top + 1,
                width=times.width(piece.begins, piece.ends), height=row_pixels - 2)
            for piece in pieces
        ]  # fmt: skip
    return picture(
        name,
        title,
        description,
        height + PLOT_FOOT,
        happenings_through(times, height),
        *drawn,
        *edges,
        time_labels(times, height + PLOT_FOOT - 5),
        columns(times, height, class_="columns still"),  # a pointer over a piece is told of that piece
    )
