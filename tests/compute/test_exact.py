"""The arithmetic law."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compute.exact import check_vector, exact_dot, float32_of, settle, tree_sum
from protocol.rejection import InvariantBroken, Reason, Rejected

finite_float32 = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False).map(lambda value: value + 0.0)


@given(st.fractions(-(10**6), 10**6))
def test_scalars_are_rounded_to_the_nearest_float32(ratio: Fraction) -> None:
    """No neighbouring float32 lies nearer to the ratio; ties have an even mantissa."""
    value = float32_of(ratio)
    error = abs(Fraction(float(value)) - ratio)
    for neighbour in (np.nextafter(value, np.float32(np.inf)), np.nextafter(value, np.float32(-np.inf))):
        other = abs(Fraction(float(neighbour)) - ratio)
        assert error < other or (error == other and int(value.view(np.uint32)) % 2 == 0) or abs(ratio) < 2.0**-125


@given(finite_float32)
def test_scalars_that_are_float32_stay_themselves(value: float) -> None:
    """A float32 passes through its exact ratio unchanged."""
    assert float32_of(Fraction(value)) == np.float32(value)


def test_scalars_at_the_edges() -> None:
    """Ties go to even, overflow breaks an invariant, and nothing subnormal is made."""
    assert float32_of(Fraction(2**24 + 1)) == np.float32(2**24)
    assert float32_of(Fraction(2**24 + 3)) == np.float32(2**24 + 4)
    assert float32_of(Fraction(2**25 - 1)) == np.float32(2**25)
    assert float32_of(Fraction(1, 2**126)) == np.float32(2.0**-126)
    assert float32_of(Fraction(1, 2**127)) == 0
    with pytest.raises(InvariantBroken):
        float32_of(Fraction(2**128))


def test_settle_leaves_no_subnormal_and_no_minus_zero() -> None:
    """Tiny values of both signs and minus zero become plus zero; normal values stay."""
    settled = settle(np.array([1e-40, -1e-40, -0.0, 2.0**-126, -1.5], np.float32))
    assert settled.tobytes() == np.array([0, 0, 0, 2.0**-126, -1.5], np.float32).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_settle_refuses_what_is_not_finite(value: float) -> None:
    """NaN and infinities end a computation as a rejection."""
    with pytest.raises(Rejected) as caught:
        settle(np.array([0, value], np.float32))
    assert caught.value.reason is Reason.BAD_DELTA


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(8),
        np.zeros(8, np.float16),
        np.zeros((2, 4), np.float32),
        np.zeros(8, np.float32)[::2],
        np.zeros(8, ">f4"),
    ],
    ids=["float64", "float16", "matrix", "strided", "big-endian"],
)
def test_other_arrays_are_not_let_in(array: np.ndarray) -> None:
    """Wrong type, order of bytes, dimensions or strides are our own bug."""
    with pytest.raises(InvariantBroken):
        check_vector(array)


@given(arrays.arrays(np.float32, st.integers(0, 40), elements=finite_float32), st.randoms(use_true_random=False))
def test_dot_products_are_exact_in_any_order(vector: np.ndarray, random: object) -> None:
    """The dot product is the rational number, and a permutation does not change it."""
    exact = sum((Fraction(float(value)) ** 2 for value in vector if abs(value) >= 2.0**-126), Fraction(0))
    assert exact_dot(vector, vector) == exact
    order = list(range(vector.size))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert exact_dot(vector[order], vector[order]) == exact
    assert exact_dot(vector, -vector) == -exact


def test_tree_sum_adds_in_its_stated_order() -> None:
    """Halves are added to each other, not neighbours: the order shows in the rounding."""
    row = np.array([[1.0, 2.0**-24, 2.0**-24, 2.0**-24]], np.float32)
    low = np.float32(1) + np.float32(2.0**-24)
    assert tree_sum(row)[0] == low + np.float32(2.0**-23)
