"""Whom to ask for an expert's rows, and whom else when it is late. Sans-io.

    Placed -----------+                          +---> AskExpert    rows of a call, to a holder; its number comes back
    Wanted, Unwanted -+                          +---> Take         this answer is the call's; each call has one, or GiveUp
    Answered ---------+--> ExpertCaller.handle --+---> GiveUp       nobody gave one before its deadline
    Unanswered -------+      (event, now_us)     +---> Drop         nobody waits for this question any more
    Refuted, Pardoned +                          +---> Wake
    Woken ------------+

Calls go to the holders of an expert as the plan divides them (consensus/expert_allocation.py), in turn: smooth weighted round
robin, as in nginx, so that also a few calls are divided like many. Who is late is asked for less:

    hedge       a question that takes longer than its holder's questions do (mean and four deviations: RFC 6298) is asked of
                another holder as well, and the first answer counts. One question in ten may be: a network in which everybody is
                slow must not be given twice the work (Dean and Barroso, The Tail at Scale, 2013)
    yielding    whoever was overtaken so is asked only where nobody else is, for twice as long each time, until it answers
    failover    one that takes longer than anybody may is asked of another in any case, and who has not answered rests, for
                twice as long each time; a connection that is lost is the same at once
    quarantine  whoever gave what was no answer of that expert is not asked for five minutes (001 895), whatever is lost by it

So a dead holder costs a call some milliseconds while hedges are saved up, and where they are not one second, once. Time is in
microseconds: on a loopback an answer takes a few thousand.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.experts import ExpertSlice
from protocol.ids import PeerId

SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class CallingRule:
    """How patient."""

    hedge_us_min: int = 2_000  # beyond the mean: sooner a busy processor would be taken for a slow one (a guess)
    first_hedge_us: int = 200_000  # of a holder that has not answered yet
    patience_us: int = SECOND_US  # three holders in a row may be dead before an answer stands still for three seconds
    hedges_percent: int = 10
    hedges_saved_max: int = 10  # that were not needed for a while, and may be used at once
    rest_us: int = SECOND_US
    rest_us_max: int = 60 * SECOND_US
    busy_us: int = 50_000  # who says that it has no room just now
    quarantine_us: int = 300 * SECOND_US


# -- what comes in ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """Who holds what from now on, and in which proportion they are to be called; who is not named holds nothing."""

    copies: Mapping[ExpertSlice, Mapping[PeerId, int]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows are to go through an expert. ``number``: the call's, never used before."""

    number: int
    slice: ExpertSlice
    deadline_us: int


@dataclass(frozen=True, slots=True)
class Unwanted:
    """Nobody waits for a call any more; nobody is thought slow for not having answered it."""

    number: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A holder gave rows of the right number and size."""

    question: int


class Failure(enum.Enum):
    """Why there is no answer."""

    LOST = "lost"  # the connection, or its time-out
    BUSY = "busy"  # there is no room for the call just now
    ABSENT = "absent"  # it does not hold the expert


@dataclass(frozen=True, slots=True)
class Unanswered:
    """There will be no answer."""

    question: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Refuted:
    """A holder's answer was found to be wrong, of this call or of an earlier one."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Pardoned:
    """A holder is out of quarantine before its time: somebody who looks after this node says so."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Woken:
    """It is as late as the last ``Wake`` said, or later."""


CallingEvent = Placed | Wanted | Unwanted | Answered | Unanswered | Refuted | Pardoned | Woken

# -- what goes out ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskExpert:
    """Send a call's rows to a holder of its expert."""

    question: int
    call: int
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Take:
    """The answer to this question is the answer to its call."""

    question: int
    call: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The call has no answer."""

    call: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A question whose answer is not needed: it may be cancelled, and what still comes of it is ignored."""

    question: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Send ``Woken`` at this time. The last one counts."""

    at_us: int


CallingEffect = AskExpert | Take | GiveUp | Drop | Wake


@dataclass(frozen=True, slots=True)
class CallingStatistics:
    """Since the start. ``hedges`` and ``failovers`` are questions to another holder for a call that had one open or lost."""

    calls: int
    taken: int
    given_up: int
    questions: int
    hedges: int
    failovers: int


# -- the machine --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Holder:
    """What is known of a peer's answers. Times in microseconds."""

    mean_us: int = 0  # 0: it has not answered yet
    deviation_us: int = 0
    overdue: int = 0  # open questions that take longer than its answers do
    rests_until_us: int = 0
    yields_until_us: int = 0
    rest_us: int = 0  # how long it rested or yielded the last time; 0 since it answered
    quarantined_until_us: int = 0

    def sample(self, took_us: int) -> None:
        if self.mean_us == 0:
            self.mean_us, self.deviation_us = max(1, took_us), took_us // 2
            return
        self.deviation_us += (abs(took_us - self.mean_us) - self.deviation_us) // 4
        self.mean_us = max(1, self.mean_us + (took_us - self.mean_us) // 8)


@dataclass(slots=True)
class _Question:
    call: int
    peer: PeerId
    since_us: int
    is_overdue: bool = False
    is_failed: bool = False  # its holder was not waited for any longer; an answer is welcome all the same


@dataclass(slots=True)
class _Call:
    slice: ExpertSlice
    deadline_us: int
    questions: list[int] = field(default_factory=list)  # that are open
    is_asked: bool = False


class ExpertCaller:
    """The calls of one node. Memory: some numbers for each call that is open, and for each peer of the placement."""

    def __init__(self, generator: Random, rule: CallingRule | None = None) -> None:
        self._rule = rule or CallingRule()
        self._generator = generator
        self._copies: dict[ExpertSlice, dict[PeerId, int]] = {}
        self._credits: dict[ExpertSlice, dict[PeerId, int]] = {}  # whose turn it is: the largest
        self._holders: dict[PeerId, _Holder] = {}
        self._calls: dict[int, _Call] = {}
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self._hedges_saved = 100 * self._rule.hedges_saved_max  # in hundredths
        self._wake_us: int | None = None
        self._counts = dict.fromkeys(("calls", "taken", "given_up", "hedges", "failovers"), 0)

    def handle(self, event: CallingEvent, now_us: int) -> list[CallingEffect]:
        """One event; effects in the order in which they are to be performed."""
        return list(self._handle(event, now_us))

    def statistics(self) -> CallingStatistics:
        return CallingStatistics(questions=self._number, **self._counts)

    def quarantined(self, now_us: int) -> dict[PeerId, int]:
        """Who is not asked whatever is lost by it, and until when."""
        until = {peer: holder.quarantined_until_us for peer, holder in self._holders.items()}
        return {peer: until_us for peer, until_us in until.items() if until_us > now_us}

    def _handle(self, event: CallingEvent, now_us: int) -> Iterator[CallingEffect]:
        match event:
            case Placed(copies):
                self._place(copies, now_us)
            case Wanted(number, expert, deadline_us):
                self._counts["calls"] += 1
                self._calls[number] = _Call(expert, deadline_us)
                self._hedges_saved = min(
                    100 * self._rule.hedges_saved_max, self._hedges_saved + self._rule.hedges_percent
                )
            case Unwanted(number):
                yield from self._forget(number)
            case Answered(number):
                yield from self._take(number, now_us)
            case Unanswered(number, failure):
                self._fail(number, failure, now_us)
            case Refuted(peer):
                yield from self._quarantine(peer, now_us)
            case Pardoned(peer):
                if peer in self._holders:
                    self._holders[peer].quarantined_until_us = 0
            case Woken():
                self._wake_us = None  # who wakes us early is told again
        self._grow_late(now_us)
        yield from self._ask_all(now_us)
        yield from self._wake(now_us)

    # -- holders --------------------------------------------------------------------------------------------------------

    def _place(self, copies: Mapping[ExpertSlice, Mapping[PeerId, int]], now_us: int) -> None:
        self._copies = {expert: dict(sorted(shares.items())) for expert, shares in copies.items()}
        self._credits = {expert: shares for expert, shares in self._credits.items() if expert in self._copies}
        named = {peer: None for shares in self._copies.values() for peer in shares}
        asked = {question.peer: None for question in self._questions.values()}
        barred = {peer: None for peer, holder in self._holders.items() if holder.quarantined_until_us > now_us}
        self._holders = {peer: self._holders.get(peer) or _Holder() for peer in named | asked | barred}

    def _turn(self, expert: ExpertSlice, able: list[PeerId]) -> PeerId:
        """Whose turn it is among those who can be asked: each as often as its share says, and in between the others."""
        copies = self._copies[expert]
        credits_of = self._credits.get(expert)
        if credits_of is None:  # not everybody begins with the same holder
            credits_of = self._credits[expert] = {
                peer: self._generator.randrange(shares + 1) for peer, shares in copies.items()
            }
        for peer in able:
            credits_of[peer] = credits_of.get(peer, 0) + copies[peer] + 1  # also who is to have no calls can be called
        chosen = max(able, key=lambda peer: (credits_of[peer], peer))
        credits_of[chosen] -= sum(copies[peer] + 1 for peer in able)
        return chosen

    def _quarantine(self, peer: PeerId, now_us: int) -> Iterator[Drop]:
        """Nothing of what a peer was asked for is waited for."""
        self._holders.setdefault(peer, _Holder()).quarantined_until_us = now_us + self._rule.quarantine_us
        for number in [number for number, question in self._questions.items() if question.peer == peer]:
            self._end(number)
            yield Drop(number)

    def _rest(self, holder: _Holder, now_us: int) -> None:
        if now_us >= holder.rests_until_us:  # what was asked before it rested does not count twice
            holder.rest_us = min(self._rule.rest_us_max, max(self._rule.rest_us, 2 * holder.rest_us))
            holder.rests_until_us = now_us + holder.rest_us

    def _yield(self, holder: _Holder, now_us: int) -> None:
        if now_us >= holder.yields_until_us:
            holder.rest_us = min(self._rule.rest_us_max, max(self._hedge_us(holder), 2 * holder.rest_us))
            holder.yields_until_us = now_us + holder.rest_us

    # -- questions ------------------------------------------------------------------------------------------------------

    def _end(self, number: int) -> _Question | None:
        """A question is over, however."""
        question = self._questions.pop(number, None)
        if question is not None:
            self._holders[question.peer].overdue -= question.is_overdue
            call = self._calls.get(question.call)
            if call is not None:
                call.questions.remove(number)
        return question

    def _take(self, number: int, now_us: int) -> Iterator[CallingEffect]:
        question = self._end(number)
        if question is None:
            return
        holder = self._holders[question.peer]
        holder.sample(now_us - question.since_us)
        holder.rest_us = holder.rests_until_us = holder.yields_until_us = 0
        call = self._calls.pop(question.call)
        self._counts["taken"] += 1
        yield Take(number, question.call)
        yield from self._drop(call, now_us)

    def _forget(self, number: int) -> Iterator[Drop]:
        call = self._calls.pop(number, None)
        for question in [] if call is None else list(call.questions):
            self._end(question)
            yield Drop(question)

    def _drop(self, call: _Call, now_us: int) -> Iterator[Drop]:
        """What else was asked for a call that is over."""
        for number in list(call.questions):
            question = self._questions.pop(number)
            holder = self._holders[question.peer]
            if question.is_overdue:
                holder.overdue -= 1
                self._yield(holder, now_us)
            yield Drop(number)

    def _fail(self, number: int, failure: Failure, now_us: int) -> None:
        question = self._end(number)
        if question is None:
            return
        holder, call = self._holders[question.peer], self._calls[question.call]
        match failure:
            case Failure.LOST:
                self._rest(holder, now_us)
            case Failure.BUSY:
                holder.rests_until_us = max(holder.rests_until_us, now_us + self._rule.busy_us)
            case Failure.ABSENT:
                self._copies.get(call.slice, {}).pop(question.peer, None)

    def _hedge_us(self, holder: _Holder) -> int:
        """How long a question to a holder may take before another one is asked as well."""
        if holder.mean_us == 0:
            return self._rule.first_hedge_us
        unusual = holder.mean_us + max(4 * holder.deviation_us, self._rule.hedge_us_min)
        return min(self._rule.patience_us, unusual)

    def _grow_late(self, now_us: int) -> None:
        """Which questions have taken too long."""
        for question in self._questions.values():
            holder, open_us = self._holders[question.peer], now_us - question.since_us
            if not question.is_overdue and open_us >= self._hedge_us(holder):
                question.is_overdue = True
                holder.overdue += 1
            if not question.is_failed and open_us >= self._rule.patience_us:
                question.is_failed = True
                self._rest(holder, now_us)

    def _ask_all(self, now_us: int) -> Iterator[CallingEffect]:
        for number, call in list(self._calls.items()):
            if now_us >= call.deadline_us:
                del self._calls[number]
                self._counts["given_up"] += 1
                yield GiveUp(number)
                yield from self._drop(call, now_us)
                continue
            open_questions = [self._questions[each] for each in call.questions]
            if any(not question.is_overdue for question in open_questions):
                continue  # somebody is expected to answer soon
            is_hedge = any(not question.is_failed for question in open_questions)
            if is_hedge and self._hedges_saved < 100:
                continue
            peer = self._choose(call, now_us)
            if peer is None:
                continue
            if is_hedge:
                self._hedges_saved -= 100
                self._counts["hedges"] += 1
            elif call.is_asked:
                self._counts["failovers"] += 1
            call.is_asked = True
            self._number += 1
            self._questions[self._number] = _Question(number, peer, now_us)
            call.questions.append(self._number)
            yield AskExpert(self._number, number, peer)

    def _choose(self, call: _Call, now_us: int) -> PeerId | None:
        """A holder for a call: first among those who answer, then those who are late or yield; nobody who rests."""
        asked = [self._questions[each].peer for each in call.questions]
        able = [
            peer
            for peer in self._copies.get(call.slice, ())
            if peer not in asked
            and now_us >= max(self._holders[peer].rests_until_us, self._holders[peer].quarantined_until_us)
        ]
        prompt = [
            peer for peer in able if not self._holders[peer].overdue and now_us >= self._holders[peer].yields_until_us
        ]
        return self._turn(call.slice, prompt or able) if able else None

    # -- time -----------------------------------------------------------------------------------------------------------

    def _wake(self, now_us: int) -> Iterator[Wake]:
        """The next moment at which something happens by itself."""
        times = [call.deadline_us for call in self._calls.values()]
        for question in self._questions.values():
            holder = self._holders[question.peer]
            times += [] if question.is_overdue else [question.since_us + self._hedge_us(holder)]
            times += [] if question.is_failed else [question.since_us + self._rule.patience_us]
        for call in self._calls.values():  # those who rest are asked again, where others do not answer
            if all(self._questions[each].is_failed for each in call.questions):
                holders = [self._holders[peer] for peer in self._copies.get(call.slice, ())]
                times += [max(each.rests_until_us, each.quarantined_until_us) for each in holders]
        coming = [time for time in times if time > now_us]
        if coming and min(coming) != self._wake_us:
            self._wake_us = min(coming)
            yield Wake(self._wake_us)
