"""Genesis weights: the same bits on every machine, from the shape and a seed.

torch's and numpy's generators promise no stable streams and their normal variates use the machine's own logarithm, so
neither may decide what the root of version 0 is. Here every row of every parameter has a stream of its own,

    SHAKE-128("nock/weights/1", seed, parameter name, row)  ->  columns x 4 little-endian uint16

of which four summed make one value (Irwin-Hall, n = 4: mean 131070, standard deviation sqrt((2^32 - 1) / 3), kurtosis
2.7; close enough to normal for an initialiser and bounded by 3.46 standard deviations). The centred sum is an integer
below 2^18, exact in float32; it meets one float32 factor, rounded from a rational number (to float64, then float32),
in one multiplication. Nothing else is rounded, no transcendental function is asked, and a tile can be made without making the
rows before it.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy

from compute.model.config import check_config
from compute.model.layout import Initial, Parameter
from compute.model.tiling import Float32Array, TileMap
from protocol.digest import Domain, number
from protocol.ids import TileId

if TYPE_CHECKING:
    from protocol.genesis import ModelShape

SUMMANDS = 4
CENTRE = SUMMANDS * 65535 // 2
SUM_DEVIATION = Fraction(math.isqrt(((1 << 32) - 1) * 10**12 // 3), 10**6)
"""Standard deviation of the sum of four uniform uint16, to six decimal places: 37837.227..."""

EMBEDDING_DEVIATION = Fraction(1, 50)
HEAD_DEVIATION = Fraction(1, 50)


def genesis_tile(shape: ModelShape, tile_map: TileMap, seed: bytes, tile_id: TileId) -> Float32Array:
    """Weights of one tile at version 0: flat float32. Raises Rejected(UNKNOWN_TILE, BAD_CONFIG)."""
    layers = check_config(shape).layers
    by_name = {parameter.name: parameter for parameter in tile_map.parameters}
    tile = tile_map.tile(tile_id)
    flat = numpy.empty(tile.values, dtype=numpy.float32)
    for segment in tile.segments:
        rows_RC = flat[segment.offset : segment.offset + segment.values].reshape(segment.rows, segment.columns)
        parameter = by_name[segment.parameter]
        for row in range(segment.rows):
            rows_RC[row] = _row(parameter, segment.first_row + row, layers, seed)
    return flat


def genesis_weights(shape: ModelShape, tile_map: TileMap, seed: bytes) -> dict[str, Float32Array]:
    """All parameters at version 0, by name."""
    return tile_map.assemble({tile_id: genesis_tile(shape, tile_map, seed, tile_id) for tile_id in tile_map.ids})


def initial_deviation(parameter: Parameter, layers: int) -> Fraction:
    """Standard deviation with which a drawn parameter begins; a rational number, its square root taken in integers."""
    match parameter.initial:
        case Initial.EMBEDDING:
            return EMBEDDING_DEVIATION
        case Initial.HEAD:
            return HEAD_DEVIATION
        case Initial.INPUT:
            return _inverse_root(parameter.columns)
        case Initial.RESIDUAL:
            return _inverse_root(parameter.columns * 2 * layers)
        case Initial.ONES:
            return Fraction(0)


def _row(parameter: Parameter, row: int, layers: int, seed: bytes) -> Float32Array:
    if parameter.initial is Initial.ONES:
        return numpy.ones(parameter.columns, dtype=numpy.float32)
    parts = (Domain.WEIGHTS.encode(), seed, parameter.name.encode(), number(row))
    message = b"".join(number(len(part)) + part for part in parts)
    stream = hashlib.shake_128(message).digest(parameter.columns * SUMMANDS * 2)
    uniform_CS = numpy.frombuffer(stream, dtype="<u2").reshape(parameter.columns, SUMMANDS).astype(numpy.int32)
    centred_C = uniform_CS[:, 0] + uniform_CS[:, 1] + uniform_CS[:, 2] + uniform_CS[:, 3] - CENTRE
    factor = numpy.float32(float(initial_deviation(parameter, layers) / SUM_DEVIATION))
    return centred_C.astype(numpy.float32) * factor


def _inverse_root(value: int) -> Fraction:
    """1 / sqrt(value), rounded down to nine decimal places."""
    return Fraction(math.isqrt(10**18 // value), 10**9)
