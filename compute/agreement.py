"""Which contributions agree with most of the others, and how much each counts: votes by signs, in integers.

    C  contributions that say anything        N  values of the tile

**Why signs.** Honest learners see different text, and most of a delta is the noise of its batches: two honest ones have a
cosine of 0.05 to 0.3 (docs/log.md). But each has it with every other honest one. A poisoner that does harm has not, however
its lengths and values look. Over thousands of values the difference is far above chance, while no single value tells
anything: that is why rules that go value by value, or that look for outliers, lose here. A sign cannot be made louder.

    cosine(i, j)    of the signs of what both kept: (same - opposite) / root(kept_i * kept_j)
    agreement(i)    the weighted median of its cosines to all others: with a majority of honest ones it lies between two
                    cosines to honest ones, whatever a minority says about each other
    typical         the weighted median of the agreements
    left out        whose agreement is below two thirds of the typical one, or below zero; nobody, if that were all
    voice(i)        weight / sum over those not left out of max(0, cosine(i, j))^2, itself with 1: copies share one voice

Weights are capped at a multiple of their median, for votes and voices alike: an aggregate of a region speaks louder than a
learner, but never alone.

**Same bits everywhere.** Sums of signs are integers below 2^24, which float32 holds exactly in any order of addition: the
one matrix product that the law of ``compute/exact.py`` has room for. Cosines are cut to millionths by an integer root.

Sources: a majority of directions, Blanchard et al. (2017, Krum) and signSGD with majority vote, Bernstein et al. (2019);
copies that share a voice, Fung et al. (2018, FoolsGold). What is ours is the median over the others, which needs no count
of the poisoners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compute.exact import Float32
from protocol.rejection import check_invariant

MICRO: Final = 1_000_000
COLUMNS_AT_A_TIME: Final = 1 << 16  # sums of so many signs stay below 2^24; 64 rows of float32 are 16 MiB
ENOUGH: Final = Fraction(2, 3)  # of the typical agreement: at a half the subtle pass early on (docs/log.md)

_ONE: Final = Fraction(1)

Signed = tuple[NDArray[np.uint32], Float32]  # ascending indices, and the values there


@dataclass(frozen=True, slots=True)
class Voices:
    """How much each contribution counts; zero: left out."""

    shares_C: tuple[Fraction, ...]  # of one
    agreements_micro_C: tuple[int, ...]


def hear(contributions_C: Sequence[Signed], weights_C: Sequence[int], values: int, weight_multiple: Fraction) -> Voices:
    """The voices of at least one contribution of ``values`` values, none of them all zero, with weights of at least 1."""
    cosines_CC = sign_cosines_micro(contributions_C, values)
    capped_C = cap_weights(weights_C, weight_multiple)
    everybody = range(len(contributions_C))
    agreements_C = [
        -weighted_median(
            [(-cosine, capped_C[other]) for other, cosine in enumerate(row_C) if other != one] or [(-MICRO, _ONE)]
        )
        for one, row_C in enumerate(cosines_CC)
    ]  # the upper one of two medians: one honest of three agrees with the other
    typical = weighted_median(list(zip(agreements_C, capped_C, strict=True)))
    enough = max(0, typical * ENOUGH.numerator // ENOUGH.denominator)
    taken = [one for one in everybody if agreements_C[one] >= enough] or list(everybody)
    voices_C = [Fraction(0)] * len(contributions_C)
    for one in taken:
        alike = sum(max(0, cosines_CC[one][other]) ** 2 for other in taken if other != one)
        voices_C[one] = capped_C[one] / (1 + Fraction(alike, MICRO * MICRO))
    total = sum(voices_C)
    return Voices(tuple(voice / total for voice in voices_C), tuple(agreements_C))


def sign_cosines_micro(contributions_C: Sequence[Signed], values: int) -> list[list[int]]:
    """Millionths of the cosine of each one's signs to each other's, cut toward zero."""
    products_CC = sign_products(contributions_C, values)
    cosines_CC = []
    for one, row_C in enumerate(products_CC):
        cosines_C = []
        for other, product in enumerate(row_C):
            size = isqrt(product * product * MICRO * MICRO // (row_C[one] * products_CC[other][other]))
            cosines_C.append(size if product >= 0 else -size)
        cosines_CC.append(cosines_C)
    return cosines_CC


def sign_products(contributions_C: Sequence[Signed], values: int) -> list[list[int]]:
    """At how many of the values each two have the same sign, less at how many opposite ones; exact."""
    check_invariant(all(values_K.any() for _, values_K in contributions_C), "who says nothing has no voice")
    count = len(contributions_C)
    total_CC = np.zeros((count, count), np.int64)
    for start in range(0, values, COLUMNS_AT_A_TIME):
        stop = min(start + COLUMNS_AT_A_TIME, values)
        rows_CN = np.zeros((count, stop - start), np.float32)
        for row_N, (indices_K, values_K) in zip(rows_CN, contributions_C, strict=True):
            first, last = np.searchsorted(indices_K, (start, stop))
            row_N[indices_K[first:last] - np.uint32(start)] = np.sign(values_K[first:last])
        total_CC += (rows_CN @ rows_CN.T).astype(np.int64)
    products_CC: list[list[int]] = total_CC.tolist()
    return products_CC


def cap_weights(weights_C: Sequence[int], multiple: Fraction) -> list[Fraction]:
    """Weights, none above so many times the lower median of them."""
    limit = sorted(weights_C)[(len(weights_C) - 1) // 2] * multiple
    return [min(Fraction(weight), limit) for weight in weights_C]


def weighted_median(numbers: Sequence[tuple[int, Fraction]]) -> int:
    """The least number such that those up to it have at least half of the weight."""
    half, heard = sum((weight for _, weight in numbers), Fraction(0)) / 2, Fraction(0)
    for number, weight in sorted(numbers):
        heard += weight
        if heard >= half:
            return number
    raise ValueError("no numbers have no median")
