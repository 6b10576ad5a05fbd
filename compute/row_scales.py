"""Rows of weights as int8 with one scale each, and back.

    R  rows         C  columns

    codes_RC int8, -127 ... 127        scales_R bfloat16, as its 16 bits        value = code * scale

The scale of a row is its largest magnitude / 127, rounded up to bfloat16; a code is the nearest to value / scale,
ties to even. So

* an error is at most scale / 2, without a rounding on top: quotients are taken in float64, which has more than twice
  the digits of a float32, so that none can be rounded onto or across a tie;
* a product has at most 15 significant bits: **exact in float32**, the same on every machine and in every order of
  operations;
* all of it is correctly rounded by IEEE 754: the same weights have the same codes and scales everywhere.

A row is one output of the matrix. Scaled by rows, a loud output costs only itself precision, and a run of rows is
complete by itself; scales of columns would have to be multiplied into the input, and would be needed whole by each
run.

Scales end at 2^-96: a row that is smaller keeps that scale, and its error is still at most half of it. They end at
2^32 on the large side: weights beyond are refused.
"""

from __future__ import annotations

import numpy as np

from compute.delta.quantize import SCALE_BITS_MAX, SCALE_BITS_MIN, Codes, Scales, scale_values
from compute.exact import Float32
from protocol.rejection import Reason, Rejected

LEVELS = 127


def quantize_rows(weights_RC: Float32) -> tuple[Codes, Scales]:
    """Codes and scales of a matrix. Raises Rejected(BAD_WEIGHTS) for a value that is not finite or beyond 127 * 2^32."""
    peaks_R = np.maximum(weights_RC.max(axis=1), -weights_RC.min(axis=1))  # NaN passes through both
    if not (peaks_R <= LEVELS * scale_values(np.array([SCALE_BITS_MAX], np.uint16))).all():
        raise Rejected(Reason.BAD_WEIGHTS)
    scales_R = _scales_above(peaks_R)
    divisors_R = np.where(scales_R == 0, np.float32(1), scale_values(scales_R)).astype(np.float64)
    codes_RC = np.empty(weights_RC.shape, np.int8)
    for row, divisor in enumerate(divisors_R):  # a row at a time: float64 of a whole matrix would be twice its size
        codes_RC[row] = np.rint(weights_RC[row].astype(np.float64) / divisor)
    return codes_RC, scales_R


def dequantize_rows(codes_RC: Codes, scales_R: Scales, out_RC: Float32) -> None:
    """``code * scale`` into ``out_RC``: exact, and never minus zero."""
    np.multiply(codes_RC, scale_values(scales_R)[:, None], out=out_RC)


def _scales_above(peaks_R: Float32) -> Scales:
    """The smallest bfloat16 that is at least peak / 127, within the range of scales; 0 for a row of zeros."""
    wanted_R = (peaks_R.astype(np.float64) / LEVELS).astype(np.float32)
    bits_R = ((wanted_R.view(np.uint32).astype(np.uint64) + 0xFFFF) >> 16).astype(np.uint16)
    too_small_R = (
        scale_values(bits_R).astype(np.float64) * LEVELS < peaks_R
    )  # the two roundings before it may round down
    raised_R = np.maximum(bits_R + too_small_R.astype(np.uint16), SCALE_BITS_MIN)
    return np.where(peaks_R == 0, np.uint16(0), raised_R.astype(np.uint16))
