"""Virtual time: trio's event loop on a clock that jumps when everybody waits, with a schedule that follows from a seed.

The only file that touches trio's private parts: the switch that makes its scheduling deterministic, which trio keeps for its own
tests, and the hook by which its ``MockClock`` learns that everybody waits. A jump ends at the next line of a grid, so that what
happens within some milliseconds happens at once: a world of hundreds of nodes has millions of moments, and each costs a jump.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import trio
from trio._core import _run

T = TypeVar("T")

GRID_SECONDS: Final = 0.005  # shorter than any way between two machines
NEVER_SECONDS: Final = 999_999_999.0  # how long trio may sleep for real: it does not, because the clock jumps first


class GridClock(trio.abc.Clock):
    """A clock that stands still while anything runs."""

    def __init__(self, grid_seconds: float = GRID_SECONDS) -> None:
        self._grid_seconds = grid_seconds
        self._line = 0  # of the grid
        self.jumps = 0

    def start_clock(self) -> None:
        _run.GLOBAL_RUN_CONTEXT.runner.clock_autojump_threshold = 0.0

    def current_time(self) -> float:
        return self._line * self._grid_seconds

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.current_time() else NEVER_SECONDS

    def _autojump(self) -> None:
        """Everybody waits. Called by trio's loop."""
        wait = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if 0 < wait < math.inf:
            self.jumps += 1
            deadline = self.current_time() + wait
            self._line = max(self._line + 1, math.ceil(deadline / self._grid_seconds - 1e-9))


@contextmanager
def _scheduled_by(seed: int) -> Iterator[None]:
    """Which of several ready tasks goes first follows from the seed."""
    switch, generator = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r
    _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r = True, random.Random(f"schedule {seed}")
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r = switch, generator


def run_virtually(seed: int, main: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run ``main`` to its end in virtual time, the same way each time."""
    with _scheduled_by(seed):
        return trio.run(main, *arguments, clock=GridClock())


async def run_inline(work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    """In place of a thread (``node.threads``): virtual time does not pass while this process computes."""
    await trio.lowlevel.checkpoint()
    return work()
