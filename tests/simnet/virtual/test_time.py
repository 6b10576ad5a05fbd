"""Virtual time: it jumps, follows a seed, and ends when it is told to, whoever does not want to end."""

from __future__ import annotations

import gc
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio._core import _run as trio_run

from simnet.virtual.time import GRID_SECONDS, end_of_time, run_inline, run_virtually

FOR_EVER_SECONDS = 10**9


@given(st.lists(st.floats(0.0001, 20_000), min_size=1, max_size=8), st.integers(0, 9))
def test_time_jumps_along_a_grid(waits: list[float], seed: int) -> None:
    """Whoever waits wakes at the first line of the grid at or after its moment, and hours take no time."""
    woke: list[tuple[float, float]] = []

    async def wait(seconds: float) -> None:
        await trio.sleep(seconds)
        woke.append((seconds, trio.current_time()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for seconds in waits:
                nursery.start_soon(wait, seconds)

    run_virtually(seed, main)
    assert len(woke) == len(waits)
    for wanted, was in woke:
        lines = was / GRID_SECONDS
        assert abs(lines - round(lines)) < 1e-3
        assert -1e-6 <= was - wanted <= GRID_SECONDS + 1e-6


def test_what_happens_within_a_step_of_the_grid_happens_at_once() -> None:
    """Two that wait for moments within the same step wake together."""
    woke: list[float] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for wait in (0.011, 0.0142):
                nursery.start_soon(sleep_and_tell, wait)

    async def sleep_and_tell(wait: float) -> None:
        await trio.sleep(wait)
        woke.append(trio.current_time())

    run_virtually(1, main)
    assert woke == [pytest.approx(0.015)] * 2


def schedule(seed: int) -> list[int]:
    """In which order twenty tasks, all ready all the time, take three turns each."""
    turns: list[int] = []

    async def turn(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            turns.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(turn, number)

    run_virtually(seed, main)
    return turns


def test_a_seed_is_a_schedule() -> None:
    """Which of several ready tasks goes first is the same each time, and another with another seed."""
    first = schedule(1)
    assert [schedule(1) for _ in range(3)] == [first] * 3
    assert schedule(2) != first
    assert sorted(first) == sorted(schedule(2))


def test_the_schedule_of_others_is_left_alone() -> None:
    """A loop that runs afterwards has trio's own schedule, and nobody's generator was drawn from."""
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r, random.getstate()
    schedule(3)
    assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r) == before[:2]
    assert random.getstate() == before[2]


async def refuse_to_end() -> None:
    """A task that no cancellation ends."""
    while True:
        try:
            await trio.sleep(FOR_EVER_SECONDS)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.sleep(1.0)


async def clean_up() -> None:
    """A task that waits for something when it ends."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1.0)


def test_a_world_ends_with_a_task_that_swallows_its_cancellation() -> None:
    """``end_of_time`` ends it, with tasks that have not begun as well; nothing of it complains when its memory is taken."""
    seen: list[float] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for task in (refuse_to_end, clean_up, refuse_to_end):
                nursery.start_soon(task)
            await trio.sleep(5.0)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(60.0)
            seen.append(trio.current_time())
            nursery.start_soon(trio.sleep_forever)  # has no turn any more
            end_of_time()

    run_virtually(1, main)
    gc.collect()
    assert seen == [pytest.approx(65.0)]
    assert schedule(1) == schedule(1)


def test_everybody_waiting_for_ever_is_told() -> None:
    """A world in which nothing can happen any more says so in place of hanging."""
    with pytest.raises(ExceptionGroup) as told:
        run_virtually(1, trio.sleep_forever)
    assert [str(each) for each in told.value.exceptions] == ["everybody in this world waits for ever"]


def test_what_a_world_raises_comes_out() -> None:
    """An error of the main task is the caller's."""

    async def main() -> None:
        await trio.sleep(1.0)
        raise LookupError("lost")

    with pytest.raises(ExceptionGroup) as told:
        run_virtually(1, main)
    assert [str(each) for each in told.value.exceptions] == ["lost"]


def test_work_in_place_of_a_thread_takes_no_time() -> None:
    """What other worlds do beside the loop is done in it, at one moment; what it raises comes out."""
    results: list[tuple[int, float]] = []

    def fail() -> int:
        raise LookupError("lost")

    async def main() -> None:
        await trio.sleep(2.0)
        results.append((await run_inline(lambda: 7), trio.current_time()))
        with pytest.raises(LookupError):
            await run_inline(fail)

    run_virtually(1, main)
    assert results == [(7, pytest.approx(2.0))]
