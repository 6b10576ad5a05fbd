"""Many deltas of one tile into one pseudo-gradient: the same bits whoever merges, in whatever order they came.

    C  contributions, at most 64          N  values of the tile          K  values one contribution kept

    merge             sort -> clip norms -> robust rule -> merged_N, and how each contribution stood to the result

**Order.** Contributions are sorted by (learner, digest of the payload) before anything is computed; sums go through
them one by one.

**Norms.** A decoded value is code * scale, an exact rational, so the squared norm of a contribution is an exact
integer over a power of two (``exact_dot``: products of integer mantissas, summed for each exponent apart). The median
of the squared norms of those that are not zero (the lower one of two) times the squared multiple is the limit; a
contribution above it is scaled by sqrt(limit / norm^2), the root taken of an integer with 64 bits after the point. So
one loud learner, or any minority, can push no harder than ``clip_multiple`` ordinary ones. Median of the live ones,
because a learner whose tokens never reached an expert sends zeros and must not silence the others.

**Rules** (a table, :data:`RULES`). A value that a contribution did not keep is zero to every rule. The caller hands
in the deltas of those who touched the tile, and averages are over these alone.

    mean              sum of (weight / total weight * clip) * value
    trimmed_mean      each value: drop the floor(C * trim) largest and smallest, plain mean of the rest
    median            each value: the middle one, or half of the sum of two. Of sparse deltas it is zero wherever
                      fewer than half kept the value: meant for dense pipelines
    centred_clip      three times v += weighted mean of (x - v) clipped to a radius, from v = 0; the radius is the
                      median norm, weights count as in the mean
    agreement         mean of those whose signs agree with most of the others', each shortened to the median norm, copies
                      and weights bounded (compute/agreement.py): the rule for strangers

The first three are for those who trust each other. With three poisoners in ten each of them loses a tenth of the loss
or all of it, ``agreement`` less than two hundredths (docs/decisions/0017).

Sources: norm clipping by a median, Sun et al. (2019); trimmed mean and median, Yin et al.
(2018); centred clipping, Karimireddy, He and Jaggi (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import isqrt
from typing import Final

import numpy as np

from compute.agreement import hear
from compute.delta.decoded import DecodedDelta
from compute.exact import Float32, exact_dot, float32_of, settle
from protocol.ids import Digest
from protocol.limits import DELTAS_PER_SLOT_MAX
from protocol.rejection import Reason, Rejected

MICRO: Final = 1_000_000
WEIGHT_MAX: Final = 1 << 40  # tokens of one delta; keeps weight / total weight above 2^-47, far from subnormal
ROOT_BITS: Final = 64  # binary places of a clip factor before its rounding to float32
COLUMNS_AT_A_TIME: Final = 1 << 16  # 64 rows of so many float32 are 16 MiB
CENTRING_STEPS: Final = 3  # a guess; the paper finds one enough with a good start, and ours is zero

Contribution = tuple[bytes, int, DecodedDelta]  # learner id, weight in tokens, delta


@dataclass(frozen=True, slots=True)
class MergeRule:
    """How a slot's deltas become one."""

    name: str = "mean"  # a key of RULES
    clip_multiple: Fraction = Fraction(2)  # of the median norm
    trim: Fraction = Fraction(1, 8)  # share dropped at each end by trimmed_mean

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise Rejected(Reason.BAD_CONFIG, f"no merge rule {self.name!r}; there are {', '.join(RULES)}")
        if self.clip_multiple < 1 or not 0 <= self.trim < Fraction(1, 2):
            raise Rejected(Reason.BAD_CONFIG, "a merge clips to at least the median norm and trims less than half")


@dataclass(frozen=True, eq=False)
class Merged:
    """The result of a merge. How the contributions stood to it is computed when it is asked for: it costs more than merging."""

    gradient_N: Float32  # merged pseudo-gradient: old weights minus new ones
    clipped: frozenset[bytes]  # learners whose norm was above the limit
    left_out: frozenset[bytes]  # learners of whom the rule took nothing, though they said something
    _ordered: Sequence[Contribution] = field(repr=False)
    _kept_CK: Sequence[Float32] = field(repr=False)
    _norms_C: Sequence[Fraction] = field(repr=False)

    @cached_property
    def cosine_micro(self) -> dict[bytes, int]:
        """Learner -> millionths of the cosine of its delta to the gradient, for its reputation."""
        return cosines_micro(self._ordered, self.gradient_N, self._kept_CK, self._norms_C)


def merge(deltas: Sequence[Contribution], rule: MergeRule) -> Merged:
    """The merged pseudo-gradient of one tile.

    Raises Rejected(BAD_DELTA) for none or more than 64 contributions, a weight below 1 or above 2^40, deltas of
    different sizes, and the same delta of the same learner twice.
    """
    ordered = _check(deltas)
    values = ordered[0][2].values
    kept_CK = [delta.kept_values() for _, _, delta in ordered]
    norms_C = [exact_dot(kept_K, kept_K) for kept_K in kept_CK]
    median = median_square(norms_C)
    limit = median * rule.clip_multiple**2
    factors_C = [root(limit / norm) if norm > limit else Fraction(1) for norm in norms_C]
    job = _Job(values, ordered, kept_CK, norms_C, factors_C, median, rule)
    gradient_N, left_out = RULES[rule.name](job)
    clipped = frozenset(learner for (learner, _, _), factor in zip(ordered, factors_C, strict=True) if factor != 1)
    return Merged(settle(gradient_N), clipped, left_out, ordered, kept_CK, norms_C)


def cosines_micro(
    ordered: Sequence[Contribution], gradient_N: Float32, kept_CK: Sequence[Float32], norms_C: Sequence[Fraction]
) -> dict[bytes, int]:
    """Millionths of the cosine of each contribution to the gradient, cut toward zero; 0 where either is zero.

    Of a learner with two deltas in one slot the lower cosine stands.
    """
    gradient_norm = exact_dot(gradient_N, gradient_N)
    cosines: dict[bytes, int] = {}
    for (learner, _, delta), kept_K, norm in zip(ordered, kept_CK, norms_C, strict=True):
        product = exact_dot(kept_K, gradient_N[delta.indices_K])
        square = product * product * MICRO * MICRO / (norm * gradient_norm) if norm and gradient_norm else Fraction(0)
        size = isqrt(square.numerator // square.denominator)
        cosine = size if product >= 0 else -size
        cosines[learner] = min(cosine, cosines.get(learner, cosine))
    return cosines


def median_square(norms_C: Sequence[Fraction]) -> Fraction:
    """The (lower) median of the squared norms that are not zero; zero if all are."""
    live = sorted(norm for norm in norms_C if norm)
    return live[(len(live) - 1) // 2] if live else Fraction(0)


def root(square: Fraction) -> Fraction:
    """The square root cut to 64 binary places: an integer root, the same everywhere."""
    return Fraction(isqrt((square.numerator << 2 * ROOT_BITS) // square.denominator), 1 << ROOT_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What a rule works on: contributions in their order, their kept values, and their clip factors."""

    values: int
    ordered: Sequence[Contribution]
    kept_CK: Sequence[Float32]
    norms_C: Sequence[Fraction]  # squared
    factors_C: Sequence[Fraction]
    median_square: Fraction
    rule: MergeRule

    def shares_C(self) -> list[Fraction]:
        """Weight of each over the weight of all."""
        total = sum(weight for _, weight, _ in self.ordered)
        return [Fraction(weight, total) for _, weight, _ in self.ordered]


_Ruling = tuple[Float32, frozenset[bytes]]  # the gradient, and who is left out
_NOBODY: Final[frozenset[bytes]] = frozenset()


def _mean(job: _Job) -> _Ruling:
    parts_C = [share * factor for share, factor in zip(job.shares_C(), job.factors_C, strict=True)]
    return _sum(job, parts_C), _NOBODY


def _sum(job: _Job, parts_C: Sequence[Fraction]) -> Float32:
    """The sum of so much of each."""
    sum_N = np.zeros(job.values, np.float32)
    for (_, _, delta), kept_K, part in zip(job.ordered, job.kept_CK, parts_C, strict=True):
        sum_N[delta.indices_K] += settle(kept_K * float32_of(part))
    return sum_N


def _agreement(job: _Job) -> _Ruling:
    live = [index for index, norm in enumerate(job.norms_C) if norm]
    parts_C = [Fraction(0)] * len(job.ordered)
    if not live:
        return _sum(job, parts_C), _NOBODY
    voices = hear(
        [(job.ordered[index][2].indices_K, job.kept_CK[index]) for index in live],
        [job.ordered[index][1] for index in live],
        job.values,
        job.rule.clip_multiple,
    )
    for index, share in zip(live, voices.shares_C, strict=True):
        norm = job.norms_C[index]
        parts_C[index] = share * (root(job.median_square / norm) if norm > job.median_square else 1)
    return _sum(job, parts_C), frozenset(job.ordered[index][0] for index in live if not parts_C[index])


def _trimmed_mean(job: _Job) -> _Ruling:
    dropped = len(job.ordered) * job.rule.trim.numerator // job.rule.trim.denominator
    return _by_rank(job, range(dropped, len(job.ordered) - dropped)), _NOBODY


def _median(job: _Job) -> _Ruling:
    count = len(job.ordered)
    return _by_rank(job, range((count - 1) // 2, count // 2 + 1)), _NOBODY


def _by_rank(job: _Job, ranks: range) -> Float32:
    """Plain mean of these ranks at each position. Sorting floats without NaN and minus zero has one result."""
    gradient_N = np.empty(job.values, np.float32)
    portion = float32_of(Fraction(1, len(ranks)))
    for start in range(0, job.values, COLUMNS_AT_A_TIME):
        stop = min(start + COLUMNS_AT_A_TIME, job.values)
        rows_CN = np.zeros((len(job.ordered), stop - start), np.float32)
        for row_N, (_, _, delta), kept_K, factor in zip(rows_CN, job.ordered, job.kept_CK, job.factors_C, strict=True):
            first, last = np.searchsorted(delta.indices_K, (start, stop))
            row_N[delta.indices_K[first:last] - np.uint32(start)] = kept_K[first:last] * float32_of(factor)
        settle(rows_CN)
        rows_CN.sort(axis=0)
        sum_N = rows_CN[ranks[0]].copy()
        for rank in ranks[1:]:
            sum_N += rows_CN[rank]
        gradient_N[start:stop] = sum_N * portion
    return gradient_N


def _centred_clip(job: _Job) -> _Ruling:
    centre_N = np.zeros(job.values, np.float32)
    for _ in range(CENTRING_STEPS):
        step_N = np.zeros(job.values, np.float32)
        for (_, _, delta), kept_K, share in zip(job.ordered, job.kept_CK, job.shares_C(), strict=True):
            away_N = -centre_N
            away_N[delta.indices_K] += kept_K
            settle(away_N)
            square = exact_dot(away_N, away_N)
            factor = root(job.median_square / square) if square > job.median_square else Fraction(1)
            step_N += away_N * float32_of(share * factor)
        centre_N = settle(centre_N + step_N)
    return centre_N, _NOBODY


RULES: Final[Mapping[str, Callable[[_Job], _Ruling]]] = {
    "mean": _mean,
    "trimmed_mean": _trimmed_mean,
    "median": _median,
    "centred_clip": _centred_clip,
    "agreement": _agreement,
}


def _check(deltas: Sequence[Contribution]) -> list[Contribution]:
    """The contributions in their order, if they may be merged."""
    if not 1 <= len(deltas) <= DELTAS_PER_SLOT_MAX:
        raise Rejected(Reason.BAD_DELTA, f"{len(deltas)} deltas in a slot, 1 to {DELTAS_PER_SLOT_MAX} can be merged")
    keys: set[tuple[bytes, Digest]] = {(learner, delta.digest) for learner, _, delta in deltas}
    if len(keys) != len(deltas):
        raise Rejected(Reason.BAD_DELTA, "a delta is listed twice")
    if len({delta.values for _, _, delta in deltas}) != 1:
        raise Rejected(Reason.BAD_DELTA, "the deltas of a slot have different sizes")
    if not all(1 <= weight <= WEIGHT_MAX for _, weight, _ in deltas):
        raise Rejected(Reason.BAD_DELTA, f"a weight is not between 1 and {WEIGHT_MAX}")
    return sorted(deltas, key=lambda contribution: (contribution[0], contribution[2].digest))
