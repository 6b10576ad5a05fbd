"""Numbers for people: sizes, times, ratios, and a line of bars. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"


def size_text(count: float) -> str:
    """Bytes in decimal units: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration_text(seconds: float) -> str:
    """``4:07`` or ``1:02:33``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ratio_text(value: float | None) -> str:
    """``41x``, with a decimal where it is small; a dash where nothing was counted."""
    if value is None:
        return "–"
    return f"{value:.1f}×" if value < 10 else f"{value:.0f}×"


def count_text(number: int, word: str) -> str:
    """``1 tile``, ``2 tiles``."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last `width` values as bars between their smallest and largest; a gap where there is no value."""
    shown = list(values)[-width:] if width > 0 else []
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    steps = len(BARS) - 1
    return "".join(" " if v is None else BARS[round((v - low) / span * steps) if span else 0] for v in shown)
