"""Does not work and sends what others found.

The first honest change of this round that was seen before its own is due; where none was, what the network decided last
(the weights before less the weights now: Fraboni et al., 2021, "Free-rider Attacks on Model Aggregation"). It does little
harm to the loss, but counts one learner's data twice, and is paid for it.
"""

from __future__ import annotations

from typing import ClassVar

from compute.exact import Float32
from protocol.ids import PeerId, TileId, Version
from simnet.villains.villain import Conspiracy, Villain


class FreeRider(Villain):
    """Copies."""

    SUMMARY: ClassVar[str] = "sends another learner's change of this round, or the last merged one"

    def __init__(self, me: PeerId, seed: int, conspiracy: Conspiracy) -> None:
        super().__init__(me, seed, conspiracy)
        self._weights: dict[TileId, Float32] = {}

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        before_N = self._weights.get(tile)
        self._weights[tile] = weights_N.copy()
        seen = self.conspiracy.seen(tile, round_number)
        if seen:
            return seen[0][1]
        return None if before_N is None else before_N - weights_N
