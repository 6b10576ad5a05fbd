"""Where a text ends that comes in pieces: before the first of some strings, of which no part is ever shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes pieces on, and keeps back what may yet become one of the strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._kept = ""
        self.is_found = False

    def push(self, piece: str) -> str:
        """What is certain to be shown now; nothing once a string was found."""
        if self.is_found:
            return ""
        text = self._kept + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.is_found, self._kept = True, ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._kept = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """What was kept back, when nothing comes any more."""
        kept, self._kept = self._kept, ""
        return kept


def _overlap(text: str, stop: str) -> int:
    """How long the longest end of the text is with which the string begins, which is not the whole string."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
