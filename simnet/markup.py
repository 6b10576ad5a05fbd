"""HTML and SVG as values: only ``tag`` makes markup, and it escapes every text that is not markup already.

So nothing from outside (a scenario's name, a peer's, what a checker saw) can become an element, and what comes out is
well-formed XML and HTML at once: elements are closed, attributes are quoted, characters that XML forbids are replaced.
"""

from __future__ import annotations

import re
from typing import Final

# Empty in HTML by definition, and SVG's shapes. Everything else gets a closing tag: HTML ignores the slash of `<p/>`.
CHILDLESS: Final = frozenset({"meta", "br", "hr", "path", "line", "circle"})

# What XML 1.0 cannot say, halves of surrogate pairs, and what turns the direction of the text around it.
UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
ENTITIES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


class Markup(str):
    """Text that is markup already. Made by ``tag`` and ``join``, and from constants."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Any text as markup that shows it."""
    return text if isinstance(text, Markup) else Markup(UNPRINTABLE.sub("\ufffd", text).translate(ENTITIES))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """One element. ``class_`` is written ``class``, ``stroke_width`` ``stroke-width``; an attribute of None is left out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, str) else number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in CHILDLESS:
        return Markup(f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: str, between: str = "") -> Markup:
    """Elements and texts after each other."""
    return Markup(escape(between).join(escape(child) for child in children))


def number(value: float) -> str:
    """A coordinate: to a hundredth, without zeros that say nothing."""
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return "0" if text == "-0" else text


def clip(text: str, length_max: int) -> str:
    """The beginning of a text, so that one name cannot fill the page."""
    return text if len(text) <= length_max else text[: length_max - 1] + "…"
