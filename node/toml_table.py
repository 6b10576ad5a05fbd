"""TOML read through a table of keys: a mistake becomes one sentence with its line and the nearest right word.

A schema is a tuple of `Key`s, each with its reader, its default and the reason for the default. Numbers with a point are read
as exact fractions of their text, never as binary floating point, because some of them end in a document that everybody hashes.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from protocol.genesis import MILLION
from protocol.rejection import Reason, Rejected

CONFIG_BYTES_MAX = 256 * 1024  # a configuration is a few KiB; whoever names a corpus by mistake is told so
KEY_DOTS_MAX = 16  # ours have one; tomllib's memory grows with the square of them

Reader = Callable[[Any], Any]
"""Turns a TOML value into a checked one; raises ``ValueError`` with the end of a sentence ("must be ...")."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its place (``section.name``, or a bare name at the top), reader, default as a file would say it, and why."""

    place: str
    read: Reader
    default: Any
    why: str
    option: str = ""  # of the command line, where it has one

    @property
    def section(self) -> str:
        return self.place.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.place.rpartition(".")[2]


def read_toml(path: Path) -> str:
    """The text of a TOML file; raises ``Rejected(BAD_CONFIG)`` when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Rejected(Reason.BAD_CONFIG, f"{path}: {error.strerror or error}") from None
    if len(data) > CONFIG_BYTES_MAX:
        raise Rejected(Reason.BAD_CONFIG, f"{path} has {len(data)} bytes: that is no configuration")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Rejected(Reason.BAD_CONFIG, f"{path} is not UTF-8 text") from None


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text that still knows where its values stand. Numbers with a point are ``Fraction``."""

    source: str
    values: dict[str, Any]
    lines: Mapping[str, int]  # of each place; the second table of ``[[faults]]`` is ``faults[1]``

    def where(self, place: str) -> str:
        """``devnet.toml, line 7``; what has no line of its own stands where its table does."""
        while place:
            if place in self.lines:
                return f"{self.source}, line {self.lines[place]}"
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        return self.source


def parse_document(text: str, source: str) -> Document:
    """TOML, not yet looked at; raises ``Rejected(BAD_CONFIG)``. ``source`` is how sentences call the text."""
    if any(line.partition("=")[0].count(".") > KEY_DOTS_MAX for line in text.splitlines()):
        raise Rejected(Reason.BAD_CONFIG, f"{source}: a key has more than {KEY_DOTS_MAX} dots")
    try:
        document = tomllib.loads(text, parse_float=_exact)
    except ValueError as error:  # TOMLDecodeError is one
        raise Rejected(Reason.BAD_CONFIG, f"{source}: {error}") from None
    except RecursionError:  # tomllib reads lists in lists by calling itself
        raise Rejected(Reason.BAD_CONFIG, f"{source}: its values are nested too deeply to be a configuration") from None
    return Document(source, document, _line_of_places(text))


def read_entries(entries: Mapping[str, Any], schema: Sequence[Key], where: Callable[[str], str]) -> dict[str, Any]:
    """The checked value of every entry, by place; those that ``schema`` does not know raise ``Rejected(BAD_CONFIG)``."""
    by_place = {key.place: key for key in schema}
    values: dict[str, Any] = {}
    for place, value in entries.items():
        key = by_place.get(place)
        if key is None:
            raise Rejected(Reason.BAD_CONFIG, f"{where(place)}: {_unknown(place, by_place)}")
        values[place] = _read(key, value, where(place), Reason.BAD_CONFIG)
    return values


def read_table(
    text: str, schema: Sequence[Key], source: str, overrides: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The checked value of every key of ``schema``, by place; ``overrides`` (from options) win over the text.

    Raises ``Rejected(BAD_CONFIG)``, or ``Rejected(BAD_ARGUMENT)`` for an override; one sentence with the remedy.
    """
    document = parse_document(text, source)
    by_place = {key.place: key for key in schema}
    values = {key.place: key.read(key.default) for key in schema}
    values.update(read_entries(_flatten(document.values, {key.section for key in schema}), schema, document.where))
    for place, value in (overrides or {}).items():
        values[place] = _read(by_place[place], value, "", Reason.BAD_ARGUMENT)
    return values


def write_table(schema: Sequence[Key], values: Mapping[str, object]) -> str:
    """A TOML text with every key, its reason above it; keys without a value of their own are commented out."""
    lines: list[str] = []
    section = ""
    for key in schema:
        if key.section != section:
            section = key.section
            lines += ["", f"[{section}]"]
        lines.append(f"# {key.why}")
        prefix = "" if key.place in values else "# "
        lines.append(f"{prefix}{key.name} = {_toml(values.get(key.place, key.default))}")
    return "\n".join(lines).lstrip("\n") + "\n"


# -- readers -----------------------------------------------------------------------------------------------------------


def whole(low: int, high: int) -> Reader:
    """A whole number between two bounds, both included."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def scaled(low: Fraction | int, high: Fraction | int, scale: int, unit: str) -> Reader:
    """A number read as an integer count of ``1 / scale``; ``low`` and ``high`` are in units of the file."""

    def read(value: Any) -> int:
        if isinstance(value, float):  # an option or a default: its shortest text is what was typed
            value = Fraction(repr(value)) if math.isfinite(value) else None
        if isinstance(value, bool) or not isinstance(value, int | Fraction) or not low <= value <= high:
            raise ValueError(f"must be a number from {float(low):g} to {float(high):g}")
        exact = Fraction(value) * scale
        if exact.denominator != 1:
            raise ValueError(f"must be a whole number of {unit}")
        return exact.numerator

    return read


def number(low: float, high: float) -> Reader:
    """A number between two bounds as binary floating point: for what no document holds and nobody hashes."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | Fraction) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return read


def millionths(high: int, low: int = 0) -> Reader:
    """A number with at most six decimal places, as an integer of millionths; ``low`` is in millionths."""
    return scaled(Fraction(low, MILLION), high, MILLION, "millionths: at most six decimal places")


def seconds(high: int) -> Reader:
    """A tenth of a second or more, as an integer of milliseconds."""
    return scaled(Fraction(1, 10), high, 1000, "milliseconds: at most three decimal places")


def text(pattern: str, what: str) -> Reader:
    """Text that matches the whole pattern."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"must be {what}")
        return value

    return read


def choice(*words: str) -> Reader:
    """One of a few words."""

    def read(value: Any) -> str:
        if value not in words:
            near = difflib.get_close_matches(str(value), words, n=1)
            raise ValueError(f"must be one of {', '.join(words)}" + (f"; did you mean {near[0]}?" if near else ""))
        return str(value)

    return read


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def size_bytes(low: int) -> Reader:
    """A size: a whole number of bytes, or text with a unit, such as ``"20 GiB"``."""

    def read(value: Any) -> int:
        match = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", str(value).strip())
        if isinstance(value, bool) or match is None or match[2] not in _UNITS:
            raise ValueError('must be a size such as "20 GiB" (units: KiB, MiB, GiB, TiB)')
        size = int(match[1]) * _UNITS[match[2]]
        if size < low:
            raise ValueError(f"must be at least {low} bytes")
        return size

    return read


def listed(read_one: Reader) -> Reader:
    """A list, each entry read by ``read_one``; a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError('must be a list: ["..."]')
        return tuple(read_one(entry) for entry in value)

    return read


# -- inside ------------------------------------------------------------------------------------------------------------


def _exact(number: str) -> Fraction | str:
    """A number with a point or an exponent, exactly. Infinity and not-a-number stay words, which no reader accepts.

    The exponent is bounded first: "1e999999999" would be an integer of a billion digits.
    """
    exponent = number.lower().partition("e")[2]
    return number if number.lstrip("+-")[0].isalpha() or len(exponent) > 4 else Fraction(number)


def _read(key: Key, value: object, where: str, reason: Reason) -> Any:
    name = f"{where}: {key.place}" if where else key.option or key.place
    try:
        return key.read(value)
    except Rejected as error:
        raise Rejected(reason, f"{name}: {error.detail}") from None
    except ValueError as error:
        raise Rejected(reason, f"{name} is {_shown(value)}, it {error}") from None


def _shown(value: object) -> str:
    if isinstance(value, list):
        shown = f"[{', '.join(_shown(entry) for entry in value[:60])}]"
    else:
        shown = f"{float(value):g}" if isinstance(value, Fraction) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _unknown(place: str, known: Mapping[str, Key]) -> str:
    """What is said of a key that nobody knows, with the nearest one that exists: same place first, then same name anywhere."""
    near = difflib.get_close_matches(place, known, n=1, cutoff=0.6)
    if not near:
        name = place.rpartition(".")[2]
        near = [other for other in known if other.rpartition(".")[2] == name]
    first_names = dict.fromkeys(key.section or key.name for key in known.values())
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(first_names)}"
    return f"unknown key {place}; {hint}"


def _flatten(document: Mapping[str, Any], sections: set[str]) -> dict[str, Any]:
    """Values by place. A table that is no section is left as it is: then its name is the unknown key."""
    places: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict) and name in sections:
            places.update({f"{name}.{inner}": entry for inner, entry in value.items()})
        else:
            places[name] = value
    return places


_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_.\"' -]+?)\s*\]\s*(?:#.*)?")
_HEADER_OF_MANY = re.compile(r"\s*\[\[\s*([A-Za-z0-9_.\"' -]+?)\s*\]\]\s*(?:#.*)?")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=")


def _line_of_places(text: str) -> dict[str, int]:
    """The line on which each key stands. A scan, not a parser: the text is known to be TOML by now."""
    lines: dict[str, int] = {}
    tables: Counter[str] = Counter()  # of an array, so far
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.fullmatch(line):
            section = header[1]
            lines.setdefault(section, number)
        elif header := _HEADER_OF_MANY.fullmatch(line):
            tables[header[1]] += 1
            section = f"{header[1]}[{tables[header[1]] - 1}]"
            lines.setdefault(header[1], number)
            lines.setdefault(section, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault(f"{section}.{assignment[1]}".lstrip("."), number)
    return lines


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "[" + ", ".join(_toml(entry) for entry in value) + "]"
        case _:
            escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
