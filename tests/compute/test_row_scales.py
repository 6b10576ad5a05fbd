"""Rows of weights in eight bits: off by half a scale at most, and exact on the way back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compute.delta.quantize import SCALE_BITS_MIN, scale_values
from compute.row_scales import LEVELS, dequantize_rows, quantize_rows
from protocol.rejection import Reason, Rejected

MAX = float(np.float32(LEVELS * 2.0**32))
elements = st.one_of(st.floats(-MAX, MAX, width=32), st.floats(-1, 1, width=32), st.just(0.0))
matrices = arrays.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 40)), elements=elements)


def dequantized(codes_RC, scales_R):
    out_RC = np.full(codes_RC.shape, np.nan, np.float32)
    dequantize_rows(codes_RC, scales_R, out_RC)
    return out_RC


@given(matrices)
@example(np.array([[2.0**-149, 2.0**-97]], np.float32))
@example(np.array([[127.0, 0.5, 1.5, -2.5, 126.5]], np.float32))
@example(np.array([[np.nextafter(np.float32(127), np.float32(128)), 63.75]], np.float32))
@settings(deadline=None, max_examples=300)
def test_an_error_is_at_most_half_a_scale(weights_RC):
    """As exact rationals, for every channel; codes stay within the levels, and a row of zeros has scale zero."""
    codes_RC, scales_R = quantize_rows(weights_RC)
    assert np.abs(codes_RC.astype(int)).max() <= LEVELS
    out_RC = dequantized(codes_RC, scales_R)
    for row, scale in enumerate(map(Fraction, map(float, scale_values(scales_R)))):
        for value, code, decoded in zip(weights_RC[row], codes_RC[row], out_RC[row], strict=True):
            assert Fraction(float(decoded)) == int(code) * scale
            assert abs(Fraction(float(value)) - Fraction(float(decoded))) <= scale / 2
        assert (scale == 0) == (not weights_RC[row].any())
    assert not np.signbit(out_RC[out_RC == 0]).any()


@given(matrices)
@settings(deadline=None)
def test_a_scale_is_the_smallest_that_reaches_its_row(weights_RC):
    """One bfloat16 less, and the largest weight would need a code beyond 127; unless it is the smallest scale there is."""
    _, scales_R = quantize_rows(weights_RC)
    for row, bits in enumerate(scales_R):
        peak = Fraction(float(np.abs(weights_RC[row]).max()))
        if bits:
            assert Fraction(float(scale_values(np.array([bits]))[0])) * LEVELS >= peak
        if bits > SCALE_BITS_MIN:
            assert Fraction(float(scale_values(np.array([bits - 1]))[0])) * LEVELS < peak


@given(matrices, st.integers(0, 7))
@settings(deadline=None)
def test_rows_are_quantised_alone(weights_RC, at):
    """So a tile's codes do not depend on what else its matrix holds, nor on how it was cut."""
    row = at % weights_RC.shape[0]
    codes_RC, scales_R = quantize_rows(weights_RC)
    codes_1C, scale_1 = quantize_rows(weights_RC[row : row + 1])
    assert (codes_1C[0] == codes_RC[row]).all()
    assert scale_1[0] == scales_R[row]


@given(matrices)
@settings(deadline=None)
def test_what_was_quantised_once_loses_nothing_more(weights_RC):
    """Quantising the decoded rows decodes to the same rows: they may be stored, read and streamed again."""
    once_RC = dequantized(*quantize_rows(weights_RC))
    again_RC = dequantized(*quantize_rows(once_RC))
    assert (np.abs(again_RC - once_RC) <= scale_values(quantize_rows(once_RC)[1])[:, None] / 2).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**40, -(2.0**40)])
@pytest.mark.parametrize("at", [0, 7, 11])
def test_weights_that_are_not_finite_are_refused(value, at):
    """So are those beyond every scale, wherever in a matrix they stand."""
    weights_RC = np.ones((3, 4), np.float32)
    weights_RC.reshape(-1)[at] = value
    with pytest.raises(Rejected) as caught:
        quantize_rows(weights_RC)
    assert caught.value.reason is Reason.BAD_WEIGHTS


def test_golden_rows():
    """Codes and scales of a few numbers, by hand: 127 / 127 = 1; 3 / 127 rounds up to 0x3cc2; ties go to even."""
    weights_RC = np.array([[127, 0.5, 1.5, -2.5], [3, -1, 0.02, 0], [0, 0, 0, 0]], np.float32)
    codes_RC, scales_R = quantize_rows(weights_RC)
    assert [hex(bits) for bits in scales_R] == ["0x3f80", "0x3cc2", "0x0"]
    assert codes_RC.tolist() == [[127, 0, 2, -2], [127, -42, 1, 0], [0, 0, 0, 0]]
