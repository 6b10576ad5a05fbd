"""Sends what it found some rounds ago as if it were found now.

Its steps are honest, but from weights that were decided four rounds ago: a machine far behind that lies about its base, or
one that wants to be paid for each piece of work later. What was the way down then overshoots now (asynchronous learning
bounds staleness for that reason: Lian et al., 2015). A node refuses an old base, so the lie is in the name of the base.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar, Final

from compute.exact import Float32
from protocol.ids import PeerId, TileId, Version
from simnet.villains.villain import Conspiracy, Villain

LAG_ROUNDS: Final = 4  # twice as old as what an owner takes


class Stale(Villain):
    """Lives in the past."""

    SUMMARY: ClassVar[str] = "sends the change that it found four rounds ago"

    def __init__(self, me: PeerId, seed: int, conspiracy: Conspiracy) -> None:
        super().__init__(me, seed, conspiracy)
        self._found: dict[TileId, deque[Float32]] = {}

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        found = self._found.setdefault(tile, deque(maxlen=LAG_ROUNDS + 1))
        found.append(honest_N)
        return found[0]
