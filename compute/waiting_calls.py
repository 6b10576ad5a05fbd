"""The calls of a worker that have not ended: which is next, which runs, which was cancelled. It waits for nothing itself."""

from __future__ import annotations

import heapq
from typing import Final

from compute.jobs import URGENCY, Call, Cancel

CANCELLED_URGENCY: Final = -1
"""Whoever cancels a call that waits hears of its end at the next checkpoint, whatever runs: it costs nobody any time."""


class WaitingCalls:
    """The most urgent first; among equals, the first to arrive."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Call]] = []  # heap of (urgency, arrival, call)
        self._arrivals = 0
        self._cancelled: set[int] = set()
        self._running: set[int] = set()

    def accept(self, call: Call) -> None:
        """A call arrived, or the cancellation of one; one that has ended cannot be cancelled."""
        if isinstance(call.job, Cancel):
            if call.number in self._running:
                self._cancelled.add(call.number)
            for index, (_, arrival, waiting) in enumerate(self._waiting):
                if waiting.number == call.number:
                    self._cancelled.add(call.number)
                    self._waiting[index] = (CANCELLED_URGENCY, arrival, waiting)
                    heapq.heapify(self._waiting)
                    break
        else:
            self._arrivals += 1
            heapq.heappush(self._waiting, (URGENCY[type(call.job)], self._arrivals, call))

    def take(self, urgency: int) -> Call | None:
        """The next call that is more urgent than `urgency`, which runs from now on; None where there is none."""
        if not self._waiting or self._waiting[0][0] >= urgency:
            return None
        call = heapq.heappop(self._waiting)[2]
        self._running.add(call.number)
        return call

    def is_cancelled(self, number: int) -> bool:
        """Whether the call was cancelled."""
        return number in self._cancelled

    def end(self, number: int) -> None:
        """The call was answered."""
        self._running.discard(number)
        self._cancelled.discard(number)
