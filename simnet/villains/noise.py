"""Sends noise in place of what it found: no work, or the wish to shake everything.

Normal noise, three times as long as its honest change, new in each round. It points nowhere, so its cosine to anything is
nearly zero; the harm is variance. Compression keeps the tenth of it that is largest, and the rest waits in the residual and
comes later.
"""

from __future__ import annotations

from typing import ClassVar, Final

from compute.exact import Float32
from protocol.ids import TileId, Version
from simnet.villains.villain import Villain, norm_of, of_norm

LOUDNESS: Final = 3.0


class Noise(Villain):
    """Shakes."""

    SUMMARY: ClassVar[str] = "sends noise, three times as long as its honest change"

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        return of_norm(self.drawn(tile, round_number, honest_N.size), LOUDNESS * norm_of(honest_N))
