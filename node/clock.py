"""The only reader of clocks. Everybody else is given the time, or is given a `Clock` to ask.

Two clocks, because they answer two questions: the wall clock says when something happened, is shared with other machines and
may jump; the monotonic one says how long something took and means nothing elsewhere.
"""

from __future__ import annotations

import time


class Clock:
    """The machine's clocks. Tests hand over one of their own."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970, UTC. What envelopes, headers and logs carry."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary moment; never goes back. What timeouts and rates are measured with."""
        return time.monotonic_ns() // 1_000_000

    def monotonic_seconds(self) -> float:
        """The same in seconds, for durations that are printed."""
        return time.monotonic()
