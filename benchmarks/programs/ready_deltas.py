"""Deltas as a learner sends them, without having learned: what a benchmark of the network feeds it.

Trained deltas are not white noise: some rows and columns of a matrix move ten times as far as others, so that the largest
tenth of the values crowds there, and this is what the codec lives on. Here each value is a normal variate times a factor of
its row and one of its column; the spread is chosen so that payloads have the size of really trained ones (a ratio of about 45
with the default pipeline).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compute.model.tiling import Tile

SPREAD: Final = 0.25  # standard deviation of the logarithm of a row's or column's factor
STEP: Final = 1e-4  # far below a weight, so that hundreds of rounds leave the weights in range


def ready_delta(tile: Tile, generator: np.random.Generator) -> NDArray[np.float32]:
    """A delta of a tile: flat float32."""
    pieces = []
    for segment in tile.segments:
        rows_R = np.exp(SPREAD * generator.standard_normal(segment.rows, np.float32))
        columns_C = np.exp(SPREAD * generator.standard_normal(segment.columns, np.float32))
        noise_RC = generator.standard_normal((segment.rows, segment.columns), np.float32)
        pieces.append((noise_RC * rows_R[:, None] * columns_C * np.float32(STEP)).reshape(-1))
    return np.concatenate(pieces)


def ready_payload(tile: Tile, pipeline: str, generator: np.random.Generator) -> bytes:
    """The same, compressed as a learner's."""
    from compute.delta.codec import encode
    from node.tile_work import matrices_of

    return encode(ready_delta(tile, generator), pipeline, matrices_of(tile))
