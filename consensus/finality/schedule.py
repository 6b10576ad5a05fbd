"""Who leads a view and how long it may take: pure functions of view and roster (chain.md 2.5).

    leader(view)  = the member at (H(beacon | view) / 2^256) of the line of cumulative weights
    Delta(c)      = min(8 s, Delta_0 * 1.5^c), c = views that were left without being finalized

A fraction and not a remainder, which one nano more of weight would draw anew in every view (docs/decisions/0016).

No state: a node that joined a minute ago and one that never stopped agree. Safety does not depend on any of it.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from protocol.digest import Domain, digest, number
from protocol.genesis import ChainRule
from protocol.ids import MemberIndex, View
from protocol.limits import VIEW_TIMEOUT_MS_MAX
from protocol.roster import Roster

BACKOFF_STEPS_MAX = 64  # from 1 ms, 1.5^64 is far beyond the cap: higher powers are not computed


class Schedule:
    """Leaders and timeouts of one epoch. All times in milliseconds."""

    def __init__(self, roster: Roster, rule: ChainRule) -> None:
        self._roster = roster
        self._rule = rule
        self._line = list(accumulate(roster.weights))

    def leader(self, view: View) -> MemberIndex:
        """Who proposes in ``view``."""
        drawn = digest(Domain.LEADER, self._roster.beacon, number(view))
        return MemberIndex(bisect_right(self._line, int.from_bytes(drawn, "big") * self._line[-1] >> 8 * len(drawn)))

    def delta_ms(self, stalled_views: int) -> int:
        """Delta after ``stalled_views`` views without finalization."""
        steps = min(stalled_views, BACKOFF_STEPS_MAX)
        grown: int = self._rule.view_delta_ms * 3**steps // 2**steps
        return min(VIEW_TIMEOUT_MS_MAX, grown)

    def view_timeout_ms(self, delta_ms: int, waited_ms: int) -> int:
        """R7. A leader may wait for the block interval, and for something to propose, before it begins.

        ``waited_ms``: how long ago, at the view's beginning, a view had ended with a block. Since then the idle interval runs.
        """
        return max(self._rule.idle_interval_ms - waited_ms, self._rule.block_interval_ms_min) + 3 * delta_ms

    def retry_ms(self, delta_ms: int) -> int:
        """R8."""
        return 2 * delta_ms
