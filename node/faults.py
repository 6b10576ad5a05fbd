"""Named points at which a test may have this process kill itself, to show that a crash there costs nothing.

A point is between a write and what tells others of it: the places where a crash is hardest. Nothing is armed unless the
node was started with ``--crash-at POINT@ROUND``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

from node.config import CrashPoint
from protocol.rejection import Reason, Rejected

POINTS = {
    "delta-journaled": "the learner's deltas are journaled, nothing was sent",
    "head-journaled": "proposed heads are journaled, not published",
    "vote-journaled": "a vote is journaled, not sent",
    "update-stored": "an update is stored and its root computed, not voted for",
    "head-decided": "a block is final and stored, its heads are not applied",
}


class CrashPoints:
    """The points that are armed in this process."""

    def __init__(self, armed: Iterable[CrashPoint] = ()) -> None:
        self._armed = {(each.point, each.round) for each in armed}
        for point, _ in self._armed:
            if point not in POINTS:
                raise Rejected(Reason.BAD_ARGUMENT, f"there is no crash point {point!r}; there are {', '.join(POINTS)}")

    def reach(self, point: str, round_number: int) -> None:
        """Die here with SIGKILL if this point is armed for this round."""
        if (point, round_number) in self._armed:
            os.kill(os.getpid(), signal.SIGKILL)
