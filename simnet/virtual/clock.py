"""The clock of one simulated machine: the world's time, and what its owner has set it to."""

from __future__ import annotations

import trio

from node.clock import Clock
from simnet.network import CREATED_MS


class VirtualClock(Clock):
    """Reads trio's clock, which jumps in this world (``simnet/virtual/time.py``)."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def now_ms(self) -> int:
        return CREATED_MS + self.offset_ms + int(1000 * trio.current_time())

    def monotonic_ms(self) -> int:
        return int(1000 * trio.current_time())

    def monotonic_seconds(self) -> float:
        return trio.current_time()
