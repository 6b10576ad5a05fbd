"""What the record says is kept can be rebuilt, whoever of a third of the members is gone."""

from __future__ import annotations

from simnet.checkers.checker import Checker
from simnet.checkers.facts import Facts


class KeptReadable(Checker):
    """The world counts a tile's different cells on the disks of those that run; while a quorum is possible they are enough."""

    says = "Of every tile that is recorded as kept, those that run have enough cells to rebuild it."

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._is_quorum_possible = True

    def quorum(self, possible: bool, now: float) -> None:
        self._is_quorum_possible = possible

    def kept(self, what: str, tile: int, cells: int, needed: int, now: float) -> None:
        if not self._is_quorum_possible:
            return
        self.tally.checks += 1
        if cells < needed:
            self.breach(now, f"{what}: {cells} cells of tile {tile} are left, {needed} rebuild it")
