"""No tile goes without a head for longer than two rounds: somebody always looks after it.

A tile waits from the moment at which the first peer closed the round of its last head (the round after opens then), or from
its last head where that came later. A round is its deadline, or what the slowest machine takes to learn where that is more.
The clock begins anew when a quorum is possible again: nothing can be decided before, and everything at once after.
"""

from __future__ import annotations

from typing import Final

from protocol.ids import TileId
from simnet.checkers.checker import Checker
from simnet.checkers.facts import DecidedHead, Facts, Peer

ROUNDS_MAX: Final = 2


class TilesOwned(Checker):
    """Looks at a tile's wait when it ends: by a head, by the loss of the quorum, or by the end of the run."""

    says = f"No tile goes without a decided head for longer than {ROUNDS_MAX} rounds while a quorum is possible."

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        slowest = max(each.learn_seconds for each in facts.scenario.hardware)
        self._limit = ROUNDS_MAX * max(facts.round_seconds, slowest)
        self._possible_since: float | None = None
        self._was_told = False

    def arrived(self, peer: Peer, now: float) -> None:
        if not self._was_told and self._possible_since is None:
            self._possible_since = now

    def quorum(self, possible: bool, now: float) -> None:
        self._was_told = True
        if not possible:
            self._look_at_all(now)
            self._possible_since = None
        elif self._possible_since is None:
            self._possible_since = now

    def decided(self, decided: DecidedHead, now: float) -> None:
        last = self.facts.newest.get(decided.head.tile)
        if last is not None and decided.head.round <= last.head.round:
            self.breach(now, f"{decided} is of no later round than {last}")
        self._look(decided.head.tile, now, f"until {decided}")

    def finish(self, now: float) -> None:
        self._look_at_all(now)

    def _look_at_all(self, now: float) -> None:
        for tile in self.facts.heads:
            self._look(tile, now, "and has none yet")

    def _look(self, tile: TileId, now: float, until: str) -> None:
        if self._possible_since is None:
            return
        self.tally.checks += 1
        last = self.facts.newest.get(tile)
        since = self._possible_since
        if last is not None:
            since = max(since, last.seconds, self.facts.closed_at.get(last.head.round, now))
        if now - since > self._limit:
            after = f"after {last}" if last else "since the beginning"
            self.breach(
                now, f"{tile} had no head for {now - since:.1f} s {after}, {until}; at most {self._limit:.1f} s"
            )
