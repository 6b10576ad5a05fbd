"""Calling experts at peers: the shell of ``compute.expert_caller``, which sends what that asks and tells it what comes back.

    async with open_expert_client(...) as client:
        client.place({expert: {peer: share}})          whenever that is known better
        rows = await client.call(expert, versions, rows, patience_seconds)

An answer must have as many bytes as the question, and some are computed again here (compute/spot_checks.py): whoever gives
anything else is refuted, and reported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random

import trio

from compute.expert_caller import (
    SECOND_US,
    Answered,
    AskExpert,
    CallingEvent,
    CallingRule,
    CallingStatistics,
    Drop,
    ExpertCaller,
    Failure,
    GiveUp,
    Pardoned,
    Placed,
    Refuted,
    Take,
    Unanswered,
    Unwanted,
    Wake,
    Wanted,
    Woken,
)
from compute.spot_checks import Choice, Given, Record, SpotChecks, SpotCheckStatistics
from node.services.expert_audit import ExpertAudit
from p2p.requests import EXPERT
from p2p.transport import RequestFailed, Transport
from protocol.codec import decode, encode
from protocol.experts import CallExpert, ExpertCalled, ExpertSlice
from protocol.ids import PeerId, Version
from protocol.rejection import Reason, Rejected

# What a holder says; after anything else it is left alone for a while.
FAILURES = {Reason.BUSY: Failure.BUSY, Reason.OVER_BUDGET: Failure.BUSY, Reason.NOT_FOUND: Failure.ABSENT}


class _Call:
    """One call that somebody waits for."""

    def __init__(self, asked: CallExpert) -> None:
        self.asked = asked
        self.request = encode(asked)
        self.is_over = trio.Event()
        self.rows: bytes | None = None


class _Check:
    """An answer that is computed again."""

    def __init__(self) -> None:
        self.is_over = trio.Event()
        self.is_wrong = False


class ExpertClient:
    """The calls of one node."""

    def __init__(
        self,
        transport: Transport,
        generator: Random,
        report: Callable[[PeerId, Rejected], None],
        nursery: trio.Nursery,
        rule: CallingRule | None = None,
        audit: ExpertAudit | None = None,
        checks: SpotChecks | None = None,
    ) -> None:
        """``report``: a peer gave what is no answer. ``audit``: None: what has the right size is believed."""
        self._transport = transport
        self._caller = ExpertCaller(generator, rule)
        self._audit = audit
        self._checks = checks or SpotChecks(generator)
        self._report = report
        self._nursery = nursery
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._given: dict[int, bytes] = {}  # by question, until it is taken
        self._asking: dict[int, trio.CancelScope] = {}  # by question
        self._waking = trio.CancelScope()  # around the sleep until the next Wake
        self._wake_at = math.inf

    def place(self, copies: Mapping[ExpertSlice, Mapping[PeerId, int]]) -> None:
        """Who holds what from now on, and in which proportion they are to be called."""
        self._tell(Placed(copies))

    def quarantine(self, peer: PeerId) -> None:
        """Do not ask a peer, as if it had been found wrong."""
        self._tell(Refuted(peer))

    def recover(self, peer: PeerId) -> None:
        """Ask it again before its time; what it gives first is computed again before it is used, if it was found wrong."""
        self._tell(Pardoned(peer))

    def statistics(self) -> CallingStatistics:
        return self._caller.statistics()

    def check_statistics(self) -> SpotCheckStatistics:
        """Of answers that were computed again."""
        return self._checks.statistics()

    def records(self) -> dict[PeerId, Record]:
        """What each holder gave."""
        return self._checks.records()

    def quarantined_seconds(self) -> dict[PeerId, float]:
        """Who is not asked, and for how long yet."""
        now_us = _now_us()
        return {peer: (until_us - now_us) / SECOND_US for peer, until_us in self._caller.quarantined(now_us).items()}

    async def call(
        self, expert: ExpertSlice, versions: Sequence[Version], rows: bytes, patience_seconds: float
    ) -> bytes:
        """What a slice of an expert makes of rows; see ``protocol.experts.CallExpert``.

        Raises ``Rejected(BUSY)`` when nobody gave it in time.
        """
        number = next(self._numbers)
        call = self._calls[number] = _Call(CallExpert(expert.expert, expert.index, expert.count, tuple(versions), rows))
        try:
            self._tell(Wanted(number, expert, _now_us() + int(patience_seconds * SECOND_US)))
            await call.is_over.wait()
        finally:
            del self._calls[number]
            if not call.is_over.is_set():
                self._tell(Unwanted(number))
        if call.rows is None:
            raise Rejected(Reason.BUSY, f"no peer computed {expert} within {patience_seconds:g} s")
        return call.rows

    async def run(self) -> None:
        """Wake the machine in time, until cancelled."""
        while True:
            with trio.CancelScope() as self._waking:
                await trio.sleep_until(self._wake_at)
                self._wake_at = math.inf
                self._tell(Woken())

    def _tell(self, event: CallingEvent) -> None:
        for effect in self._caller.handle(event, _now_us()):
            match effect:
                case AskExpert(question, number, peer):
                    self._asking[question] = trio.CancelScope()  # it may be dropped before it has begun
                    self._nursery.start_soon(self._ask, question, peer, self._calls[number])
                case Take(question, number):
                    self._end(number, self._given.pop(question))
                case GiveUp(number):
                    self._end(number, None)
                case Drop(question):
                    if question in self._asking:
                        self._asking[question].cancel()
                case Wake(at_us):
                    self._wake_at = at_us / SECOND_US
                    self._waking.cancel()

    def _end(self, number: int, rows: bytes | None) -> None:
        call = self._calls[number]
        call.rows = rows
        call.is_over.set()

    async def _ask(self, question: int, peer: PeerId, call: _Call) -> None:
        try:
            with self._asking[question]:
                self._tell(await self._answer(question, peer, call))
        finally:
            del self._asking[question]
            self._given.pop(question, None)  # what came too late

    async def _answer(self, question: int, peer: PeerId, call: _Call) -> CallingEvent:
        try:
            data = await self._transport.request(
                peer,
                EXPERT.protocol,
                call.request,
                timeout_seconds=EXPERT.timeout_seconds,
                response_bytes_max=EXPERT.response_bytes_max,
            )
        except RequestFailed:
            return Unanswered(question, Failure.LOST)
        except Rejected as refusal:
            return Unanswered(question, FAILURES.get(refusal.reason, Failure.LOST))
        try:
            rows = decode(ExpertCalled, data, limit_bytes=EXPERT.response_bytes_max).rows
            if len(rows) != len(call.asked.rows):
                raise Rejected(Reason.BAD_SHAPE, f"{len(rows)} bytes of rows for {len(call.asked.rows)}")
        except Rejected as refusal:
            self._report(peer, refusal)
            return Refuted(peer)
        if self._audit is not None and not await self._is_believed(self._audit, peer, call.asked, rows):
            return Refuted(peer)
        self._given[question] = rows
        return Answered(question)

    async def _is_believed(self, audit: ExpertAudit, peer: PeerId, asked: CallExpert, rows: bytes) -> bool:
        """Whether rows may be used now. The look at them goes on to its end, also when nobody waits for them any more."""
        given = Given(peer, ExpertSlice(asked.expert, asked.index, asked.count), max(asked.versions))
        choice = self._checks.choose(given)
        if choice is Choice.NOT:
            return True
        check = _Check()
        self._nursery.start_soon(self._check, audit, given, choice, asked, rows, check)
        if choice is Choice.BEFORE:
            await check.is_over.wait()
        return not check.is_wrong

    async def _check(
        self, audit: ExpertAudit, given: Given, choice: Choice, asked: CallExpert, rows: bytes, check: _Check
    ) -> None:
        deviation_micro = None
        try:
            deviation_micro = await audit.find_deviation_micro(asked, rows)
        finally:
            check.is_wrong = self._checks.found(given, choice, deviation_micro)
            check.is_over.set()
        if check.is_wrong and given.peer not in self._caller.quarantined(
            _now_us()
        ):  # of many at once, the first is told
            refusal = Rejected(Reason.WRONG_ROWS, f"{given.expert}, off by {deviation_micro} millionths")
            self._report(given.peer, refusal)
            self._tell(Refuted(given.peer))


@asynccontextmanager
async def open_expert_client(
    transport: Transport,
    generator: Random,
    report: Callable[[PeerId, Rejected], None],
    rule: CallingRule | None = None,
    audit: ExpertAudit | None = None,
    checks: SpotChecks | None = None,
) -> AsyncIterator[ExpertClient]:
    """A client that works until the block is left."""
    async with trio.open_nursery() as nursery:
        client = ExpertClient(transport, generator, report, nursery, rule, audit, checks)
        nursery.start_soon(client.run)
        yield client
        nursery.cancel_scope.cancel()


def _now_us() -> int:
    return round(trio.current_time() * SECOND_US)  # rounded down, a moment that was slept to could be one before it
