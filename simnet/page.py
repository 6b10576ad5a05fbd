"""The page of a run: one HTML file that needs nothing else, for a person who wants to know at a glance what happened.

    verdict, sentence, the command that repeats it     did it hold?
    numbers                                            how large, how fast, how much, at what price
    map and table of regions                           what crossed the world
    time                                               loss, traffic, peers, finality, queues, owners, all on one time axis,
                                                       with what went wrong drawn through all of them
    rules                                              every invariant, how often it was checked, what broke it
    rounds                                             the numbers behind, folded

There is no script in it, and its policy forbids one. Everything in an outcome is somebody's text: ``simnet/markup.py``.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final, assert_never

from p2p.topics import find_topic_rule
from simnet import atlas
from simnet.charts import (
    POINTS_MAX,
    Piece,
    Span,
    Times,
    area_path,
    axis_of,
    between,
    columns,
    dots,
    highest_of,
    line_path,
    mean_of,
    median_of,
    picture,
    plot,
    stacked_areas,
    step_path,
    strip,
    thinned,
    time_labels,
)
from simnet.markup import Markup, clip, join, tag
from simnet.outcome import Happening, Invariant, Outcome, OwnerMove, RegionOutcome, RoundOutcome, Sample
from simnet.page_style import COLOURS, style
from simnet.scenario import (
    Crash,
    CutRegion,
    Eclipse,
    Fault,
    FillDisks,
    GenesisLiars,
    KillBootstraps,
    KillOwners,
    Scenario,
    SkewClocks,
    SlowRegion,
)
from simnet.text import count_text, duration_text, size_text

# What is drawn and listed at most, so that the file stays below some 300 kB whatever ran.
NAME_MAX: Final = 48  # letters of a name
SAYS_MAX: Final = 400  # letters of a sentence from outside
BREACHES_MAX: Final = 12  # of one invariant
REGIONS_MAX: Final = 12  # rows and columns of the table
ARCS_MAX: Final = 60
NUMBERED_MAX: Final = 9  # happenings with a number on the time axis; of more only the moments are marked
HAPPENINGS_MAX: Final = 120  # listed
MOMENTS_MAX: Final = 40  # drawn through every plot: more would be a curtain
TILES_MAX: Final = 32  # rows of the strip of owners
PIECES_MAX: Final = 900  # of that strip
ROUNDS_MAX: Final = 120  # rows
SPANS_MAX: Final = 8  # of the scenario's faults

LEVELS: Final = {1: "engines alone", 2: "whole nodes in virtual time", 3: "real processes"}
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
KINDS_TOLD: Final = 2  # of the kinds of traffic, where a pointer is: more would not fit beside it on a narrow page
REST: Final = "everything else"


def render(outcome: Outcome, scenario: Scenario | None = None) -> str:
    """The page. `scenario`, where it is at hand, tells from when to when its faults last: they are drawn as bands."""
    faults = spans_of(scenario) if scenario is not None else []
    times = times_of(outcome, faults)
    sign = "✓" if outcome.passed else "✗"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{sign} {clip(outcome.scenario, NAME_MAX)}, seed {outcome.seed}"),
        tag("style", Markup(style())),
    )
    main = tag(
        "main",
        _header(outcome),
        _numbers(outcome),
        _world(outcome, scenario),
        _times(outcome, times, faults),
        _rules(outcome),
        _rounds(outcome),
        _footer(outcome),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', main), lang='en')}\n"


# -- verdict ------------------------------------------------------------------------------------------------------------


def _header(outcome: Outcome) -> Markup:
    level = LEVELS.get(outcome.level)
    kicker = f"simnet, level {outcome.level}" + (f": {level}" if level else "") + f" · seed {outcome.seed}"
    return tag(
        "header",
        tag("p", kicker, class_="kicker"),
        tag("div", tag("h1", clip(outcome.scenario, NAME_MAX)), _stamp(outcome), class_="verdict"),
        tag("p", clip(outcome.says, SAYS_MAX), class_="sentence"),
        _broken(outcome),
        tag("div", "The same run again, to the last byte:", tag("pre", clip(outcome.repeat, SAYS_MAX)), class_="repeat")
        if outcome.repeat
        else "",
    )


def _stamp(outcome: Outcome) -> Markup:
    broken = sum(bool(each.breaches) for each in outcome.invariants.values())
    if broken:
        return tag("span", f"✗ {count_text(broken, 'rule')} broken", class_="stamp bad")
    if not any(each.checks for each in outcome.invariants.values()):
        return tag("span", "nothing was checked", class_="stamp warn")
    return tag("span", "✓ passed", class_="stamp good")


def _broken(outcome: Outcome) -> Markup:
    items = [
        tag(
            "li",
            tag("b", f"✗ {clip(name, NAME_MAX)}"),
            f": {clip(each.says, SAYS_MAX)}",
            tag(
                "ul",
                tag("li", clip(each.breaches[0], SAYS_MAX), class_="seen"),
                *_more(len(each.breaches) - 1, "breach", "breaches"),
            ),
        )
        for name, each in outcome.invariants.items()
        if each.breaches
    ]
    if not items:
        return Markup("")
    return tag("section", tag("h3", "What broke"), tag("ol", *items), class_="broken", aria_label="What broke")


def _more(count: int, word: str, words: str) -> list[Markup]:
    if count <= 0:
        return []
    return [tag("li", f"and {count:,} more {word if count == 1 else words} of it, below", class_="soft small")]


# -- numbers ------------------------------------------------------------------------------------------------------------


def _numbers(outcome: Outcome) -> Markup:
    lags = _lags(outcome.samples)
    checks = sum(each.checks for each in outcome.invariants.values())
    broken = sum(bool(each.breaches) for each in outcome.invariants.values())
    idle = sum(not each.checks for each in outcome.invariants.values())
    deltas = sum(each.deltas for each in outcome.rounds)
    cells = [
        ("Peers", f"{outcome.peers:,}", f"{count_text(outcome.validators, 'validator')} at the beginning"),
        ("Virtual time", duration_text(outcome.virtual_seconds), count_text(len(outcome.rounds), "round")),
        ("Loss", _from_to(outcome.rounds), _loss_change(outcome.rounds)),
        (
            "Rules",
            f"{broken} broken" if broken else "none broken",
            f"{count_text(len(outcome.invariants), 'rule')}, checked {_short_count(checks)} times"
            + (f", {idle} never" if idle else ""),
        ),
        (
            "WAN, a round",
            size_text(outcome.wan_bytes_per_round),
            f"{size_text(outcome.wan_bytes_per_step)} for each of {count_text(outcome.inner_steps, 'local step')}",
        ),
        (
            "Finality lag",
            _seconds_text(median(lags)) if lags else "–",
            f"in the middle; {_seconds_text(max(lags))} at worst" if lags else "nothing became final",
        ),
        (
            "Deltas counted",
            f"{deltas:,}",
            f"{count_text(sum(each.takeovers for each in outcome.rounds), 'head')} by a standby",
        ),
        ("Events", _short_count(outcome.events), "in the whole run"),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value), tag("dd", more, class_="more")) for name, value, more in cells),
        class_="numbers",
    )


def _from_to(rounds: Sequence[RoundOutcome]) -> str:
    losses = [each.loss for each in rounds if math.isfinite(each.loss)]
    return f"{_loss_text(losses[0])} → {_loss_text(losses[-1])}" if losses else "–"


def _loss_change(rounds: Sequence[RoundOutcome]) -> str:
    losses = [each.loss for each in rounds if math.isfinite(each.loss)]
    if not losses or losses[0] <= 0:
        return "not measured"
    return f"{_signed_percent(losses[-1] / losses[0] - 1)} since the first round"


# -- the world ----------------------------------------------------------------------------------------------------------


def _world(outcome: Outcome, scenario: Scenario | None) -> Markup:
    regions = sorted(outcome.regions, key=lambda each: -each.peers)
    if not regions:
        return Markup("")
    inside = sum(each.sent_to.get(each.name, 0) for each in regions)
    crossed = sum(sum(each.sent_to.values()) for each in regions) - inside
    share = f", {_percent(crossed / (inside + crossed))} of everything sent" if inside + crossed else ""
    return tag(
        "section",
        tag("h2", f"{count_text(len(regions), 'region')}, {size_text(crossed)} between them"),
        tag("p", f"Circles are as large as the number of peers, arcs as wide as the bytes that crossed{share}.", class_="lead"),
        _map(regions, _hit_regions(scenario)),
        _traffic_table(regions),
    )  # fmt: skip


def _hit_regions(scenario: Scenario | None) -> frozenset[str]:
    faults = scenario.faults if scenario is not None else ()
    return frozenset(fault.region for fault in faults if isinstance(fault, CutRegion | SlowRegion))


def _map(regions: Sequence[RegionOutcome], hit: frozenset[str]) -> Markup:
    places = {each.name: atlas.place(each.at) for each in regions}
    crossed: Counter[tuple[str, str]] = Counter()
    for each in regions:
        for other, count in each.sent_to.items():
            if other in places and other != each.name:
                crossed[min(each.name, other), max(each.name, other)] += count
    most = max(crossed.values(), default=0)
    drawn = [(pair, count) for pair, count in reversed(crossed.most_common(ARCS_MAX)) if count > 0]
    arcs = [
        tag("path", tag("title", f"{clip(one, NAME_MAX)} and {clip(other, NAME_MAX)}: {size_text(count)}"), class_="arc",
            d=atlas.arc_commands(places[one], places[other]), stroke_width=max(0.8, 11 * count / most))
        for (one, other), count in drawn
    ]  # fmt: skip
    curves = [atlas.along_arc(places[one], places[other]) for (one, other), _ in drawn]
    peers_max = max(each.peers for each in regions)
    circles = [
        tag("circle", class_="region hit" if each.name in hit else "region", cx=places[each.name][0],
            cy=places[each.name][1], r=_radius(each, peers_max))
        for each in regions
        if each.peers > 0
    ]  # fmt: skip
    drawing = tag(
        "svg", atlas.land(), *arcs, *circles, viewBox=f"0 0 {atlas.MAP_WIDTH:.0f} {atlas.MAP_HEIGHT:.0f}",
        width="100%", height="100%",
    )  # fmt: skip
    world = tag(
        "svg",
        tag("title", "Map of the regions", id="map-title"),
        tag("desc", "The table after it has the same numbers.", id="map-desc"),
        drawing,
        *(
            tag("g", *_place_names(regions[:REGIONS_MAX], places, peers_max, curves, units), class_=class_)
            for class_, units in LABELS.items()
        ),
        class_="world",
        role="img",
        aria_labelledby="map-title map-desc",
        style=f"--aspect:{atlas.MAP_WIDTH:.0f}/{atlas.MAP_HEIGHT:.0f}",
    )
    return tag("div", world, class_="map")


def _radius(region: RegionOutcome, peers_max: int) -> float:
    return 5.0 + 15.0 * math.sqrt(region.peers / peers_max) if peers_max else 5.0


# Names are placed twice, and the style sheet shows one of them: units of the drawing in a pixel of a page.
LABELS: Final = {"wide": 1.15, "narrow": 2.5}


def _place_names(
    regions: Sequence[RegionOutcome],
    places: dict[str, tuple[float, float]],
    peers_max: int,
    curves: Sequence[Sequence[tuple[float, float]]],
    units: float,
) -> list[Markup]:
    """Each name beside its circle, on the side where it covers least of what is there already."""
    taken = [
        (x - radius, y - radius, x + radius, y + radius)
        for each in regions
        for (x, y), radius in [(places[each.name], _radius(each, peers_max))]
    ]
    taken += [(x - 4, y - 4, x + 4, y + 4) for curve in curves for x, y in curve]
    names = []
    for each in regions:
        x, y = places[each.name]
        away = _radius(each, peers_max) + 4 * units
        name, peers = clip(each.name, 24), f" {each.peers:,}"
        wide, tall = 7.2 * len(name + peers if units < 2 else name) * units, 14 * units
        sides = (
            (x + away, y, "start"),
            (x - away, y, "end"),
            (x, y - away - tall / 2, "middle"),
            (x, y + away + tall / 2, "middle"),
        )
        boxes = [(_box(at_x, at_y, anchor, wide, tall), at_x, at_y, anchor) for at_x, at_y, anchor in sides]
        box, at_x, at_y, anchor = min(
            boxes, key=lambda side: sum(_covered(side[0], other) for other in taken) + _off(side[0])
        )
        taken.append(box)
        names.append(
            tag("text", name, tag("tspan", peers), class_="place", x=f"{100 * at_x / atlas.MAP_WIDTH:.2f}%",
                y=f"{100 * at_y / atlas.MAP_HEIGHT:.2f}%", dy=4.5, text_anchor=anchor)
        )  # fmt: skip
    return names


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _box(x: float, y: float, anchor: str, wide: float, tall: float) -> Box:
    left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
    return left, y - tall / 2, left + wide, y + tall / 2


def _covered(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, tall)


def _off(box: Box) -> float:
    """What of a box is beyond the drawing, and costs more than what covers another."""
    return 10 * (max(0.0, -box[0]) + max(0.0, box[2] - atlas.MAP_WIDTH)) * (box[3] - box[1])


def _traffic_table(regions: Sequence[RegionOutcome]) -> Markup:
    shown = regions[:REGIONS_MAX]
    most = max((each.sent_to.get(other.name, 0) for each in shown for other in shown if other is not each), default=0)
    rows = []
    for each in shown:
        cells = []
        for other in shown:
            count = each.sent_to.get(other.name, 0)
            is_inside = other is each
            tint = 0 if is_inside or not most else round(55 * count / most)
            cells.append(
                tag("td", size_text(count), class_="n cell soft" if is_inside else "n cell",
                    style=f"background:color-mix(in srgb,var(--c1) {tint}%,transparent)" if tint else None)
            )  # fmt: skip
        across = sum(each.sent_to.values()) - each.sent_to.get(each.name, 0)
        rows.append(
            tag("tr", tag("th", clip(each.name, NAME_MAX), scope="row"), tag("td", f"{each.peers:,}", class_="n"),
                *cells, tag("td", size_text(across), class_="n"))
        )  # fmt: skip
    head = tag(
        "tr",
        tag("th", "from", scope="col"),
        tag("th", "peers", scope="col", class_="n"),
        *(tag("th", f"to {clip(each.name, NAME_MAX)}", scope="col", class_="n") for each in shown),
        tag("th", "to others", scope="col", class_="n"),
    )
    left_out = len(regions) - len(shown)
    caption = "Bytes sent; what stays in a region is grey." + (
        f" The {count_text(left_out, 'region')} with the fewest peers are not shown." if left_out else ""
    )
    return tag(
        "div", tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *rows)), class_="scroll", tabindex="0"
    )  # fmt: skip


# -- what goes wrong, from the scenario ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """Something of the scenario lasts from one moment to another."""

    begins: float
    ends: float
    says: str


def spans_of(scenario: Scenario) -> list[FaultSpan]:
    """From when to when each of its faults lasts, the earliest first. What lasts the whole run is none of them."""
    spans = [_span_of(fault, scenario) for fault in scenario.faults]
    spans += [
        FaultSpan(each.from_seconds, each.until_seconds, f"{count_text(each.peers, 'peer')} arrive")
        for each in scenario.arrivals
    ]
    spans += [
        FaultSpan(each.from_round * scenario.learning.round_seconds, scenario.seconds,
                  f"{_percent(each.share)} of the learners poison: {each.kind}")
        for each in scenario.villains
    ]  # fmt: skip
    known = [span for span in spans if span is not None]
    return sorted(known, key=lambda span: (span.begins, span.ends, span.says))


def _span_of(fault: Fault, scenario: Scenario) -> FaultSpan | None:
    match fault:
        case CutRegion(region, at, seconds):
            return FaultSpan(at, at + seconds, f"{region} is cut off")
        case SlowRegion(region, at, seconds, factor, share):
            return FaultSpan(
                at, at + seconds, f"{region} is slow: {factor:g}× the latency, {_percent(share)} of the rate"
            )
        case KillBootstraps(at):
            return FaultSpan(at, scenario.seconds, "the bootstrap peers are dead")
        case KillOwners(first, last, _):
            pace = scenario.learning.round_seconds
            return FaultSpan(first * pace, last * pace, "an owner dies in every round")
        case Crash(share, at, seconds, back):
            return FaultSpan(at, at + seconds + back, f"{_percent(share)} of the peers crash and come back")
        case FillDisks(share, at, seconds):
            return FaultSpan(at, at + seconds, f"the disks of {_percent(share)} of the peers are full")
        case Eclipse(attackers, at):
            return FaultSpan(at, scenario.seconds, f"{count_text(attackers, 'attacker')} eclipse one peer")
        case SkewClocks() | GenesisLiars():
            return None  # from the beginning to the end: nothing to compare with
        case _:
            assert_never(fault)


def times_of(outcome: Outcome, faults: Sequence[FaultSpan]) -> Times:
    """The time axis, as long as anything that is drawn on it."""
    ends = [
        outcome.virtual_seconds,
        *(each.seconds for each in outcome.samples),
        *(each.seconds for each in outcome.rounds),
    ]
    seconds = max((end for end in ends if math.isfinite(end)), default=0.0)
    moments = sorted({each.seconds for each in outcome.happenings})
    # A fault that lasts to the end from near the beginning would colour everything: its bar says it.
    bands = [span for span in faults if span.ends - span.begins < 0.6 * seconds]
    return Times(
        max(seconds, 1.0),
        tuple((span.begins, span.ends) for span in bands[:SPANS_MAX]),
        tuple(moments) if len(moments) <= MOMENTS_MAX else (),
    )


# -- time ---------------------------------------------------------------------------------------------------------------


def _times(outcome: Outcome, times: Times, faults: Sequence[FaultSpan]) -> Markup:
    figures = [
        _happened(outcome.happenings, times, faults),
        _loss(outcome.rounds, times),
        _crossing(outcome.samples, times),
        _kinds(outcome.samples, times),
        _finality(outcome.samples, times),
        _counts(
            outcome.samples, times, "peers", "Peers running", lambda sample: sample.peers,
            lambda low, high: f"Never fewer than {low:,}, never more than {high:,}.",
        ),
        _counts(
            outcome.samples, times, "connections", "Connections", lambda sample: sample.connections,
            lambda low, high: f"Between {low:,} and {high:,}.",
        ),
        _queues(outcome.samples, times),
        _owners(outcome.moves, times),
    ]  # fmt: skip
    if not any(figures):
        return Markup("")
    lead = "One time axis for all, in hours, minutes and seconds of the run's own clock."
    if times.bands or times.moments:
        lead += " What went wrong is drawn through every picture."
    return tag("section", tag("h2", "Over time"), tag("p", lead, class_="lead"), *figures, class_="times")


def _figure(heading: str, says: str, drawing: str, *more: str, class_: str | None = None) -> Markup:
    return tag("figure", tag("figcaption", tag("h3", heading), tag("p", says), *more), drawing, class_=class_)


def _legend(*entries: tuple[str, Markup]) -> Markup:
    return tag("ul", *(tag("li", swatch, says) for says, swatch in entries), class_="legend")


def _square(class_: str) -> Markup:
    rect = tag("rect", class_=f"swatch {class_}", width=11, height=11, rx=2)
    return tag("svg", rect, width=11, height=11, aria_hidden="true")


def _stroke(class_: str) -> Markup:
    line = tag("line", class_=f"line {class_}", x1=1, x2=25, y1=6, y2=6)
    return tag("svg", line, width=26, height=12, aria_hidden="true")


LANE: Final = 30  # pixels of a fault's row: its words, and its bar below
MARKS: Final = 22  # of a row of numbered moments
TOO_CLOSE: Final = 0.055  # of the time axis: two numbers nearer than that touch on a narrow page


def _happened(happenings: Sequence[Happening], times: Times, faults: Sequence[FaultSpan]) -> Markup:
    """Each fault's bar with its words, below them the moments with their numbers, and the list that the numbers name."""
    if not happenings and not faults:
        return Markup("")
    drawn, shown = [], list(faults[:SPANS_MAX])
    for index, span in enumerate(shown):
        top, is_late = index * LANE, times.share(span.begins) > 0.5
        drawn += [
            tag("text", clip(span.says, NAME_MAX), class_="what", y=top + 14,
                x=times.percent(span.ends if is_late else span.begins), text_anchor="end" if is_late else "start"),
            tag("rect", class_="bar", x=times.percent(span.begins), y=top + 19, height=5, rx=2.5,
                width=times.width(span.begins, span.ends)),
        ]  # fmt: skip
    height = len(shown) * LANE
    ordered = sorted(happenings, key=lambda each: each.seconds)
    if ordered:
        is_numbered = len(ordered) <= NUMBERED_MAX
        marks, rows = (_numbered if is_numbered else _ticked)(ordered, times, height)
        drawn += marks
        height += rows * MARKS
    items = [
        tag("li", tag("time", duration_text(each.seconds)), tag("b", f"{index} ") if len(ordered) <= NUMBERED_MAX else "",
            clip(each.says, SAYS_MAX))
        for index, each in enumerate(ordered[:HAPPENINGS_MAX], 1)
    ]  # fmt: skip
    left_out = len(ordered) - len(items)
    if left_out > 0:
        items.append(tag("li", f"and {left_out:,} more", class_="soft"))
    listed = tag("ol", *items, class_="happened") if items else Markup("")
    if len(items) > NUMBERED_MAX:
        listed = tag("details", tag("summary", f"All {len(ordered):,}, with their times"), listed)
    drawing = picture(
        "happened", "What happened, and when", "; ".join(f"{duration_text(span.begins)} to {duration_text(span.ends)}: {span.says}"
        for span in shown) or "Moments; the list after it has them in words.", height + 20,
        *drawn, time_labels(times, height + 15),
        columns(times, height, lambda begins, ends: duration_text(begins), y=height + 15),
    )  # fmt: skip
    return tag("figure", tag("figcaption", tag("h3", "What happened")), drawing, listed)


def _numbered(happenings: Sequence[Happening], times: Times, top: int) -> tuple[list[Markup], int]:
    """Numbers in circles; one that would touch the last of a row goes to the next row."""
    lasts: list[float] = []
    drawn = []
    for index, each in enumerate(happenings, 1):
        share = times.share(each.seconds)
        row = next((row for row, last in enumerate(lasts) if share - last > TOO_CLOSE), len(lasts))
        lasts[row : row + 1] = [share]
        x, y = times.percent(each.seconds), top + row * MARKS + 11
        drawn += [
            tag("circle", class_="mark", cx=x, cy=y, r=8),
            tag("text", str(index), class_="number", x=x, y=y + 4, text_anchor="middle"),
        ]
    return drawn, len(lasts)


def _ticked(happenings: Sequence[Happening], times: Times, top: int) -> tuple[list[Markup], int]:
    """One dot for each moment that can be told from the one before."""
    places = sorted({round(times.share(each.seconds) * POINTS_MAX) for each in happenings})
    drawn = [tag("circle", class_="mark", cx=f"{100 * place / POINTS_MAX:.1f}%", cy=top + 11, r=3) for place in places]
    return drawn, 1


def _loss(rounds: Sequence[RoundOutcome], times: Times) -> Markup:
    """Our loss, and where they were computed, what plain averaging would have given and what there would be without villains."""
    ours = [(each.seconds, each.loss) for each in rounds]
    plain = [(each.seconds, _or_nan(each.loss_plain)) for each in rounds]
    honest = [(each.seconds, _or_nan(each.loss_honest)) for each in rounds]
    known = _finite(ours) + _finite(honest)
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    # A mean that poison drives away would flatten everything else: it leaves through the roof.
    roof = high + max(0.6 * (high - low), 0.1 * abs(high), 1e-9)
    axis = axis_of([*known, *(min(value, roof) for value in _finite(plain))], from_zero=False, count=6)
    paths = join(
        line_path(times, axis, 220, plain, "c6 dashed"),
        line_path(times, axis, 220, honest, "c3 dotted"),
        line_path(times, axis, 220, ours, "c1 thick"),
    )
    entries = [("the network", _stroke("c1 thick"))]
    if _finite(plain):
        is_over = max(_finite(plain)) > axis.high
        over = f" (up to {_loss_text(max(_finite(plain)))}, beyond the picture)" if is_over else ""
        entries.append((f"plain averaging would have lost{over}", _stroke("c6 dashed")))
    if _finite(honest):
        entries.append(("without villains", _stroke("c3 dotted")))
    drawing = plot(
        times,
        axis,
        220,
        paths,
        name="loss",
        title="Loss of each round",
        description=f"From {_from_to(rounds)} in {count_text(len(rounds), 'round')}. The table of rounds has every value.",
        label=lambda value: f"{value:.4g}",
        over=dots(times, axis, 220, ours, "c1") if len(ours) <= 60 else Markup(""),
        told=lambda begins, ends: _loss_at(rounds, ends),
    )
    legend = _legend(*entries) if len(entries) > 1 else Markup("")
    return _figure("Loss", _loss_says(rounds), drawing, legend)


def _loss_at(rounds: Sequence[RoundOutcome], seconds: float) -> str:
    """Of the last round that was closed then."""
    last = next((each for each in reversed(rounds) if each.seconds <= seconds), None)
    if last is None:
        return ""
    others = (("plain", last.loss_plain), ("without villains", last.loss_honest))
    told = [f"round {last.round}: {_loss_text(last.loss)}"]
    return ", ".join(told + [f"{name} {_loss_text(value)}" for name, value in others if value is not None])


def _loss_says(rounds: Sequence[RoundOutcome]) -> str:
    """What the lines say, in words."""
    last = next((each for each in reversed(rounds) if math.isfinite(each.loss)), None)
    if last is None:
        return ""
    says = [f"{_from_to(rounds)} in {count_text(len(rounds), 'round')}."]
    honest, plain = _or_nan(last.loss_honest), _or_nan(last.loss_plain)
    if math.isfinite(honest) and honest > 0:
        says.append(f"The villains cost {_signed_percent(last.loss / honest - 1)}.")
    if math.isfinite(plain) and last.loss > 0:
        says.append(
            f"Plain averaging of the same deltas would have ended at {_loss_text(plain)} ({_signed_percent(plain / last.loss - 1)})."
        )
    elif any(each.loss_plain is not None for each in rounds) and not math.isfinite(plain):
        says.append("Plain averaging of the same deltas would not have ended at any number.")
    return " ".join(says)


def _crossing(samples: Sequence[Sample], times: Times) -> Markup:
    wan = _rates(samples, lambda sample: sample.wan_bytes)
    local = _rates(samples, lambda sample: sample.local_bytes)
    if not wan:
        return Markup("")
    axis = axis_of([one.value + other.value for one, other in zip(wan, local, strict=True)])
    far, near = sum(sample.wan_bytes for sample in samples), sum(sample.local_bytes for sample in samples)
    says = f"{size_text(far)} between regions, {size_text(near)} inside them."
    drawing = plot(
        times, axis, 150, stacked_areas(times, axis, 150, [("c1", wan), ("c5", local)]), name="crossing",
        title="Traffic between regions and inside them", description=says, label=_rate_text,
        told=lambda begins, ends: _told([("WAN", wan), ("local", local)], begins, ends, mean_of, _rate_text),
    )  # fmt: skip
    return _figure(
        "Traffic, WAN and local",
        says,
        drawing,
        _legend(("between regions", _square("c1")), ("inside a region", _square("c5"))),
    )


def _kinds(samples: Sequence[Sample], times: Times) -> Markup:
    """The largest kinds on each other, the rest as one."""
    by_sample = [_kinds_of(sample) for sample in samples]
    totals: Counter[str] = Counter()
    for kinds in by_sample:
        totals.update(kinds)
    everything = sum(totals.values())
    ranked = sorted((name for name in totals if totals[name]), key=lambda name: (-totals[name], name))
    if not ranked:
        return Markup("")
    named = ranked if len(ranked) <= COLOURS else ranked[: COLOURS - 1]
    is_named = frozenset(named)
    series = [(name, [kinds[name] for kinds in by_sample]) for name in named]
    if len(named) < len(ranked):
        rest = [sum(count for name, count in sorted(kinds.items()) if name not in is_named) for kinds in by_sample]
        series.append((REST, rest))
        totals[REST] = sum(rest)
    layers = [
        (f"c{index}", _rates_of(samples, counts)) for index, (_, counts) in enumerate(series, 1)
    ]  # fmt: skip
    axis = axis_of([sum(spans) for spans in zip(*([span.value for span in layer] for _, layer in layers), strict=True)])
    says = f"{size_text(everything)} of payload; most of it {clip(ranked[0], NAME_MAX)}, {_percent(totals[ranked[0]] / everything)}."
    drawing = plot(
        times, axis, 170, stacked_areas(times, axis, 170, layers), name="kinds", title="Payload by kind of message",
        description=says, label=_rate_text,
        told=lambda begins, ends: _told(
            [(clip(name, 16), spans) for (name, _), (_, spans) in zip(series[:KINDS_TOLD], layers, strict=False)],
            begins, ends, mean_of, _rate_text,
        ),
    )  # fmt: skip
    entries = [
        (f"{clip(name, NAME_MAX)}, {size_text(totals[name])}", _square(f"c{index}"))
        for index, (name, _) in enumerate(series, 1)
    ]
    return _figure("Traffic by kind", says, drawing, _legend(*entries))


def _kinds_of(sample: Sample) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for text, count in sample.by_kind.items():
        kinds[kind_name(text)] += count
    return kinds


def kind_name(text: str) -> str:
    """``tiles`` of a topic's text, whatever network and shard; ``delta`` of ``/nock/delta/1``; any other text as it is."""
    rule = find_topic_rule(text)
    if rule is not None:
        return rule.name
    protocol = re.fullmatch(r"/nock/([a-z-]+)/\d+", text)
    return protocol.group(1) if protocol else text


def _finality(samples: Sequence[Sample], times: Times) -> Markup:
    spans = [span for span in _gauge(samples, lambda sample: sample.finality_lag_seconds) if math.isfinite(span.value)]
    lags = _lags(samples)
    if not lags:
        return Markup("")
    worst, middle = thinned(spans, highest_of), thinned(spans, median_of)
    axis = axis_of([span.value for span in worst])
    at = next(sample.seconds for sample in samples if sample.finality_lag_seconds == max(lags))
    says = (
        f"Half of the time within {_seconds_text(median(lags))}; at worst {_seconds_text(max(lags))}, at {duration_text(at)}. "
        f"{max(sample.height for sample in samples):,} blocks final."
    )
    paths = join(
        area_path(times, axis, 140, worst, "c1 pale"),
        step_path(times, axis, 140, middle, "c1"),
    )
    drawing = plot(
        times, axis, 140, paths, name="finality", title="Finality lag", label=_seconds_text,
        told=lambda begins, ends: _told([("", spans)], begins, ends, highest_of, _seconds_text),
        description=f"From a block's time to its being final at two thirds of the running peers. {says}",
    )  # fmt: skip
    return _figure("Finality lag", says, drawing)


def _counts(
    samples: Sequence[Sample],
    times: Times,
    name: str,
    heading: str,
    count: Callable[[Sample], int],
    says: Callable[[int, int], str],
) -> Markup:
    if not samples:
        return Markup("")
    seen = _gauge(samples, count)
    spans = thinned(seen, median_of)
    axis = axis_of([span.value for span in spans])
    words = says(min(map(count, samples)), max(map(count, samples)))
    paths = join(area_path(times, axis, 90, spans, "c3 pale"), step_path(times, axis, 90, spans, "c3"))
    drawing = plot(
        times, axis, 90, paths, name=name, title=heading, description=words, label=_short_count,
        told=lambda begins, ends: _told([("", seen)], begins, ends, median_of, _short_count),
    )  # fmt: skip
    return _figure(heading, words, drawing)


def _queues(samples: Sequence[Sample], times: Times) -> Markup:
    if not samples:
        return Markup("")
    longest = max(samples, key=lambda sample: sample.queue_max)
    spans = thinned(_gauge(samples, lambda sample: sample.queue_max), highest_of)
    axis = axis_of([span.value for span in spans])
    says = (
        f"Nobody's held more than {longest.queue_max:,}, at {duration_text(longest.seconds)}."
        if longest.queue_max
        else "Nobody's ever held one at the moments that were looked at."
    )
    paths = join(area_path(times, axis, 90, spans, "c4 pale"), step_path(times, axis, 90, spans, "c4"))
    drawing = plot(
        times, axis, 90, paths, name="queues", title="Longest inbound queue of anybody", description=says, label=_short_count,
        told=lambda begins, ends: _told([("", spans)], begins, ends, highest_of, _short_count),
    )  # fmt: skip
    return _figure("Longest inbound queue", says, drawing)


# -- owners -------------------------------------------------------------------------------------------------------------


def _owners(moves: Sequence[OwnerMove], times: Times) -> Markup:
    """A row for each tile that moved, a piece for each owner. Six owners have a colour; others alternate in grey."""
    if not moves:
        return Markup("")
    by_tile: defaultdict[str, list[OwnerMove]] = defaultdict(list)
    for move in sorted(moves, key=lambda move: move.seconds):
        by_tile[move.tile].append(move)
    restless = sorted(by_tile, key=lambda tile: (-len(by_tile[tile]), _natural(tile)))[:TILES_MAX]
    room = max(4, PIECES_MAX // len(restless))
    held = {tile: _held(by_tile[tile], times, room) for tile in sorted(restless, key=_natural)}
    seconds: Counter[str] = Counter()
    for pieces in held.values():
        for begins, ends, owner in pieces:
            seconds[owner] += int(1000 * (ends - begins))
    coloured = sorted(seconds, key=lambda owner: (-seconds[owner], owner))[: COLOURS - 1]
    class_of = {owner: f"c{index}" for index, owner in enumerate(coloured, 1)}
    rows = []
    for tile, pieces in held.items():
        drawn = [
            Piece(begins, ends, class_of.get(owner, f"other-{1 + index % 2}"),
                  f"{clip(tile, NAME_MAX)}: {clip(owner, NAME_MAX)} from {duration_text(begins)} to {duration_text(ends)}")
            for index, (begins, ends, owner) in enumerate(pieces)
        ]  # fmt: skip
        rows.append((_tile_label(tile), drawn))
    owners = {name for move in moves for name in (move.before, move.after)}
    left_out = len(by_tile) - len(rows)
    says = (
        f"{count_text(len(moves), 'move')} of {count_text(len(by_tile), 'tile')} between {count_text(len(owners), 'owner')}."
        + (f" The {len(rows)} tiles that moved most are shown." if left_out else "")
    )
    entries = [(clip(owner, NAME_MAX), _square(class_of[owner])) for owner in coloured]
    if len(seconds) > len(coloured):
        entries.append((count_text(len(seconds) - len(coloured), "other"), _square("other-2")))
    drawing = strip(times, rows, name="owners", title="Owner of each tile that moved", description=says)
    return _figure("Owners of tiles", says, drawing, _legend(*entries), class_="strip")


def _held(moves: Sequence[OwnerMove], times: Times, room: int) -> list[tuple[float, float, str]]:
    """From when to when who had the tile; of moves too close to be told apart only the last is kept."""
    last_in: dict[int, OwnerMove] = {}
    for move in moves:
        last_in[int(times.share(move.seconds) * room)] = move
    kept = [last_in[place] for place in sorted(last_in)]
    edges = [0.0, *(move.seconds for move in kept), times.seconds]
    owners = [moves[0].before, *(move.after for move in kept)]
    spans = zip(pairwise(edges), owners, strict=True)
    return [(begins, ends, owner) for (begins, ends), owner in spans if ends > begins]


def _tile_label(tile: str) -> str:
    """``L3.E7/0`` of ``layer3.expert7/0``: what fits beside the strip."""
    short = re.sub(r"\blayer(?=\d)", "L", re.sub(r"\bexpert(?=\d)", "E", tile))
    return short if len(short) <= 10 else f"…{short[-9:]}"


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """So that ``layer2`` is before ``layer10``."""
    return tuple(
        (int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in re.split(r"(\d{1,9})", text)
    )


# -- rules and rounds ---------------------------------------------------------------------------------------------------


def _rules(outcome: Outcome) -> Markup:
    invariants = outcome.invariants
    if not invariants:
        return tag("section", tag("h2", "Rules"), tag("p", "No rule was watched.", class_="lead"))
    broken = sum(bool(each.breaches) for each in invariants.values())
    checks = sum(each.checks for each in invariants.values())
    ordered = sorted(invariants.items(), key=lambda item: not item[1].breaches)
    head = tag(
        "tr",
        tag("th", "", tag("span", "verdict"), scope="col"),
        tag("th", "rule", scope="col"),
        tag("th", "checked", scope="col", class_="n"),
        tag("th", "broken", scope="col", class_="n"),
    )
    return tag(
        "section",
        tag("h2", f"{count_text(len(invariants), 'rule')}, checked {checks:,} times, {f'{broken} broken' if broken else 'none broken'}"),
        tag("div", tag("table", tag("caption", "What had to hold, whatever happened."), tag("thead", head),
            tag("tbody", *(_rule(name, each) for name, each in ordered)), class_="wide"), class_="scroll", tabindex="0"),
    )  # fmt: skip


def _rule(name: str, each: Invariant) -> Markup:
    verdict, class_ = (
        ("✗ broken", "bad") if each.breaches else ("✓ held", "good") if each.checks else ("not checked", "warn")
    )
    seen = [tag("li", clip(text, SAYS_MAX)) for text in each.breaches[:BREACHES_MAX]]
    if len(each.breaches) > len(seen):
        seen.append(tag("li", f"and {len(each.breaches) - len(seen):,} more", class_="soft"))
    return tag(
        "tr",
        tag("td", tag("b", verdict), class_=class_, style="white-space:nowrap"),
        tag("td", tag("b", clip(name, NAME_MAX)), tag("br"), clip(each.says, SAYS_MAX),
            tag("ul", *seen, class_="seen") if seen else "", class_="says"),
        tag("td", f"{each.checks:,}", class_="n"),
        tag("td", f"{len(each.breaches):,}", class_="n"),
    )  # fmt: skip


def _rounds(outcome: Outcome) -> Markup:
    rounds = outcome.rounds
    if not rounds:
        return Markup("")
    has_plain = any(each.loss_plain is not None for each in rounds)
    has_honest = any(each.loss_honest is not None for each in rounds)
    fields: list[tuple[str, Callable[[RoundOutcome], str]]] = [
        ("closed", lambda each: duration_text(each.seconds)),
        ("loss", lambda each: _loss_text(each.loss)),
    ]
    if has_plain:
        fields.append(("plain averaging", lambda each: _loss_text(_or_nan(each.loss_plain))))
    if has_honest:
        fields.append(("without villains", lambda each: _loss_text(_or_nan(each.loss_honest))))
    fields += [
        ("learners", lambda each: f"{each.learners:,}"),
        ("deltas", lambda each: f"{each.deltas:,}"),
        ("tiles advanced", lambda each: f"{each.tiles_advanced:,}"),
        ("by a standby", lambda each: f"{each.takeovers:,}"),
        ("WAN", lambda each: size_text(each.wan_bytes)),
        ("local", lambda each: size_text(each.local_bytes)),
    ]
    shown = rounds if len(rounds) <= ROUNDS_MAX else [*rounds[: ROUNDS_MAX // 2], *rounds[-ROUNDS_MAX // 2 :]]
    head = tag(
        "tr",
        tag("th", "round", scope="col", class_="n"),
        *(tag("th", name, scope="col", class_="n") for name, _ in fields),
    )
    rows = (
        tag(
            "tr",
            tag("th", f"{each.round:,}", scope="row", class_="n"),
            *(tag("td", text(each), class_="n") for _, text in fields),
        )
        for each in shown
    )
    caption = "The first and the last of them." if len(shown) < len(rounds) else "Every round that was decided."
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *rows), class_="wide")
    return tag(
        "section",
        tag("h2", count_text(len(rounds), "round")),
        tag("details", tag("summary", "Every number"), tag("div", table, class_="scroll", tabindex="0")),
    )


def _footer(outcome: Outcome) -> Markup:
    digest = clip(outcome.digest, 64)
    return tag(
        "footer",
        tag("p", "Digest of everything that was delivered and decided: ", tag("code", digest)) if digest else "",
        tag("p", "Made by nocknode simnet. The same command makes the same page."),
    )


# -- series -------------------------------------------------------------------------------------------------------------


def _gauge(samples: Sequence[Sample], value: Callable[[Sample], float]) -> list[Span]:
    """What was seen at a sample, taken to hold since the sample before."""
    spans, before = [], 0.0
    for sample in samples:
        spans.append(Span(before, sample.seconds, value(sample)))
        before = sample.seconds
    return spans


def _rates(samples: Sequence[Sample], count: Callable[[Sample], int]) -> list[Span]:
    return _rates_of(samples, [count(sample) for sample in samples])


def _rates_of(samples: Sequence[Sample], counts: Sequence[int]) -> list[Span]:
    """Counts since the sample before as rates a second, thinned. What came in no time is told with the next sample."""
    spans, before, carried = [], 0.0, 0
    for sample, count in zip(samples, counts, strict=True):
        carried += count
        if sample.seconds > before:
            spans.append(Span(before, sample.seconds, carried / (sample.seconds - before)))
            before, carried = sample.seconds, 0
    return thinned(spans, mean_of)


def _told(
    series: Sequence[tuple[str, Sequence[Span]]],
    begins: float,
    ends: float,
    fold: Callable[[list[Span]], float],
    text: Callable[[float], str],
) -> str:
    """What the series were in a column of time, in words."""
    parts = [(name, between(spans, begins, ends)) for name, spans in series]
    return ", ".join(f"{name} {text(fold(spans))}".strip() for name, spans in parts if spans)


def _lags(samples: Iterable[Sample]) -> list[float]:
    """Of the samples after the first final block."""
    return [
        sample.finality_lag_seconds
        for sample in samples
        if sample.height > 0 and math.isfinite(sample.finality_lag_seconds)
    ]


def _finite(points: Iterable[tuple[float, float]]) -> list[float]:
    return [value for _, value in points if math.isfinite(value)]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


# -- words for numbers --------------------------------------------------------------------------------------------------


def _loss_text(loss: float) -> str:
    return (f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.2e}") if math.isfinite(loss) else "–"


def _seconds_text(seconds: float) -> str:
    """``0.8 s``, ``14 s``; above ten minutes as a clock shows it."""
    if seconds >= 600:
        return duration_text(seconds)
    return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"


def _rate_text(bytes_per_second: float) -> str:
    return f"{size_text(bytes_per_second)}/s" if bytes_per_second else "0"


def _short_count(count: float) -> str:
    """``950``, ``12.4 k``, ``3.1 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if count >= size:
            return f"{count / min(size, 1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{count:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def _signed_percent(share: float) -> str:
    if not math.isfinite(share):
        return "beyond all numbers"
    text = f"{share:+.1%}" if abs(share) < 0.1 else f"{share:+,.0%}"
    return text.replace("-", "−").replace("%", " %")
