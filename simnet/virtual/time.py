"""Virtual time: trio's event loop on a clock that jumps when everybody waits, with a schedule that follows from a seed.

A jump ends at the next line of a grid, so that what happens within some milliseconds happens at once: a world of hundreds of
nodes has millions of moments, and each costs a jump. This is the only file that touches trio's private switch for a schedule
that can be repeated, which trio keeps for its own tests.
"""

from __future__ import annotations

import gc
import inspect
import math
import random
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

import trio
import trio.abc
import trio.testing
from trio._core import _run as _trio_run

T = TypeVar("T")

_private: Any = _trio_run  # trio calls these names final
GRID_SECONDS: Final = 0.005  # shorter than any way between two machines
CLOSINGS_MAX: Final = 8  # of one task: each ends one more thing that refuses to end (a guess)


class _JumpingClock(trio.abc.Clock):
    """Time that stands until it is set. Asked half a million times in a virtual minute: a ``MockClock``, which can also run
    at a rate, costs three calls each time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.has_ended = False

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        if self.has_ended:
            raise _EndOfTime
        return self.seconds

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Seconds of the real world: it never comes by itself."""
        return 0.0 if deadline <= self.seconds else math.inf


async def _jump_along(clock: _JumpingClock, grid_seconds: float) -> NoReturn:
    """Whenever everybody waits, go to the line at or after the next moment at which somebody wakes."""
    while True:
        await trio.testing.wait_all_tasks_blocked()
        wait = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if 0 < wait < math.inf:
            now = clock.seconds
            line = max(round(now / grid_seconds) + 1, math.ceil((now + wait) / grid_seconds - 1e-6))
            clock.seconds = line * grid_seconds
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

    The loop has no such thing: a clock that raises ends it, and ``run_virtually`` buries what it ran.
    """
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, _JumpingClock)
    clock.has_ended = True
    raise _EndOfTime


def run_virtually(seed: int, main: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Run ``main`` to its end in virtual time, the same way each time."""
    clock = _JumpingClock()
    tasks: list[trio.lowlevel.Task] = []
    ended = False

    async def run() -> None:
        root = trio.lowlevel.current_root_task()
        tasks.extend([root] if root else [])
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
            ended = True
    if ended:
        with _unheard():
            _bury(tasks)
            gc.collect()  # generators that tasks were in the middle of complain too


@contextmanager
def _unheard() -> Iterator[None]:
    """What ends without its loop says that it could not end well: to the interpreter, and as a warning."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook


def _bury(tasks: list[trio.lowlevel.Task]) -> None:
    """Close these tasks of a loop that has ended, and those that they started, the youngest first.

    The collector of garbage would do it too, at any later time, and warn of each that never began or did not want to end.
    """
    for task in tasks:  # which grows
        nurseries: Sequence[Any] = task.child_nurseries
        for nursery in nurseries:
            tasks.extend(nursery.child_tasks)
            nursery._children.clear()  # nobody will tell it that they ended
    for task in sorted(tasks, key=_age, reverse=True):
        coroutine: Any = task.coro
        for _ in range(CLOSINGS_MAX):
            with suppress(
                Exception, BaseExceptionGroup
            ):  # whatever it waits for at its end, no loop is there to give it
                coroutine.close()
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED:
                break


def _age(task: Any) -> int:
    """The number of a task: a task is started by one with a smaller number."""
    number: int = task._counter
    return number


async def run_inline(work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    """In place of a thread (``node.threads``): virtual time does not pass while this process computes."""
    await trio.lowlevel.checkpoint()
    return work()
