"""Quantise: float32 values to small integers times one scale for each block.

    K  values          B  values of a block (the last may be shorter)          G  blocks, ceil(K / B)

``kept_K -> codes_K (int8), scales_G (uint16)``. Inverse: ``value = code * scale``. A scale is a bfloat16, the upper
half of a float32, so it has 8 significant bits; a code has at most 7: **the product is exact in float32**, and a
decoded delta is a list of exact rationals, which is what lets norms and clipping be integers.

    peak   scale = the largest magnitude of the block / levels, rounded up to bfloat16
           codes -levels..levels; error of a value at most scale / 2 (and 2^-24 of it for the rounding of the division)
    mean   scale = the mean magnitude of the block, cut to bfloat16; codes are signs; error at most
           max(scale, |value| - scale)

A block whose scale would leave [2^-96, 2^32] on the small side becomes zeros: nothing that is decoded can become
subnormal or overflow in a merge of 64. Values beyond the large side are refused.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from compute.exact import Float32, tree_sum
from protocol.rejection import Reason, Rejected

SCALE_EXPONENT_MIN: Final = -96
SCALE_EXPONENT_MAX: Final = 32
SCALE_BITS_MIN: Final = (SCALE_EXPONENT_MIN + 127) << 7  # as bfloat16
SCALE_BITS_MAX: Final = (SCALE_EXPONENT_MAX + 127) << 7

Codes = NDArray[np.int8]
Scales = NDArray[np.uint16]


def blocks_of(count: int, block: int) -> int:
    """Number of blocks of ``block`` that hold ``count`` values."""
    return -(-count // block)


def quantize_peak(kept_K: Float32, block: int, levels: int) -> tuple[Codes, Scales]:
    """Codes -levels..levels and one bfloat16 scale a block. Raises Rejected(BAD_DELTA) for values out of range."""
    rows_GB = _rows(kept_K, block)
    peaks_G = np.abs(rows_GB).max(axis=1, initial=np.float32(0))
    ratio_G = peaks_G / np.float32(levels)
    raised_G = (ratio_G.view(np.uint32).astype(np.uint64) + 0xFFFF) >> 16  # up to the next bfloat16
    return _codes(rows_GB, raised_G.astype(np.uint16), kept_K.size)


def quantize_mean(kept_K: Float32, block: int) -> tuple[Codes, Scales]:
    """Signs and the mean magnitude of each block: ``block`` is a power of two. Raises Rejected(BAD_DELTA) likewise.

    A zero gets the sign +.
    """
    rows_GB = _rows(kept_K, block)
    counts_G = np.full(rows_GB.shape[0], block, np.float32)
    if kept_K.size % block:
        counts_G[-1] = np.float32(kept_K.size % block)
    mean_G = tree_sum(np.abs(rows_GB)) / counts_G
    scales_G = _check_scales((mean_G.view(np.uint32) >> 16).astype(np.uint16))
    signs_GB = np.where(rows_GB < 0, np.int8(-1), np.int8(1))
    signs_GB[scales_G == 0] = 0
    return np.ascontiguousarray(signs_GB.reshape(-1)[: kept_K.size]), scales_G


def scale_values(scales_G: Scales) -> Float32:
    """The scales as float32."""
    return (scales_G.astype(np.uint32) << 16).view(np.float32)


def dequantize(codes_K: Codes, scales_G: Scales, block: int) -> Float32:
    """``code * scale`` for each value: exact."""
    repeated_K = np.repeat(scale_values(scales_G), block)[: codes_K.size]
    return codes_K.astype(np.float32) * repeated_K + np.float32(0)  # + 0: no minus zero from 0 * scale


def _rows(kept_K: Float32, block: int) -> Float32:
    """The values in rows of one block each, the last filled up with zeros."""
    rows = np.zeros(blocks_of(kept_K.size, block) * block, np.float32)
    rows[: kept_K.size] = kept_K
    return rows.reshape(-1, block)


def _check_scales(scales_G: Scales) -> Scales:
    """Tiny scales become zero; Rejected(BAD_DELTA) if one is too large or not finite."""
    if (scales_G > SCALE_BITS_MAX).any():
        raise Rejected(Reason.BAD_DELTA, "a value is not finite or larger than any delta may hold")
    return np.where(scales_G < SCALE_BITS_MIN, np.uint16(0), scales_G)


def _codes(rows_GB: Float32, scales_G: Scales, count: int) -> tuple[Codes, Scales]:
    scales_G = _check_scales(scales_G)
    divisors_G = np.where(scales_G == 0, np.float32(1), scale_values(scales_G))
    rounded_GB = np.rint(rows_GB / divisors_G[:, None])
    rounded_GB[scales_G == 0] = 0
    return rounded_GB.reshape(-1)[:count].astype(np.int8), scales_G
