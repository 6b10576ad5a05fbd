"""Asking holders for experts: how long calls take when a holder is slow, dies, or all are now and then, in made-up time.

Four holders of one expert, of whom each answers in two milliseconds and the tail of a log-normal distribution, while nobody
disturbs it; a call every millisecond. Ours decides whom to ask (compute/expert_caller.py); beside it a caller that asks in turn
and, after three seconds without an answer, the next one: what a plain client with a time-out does. The floor of a time is that
of a world in which nothing happens; that of questions is one a call.

It is a simulation, so its numbers are the same everywhere, and no clock is asked.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final, Protocol

import click

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options
from compute.expert_caller import (
    SECOND_US,
    Answered,
    AskExpert,
    CallingEffect,
    CallingEvent,
    Drop,
    ExpertCaller,
    Placed,
    Take,
    Wake,
    Wanted,
    Woken,
)
from protocol.experts import ExpertSlice
from protocol.ids import PeerId

EXPERT: Final = ExpertSlice("layer0.expert0")
HOLDERS: Final = tuple(PeerId(bytes([number]) * 32) for number in range(4))
ANSWER_US: Final = 2_000
SPREAD: Final = 0.25  # of the logarithm: one answer in a thousand takes twice as long as most
CALLS, QUICK_CALLS = 60_000, 4_000
APART_US: Final = 1_000
DEADLINE_US: Final = 10 * SECOND_US
PEER: Final = "in turn, time-out of 3 s"
PEER_TIMEOUT_US: Final = 3 * SECOND_US

Taking = Callable[
    [PeerId, int, Random], "int | None"
]  # who, when: how many times as long as usual; None: no answer ever


class Caller(Protocol):
    """Who decides whom to ask."""

    def handle(self, event: CallingEvent, now_us: int) -> list[CallingEffect]: ...


class InTurn:
    """The plain client."""

    def __init__(self) -> None:
        self._turn = 0
        self._questions = 0
        self._open: dict[int, tuple[int, int]] = {}  # by question: call, since when

    def handle(self, event: CallingEvent, now_us: int) -> list[CallingEffect]:
        effects: list[CallingEffect] = []
        match event:
            case Wanted(number):
                effects.append(self._ask(number, now_us))
            case Answered(question) if question in self._open:
                effects.append(Take(question, self._open.pop(question)[0]))
            case Woken():
                for question, (call, since_us) in list(self._open.items()):
                    if now_us >= since_us + PEER_TIMEOUT_US:
                        del self._open[question]
                        effects += [Drop(question), self._ask(call, now_us)]
        if self._open:
            oldest_us = next(iter(self._open.values()))[1]
            effects.append(Wake(max(now_us + 1, oldest_us + PEER_TIMEOUT_US)))
        return effects

    def _ask(self, call: int, now_us: int) -> AskExpert:
        self._questions += 1
        self._turn += 1
        self._open[self._questions] = call, now_us
        return AskExpert(self._questions, call, HOLDERS[self._turn % len(HOLDERS)])


def play(caller: Caller, calls: int, taking: Taking, seed: int) -> tuple[list[int], int]:
    """How long each call took, in ascending order, and how many questions there were."""
    draw = Random(seed)
    since: dict[int, int] = {}
    took: list[int] = []
    questions = 0
    coming: list[tuple[int, int, CallingEvent]] = []
    wake_us: int | None = None
    order = 0

    def tell(event: CallingEvent, now_us: int) -> None:
        nonlocal questions, wake_us, order
        for effect in caller.handle(event, now_us):
            match effect:
                case AskExpert(question, _, peer):
                    questions += 1
                    times = taking(peer, now_us, draw)
                    if times is not None:
                        order += 1
                        after_us = int(ANSWER_US * times * draw.lognormvariate(0.0, SPREAD))
                        heapq.heappush(coming, (now_us + after_us, order, Answered(question)))
                case Take(_, call):
                    took.append(now_us - since.pop(call))
                case Wake(at_us):
                    wake_us = at_us

    tell(Placed({EXPERT: dict.fromkeys(HOLDERS, 1)}), 0)
    for number in range(calls):
        since[number] = number * APART_US
        order += 1
        heapq.heappush(coming, (since[number], order, Wanted(number, EXPERT, since[number] + DEADLINE_US)))
    while since and (coming or wake_us is not None):
        if wake_us is not None and (not coming or wake_us <= coming[0][0]):
            now_us, wake_us = wake_us, None
            tell(Woken(), now_us)
        else:
            now_us, _, event = heapq.heappop(coming)
            tell(event, now_us)
    if since:
        raise SystemExit(f"{len(since)} calls have no answer")
    return sorted(took), questions


def worlds(calls: int) -> Iterator[tuple[str, Taking]]:
    """What happens, by name."""
    middle_us = calls * APART_US // 2

    def one(changed: int | None) -> Taking:
        return lambda peer, now_us, draw: changed if peer == HOLDERS[0] and now_us > middle_us else 1

    def now_and_then(peer: PeerId, now_us: int, draw: Random) -> int:
        return 50 if draw.random() < 0.01 else 1

    yield "nothing happens", lambda peer, now_us, draw: 1
    yield "one becomes 50 times slower", one(50)
    yield "one dies", one(None)
    yield "one answer in a hundred takes 50 times as long", now_and_then
    yield "all become 50 times slower", lambda peer, now_us, draw: 50 if now_us > middle_us else 1


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Calls in several worlds."""
    calls = QUICK_CALLS if quick else CALLS
    rows: list[Row] = []
    floor: dict[str, float] = {}
    for name, taking in worlds(calls):
        ours, questions = play(ExpertCaller(Random(1)), calls, taking, 1)
        theirs, their_questions = play(InTurn(), calls, taking, 1)
        for label, part in (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0)):
            mine, other = (each[min(calls - 1, int(part * calls))] / 1_000 for each in (ours, theirs))
            floor.setdefault(label, mine)
            rows.append(compare(f"{name}: {label}", "ms", mine, other, PEER, floor[label]))
        rows.append(
            compare(f"{name}: questions a call", "questions", questions / calls, their_questions / calls, PEER, 1.0)
        )
        say(f"{name}: done")
    report("expert_calls", rows, as_json)


if __name__ == "__main__":
    main()
