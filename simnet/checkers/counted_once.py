"""A delta counts once in a tile, for ever."""

from __future__ import annotations

from protocol.ids import Digest, TileId, Version, short
from simnet.checkers.checker import Checker
from simnet.checkers.facts import DecidedHead, Facts


class CountedOnce(Checker):
    """Remembers every delta that was ever counted, where the rule of heads has the lists of two versions only."""

    says = (
        "No delta counts twice in a tile for ever, by itself or inside an aggregate; its base is parent or grandparent."
    )

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._counted: dict[tuple[TileId, Digest], Version] = {}

    def decided(self, decided: DecidedHead, now: float) -> None:
        head = decided.head
        for counted in decided.counted:
            self.tally.checks += 1
            delta = f"delta {counted.delta[:4].hex()} of {short(counted.learner)}"
            before = self._counted.setdefault((head.tile, counted.delta), head.version)
            if before != head.version:
                self.breach(now, f"{decided} counts {delta} again, version {before} counted it before")
            if counted.base not in (head.version - 1, head.version - 2):
                self.breach(now, f"{decided} counts {delta} on base {counted.base}")
        if len({counted.delta for counted in decided.counted}) != len(decided.counted):
            self.breach(now, f"{decided} counts a delta twice in one version")
