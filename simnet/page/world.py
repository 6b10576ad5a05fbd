"""Where the peers are and what crosses the world: a map, and the same as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from simnet.markup import Markup, clip, tag
from simnet.outcome import Outcome, RegionOutcome
from simnet.page import atlas
from simnet.page.words import NAME_MAX, percent
from simnet.scenario import CutRegion, Scenario, SlowRegion
from simnet.text import count_text, size_text

REGIONS_MAX: Final = 12  # rows and columns of the table
ARCS_MAX: Final = 40  # the widest


def draw_world(outcome: Outcome, scenario: Scenario | None) -> Markup:
    """The section; empty if no region is told of."""
    regions = sorted(outcome.regions, key=lambda each: -each.peers)
    if not regions:
        return Markup("")
    inside = sum(each.sent_to.get(each.name, 0) for each in regions)
    crossed = sum(sum(each.sent_to.values()) for each in regions) - inside
    share = f", {percent(crossed / (inside + crossed))} of everything sent" if inside + crossed else ""
    hit = _hit_regions(scenario)
    says = f"Circles are as large as the number of peers, arcs as wide as the bytes that crossed{share}."
    if hit:
        says += " A ring is a region that was cut off or slow for a time."
    return tag(
        "section",
        tag("h2", f"{count_text(len(regions), 'region')}, {size_text(crossed)} between them"),
        tag("p", says, class_="lead"),
        _map(regions, hit),
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
    widths = [max(0.8, 11 * count / most) for _, count in drawn]
    arcs = [
        tag("path", tag("title", f"{clip(one, NAME_MAX)} and {clip(other, NAME_MAX)}: {size_text(count)}"), class_="arc",
            d=atlas.arc_commands(places[one], places[other]), stroke_width=width)
        for ((one, other), count), width in zip(drawn, widths, strict=True)
    ]  # fmt: skip
    curves = [
        (atlas.along_arc(places[one], places[other]), width)
        for ((one, other), _), width in zip(drawn, widths, strict=True)
    ]
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
    curves: Sequence[tuple[Sequence[atlas.Point], float]],
    units: float,
) -> list[Markup]:
    """Each name beside its circle, on the side where it covers least of what is there already."""
    taken = [
        (x - radius, y - radius, x + radius, y + radius)
        for each in regions
        for (x, y), radius in [(places[each.name], _radius(each, peers_max))]
    ]
    for curve, width in curves:
        half = max(3.0, width / 2 + 1)
        taken += [(x - half, y - half, x + half, y + half) for x, y in curve]
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
            (x + away / 2, y + away, "start"),
            (x - away / 2, y + away, "end"),
            (x + away / 2, y - away, "start"),
            (x - away / 2, y - away, "end"),
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
