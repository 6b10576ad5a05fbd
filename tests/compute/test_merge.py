"""Merging: no matter in which order, within the reference, and with one poisoner in eight."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.delta.codec import decode, encode
from compute.merge import RULES, Contribution, MergeRule, merge, root
from protocol.ids import TileId
from protocol.rejection import Rejected

from .golden_deltas import drawn_delta

TILE = TileId("layer0.expert1/0")
VALUES = 2500


def contribution(learner: int, delta: np.ndarray, pipeline: str = "top10_int4", weight: int = 1000) -> Contribution:
    """A learner's delta as the owner holds it."""
    return bytes([learner]) * 32, weight, decode(encode(delta, pipeline), delta.size)


def crowd(count: int, pipeline: str = "top10_int4") -> list[Contribution]:
    """Learners that agree in half of what they say."""
    common = drawn_delta("common", VALUES)
    return [
        contribution(learner, common + drawn_delta(f"own {learner}", VALUES), pipeline, 1000 + 10 * learner)
        for learner in range(count)
    ]


@pytest.mark.parametrize("rule", list(RULES))
def test_the_order_of_arrival_changes_no_bit(rule: str) -> None:
    """Any permutation of the contributions gives the same gradient and the same cosines."""
    deltas = crowd(7)
    first = merge(deltas, MergeRule(rule))
    for seed in range(4):
        random.Random(seed).shuffle(deltas)
        again = merge(deltas, MergeRule(rule))
        assert again.gradient_N.tobytes() == first.gradient_N.tobytes()
        assert again.cosine_micro == first.cosine_micro


def reference(deltas: list[Contribution], rule: MergeRule) -> np.ndarray:
    """The rules in float64, as one would write them first."""
    rows = np.stack([delta.dense().astype(np.float64) for _, _, delta in deltas])
    shares = np.array([weight for _, weight, _ in deltas], np.float64)
    shares /= shares.sum()
    norms = np.sqrt((rows**2).sum(axis=1))
    live = np.sort(norms[norms > 0])
    median = live[(live.size - 1) // 2]
    limit = median * float(rule.clip_multiple)
    clipped = rows * np.minimum(1, limit / np.maximum(norms, 1e-300))[:, None]
    match rule.name:
        case "mean":
            return shares @ clipped
        case "trimmed_mean":
            dropped = int(len(deltas) * rule.trim)
            return np.sort(clipped, axis=0)[dropped : len(deltas) - dropped].mean(axis=0)
        case "median":
            return np.median(clipped, axis=0)
        case "agreement":
            return shares_of_those_who_agree(rows, shares) @ (rows * np.minimum(1, median / norms)[:, None])
        case _:
            centre = np.zeros(rows.shape[1])
            for _ in range(3):
                away = rows - centre
                sizes = np.sqrt((away**2).sum(axis=1))
                centre = centre + shares @ (away * np.minimum(1, median / sizes)[:, None])
            return centre


def shares_of_those_who_agree(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Voices in float64, for weights that are about equal."""
    signs = np.sign(rows)
    cosines = signs @ signs.T / np.sqrt(np.outer(np.abs(signs).sum(axis=1), np.abs(signs).sum(axis=1)))
    agreements = np.array(
        [np.sort(np.delete(row, index))[::-1][(len(rows) - 2) // 2] for index, row in enumerate(cosines)]
    )
    taken = agreements >= max(0, np.sort(agreements)[(len(rows) - 1) // 2] * 2 / 3)
    voices = weights * taken / (np.maximum(cosines, 0) ** 2 @ taken)
    return voices / voices.sum()


@pytest.mark.parametrize("pipeline", ["top10_int4", "int8", "none"])
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_is_within_rounding_of_float64(rule: str, pipeline: str) -> None:
    """Each value is within 2^-20 of the largest of what float64 gives."""
    deltas = [*crowd(6, pipeline), contribution(9, np.float32(50) * drawn_delta("loud", VALUES), pipeline)]
    chosen = MergeRule(rule)
    expected = reference(deltas, chosen)
    error = np.abs(merge(deltas, chosen).gradient_N - expected).max()
    assert error <= 2.0**-20 * np.abs(expected).max()


def test_one_delta_alone_is_its_own_mean() -> None:
    """The mean of one is that one, to the bit."""
    (only,) = crowd(1)
    assert np.array_equal(merge([only], MergeRule()).gradient_N, only[2].dense())


@pytest.mark.parametrize("loudness", [10, 1000, 1_000_000])
def test_one_poisoner_in_eight_is_clipped(loudness: int) -> None:
    """A delta turned round and made loud is cut to clip_multiple median norms: the mean hardly turns, and it is told."""
    honest = crowd(7, "int8")
    poison = contribution(200, np.float32(-loudness) * drawn_delta("common", VALUES), "int8")
    clean = merge(honest, MergeRule()).gradient_N.astype(np.float64)
    merged = merge([*honest, poison], MergeRule())
    assert merged.clipped == {poison[0]}
    cosine = merged.gradient_N @ clean / np.linalg.norm(merged.gradient_N) / np.linalg.norm(clean)
    assert cosine > 0.9
    assert merged.cosine_micro[poison[0]] < 0 < min(merged.cosine_micro[learner] for learner, _, _ in honest)


def test_silent_learners_do_not_silence_the_others() -> None:
    """Zeros from most learners leave the median norm to those who learned something."""
    silent = [contribution(learner, np.zeros(VALUES, np.float32)) for learner in range(5)]
    merged = merge([*silent, contribution(9, drawn_delta("a", VALUES))], MergeRule())
    assert not merged.clipped
    assert merged.gradient_N.any()
    assert merged.cosine_micro[silent[0][0]] == 0
    assert not merge(silent, MergeRule()).gradient_N.any()


@given(st.lists(st.integers(1, 2**40), min_size=3, max_size=3))
@settings(max_examples=30)
def test_weights_are_shares(weights: list[int]) -> None:
    """Equal deltas merge to themselves within rounding, whatever their weights."""
    delta = drawn_delta("same", 300)
    deltas = [contribution(learner, delta, "int8", weight) for learner, weight in enumerate(weights)]
    expected = deltas[0][2].dense()
    assert np.allclose(merge(deltas, MergeRule()).gradient_N, expected, rtol=2.0**-21, atol=2.0**-40)


def test_cosines_are_those_of_float64() -> None:
    """A cosine in millionths is the cosine, cut toward zero."""
    deltas = crowd(5)
    merged = merge(deltas, MergeRule())
    gradient = merged.gradient_N.astype(np.float64)
    for learner, _, delta in deltas:
        dense = delta.dense().astype(np.float64)
        cosine = dense @ gradient / np.linalg.norm(dense) / np.linalg.norm(gradient)
        assert abs(merged.cosine_micro[learner] - 1e6 * cosine) <= 1.01


def test_what_cannot_be_merged_is_refused() -> None:
    """Nothing, too many, doubles, other sizes, weights out of range."""
    deltas = crowd(2)
    learner, _, delta = deltas[0]
    many = [(bytes([index]) * 32, 1, delta) for index in range(65)]
    for bad in (
        [],
        many,
        [deltas[0], deltas[0]],
        [deltas[0], contribution(9, drawn_delta("x", 10))],
        [(learner, 0, delta)],
        [(learner, 2**41, delta)],
    ):
        with pytest.raises(Rejected):
            merge(bad, MergeRule())
    merge(many[:64], MergeRule())
    for arguments in ({"name": "best"}, {"clip_multiple": Fraction(1, 2)}, {"trim": Fraction(1, 2)}):
        with pytest.raises(Rejected):
            MergeRule(**arguments)  # type: ignore[arg-type]  # a table of mistakes


@given(st.fractions(0, 10**9))
def test_roots_are_exact_to_their_last_place(square: Fraction) -> None:
    """The root cut to 64 binary places is the largest such number whose square is not above."""
    value = root(square)
    assert value**2 <= square < (value + Fraction(1, 2**64)) ** 2
