"""Goes up where the others go down: minus three times its honest change.

The plainest Byzantine gradient (Blanchard et al., 2017, "Machine Learning with Adversaries"). Three times, because that is
what clipping to a multiple of the median norm usually lets through: louder would gain nothing.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from compute.exact import Float32
from protocol.ids import TileId, Version
from simnet.villains.villain import Villain

LOUDNESS: Final = np.float32(-3)


class SignFlipped(Villain):
    """Unlearns."""

    SUMMARY: ClassVar[str] = "sends minus three times its honest change"

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        return honest_N * LOUDNESS
