"""Says what it found, a hundred times as loud: the model shall be what one learner's data say.

Model replacement (Bagdasaryan et al., 2018, "How To Backdoor Federated Learning"): under a plain average of C learners a
delta times C sets the weights alone. The direction is an honest one, so nothing but its length gives it away.

Measured by the shortest change that it found of the tile: its residual is loud too, and it would answer its own echo.
"""

from __future__ import annotations

from typing import ClassVar, Final

from compute.exact import Float32
from protocol.ids import PeerId, TileId, Version
from simnet.villains.villain import Conspiracy, Villain, norm_of, of_norm

LOUDNESS: Final = 100.0


class Scaled(Villain):
    """Shouts."""

    SUMMARY: ClassVar[str] = "sends its honest change, a hundred times as long"

    def __init__(self, me: PeerId, seed: int, conspiracy: Conspiracy) -> None:
        super().__init__(me, seed, conspiracy)
        self._shortest: dict[TileId, float] = {}

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        norm = norm_of(honest_N)
        self._shortest[tile] = min(norm, self._shortest.get(tile, norm))
        return of_norm(honest_N, LOUDNESS * self._shortest[tile])
