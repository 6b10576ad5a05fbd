"""Sparsify, quantise, bits: each with its inverse and its bound."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compute.delta.bits import Reader, pack_numbers, sum_zigzag, unpack_numbers, zigzag_differences
from compute.delta.order import Matrices, folded_classes, indices_of, line_count, visits_of
from compute.delta.quantize import dequantize, quantize_mean, quantize_peak, scale_values
from compute.delta.sparsify import kept_count, top_indices
from protocol.rejection import Rejected

ordinary_float32 = st.floats(-(2.0**20), 2.0**20, width=32, allow_subnormal=False).map(lambda value: value + 0.0)
vectors = arrays.arrays(np.float32, st.integers(1, 300), elements=ordinary_float32)


@given(vectors, st.integers(0, 300))
def test_the_largest_are_kept_and_the_lower_index_wins_ties(delta: np.ndarray, kept: int) -> None:
    """The kept indices are the first in the order of (magnitude descending, index ascending)."""
    kept = min(kept, delta.size)
    order = sorted(range(delta.size), key=lambda index: (-abs(float(delta[index])), index))
    assert top_indices(delta, kept).tolist() == sorted(order[:kept])


def test_the_count_kept_is_rounded_up() -> None:
    """A tenth of 1 value is 1, of 30 is 3, of 31 is 4."""
    assert [kept_count(values, Fraction(1, 10)) for values in (0, 1, 10, 30, 31)] == [0, 1, 1, 3, 4]


@given(vectors, st.sampled_from([(256, 127), (128, 7), (128, 3)]))
def test_peak_quantisation_errs_by_half_a_scale(kept: np.ndarray, shape: tuple[int, int]) -> None:
    """|value - code * scale| <= scale / 2, codes stay within the levels, and products are exact."""
    block, levels = shape
    codes, scales = quantize_peak(kept, block, levels)
    assert np.abs(codes.astype(int)).max() <= levels
    decoded = dequantize(codes, scales, block).astype(np.float64)
    scale = np.repeat(scale_values(scales), block)[: kept.size].astype(np.float64)
    assert np.array_equal(decoded, codes * scale)
    assert (np.abs(decoded - kept) <= scale * (0.5 + 2.0**-17) + 2.0**-92).all()


@given(vectors)
def test_sign_quantisation_errs_by_its_stated_bound(kept: np.ndarray) -> None:
    """|value - decoded| <= max(scale, |value| - scale), and the scale is within 2 % of the mean magnitude."""
    codes, scales = quantize_mean(kept, 128)
    decoded = dequantize(codes, scales, 128).astype(np.float64)
    scale = np.repeat(scale_values(scales), 128)[: kept.size].astype(np.float64)
    assert (np.abs(decoded - kept) <= np.maximum(scale, np.abs(kept) - scale) + 2.0**-92).all()
    mean = np.abs(kept[:128].astype(np.float64)).mean()
    assert abs(scale[0] - mean) <= 0.02 * mean + 2.0**-92


@pytest.mark.parametrize("value", [2.0**60, np.inf, np.nan])
def test_values_beyond_every_scale_are_refused(value: float) -> None:
    """A diverged training step does not become a delta."""
    with pytest.raises(Rejected), np.errstate(all="ignore"):
        quantize_peak(np.array([1, value], np.float32), 128, 7)


def test_values_below_every_scale_become_zero() -> None:
    """A block so small that merging it could become subnormal is a block of zeros."""
    codes, scales = quantize_peak(np.full(5, 2.0**-110, np.float32), 128, 7)
    assert not codes.any()
    assert not scales.any()


@given(
    arrays.arrays(np.uint32, st.integers(0, 400), elements=st.one_of(st.integers(0, 20), st.integers(0, 2**20))),
    st.booleans(),
)
def test_numbers_come_back_from_bits(numbers: np.ndarray, with_base: bool) -> None:
    """Packing and unpacking is the identity and uses every byte."""
    reader = Reader(pack_numbers(numbers, with_base))
    assert np.array_equal(unpack_numbers(reader, numbers.size, with_base, 2**20), numbers)
    reader.finish()


@given(arrays.arrays(np.uint32, st.integers(1, 300), elements=st.integers(0, 300)), st.booleans(), st.data())
def test_no_list_of_numbers_has_two_spellings(numbers: np.ndarray, with_base: bool, data: st.DataObject) -> None:
    """A flipped bit is refused or says other numbers: the bytes of a list are the only ones."""
    packed = bytearray(pack_numbers(numbers, with_base))
    bit = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[bit // 8] ^= 1 << bit % 8
    reader = Reader(bytes(packed))
    try:
        other = unpack_numbers(reader, numbers.size, with_base, 300)
        reader.finish()
    except Rejected:
        return
    assert pack_numbers(other, with_base) == bytes(packed)


def test_geometric_numbers_cost_nearly_their_entropy() -> None:
    """Gaps between positions kept with chance 1/10 take at most 3 % more than their 4.69 bits."""
    positions = np.flatnonzero(np.random.default_rng(1).random(500_000) < 0.1)
    gaps = (np.diff(positions, prepend=-1) - 1).astype(np.uint32)
    assert 8 * len(pack_numbers(gaps, with_base=False)) / gaps.size < 4.69 * 1.03


@given(arrays.arrays(np.uint16, st.integers(0, 50)))
def test_differences_of_scales_come_back(scales: np.ndarray) -> None:
    """Folded differences are undone exactly."""
    assert np.array_equal(sum_zigzag(zigzag_differences(scales)), scales)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=4).map(tuple),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_every_position_is_visited_once(matrices: Matrices, density: float, seed: int) -> None:
    """Visits and indices are each other's inverse, under classes that the kept positions fix."""
    values = sum(rows * columns for rows, columns in matrices)
    indices = np.flatnonzero(np.random.default_rng(seed).random(values) < density).astype(np.uint32)
    folded = folded_classes(indices, matrices, values)
    assert folded.size == line_count(matrices)
    visits = visits_of(indices, folded, matrices, values)
    assert np.array_equal(indices_of(visits, folded, matrices, values), indices)
    everywhere = np.arange(values, dtype=np.uint32)
    assert np.array_equal(visits_of(everywhere, folded, matrices, values), everywhere)


def test_loud_lines_are_visited_first() -> None:
    """Rows and columns that keep more than expected come before the others."""
    kept = np.zeros((100, 100), bool)
    kept[7] = True
    kept[:, 30] = True
    indices = np.flatnonzero(kept).astype(np.uint32)
    folded = folded_classes(indices, ((100, 100),), 10_000)
    assert visits_of(indices, folded, ((100, 100),), 10_000).tolist() == list(range(199))
    assert visits_of(np.array([730], np.uint32), folded, ((100, 100),), 10_000).tolist() == [0]
