"""Streams for tests: codes and scales drawn from a seed, and their files."""

from __future__ import annotations

import functools

import numpy as np

from protocol.ids import Digest
from storage.streamed_tile import SCALE_BITS_MAX, SCALE_BITS_MIN, Codes, Scales, TileRows
from storage.tile_stream import StreamBuilder, StreamedMatrix, StreamShape


def drawn_rows(shape: TileRows, generator: np.random.Generator) -> tuple[Codes, Scales]:
    """Any codes, any scales; about one row in eight is zero."""
    codes_RC = generator.integers(-127, 128, (shape.rows, shape.columns), np.int8)
    scales_R = generator.integers(SCALE_BITS_MIN, SCALE_BITS_MAX + 1, shape.rows, np.uint16)
    zero_R = generator.integers(0, 8, shape.rows) == 0
    codes_RC[zero_R], scales_R[zero_R] = 0, 0
    return codes_RC, scales_R


@functools.cache
def drawn_stream(
    matrices: tuple[tuple[int, int, int], ...], seed: int = 0
) -> tuple[StreamShape, list[tuple[Codes, Scales]], bytes, Digest]:
    """Shape, tiles, file and root of matrices of (rows, columns, rows of a tile)."""
    shape = StreamShape(tuple(StreamedMatrix(*each) for each in matrices))
    generator = np.random.default_rng(seed)
    tiles = [drawn_rows(place.shape, generator) for place in shape.places()]
    builder = StreamBuilder(shape)
    return shape, tiles, b"".join(builder.pieces(tiles)), builder.root
