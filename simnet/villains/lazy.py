"""Works once and sends that for ever.

The first change that it found is sent again in each round. Rewards that count deltas would pay it for nothing, and the
model is pushed without end where it should go only once. The very same bytes would be refused, as a digest counts once in a
tile; but what its residual adds makes other bytes of the same change.
"""

from __future__ import annotations

from typing import ClassVar

from compute.exact import Float32
from protocol.ids import PeerId, TileId, Version
from simnet.villains.villain import Conspiracy, Villain


class Lazy(Villain):
    """Rests."""

    SUMMARY: ClassVar[str] = "sends the first change that it found, again and again"

    def __init__(self, me: PeerId, seed: int, conspiracy: Conspiracy) -> None:
        super().__init__(me, seed, conspiracy)
        self._found: dict[TileId, Float32] = {}

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        return self._found.setdefault(tile, honest_N)
