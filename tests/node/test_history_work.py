"""Histories in processes of their own: the same answers as in this one, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from consensus.events import HistoryVerified, HistoryWalked, VerifyHistory, WalkHistory
from consensus.history import check_joined, segments_between, walk_segments
from node import history_work, history_worker
from node.history_work import HistoryWork, share_out, usable_cores
from node.services.history import HistoryService
from node.verify import _Verification
from protocol.digest import blob_digest
from protocol.ids import Digest
from protocol.limits import HISTORY_SEGMENTS, HISTORY_TICKS_PER_SEGMENT_MAX
from tests.node.ground_samples import make_ground

START = blob_digest(b"start")
TICKS = history_work.IN_THREAD_TICKS_MAX // HISTORY_SEGMENTS + 1  # the fewest that are worth a process
ENDS = walk_segments(START, TICKS, HISTORY_SEGMENTS)
WRONG = blob_digest(b"another end")


def with_other(index: int, end: Digest = WRONG) -> tuple[Digest, ...]:
    return (*ENDS[:index], end, *ENDS[index + 1 :])


def children() -> list[psutil.Process]:
    """Also those that ended and were not waited for. A pool of another test leaves one helper for this process's life."""
    return [child for child in psutil.Process().children() if not is_tracker(child)]


def is_tracker(child: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any("multiprocessing.resource_tracker" in word for word in child.cmdline())
    return False


def test_verifying_a_chain_tells_of_a_history_that_does_not_follow():
    """Of which block; a right one is counted and not mentioned."""
    ground = make_ground()
    ground.work = SimpleNamespace(tile_map=None)  # type: ignore[assignment]  # no tile is looked at
    verification = _Verification(ground, lambda done, total, what: None)
    ticks = ground.genesis.chain.history_segment_ticks
    ends = walk_segments(START, ticks, HISTORY_SEGMENTS)
    verification._verify_history(3, START, ends)
    verification._verify_history(7, START, (*ends[:-1], WRONG))
    assert verification._report.histories == 2
    assert verification._report.problems == [
        "block 7: the history that it tells does not follow from the reveals before it"
    ]


def test_a_process_walks_what_this_one_walks():
    """The ends are the same, and so they are of a history that is too short for a process."""
    assert trio.run(HistoryWork().walk, START, TICKS) == ENDS
    assert trio.run(HistoryWork().walk, START, 5) == walk_segments(START, 5, HISTORY_SEGMENTS)
    assert children() == []


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
def test_any_number_of_processes_finds_what_one_finds(cores):
    """A history is right however its segments are shared out; another end is found wherever it is."""
    work = HistoryWork(cores)
    assert trio.run(work.verify, START, ENDS, TICKS)
    for index in (0, 7, HISTORY_SEGMENTS - 1):
        assert not trio.run(work.verify, START, with_other(index), TICKS)
    assert not trio.run(work.verify, WRONG, ENDS, TICKS)
    assert children() == []


@given(st.integers(0, HISTORY_SEGMENTS - 1), st.integers(0, 255), st.integers(1, 64))
def test_every_tampered_bit_of_every_end_is_found_in_some_share(index, bit, shares):
    """The child's own function says "wrong" of a share exactly when it touches the tampered end."""
    ends = list(walk_segments(START, 2, HISTORY_SEGMENTS))
    raw = int.from_bytes(ends[index], "big") ^ (1 << bit)
    ends[index] = Digest(raw.to_bytes(32, "big"))
    said = [
        history_worker.main(["check", "2", first.hex(), *(end.hex() for end in run)])
        for first, run in share_out(START, ends, shares)
    ]
    assert history_worker.WRONG in said
    assert set(said) <= {history_worker.RIGHT, history_worker.WRONG}


@given(st.integers(1, 40), st.integers(1, 64))
def test_shares_are_all_segments_in_order_and_as_equal_as_can_be(count, shares):
    """Joined again they are the whole; none is empty, none is larger than another by more than one."""
    ends = walk_segments(START, 1, count)
    runs = share_out(START, ends, shares)
    segments = [segment for first, run in runs for segment in segments_between(first, run, 1)]
    assert check_joined(START, segments) == ends[-1]
    sizes = [len(run) for _, run in runs]
    assert len(runs) == min(shares, count)
    assert (sum(sizes), min(sizes) >= 1, max(sizes) - min(sizes) <= 1) == (count, True, True)


def test_whoever_cancels_leaves_no_process_behind():
    """A node that stops does not wait for hashes: neither for a walk nor for any of the shares."""

    async def cancelled(call: Callable, *arguments: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, *arguments)
            with trio.fail_after(60):
                while not children():
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert children() == []

    work = HistoryWork(3)
    trio.run(cancelled, work.walk, START, HISTORY_TICKS_PER_SEGMENT_MAX)
    trio.run(cancelled, work.verify, START, ENDS, HISTORY_TICKS_PER_SEGMENT_MAX)


def test_no_more_processes_run_than_there_are_cores():
    """Two verifications at once share them."""
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(len(children()))
            await trio.sleep(0.002)

    async def both() -> None:
        work = HistoryWork(2)
        async with trio.open_nursery() as outer:
            outer.start_soon(watch)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work.verify, START, ENDS, TICKS)
                nursery.start_soon(work.verify, START, ENDS, TICKS)
            outer.cancel_scope.cancel()

    trio.run(both)
    assert 1 <= max(seen) <= 2
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_a_process_that_somebody_killed_is_started_again():
    """The engine asked once and is answered once; what is known wrong is not asked again."""
    said: list[HistoryWalked | HistoryVerified] = []

    async def post(event: HistoryWalked | HistoryVerified) -> None:
        said.append(event)

    class Unlucky(HistoryWork):
        calls = 0

        async def _run(self, *arguments: str) -> str:
            self.calls += 1
            if self.calls == 1:
                raise OSError("a history process ended with -9")
            return await super()._run(*arguments)

    async def ask() -> None:
        await HistoryService(Unlucky(2), post, retry_seconds=0.0).walk(WalkHistory(START, TICKS))
        await HistoryService(Unlucky(2), post, retry_seconds=0.0).verify(VerifyHistory(START, ENDS, TICKS))
        await HistoryService(Unlucky(2), post, retry_seconds=0.0).verify(VerifyHistory(START, with_other(3), TICKS))

    trio.run(ask)
    assert said == [
        HistoryWalked(START, ENDS),
        HistoryVerified(START, ENDS, True),
        HistoryVerified(START, with_other(3), False),
    ]
