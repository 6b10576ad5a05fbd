"""Votes by signs: exact in any order, moved by no minority, by no loudness, and by no weight alone."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute import agreement
from compute.agreement import cap_weights, hear, sign_cosines_micro, sign_products, weighted_median
from compute.delta.codec import decode, encode
from compute.exact import Float32
from compute.merge import Contribution, MergeRule, merge
from protocol.rejection import InvariantBroken

from .golden_deltas import drawn_delta

VALUES = 2500
RULE = MergeRule("agreement", clip_multiple=Fraction(3))


def delta(name: str, share: float = 0.5) -> Float32:
    """An honest one: the common direction, and noise of its own."""
    changed: Float32 = np.float32(share) * drawn_delta("common", VALUES) + drawn_delta(name, VALUES)
    return changed


def contribution(learner: int, change_N: Float32, weight: int = 1000) -> Contribution:
    return bytes([learner]) * 32, weight, decode(encode(change_N, "top10_int4"), change_N.size)


def honest(count: int = 7) -> list[Contribution]:
    return [contribution(learner, delta(f"own {learner}")) for learner in range(count)]


def norm(vector_N: Float32) -> float:
    return float(np.linalg.norm(vector_N.astype(np.float64)))


def cosine(one_N: Float32, other_N: Float32) -> float:
    return float(one_N.astype(np.float64) @ other_N.astype(np.float64)) / norm(one_N) / norm(other_N)


signs = st.lists(st.sampled_from((-1, 0, 1)), min_size=1, max_size=40)


@given(st.lists(signs, min_size=1, max_size=6), st.integers(1, 16))
@settings(max_examples=60)
def test_products_of_signs_are_those_of_integers(rows: list[list[int]], columns: int) -> None:
    """In blocks of any size the sums are the integers that they are."""
    values = max(map(len, rows)) + 1
    dense = np.zeros((len(rows), values), np.int64)
    for index, row in enumerate(rows):
        dense[index, : len(row)] = row
        dense[index, -1] = 1
    spoken = [
        (np.flatnonzero(row).astype(np.uint32), row[row != 0].astype(np.float32) * np.float32(0.3)) for row in dense
    ]
    before = agreement.COLUMNS_AT_A_TIME
    try:
        agreement.COLUMNS_AT_A_TIME = columns  # type: ignore[misc]  # blocks small enough to see their borders
        assert sign_products(spoken, values) == (dense @ dense.T).tolist()
    finally:
        agreement.COLUMNS_AT_A_TIME = before  # type: ignore[misc]


def test_a_sum_of_signs_cannot_leave_what_float32_holds_exactly() -> None:
    """The longest block of equal signs is far below 2^24."""
    assert agreement.COLUMNS_AT_A_TIME < 1 << 24
    size = agreement.COLUMNS_AT_A_TIME + 3
    everywhere = (np.arange(size, dtype=np.uint32), np.full(size, 0.1, np.float32))
    assert sign_products([everywhere, everywhere], size) == [[size, size], [size, size]]


def test_who_says_nothing_has_no_voice() -> None:
    """Zeros must be left away by the caller; in a merge they are."""
    nothing = (np.zeros(0, np.uint32), np.zeros(0, np.float32))
    with pytest.raises(InvariantBroken):
        hear([nothing], [1], 10, Fraction(3))
    silent = contribution(9, np.zeros(VALUES, np.float32))
    assert np.array_equal(merge([*honest(), silent], RULE).gradient_N, merge(honest(), RULE).gradient_N)
    assert not merge([silent], RULE).gradient_N.any()
    assert merge([silent], RULE).left_out == frozenset()


def test_one_alone_is_heard_and_two_who_contradict_each_other_are_both() -> None:
    """There is no majority to ask."""
    (only,) = honest(1)
    assert np.array_equal(merge([only], RULE).gradient_N, only[2].dense())
    against = contribution(9, -delta("own 0"))
    assert not merge([only, against], RULE).left_out


def test_of_three_two_who_agree_outvote_the_third() -> None:
    """The least number for which there is a majority."""
    against = contribution(9, -3 * delta("own 0"))
    assert merge([*honest(2), against], RULE).left_out == {against[0]}


@pytest.mark.parametrize("loudness", [-0.5, -1, -2.9, -1000])
def test_three_of_ten_who_push_together_against_the_others_are_left_out(loudness: float) -> None:
    """However loud or quiet: the merge is then that of the honest alone."""
    push = np.float32(loudness) * drawn_delta("common", VALUES)
    colluders = [contribution(200 + index, push + drawn_delta(f"mark {index}", VALUES) / 50) for index in range(3)]
    merged = merge([*honest(), *colluders], RULE)
    assert merged.left_out == {learner for learner, _, _ in colluders}
    clean = merge(honest(), RULE).gradient_N
    assert cosine(merged.gradient_N, clean) > 0.999


def test_copies_share_one_voice() -> None:
    """Three copies of one delta move the merge hardly more than that delta does."""
    copies = [
        contribution(200 + index, delta("own 0") + drawn_delta(f"mark {index}", VALUES) / 100) for index in range(3)
    ]
    clean, copied = merge(honest(), RULE), merge([*honest(), *copies], RULE)
    assert cosine(clean.gradient_N, copied.gradient_N) > 0.95
    mean = merge([*honest(), *copies], MergeRule()).gradient_N
    original = honest(1)[0][2].dense()
    assert cosine(copied.gradient_N, original) < cosine(mean, original) - 0.1


@pytest.mark.parametrize("weight", [10**4, 10**6, 2**40])
def test_weight_alone_wins_nothing(weight: int) -> None:
    """One against seven, with any weight, is left out; one of the same direction has no more than its bounded part."""
    heavy = contribution(200, -delta("own 1"), weight)
    assert merge([*honest(), heavy], RULE).left_out == {heavy[0]}
    friendly = contribution(200, delta("friend"), weight)
    bounded = contribution(200, delta("friend"), 3000)
    assert np.array_equal(merge([*honest(), friendly], RULE).gradient_N, merge([*honest(), bounded], RULE).gradient_N)


def test_an_aggregate_speaks_louder_than_a_learner() -> None:
    """Up to the bound, weight counts."""
    merged = [
        merge([*honest(), contribution(200, delta("aggregate", 2.0), weight)], RULE).gradient_N
        for weight in (1000, 2000, 3000)
    ]
    original = contribution(200, delta("aggregate", 2.0))[2].dense()
    closeness = [cosine(gradient_N, original) for gradient_N in merged]
    assert closeness == sorted(closeness)
    assert closeness[0] < closeness[2]


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_no_minority_can_make_the_merge_long_or_lose_everybody(data: st.DataObject) -> None:
    """Whatever three of ten say: no longer than the median delta, some honest one is heard, and order changes no bit."""
    poison = []
    for index in range(3):
        parts = [data.draw(st.floats(-4, 4, width=32)) for _ in range(3)]
        change_N = sum(
            (
                np.float32(part) * drawn_delta(name, VALUES)
                for part, name in zip(parts, ("common", "own 0", f"poison {index}"), strict=True)
            ),
            np.zeros(VALUES, np.float32),
        ) * np.float32(10.0 ** data.draw(st.integers(-3, 3)))
        poison.append(contribution(200 + index, change_N, data.draw(st.integers(1, 10**6))))
    everybody = [*honest(), *poison]
    merged = merge(everybody, RULE)
    norms = sorted(norm(delta.dense()) for _, _, delta in everybody if delta.dense().any())
    assert norm(merged.gradient_N) <= norms[(len(norms) - 1) // 2] * 1.0001
    assert not merged.left_out >= {learner for learner, _, _ in honest()}
    random.Random(0).shuffle(everybody)
    assert merge(everybody, RULE).gradient_N.tobytes() == merged.gradient_N.tobytes()


def test_the_honest_are_rarely_left_out() -> None:
    """Of twenty who agree in a fifth of what they say, at most two."""
    crowd = [contribution(learner, delta(f"own {learner}", 0.5)) for learner in range(20)]
    assert len(merge(crowd, RULE).left_out) <= 2


def test_cosines_of_signs_are_those_of_float64() -> None:
    """In millionths, cut toward zero."""
    spoken = [(each.indices_K, each.kept_values()) for _, _, each in honest(4)]
    dense = np.sign(np.stack([each.dense() for _, _, each in honest(4)]).astype(np.float64))
    sizes = np.sqrt((dense**2).sum(axis=1))
    expected = 1e6 * (dense @ dense.T) / np.outer(sizes, sizes)
    assert np.abs(np.array(sign_cosines_micro(spoken, VALUES)) - expected).max() <= 1.01


def test_medians_go_by_weight() -> None:
    """The least number up to which half of the weight lies; caps are multiples of the lower median."""
    one = Fraction(1)
    assert weighted_median([(3, one), (1, one), (2, one)]) == 2
    assert weighted_median([(4, one), (3, one), (1, one), (2, one)]) == 2
    assert weighted_median([(1, one), (2, one), (9, Fraction(5))]) == 9
    assert cap_weights([10, 20, 10**9], Fraction(3)) == [10, 20, 60]
    with pytest.raises(ValueError, match="no numbers"):
        weighted_median([])


def test_a_region_of_poisoners_is_outvoted_by_other_regions() -> None:
    """Merged in regions and then together: villains are left out of their region, a region of villains of the whole."""

    def region(first: int, members: list[Contribution]) -> Contribution:
        gradient_N = merge(members, RULE).gradient_N
        return bytes([first]) * 32, 1000 * len(members), decode(encode(gradient_N, "update_int4"), VALUES)

    push = -2 * drawn_delta("common", VALUES)
    poison = [contribution(150 + index, push + drawn_delta(f"mark {index}", VALUES) / 50) for index in range(12)]
    mixed = [[contribution(10 * at + index, delta(f"own {at} {index}")) for index in range(4)] for at in range(3)]
    regions = [region(230 + at, [*members, poison[at]]) for at, members in enumerate(mixed)]
    lost = region(240, poison[3:])
    merged = merge([*regions, lost], RULE)
    assert merged.left_out == {lost[0]}
    assert cosine(merged.gradient_N, merge([each for members in mixed for each in members], RULE).gradient_N) > 0.8
