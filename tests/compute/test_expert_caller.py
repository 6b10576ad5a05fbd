"""Whom to ask for an expert's rows: conversations with holders that are quick, slow, dead, busy and wrong, in made-up time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.expert_caller import (
    SECOND_US,
    Answered,
    AskExpert,
    CallingRule,
    Drop,
    ExpertCaller,
    Failure,
    GiveUp,
    Placed,
    Refuted,
    Take,
    Unanswered,
    Unwanted,
    Wake,
    Wanted,
    Woken,
)
from protocol.experts import ExpertSlice
from protocol.ids import PeerId

EXPERT = ExpertSlice("layer0.expert0")
A, B, C = (PeerId(bytes([number]) * 32) for number in range(3))
MS = 1_000
Behaviour = Callable[
    [int], "tuple[int, Failure | None] | None"
]  # at a time: after how long what comes; None: nothing ever


def quick(now_us: int) -> tuple[int, None]:
    return 2 * MS, None


def slow(now_us: int) -> tuple[int, None]:
    return 400 * MS, None


def dead(now_us: int) -> None:
    return None


def from_then_on(at_us: int, before: Behaviour, after: Behaviour) -> Behaviour:
    return lambda now_us: (before if now_us < at_us else after)(now_us)


class World:
    """Calls at their times, holders as they behave; what comes of each call."""

    def __init__(
        self, holders: dict[PeerId, Behaviour], shares: dict[PeerId, int] | None = None, seed: int = 1
    ) -> None:
        self.caller = ExpertCaller(Random(seed))
        self.holders = holders
        self.now_us = 0
        self.coming: list[tuple[int, int, object]] = []
        self.order = 0
        self.since: dict[int, int] = {}
        self.took_us: dict[int, int] = {}  # of calls that have an answer
        self.given_up: list[int] = []
        self.asked: Counter[PeerId] = Counter()
        self.asked_at: list[tuple[int, PeerId, int]] = []
        self.open: dict[int, int] = {}
        self.wake_us: int | None = None
        self.place({EXPERT: shares or dict.fromkeys(holders, 10)})

    def place(self, copies: dict[ExpertSlice, dict[PeerId, int]]) -> None:
        self.tell(Placed(copies))

    def want(self, number: int, patience_us: int = 10 * SECOND_US, expert: ExpertSlice = EXPERT) -> None:
        self.since[number] = self.now_us
        self.tell(Wanted(number, expert, self.now_us + patience_us))

    def tell(self, event: object) -> None:
        if isinstance(event, Unanswered):
            self.open.pop(event.question, None)
        for effect in self.caller.handle(event, self.now_us):
            match effect:
                case AskExpert(question, call, peer):
                    assert call in self.since
                    assert call not in self.took_us
                    assert call not in self.given_up
                    self.open[question] = call
                    self.asked[peer] += 1
                    self.asked_at.append((self.now_us, peer, call))
                    behaved = self.holders[peer](self.now_us)
                    if behaved is not None:
                        after_us, failure = behaved
                        self.later(after_us, Answered(question) if failure is None else Unanswered(question, failure))
                case Take(question, call):
                    assert self.open.pop(question) == call
                    assert call not in self.took_us
                    self.took_us[call] = self.now_us - self.since[call]
                case GiveUp(call):
                    assert call not in self.took_us
                    assert call not in self.given_up
                    self.given_up.append(call)
                case Drop(question):
                    self.open.pop(question)
                case Wake(at_us):
                    assert at_us > self.now_us
                    self.wake_us = at_us

    def later(self, after_us: int, event: object) -> None:
        self.order += 1
        heapq.heappush(self.coming, (self.now_us + after_us, self.order, event))

    def run(self, until_us: int) -> None:
        while True:
            at_us = min(
                [*(each[0] for each in self.coming[:1]), *([] if self.wake_us is None else [self.wake_us])],
                default=None,
            )
            if at_us is None or at_us > until_us:
                break
            self.now_us = at_us
            if self.wake_us == at_us:
                self.wake_us = None
                self.tell(Woken())
            else:
                self.tell(heapq.heappop(self.coming)[2])
        self.now_us = until_us

    def call_steadily(self, count: int, every_us: int = 10 * MS, first: int = 0) -> None:
        for number in range(first, first + count):
            self.want(number)
            self.run(self.now_us + every_us)
        self.run(self.now_us + 5 * SECOND_US)


def test_calls_are_divided_as_the_plan_says():
    """Also a few of them, in turn; who is to have none is not asked while others answer."""
    world = World({A: quick, B: quick, C: quick}, {A: 600, B: 300, C: 0})
    world.call_steadily(30)
    assert len(world.took_us) == 30
    assert 19 <= world.asked[A] <= 21
    assert 9 <= world.asked[B] <= 11
    assert world.asked[C] <= 1


def test_a_dead_holder_costs_one_second_once():
    """Whoever does not answer is failed over within a second, then rests, for twice as long each time it is tried again."""
    world = World({A: from_then_on(SECOND_US, quick, dead), B: quick})
    world.call_steadily(2_000)
    assert len(world.took_us) == 2_000
    assert max(world.took_us.values()) <= SECOND_US + 10 * MS
    after = [at_us for at_us, peer, _ in world.asked_at if peer == A and at_us >= SECOND_US]
    assert len(after) <= 20
    assert after[-1] - after[-2] > 4 * SECOND_US


def test_a_connection_that_is_lost_is_failed_over_at_once():
    """No time is waited: another is asked in the same moment."""
    world = World({A: lambda now_us: (3 * MS, Failure.LOST), B: quick})
    world.call_steadily(100)
    assert max(world.took_us.values()) <= 10 * MS
    assert world.caller.statistics().failovers == world.asked[A]


def test_two_of_three_dead_holders_cost_less_than_three_seconds():
    """As an answer may not stand still for longer (001 890)."""
    world = World({A: dead, B: dead, C: quick})
    world.call_steadily(50)
    assert len(world.took_us) == 50
    assert max(world.took_us.values()) < 3 * SECOND_US


def test_a_holder_that_becomes_slow_is_hedged_and_then_asked_for_less():
    """Calls that it holds up are answered by another long before it would answer; not more than one in ten is asked twice."""
    world = World({A: from_then_on(SECOND_US, quick, slow), B: quick})
    world.call_steadily(1_000)
    late = sorted(world.took_us.values())
    assert late[-1] <= 400 * MS
    assert late[970] <= 20 * MS
    assert world.caller.statistics().hedges <= 100 + CallingRule().hedges_saved_max
    slow_share = sum(at_us > 2 * SECOND_US for at_us, peer, _ in world.asked_at if peer == A) / 800
    assert slow_share < 0.2


def test_where_everybody_is_slow_nobody_is_asked_twice_as_much():
    """A network under load must not be given more of it."""
    draw = Random(3)
    world = World(dict.fromkeys((A, B, C), lambda now_us: (draw.randint(1, 900) * MS, None)))
    world.call_steadily(1_000)
    assert len(world.took_us) == 1_000
    statistics = world.caller.statistics()
    assert statistics.questions <= 1_000 + 100 + CallingRule().hedges_saved_max


def test_whoever_was_wrong_is_not_asked_for_five_minutes():
    """Not even where nobody else is left; what it was asked is asked of others; a new placement does not help it."""
    world = World({A: lambda now_us: (50 * MS, None), B: dead})
    world.want(1)
    (question,) = world.open
    (wrong,) = world.asked
    world.tell(Refuted(wrong))
    assert question not in world.open
    other = B if wrong == A else A
    assert world.asked == {wrong: 1, other: 1}
    world.place({})
    world.place({EXPERT: {wrong: 10}})
    world.want(2, patience_us=2 * SECOND_US)
    world.run(299 * SECOND_US)
    assert 2 in world.given_up
    assert world.asked[wrong] == 1
    world.run(300 * SECOND_US)
    world.want(3)
    assert world.asked[wrong] == 2


def test_who_is_busy_is_asked_again_and_who_has_it_not_is_not():
    """Busy is a matter of milliseconds; absent of the next placement. With nobody left a call waits until its deadline."""
    world = World({A: from_then_on(20 * MS, lambda now_us: (MS, Failure.BUSY), quick)})
    world.want(1)
    world.run(SECOND_US)
    assert world.took_us[1] <= 60 * MS
    world = World({A: lambda now_us: (MS, Failure.ABSENT)})
    world.want(1)
    world.want(2, patience_us=30 * SECOND_US)
    world.run(20 * SECOND_US)
    assert world.given_up == [1]
    assert world.asked[A] == 2
    world.holders[B] = quick
    world.place({EXPERT: {B: 1}})
    world.run(world.now_us + SECOND_US)
    assert 2 in world.took_us


def test_a_call_that_nobody_waits_for_any_more_blames_nobody():
    """Its questions are dropped, and whoever had not answered yet is asked as often as before."""
    world = World({A: slow, B: slow})
    for number in range(40):
        world.want(number)
        world.run(world.now_us + 150 * MS)
        world.tell(Unwanted(number))
        world.run(world.now_us + 200 * MS)
    assert world.open == {}
    assert world.took_us == {}
    assert world.given_up == []
    assert abs(world.asked[A] - world.asked[B]) <= 1
    world.tell(Unwanted(1))


def test_an_expert_that_nobody_holds_has_no_answer():
    """The call ends at its deadline, not before: a plan may be on its way."""
    world = World({A: quick})
    world.want(1, patience_us=SECOND_US, expert=ExpertSlice("layer9.expert9"))
    world.run(SECOND_US - 1)
    assert world.given_up == []
    world.run(SECOND_US)
    assert world.given_up == [1]


ENDS = st.sampled_from([None, Failure.LOST, Failure.BUSY, Failure.ABSENT, None, None])
BEHAVED = st.one_of(st.none(), st.tuples(st.integers(0, 3 * SECOND_US), ENDS))


@given(st.data())
def test_every_call_ends_once_and_in_time(data):
    """Whatever holders do: an answer or none for each call, by its deadline; no question is left open, and waking suffices."""
    world = World(dict.fromkeys((A, B, C), lambda now_us: data.draw(BEHAVED)), seed=data.draw(st.integers(0, 9)))
    for number in range(data.draw(st.integers(1, 12))):
        world.want(number, patience_us=data.draw(st.integers(1, 4 * SECOND_US)))
        world.run(world.now_us + data.draw(st.integers(0, SECOND_US)))
        if data.draw(st.integers(0, 9)) == 0:
            world.tell(Refuted(data.draw(st.sampled_from([A, B, C]))))
        if data.draw(st.integers(0, 9)) == 0:
            world.place({EXPERT: dict.fromkeys(data.draw(st.sets(st.sampled_from([A, B, C]))), 1)})
    world.run(world.now_us + 5 * SECOND_US)
    assert sorted([*world.took_us, *world.given_up]) == sorted(world.since)
    assert world.open == {}
    statistics = world.caller.statistics()
    assert (statistics.calls, statistics.taken, statistics.given_up) == (
        len(world.since),
        len(world.took_us),
        len(world.given_up),
    )
    assert statistics.questions == sum(world.asked.values())


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_conversation_is_the_same_run(seed):
    """Nothing hangs on the order of sets or on anything but the seed."""

    def run() -> list[tuple[int, PeerId, int]]:
        draw = Random(seed)
        world = World(
            dict.fromkeys((A, B, C), lambda now_us: (draw.randint(1, 50) * MS, draw.choice([None, None, Failure.LOST])))
        )
        world.call_steadily(200)
        return world.asked_at

    assert run() == run()
