"""Each value as far from the mean of the honest as an honest one might be, all of them on the wrong side.

"A Little Is Enough" (Baruch, Baruch and Goldberg, 2019): mean - DEVIATIONS * deviation, value by value, of the honest
changes that were seen of this round or the last one, where the sign of the mean says what is wrong. Every value by itself
is a likely one, so rules that look at values or at lengths find nothing; but all together point away from where the mean
does.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from compute.exact import Float32
from protocol.ids import TileId, Version
from simnet.villains.villain import Villain

DEVIATIONS: Final = np.float32(1.5)  # where the paper finds 1 to 1.5 for a third of fifty


class Subtle(Villain):
    """Never stands out."""

    SUMMARY: ClassVar[str] = "stays within the spread of the honest, always on the wrong side"

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        seen = [change_N for _, change_N in self.conspiracy.seen_lately(tile, round_number)]
        if len(seen) < 2:
            return -honest_N
        mean_N = np.mean(seen, axis=0, dtype=np.float32)
        deviation_N = np.std(seen, axis=0, dtype=np.float32)
        changed_N: Float32 = mean_N - DEVIATIONS * np.sign(mean_N) * deviation_N
        return changed_N
