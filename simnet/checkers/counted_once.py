"""A delta counts once in a tile, for ever."""

from __future__ import annotations

from protocol.ids import Digest, PeerId, TileId, Version, short
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
        self._learners: dict[tuple[TileId, PeerId, Version], Digest] = {}

    def decided(self, decided: DecidedHead, now: float) -> None:
        head = decided.head
        for counted in decided.counted:
            self.tally.checks += 1
            delta = f"delta {counted.delta[:4].hex()} of {short(counted.learner)}"
            self._count(decided, counted.delta, delta, now)
            other = self._learners.setdefault((head.tile, counted.learner, counted.base), counted.delta)
            if other != counted.delta:
                self.breach(
                    now, f"{decided} counts {delta} on base {counted.base}, and {other[:4].hex()} counts there too"
                )
            if counted.base not in (head.version - 1, head.version - 2):
                self.breach(now, f"{decided} counts {delta} on base {counted.base}")
        for reference in head.deltas:
            if reference.contributors:
                aggregate = f"the aggregate {reference.delta[:4].hex()} of {short(reference.learner)}"
                self._count(decided, reference.delta, aggregate, now)

    def _count(self, decided: DecidedHead, name: Digest, what: str, now: float) -> None:
        version = decided.head.version
        key = (decided.head.tile, name)
        before = self._counted.get(key)
        if before is not None:
            self.breach(now, f"{decided} counts {what} again, version {before} counted it before")
        self._counted[key] = version
