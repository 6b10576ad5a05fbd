"""All push in one direction, each as far as clipping lets it: against what the honest agree on.

The direction is minus the mean of the honest changes that were seen of this round, or of the last one (inner product
manipulation: Xie, Koyejo and Gupta, 2019, "Fall of Empires"): the one that turns the mean round with the fewest colluders.
Where nothing was seen it is a random one that they share. Rules that look for a crowd find one here, closer together than
the honest are: a small deviation of each one's own is all that parts them. The length stays just below the limit of
clipping, as far as a villain can tell it from its own honest change.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from compute.exact import Float32
from protocol.ids import TileId, Version
from simnet.villains.villain import Villain, norm_of, of_norm

LOUDNESS: Final = 2.9  # where clipping cuts at 3 median norms
DEVIATION: Final = 0.05  # of the length, that is one's own


class Colluding(Villain):
    """Pulls the rope with its friends."""

    SUMMARY: ClassVar[str] = (
        "pushes against the mean of the honest, together with all its kind, just below the clip limit"
    )

    def change(
        self, tile: TileId, round_number: int, base: Version, weights_N: Float32, honest_N: Float32
    ) -> Float32 | None:
        seen = self.conspiracy.seen_lately(tile, round_number)
        if seen:
            common_N: Float32 = np.negative(np.mean([change_N for _, change_N in seen], axis=0, dtype=np.float32))
        else:
            common_N = self.conspiracy.direction(tile, honest_N.size)
        own_N = of_norm(self.drawn(tile, round_number, honest_N.size), DEVIATION)
        return of_norm(of_norm(common_N, 1.0) + own_N, LOUDNESS * norm_of(honest_N))
