"""A network line that may be slow: when bytes that come now arrive. Pure.

Bytes wait for those before them to be sent at the line's rate, then travel for its delay. A usual line has no bound and no
delay: the loopback's own are what they are.

    come at 3.0 s ──── sent one after another, at the rate ──── 3.5 s ──── delay ──── arrive at 3.7 s
"""

from __future__ import annotations

from collections.abc import Sequence


class Line:
    """One direction of one peer's link, shared by all of its connections."""

    def __init__(self) -> None:
        self.delay_seconds = 0.0
        self._bytes_per_second: float | None = None
        self._free_at = 0.0  # when all that was taken so far is sent

    def set_speed(self, delay_seconds: float, bytes_per_second: float | None) -> None:
        """How it is from now on; None: no bound. What was taken already keeps its time."""
        self.delay_seconds, self._bytes_per_second = delay_seconds, bytes_per_second
        self._free_at = 0.0

    def take(self, size_bytes: int, now: float) -> float:
        """When the last of these bytes is sent."""
        if self._bytes_per_second is None:
            return now
        self._free_at = max(self._free_at, now) + size_bytes / self._bytes_per_second
        return self._free_at


def arrives_at(lines: Sequence[Line], size_bytes: int, now: float) -> float:
    """When these bytes have come through all of the lines: the slowest sets the pace, the delays add up."""
    return max(line.take(size_bytes, now) for line in lines) + sum(line.delay_seconds for line in lines)
