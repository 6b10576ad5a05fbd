"""Walking and verifying histories: the jobs that execution asks for, done in processes of their own (node/history_work.py).

WalkHistory      one after the other  -> HistoryWalked
VerifyHistory    on every core        -> HistoryVerified
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from consensus.events import HistoryVerified, HistoryWalked, VerifyHistory, WalkHistory
from node.history_work import HistoryWork

log = structlog.get_logger()

T = TypeVar("T")
RETRY_SECONDS = 1.0


class HistoryService:
    """Performs the two effects; each call ends with its answer, however often a process had to be started for it."""

    def __init__(
        self,
        work: HistoryWork,
        post: Callable[[HistoryWalked | HistoryVerified], Awaitable[None]],
        *,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._work = work
        self._post = post
        self._retry_seconds = retry_seconds

    async def walk(self, effect: WalkHistory) -> None:
        ends = await self._insist(lambda: self._work.walk(effect.start, effect.segment_ticks))
        await self._post(HistoryWalked(effect.start, ends))

    async def verify(self, effect: VerifyHistory) -> None:
        right = await self._insist(lambda: self._work.verify(effect.start, effect.ends, effect.segment_ticks))
        await self._post(HistoryVerified(effect.start, effect.ends, right))

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """A machine that has no memory for a process now may have some in a moment; nobody else can answer for us."""
        while True:
            try:
                return await work()
            except OSError as error:
                log.warning("a history could not be hashed; trying again", why=str(error))
                await trio.sleep(self._retry_seconds)
