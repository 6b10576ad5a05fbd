"""A picture with its heading, the finding in a sentence, and a legend. What all figures of the page share."""

from __future__ import annotations

from simnet.markup import Markup, tag


def figure(heading: str, says: str, drawing: str, *more: str, class_: str | None = None) -> Markup:
    return tag("figure", tag("figcaption", tag("h3", heading), tag("p", says), *more), drawing, class_=class_)


def legend_of(*entries: tuple[str, Markup]) -> Markup:
    return tag("ul", *(tag("li", swatch, says) for says, swatch in entries), class_="legend")


def square(class_: str) -> Markup:
    rect = tag("rect", class_=f"swatch {class_}", width=11, height=11, rx=2)
    return tag("svg", rect, width=11, height=11, aria_hidden="true")


def stroke(class_: str) -> Markup:
    line = tag("line", class_=f"line {class_}", x1=1, x2=25, y1=6, y2=6)
    return tag("svg", line, width=26, height=12, aria_hidden="true")
