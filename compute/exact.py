"""The arithmetic that gives the same bits on every machine, in one place.

Merging and the outer step are recomputed by every holder and voted on by their root, so a last bit decides. The law:

* float32 arrays, one IEEE 754 operation at a time: add, subtract, multiply, divide, square root, compare, round to
  integer. Each is correctly rounded by the standard, so scalar, SSE, AVX and NEON code agree. numpy runs each as a
  loop of its own, so that no multiply and add can fuse into one rounding.
* No sum, mean, dot or matmul over floats: their order is the CPU's business. Sums are loops over whole arrays in a
  stated order, halving trees (:func:`tree_sum`), or integers, also those that floats hold as long as every sum of them is
  exact (:func:`exact_dot`, ``compute/agreement.py``).
* No exp, log, pow, trigonometry. Scalars (learning rates, bias corrections, weights) are exact rationals, rounded
  once to float32 by integers (:func:`float32_of`).
* No subnormals, infinities, NaN or minus zero. Processors may be told to flush subnormals, and NaN has many bit
  patterns, so none of them may reach a result: :func:`settle` ends every computation, turns what is smaller than
  2^-126 into +0 and refuses what is not finite.
* Only contiguous float32 vectors come in (:func:`check_vector`).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocol.rejection import InvariantBroken, Reason, Rejected, check_invariant

FLOAT32: Final = np.dtype("<f4")

Float32 = NDArray[np.float32]

MANTISSA_BITS: Final = 24  # of a float32, the implicit one included
EXPONENT_MIN: Final = -126  # smallest exponent of a normal float32
EXPONENT_MAX: Final = 127
SMALLEST_NORMAL: Final = np.float32(2.0**-126)


def check_vector(array: NDArray[Any], values: int | None = None) -> Float32:
    """The array, if it is a contiguous float32 vector (of ``values`` values); else our bug: InvariantBroken."""
    if array.dtype != FLOAT32:  # asked for every vector, and numpy takes longer to name a type than all these checks
        raise InvariantBroken(f"exact arithmetic takes float32, not {array.dtype}")
    check_invariant(array.ndim == 1, f"exact arithmetic takes vectors, not {array.ndim} dimensions")
    check_invariant(bool(array.flags.c_contiguous), "exact arithmetic takes contiguous arrays")
    check_invariant(values is None or array.size == values, f"a vector of {values} values, not {array.size}")
    return array


def float32_of(ratio: Fraction) -> np.float32:
    """The float32 nearest to ``ratio``, ties to even, found with integers alone.

    A ratio smaller than the smallest normal number becomes zero; one beyond the largest breaks an invariant.
    """
    if ratio == 0:
        return np.float32(0)
    numerator, denominator = abs(ratio.numerator), ratio.denominator
    exponent = numerator.bit_length() - denominator.bit_length()  # 2^(exponent-1) < |ratio| < 2^(exponent+1)
    if _shifted(numerator, -exponent) < _shifted(denominator, exponent):
        exponent -= 1  # now 2^exponent <= |ratio| < 2^(exponent+1)
    shift = MANTISSA_BITS - 1 - exponent
    top, bottom = _shifted(numerator, shift), _shifted(denominator, -shift)
    mantissa, rest = divmod(top, bottom)
    if 2 * rest > bottom or (2 * rest == bottom and mantissa & 1):
        mantissa += 1
    if mantissa == 1 << MANTISSA_BITS:
        mantissa, exponent = mantissa >> 1, exponent + 1
    check_invariant(exponent <= EXPONENT_MAX, "a scalar fits in float32")
    if exponent < EXPONENT_MIN:
        return np.float32(0)
    bits = (exponent + EXPONENT_MAX) << (MANTISSA_BITS - 1) | mantissa & ((1 << (MANTISSA_BITS - 1)) - 1)
    if ratio < 0:
        bits |= 1 << 31
    return np.float32(np.array([bits], np.uint32).view(np.float32)[0])


def _shifted(number: int, places: int) -> int:
    """``number * 2^places`` for places > 0, else ``number``: the fraction's other side carries negative powers."""
    return number << places if places > 0 else number


def settle(vector: Float32) -> Float32:
    """End of a computation, in place: tiny values and minus zero become +0.

    Raises Rejected(BAD_DELTA) if a value is not finite.
    """
    if not np.isfinite(vector).all():
        raise Rejected(Reason.BAD_DELTA, "arithmetic left the range of float32")
    vector[np.abs(vector) < SMALLEST_NORMAL] = np.float32(0)
    return vector


def tree_sum(matrix_RC: Float32) -> Float32:
    """Sum of each row, by halving: column j + half is added to column j until one is left; columns: a power of two."""
    columns = matrix_RC.shape[1]
    check_invariant(columns & (columns - 1) == 0, "a halving tree needs a power of two")
    while columns > 1:
        columns //= 2
        matrix_RC = matrix_RC[:, :columns] + matrix_RC[:, columns : 2 * columns]
    return np.ascontiguousarray(matrix_RC[:, 0])


def exact_dot(left_K: Float32, right_K: Float32) -> Fraction:
    """The sum of products of two finite vectors, exact: integers only, whatever the order. At most 2^28 values.

    A product of two mantissas has 48 bits; its halves of 24 bits are summed apart for each of the 509 sums of
    exponents, and every such sum is an integer below 2^53, which the float64 bins of ``bincount`` hold exactly.
    """
    check_invariant(left_K.size == right_K.size, "a dot product of vectors of one length")
    check_invariant(left_K.size <= 1 << 28, "sums of 24-bit halves stay exact")
    left_mantissas_K, left_exponents_K = _decompose(left_K)
    right_mantissas_K, right_exponents_K = _decompose(right_K)
    products_K = left_mantissas_K * right_mantissas_K
    keys_K = left_exponents_K + right_exponents_K
    upper = np.bincount(keys_K, weights=products_K >> 24, minlength=512)
    lower = np.bincount(keys_K, weights=products_K & 0xFFFFFF, minlength=512)
    total = sum(
        ((int(upper[key]) << 24) + int(lower[key])) << int(key) for key in np.flatnonzero((upper != 0) | (lower != 0))
    )
    return Fraction(total, 1 << 300)  # a float32 is mantissa * 2^(exponent - 150)


def _decompose(vector_K: Float32) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Signed 24-bit mantissas and biased exponents; a zero has mantissa 0."""
    bits_K = vector_K.view(np.uint32).astype(np.int64)
    exponents_K = bits_K >> 23 & 0xFF
    mantissas_K = np.where(exponents_K == 0, 0, bits_K & 0x7FFFFF | 0x800000)
    return np.where(bits_K >> 31 == 1, -mantissas_K, mantissas_K), exponents_K
