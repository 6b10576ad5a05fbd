"""Delta to bytes and back.

    N  values of the tile     K  values kept     G  blocks of scales     L  lines of its matrices

    +------+---------+----------+----------+--------+----------+---------+---------+----------+------------+-------+
    | "nD" | version | pipeline | values N | kept K | matrices | classes | gaps    | scales   | magnitudes | signs |
    | 2    | u8 = 1  | u8       | u32      | u32    |          | L       | K       | G        | K numbers  |       |
    +------+---------+----------+----------+--------+----------+---------+---------+----------+------------+-------+
                                                    '------- unless dense --------'            if levels > 1

    matrices     count (u8), then rows and columns of each in 7-bit groups, lowest first, high bit on all but the last
    classes      of the lines of these matrices, see ``order``
    gaps         positions visited since the last kept one
    scales       bfloat16, each less the one before, folded
    signs        a bit for each code that is not zero

Little-endian; number streams are those of ``bits``. The raw pipeline has N float32 in place of all streams.

**One content, one byte string**: every field is fixed by the content (and the matrices, which are the tile's), and
``decode`` refuses all other spellings, so that equal digests mean equal deltas and anybody can recompute a published
update byte for byte. Decoding is bounded before it begins: N is what the tile has, K is at most N, no stream can hold
more numbers than it has bits, and memory stays below 64 bytes a value.

What ``decode`` refuses, always as Rejected(BAD_DELTA) (or BAD_SHAPE for another N): unknown versions and pipelines, a
K that the pipeline would not have kept, indices beyond N, scales below 2^-96 or above 2^32, codes beyond the levels,
codes under a zero scale and scales over zero codes, raw values that are not finite, subnormal, minus zero or beyond
2^40, padding that is not zero, missing and trailing bytes. Repeated or unsorted indices cannot be written down.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from compute.delta.bits import (
    Reader,
    pack_flags,
    pack_numbers,
    sum_zigzag,
    unpack_flags,
    unpack_numbers,
    zigzag_differences,
)
from compute.delta.decoded import DecodedDelta
from compute.delta.order import CLASS_MAX, Matrices, folded_classes, indices_of, line_count, visits_of
from compute.delta.pipeline import PIPELINE_BY_NUMBER, Keep, Pipeline, Scale, get_pipeline
from compute.delta.quantize import (
    SCALE_BITS_MAX,
    SCALE_BITS_MIN,
    Codes,
    Scales,
    blocks_of,
    quantize_mean,
    quantize_peak,
)
from compute.delta.sparsify import kept_count, nonzero_indices, top_indices
from compute.exact import FLOAT32, SMALLEST_NORMAL, Float32, check_vector, settle
from protocol.digest import blob_digest
from protocol.limits import TILE_BYTES_MAX
from protocol.rejection import Reason, Rejected, check_invariant

MAGIC: Final = b"nD"
VERSION: Final = 1
HEADER_BYTES: Final = 12
VALUES_MAX: Final = TILE_BYTES_MAX // 4
RAW_MAX: Final = np.float32(2.0**40)  # room for 64 of them in float32, far beyond any weight

_NO_CODES: Final = np.zeros(0, np.int8)
_NO_SCALES: Final = np.zeros(0, np.uint16)
_NO_RAW: Final = np.zeros(0, np.float32)


def payload_bytes_max(values: int) -> int:
    """Bound of a payload for a tile of so many values: raw float32 is the largest, and a header."""
    return 4 * values + 1024


def encode(delta_N: Float32, pipeline: str, matrices: Matrices = ()) -> bytes:
    """The payload of a delta: see ``encode_and_read``."""
    return encode_and_read(delta_N, pipeline, matrices)[0]


def encode_and_read(delta_N: Float32, pipeline: str, matrices: Matrices = ()) -> tuple[bytes, DecodedDelta]:
    """The payload of a delta, and what ``decode`` reads from it, without reading it.

    ``matrices`` are the (rows, columns) that fill the tile, at most 255; knowing them makes a sparse payload 4 %
    smaller.

    Raises Rejected(BAD_DELTA) if a value is not finite or too large, Rejected(BAD_CONFIG) for an unknown pipeline.
    """
    row = get_pipeline(pipeline)
    check_vector(delta_N)
    check_invariant(0 < delta_N.size <= VALUES_MAX, "a tile has at least one value and at most TILE_BYTES_MAX bytes")
    check_invariant(
        not matrices or (len(matrices) < 256 and sum(rows * columns for rows, columns in matrices) == delta_N.size),
        "at most 255 matrices fill the tile",
    )
    if not np.isfinite(delta_N).all():
        raise Rejected(Reason.BAD_DELTA, "a value is not finite")
    if row.scale is Scale.RAW:
        raw_N = settle(delta_N.copy())
        if (np.abs(raw_N) > RAW_MAX).any():
            raise Rejected(Reason.BAD_DELTA, "a value is larger than any delta may hold")
        payload = _header(row, delta_N.size, delta_N.size) + raw_N.tobytes()
        indices_K = np.arange(delta_N.size, dtype=np.uint32)
        return payload, DecodedDelta(
            blob_digest(payload), row, delta_N.size, (), indices_K, _NO_CODES, _NO_SCALES, raw_N
        )
    if row.keep is Keep.ALL:
        matrices = ()
        indices_K = np.arange(delta_N.size, dtype=np.uint32)
        codes_K, scales_G = _quantize(delta_N, row)
    elif row.keep is Keep.TOP:
        indices_K = top_indices(delta_N, kept_count(delta_N.size, row.fraction))
        codes_K, scales_G = _quantize(delta_N[indices_K], row)
    else:
        indices_K = nonzero_indices(delta_N)
        codes_K, _ = _quantize(delta_N[indices_K], row)
        indices_K = indices_K[codes_K != 0]  # what rounds to zero needs no index
        codes_K, scales_G = _quantize(delta_N[indices_K], row)
    positions = b"" if row.keep is Keep.ALL else _pack_positions(indices_K, matrices, delta_N.size)
    payload = _header(row, delta_N.size, indices_K.size) + positions + _pack_codes(codes_K, scales_G, row)
    return payload, DecodedDelta(
        blob_digest(payload), row, delta_N.size, matrices, indices_K, codes_K, scales_G, _NO_RAW
    )


def decode(payload: bytes, values: int) -> DecodedDelta:
    """The checked delta of a tile of ``values`` values. Raises only Rejected(BAD_DELTA, BAD_SHAPE, TOO_LARGE)."""
    if len(payload) > payload_bytes_max(values):
        raise Rejected(Reason.TOO_LARGE, f"{len(payload)} bytes for a tile of {values} values")
    reader = Reader(payload)
    header = reader.take(HEADER_BYTES).tobytes()
    row = PIPELINE_BY_NUMBER.get(header[3])
    if header[:2] != MAGIC or header[2] != VERSION or row is None:
        raise Rejected(Reason.BAD_DELTA, "no payload of a known version and pipeline")
    claimed, kept = int.from_bytes(header[4:8], "little"), int.from_bytes(header[8:12], "little")
    if claimed != values:
        raise Rejected(Reason.BAD_SHAPE, f"a delta of {claimed} values for a tile of {values}")
    expected = kept_count(values, row.fraction)
    if kept > values or (row.keep is not Keep.NONZERO and kept != expected):
        raise Rejected(Reason.BAD_DELTA, f"{kept} of {values} values kept")
    indices_K = np.arange(values, dtype=np.uint32)
    matrices: Matrices = ()
    codes_K, scales_G, raw_K = _NO_CODES, _NO_SCALES, _NO_RAW
    if row.scale is Scale.RAW:
        raw_K = _check_raw(np.frombuffer(reader.take(4 * values).tobytes(), FLOAT32))
    else:
        if row.keep is not Keep.ALL:
            matrices, indices_K = _unpack_positions(reader, kept, values)
        codes_K, scales_G = _unpack_codes(reader, kept, row)
    reader.finish()
    return DecodedDelta(blob_digest(payload), row, values, matrices, indices_K, codes_K, scales_G, raw_K)


def _header(row: Pipeline, values: int, kept: int) -> bytes:
    return MAGIC + bytes([VERSION, row.number]) + values.to_bytes(4, "little") + kept.to_bytes(4, "little")


def _quantize(kept_K: Float32, row: Pipeline) -> tuple[Codes, Scales]:
    if row.scale is Scale.MEAN:
        return quantize_mean(kept_K, row.block)
    return quantize_peak(kept_K, row.block, row.levels)


def _pack_positions(indices_K: NDArray[np.uint32], matrices: Matrices, values: int) -> bytes:
    visits_K = indices_K.astype(np.int64)
    classes = b""
    if matrices:
        folded_L = folded_classes(indices_K, matrices, values)
        classes = pack_numbers(folded_L, with_base=False)
        visits_K = visits_of(indices_K, folded_L, matrices, values)
    gaps_K = np.diff(visits_K, prepend=-1) - 1
    return _pack_matrices(matrices) + classes + pack_numbers(gaps_K.astype(np.uint32), with_base=False)


def _unpack_positions(reader: Reader, kept: int, values: int) -> tuple[Matrices, NDArray[np.uint32]]:
    matrices = _unpack_matrices(reader, values)
    folded_L = unpack_numbers(reader, line_count(matrices), with_base=False, limit=2 * CLASS_MAX)
    gaps_K = unpack_numbers(reader, kept, with_base=False, limit=values)
    visits_K = np.cumsum(gaps_K.astype(np.int64) + 1) - 1
    if kept and int(visits_K[-1]) >= values:
        raise Rejected(Reason.BAD_DELTA, "an index lies beyond the tile")
    if not matrices:
        return matrices, visits_K.astype(np.uint32)
    indices_K = indices_of(visits_K, folded_L, matrices, values)
    if not np.array_equal(folded_L, folded_classes(indices_K, matrices, values)):
        raise Rejected(Reason.BAD_DELTA, "the classes of the lines are not those that follow from the indices")
    return matrices, indices_K


def _pack_matrices(matrices: Matrices) -> bytes:
    packed = bytearray([len(matrices)])
    for rows, columns in matrices:
        for size in (rows, columns):
            while size > 127:
                packed.append(size & 127 | 128)
                size >>= 7
            packed.append(size)
    return bytes(packed)


def _unpack_matrices(reader: Reader, values: int) -> Matrices:
    sizes: list[int] = []
    for _ in range(2 * int(reader.take(1)[0])):
        size = shift = 0
        while True:
            group = int(reader.take(1)[0])
            size |= (group & 127) << shift
            shift += 7
            if group < 128:
                break
            if shift > 21:
                raise Rejected(Reason.BAD_DELTA, "a matrix is larger than any tile")
        if group == 0:
            raise Rejected(Reason.BAD_DELTA, "a matrix is empty, or its size has a leading zero")
        sizes.append(size)
    matrices = tuple(zip(sizes[0::2], sizes[1::2], strict=True))
    if matrices and sum(rows * columns for rows, columns in matrices) != values:
        raise Rejected(Reason.BAD_SHAPE, "the matrices do not fill the tile")
    return matrices


def _pack_codes(codes_K: Codes, scales_G: Scales, row: Pipeline) -> bytes:
    magnitudes_K = np.abs(codes_K).astype(np.uint32)
    return b"".join(
        (
            pack_numbers(zigzag_differences(scales_G), with_base=False),
            pack_numbers(magnitudes_K, with_base=True) if row.levels > 1 else b"",
            pack_flags(codes_K[codes_K != 0] < 0),
        )
    )


def _unpack_codes(reader: Reader, kept: int, row: Pipeline) -> tuple[Codes, Scales]:
    folded_G = unpack_numbers(reader, blocks_of(kept, row.block), with_base=False, limit=2 * SCALE_BITS_MAX)
    scales_G = sum_zigzag(folded_G)
    if not ((scales_G == 0) | ((scales_G >= SCALE_BITS_MIN) & (scales_G <= SCALE_BITS_MAX))).all():
        raise Rejected(Reason.BAD_DELTA, "a scale is negative, too small, too large or not finite")
    live_K = np.repeat(scales_G != 0, row.block)[:kept]
    if row.levels == 1:
        magnitudes_K = live_K.astype(np.uint32)
    else:
        magnitudes_K = unpack_numbers(reader, kept, with_base=True, limit=row.levels)
    nonzero_K = magnitudes_K != 0
    peaks_G = np.maximum.reduceat(magnitudes_K, np.arange(0, kept, row.block)) if kept else folded_G
    if ((peaks_G != 0) != (scales_G != 0)).any():
        raise Rejected(Reason.BAD_DELTA, "a block has codes without a scale, or a scale without codes")
    signed_K = magnitudes_K.astype(np.int8)
    signs = np.zeros(kept, np.bool_)
    signs[nonzero_K] = unpack_flags(reader, int(np.count_nonzero(nonzero_K)))
    signed_K[signs] *= -1
    return signed_K, scales_G.astype(np.uint16)


def _check_raw(raw_N: Float32) -> Float32:
    magnitudes_N = np.abs(raw_N)
    if not (magnitudes_N <= RAW_MAX).all():  # NaN fails too
        raise Rejected(Reason.BAD_DELTA, "a raw value is not finite or too large")
    if ((magnitudes_N < SMALLEST_NORMAL) & (raw_N.view(np.uint32) != 0)).any():
        raise Rejected(Reason.BAD_DELTA, "a raw value is subnormal or minus zero")
    return raw_N
