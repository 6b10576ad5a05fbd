"""Says what it found, a hundred times as loud: the model shall be what one learner's data say.

Model replacement (Bagdasaryan et al., 2018, "How To Backdoor Federated Learning"): under a plain average of C learners a
delta times C sets the weights alone. The direction is an honest one, so nothing but its length gives it away.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from compute.exact import Float32
from protocol.ids import TileId, Version
from simnet.villains.villain import Villain

LOUDNESS: Final = np.float32(100)


class Scaled(Villain):
    """Shouts."""

    SUMMARY: ClassVar[str] = "sends its honest change times 100"

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        return honest_N * LOUDNESS
