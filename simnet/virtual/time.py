"""Virtual time: trio's event loop on a clock that jumps when everybody waits, with a schedule that follows from a seed.

A jump ends at the next line of a grid, so that what happens within some milliseconds happens at once: a world of hundreds of
nodes has millions of moments, and each costs a jump. This is the only file that touches trio's private switch for a schedule
that can be repeated, which trio keeps for its own tests.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

import trio
import trio.testing
from trio._core import _run as _trio_run

T = TypeVar("T")

_private: Any = _trio_run  # trio calls these names final
GRID_SECONDS: Final = 0.005  # shorter than any way between two machines


async def _jump_along(clock: trio.testing.MockClock, grid_seconds: float) -> NoReturn:
    """Whenever everybody waits, go to the line at or after the next moment at which somebody wakes."""
    while True:
        await trio.testing.wait_all_tasks_blocked()
        wait = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if 0 < wait < math.inf:
            now = clock.current_time()
            line = max(round(now / grid_seconds) + 1, math.ceil((now + wait) / grid_seconds - 1e-6))
            clock.jump(line * grid_seconds - now)
        elif wait == math.inf:
            raise RuntimeError("everybody in this world waits for ever")


@contextmanager
def _scheduled_by(seed: int) -> Iterator[None]:
    """Which of several ready tasks goes first follows from the seed."""
    switch, generator = _private._ALLOW_DETERMINISTIC_SCHEDULING, _private._r
    _private._ALLOW_DETERMINISTIC_SCHEDULING, _private._r = True, random.Random(f"schedule {seed}")
    try:
        yield
    finally:
        _private._ALLOW_DETERMINISTIC_SCHEDULING, _private._r = switch, generator


class _EndOfTime(Exception):
    """Nothing happens any more."""


def end_of_time() -> NoReturn:
    """End this world at once, with tasks that refuse to end; ``run_virtually`` returns.

    The loop has no such thing: a clock that raises ends it, and leaves what it ran to the collector of garbage.
    """
    clock: Any = trio.lowlevel.current_clock()

    def refuse() -> float:
        raise _EndOfTime

    clock._real_clock = refuse
    raise _EndOfTime


def run_virtually(seed: int, main: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Run ``main`` to its end in virtual time, the same way each time."""
    clock = trio.testing.MockClock()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_jump_along, clock, GRID_SECONDS)
            await main(*arguments)
            nursery.cancel_scope.cancel()

    with _scheduled_by(seed):
        try:
            trio.run(run, clock=clock)
        except trio.TrioInternalError as error:
            if not isinstance(error.__cause__, _EndOfTime):
                raise


async def run_inline(work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    """In place of a thread (``node.threads``): virtual time does not pass while this process computes."""
    await trio.lowlevel.checkpoint()
    return work()
