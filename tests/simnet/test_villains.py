"""Villains among the learners: each does what its file says."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from protocol.ids import PeerId, TileId, Version
from simnet.villains import SUMMARIES, VILLAINS, Conspiracy, Villain
from simnet.villains.villain import ROUNDS_SEEN_MAX, SEEN_MAX, norm_of

TILE, OTHER_TILE = TileId("layer0.expert0/0"), TileId("layer0.expert1/0")
VALUES = 500


def peer(index: int) -> PeerId:
    return PeerId(bytes([index]) * 32)


def make(kind: str, index: int = 9, conspiracy: Conspiracy | None = None) -> Villain:
    return VILLAINS[kind](peer(index), 3, conspiracy or Conspiracy(3))


def honest(learner: int, round_number: int) -> np.ndarray:
    """Honest learners agree in half of what they say."""
    common = np.random.default_rng(round_number).standard_normal(VALUES)
    own = np.random.default_rng([learner, round_number]).standard_normal(VALUES)
    return (common + own).astype(np.float32)


def ask(villain: Villain, round_number: int, tile: TileId = TILE, weights: np.ndarray | None = None) -> np.ndarray:
    weights_N = np.zeros(VALUES, np.float32) if weights is None else weights
    found = villain.change(tile, round_number, Version(round_number), weights_N, honest(9, round_number))
    assert found is not None
    assert found.dtype == np.float32
    assert found.shape == (VALUES,)
    return found


def told(rounds: Sequence[int], learners: int = 5) -> Conspiracy:
    conspiracy = Conspiracy(3)
    for round_number in rounds:
        for learner in range(learners):
            conspiracy.saw(peer(learner), TILE, round_number, honest(learner, round_number))
    return conspiracy


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other) / norm_of(one) / norm_of(other)


def test_every_kind_is_in_the_table_with_a_sentence() -> None:
    """The name of the file is the name in the table, and the file tells its theory."""
    assert list(SUMMARIES) == list(VILLAINS)
    for name, kind in VILLAINS.items():
        assert kind.__module__ == f"simnet.villains.{name}"
        assert SUMMARIES[name]
        assert len(inspect.getdoc(sys.modules[kind.__module__]) or "") > 200


@pytest.mark.parametrize("kind", list(VILLAINS))
def test_same_seed_same_villain(kind: str) -> None:
    """What a villain sends follows from what it was given, whatever else was drawn in between."""
    one, other = make(kind, conspiracy=told((0, 1, 2))), make(kind, conspiracy=told((0, 1, 2)))
    for round_number in (1, 2, 1):
        random.random()
        assert ask(one, round_number).tobytes() == ask(other, round_number).tobytes()


def test_scaled_says_the_same_a_hundred_times_as_loud() -> None:
    """Direction of the honest change, a hundred times the length of the shortest that it found: its own echo is not louder."""
    villain = make("scaled")
    quiet = villain.change(TILE, 0, Version(0), np.zeros(VALUES, np.float32), honest(9, 0))
    loud = villain.change(TILE, 1, Version(1), np.zeros(VALUES, np.float32), honest(9, 1) * np.float32(50))
    assert quiet is not None
    assert loud is not None
    assert cosine(quiet, honest(9, 0)) > 0.9999 < cosine(loud, honest(9, 1))
    assert norm_of(quiet) == pytest.approx(100 * norm_of(honest(9, 0)), rel=1e-4)
    assert norm_of(loud) == pytest.approx(norm_of(quiet), rel=1e-4)


def test_sign_flipped_goes_the_other_way() -> None:
    """Minus three times the honest change."""
    assert np.array_equal(ask(make("sign_flipped"), 0), honest(9, 0) * np.float32(-3))


def test_noise_points_nowhere_and_is_new_each_round() -> None:
    """Three times as long as the honest change; no two alike."""
    villain, other = make("noise"), make("noise", 8)
    seen = [ask(villain, 0), ask(villain, 1), ask(villain, 0, OTHER_TILE), ask(other, 0)]
    for one in seen:
        assert abs(cosine(one, honest(9, 0))) < 0.2
        assert all(one is other or abs(cosine(one, other)) < 0.2 for other in seen)
    assert norm_of(seen[0]) == pytest.approx(3 * norm_of(honest(9, 0)), rel=1e-4)


def test_stale_sends_what_it_found_four_rounds_ago() -> None:
    """From the fifth round on; before, the oldest that it has. Tiles are kept apart."""
    villain = make("stale")
    sent = [ask(villain, round_number) for round_number in range(8)]
    assert [np.array_equal(sent[at], honest(9, max(0, at - 4))) for at in range(8)] == [True] * 8
    assert np.array_equal(ask(villain, 7, OTHER_TILE), honest(9, 7))


def test_lazy_works_once() -> None:
    """The first change of a tile for ever."""
    villain = make("lazy")
    assert all(np.array_equal(ask(villain, round_number), honest(9, 0)) for round_number in range(5))
    assert np.array_equal(ask(villain, 5, OTHER_TILE), honest(9, 5))


def test_a_free_rider_copies_somebody_of_this_round_or_what_was_merged() -> None:
    """Nothing seen: what changed since it looked last; nothing of that either: nothing."""
    conspiracy = told((0,))
    villain = make("free_rider", conspiracy=conspiracy)
    assert np.array_equal(ask(villain, 0), honest(0, 0))
    moved = np.full(VALUES, -2, np.float32)
    assert np.array_equal(ask(villain, 1, weights=moved), np.full(VALUES, 2, np.float32))
    assert make("free_rider").change(TILE, 0, Version(0), moved, honest(9, 0)) is None


def test_label_flip_asks_the_world_for_wrong_labels() -> None:
    """It alone does; what such labels teach is sent as it is."""
    assert [name for name, kind in VILLAINS.items() if kind.FLIPS_LABELS] == ["label_flip"]
    assert np.array_equal(ask(make("label_flip"), 0), honest(9, 0))


def test_colluders_push_together_against_the_honest_just_below_the_limit() -> None:
    """Closer to each other than the honest are, against their mean, 2.9 times as long as an honest change."""
    conspiracy = told((4,))
    first, second = (ask(make("colluding", index, conspiracy), 4) for index in (8, 9))
    mean = np.mean([honest(learner, 4) for learner in range(5)], axis=0)
    assert cosine(first, second) > 0.99 > cosine(honest(0, 4), honest(1, 4))
    assert cosine(first, mean) < -0.99
    assert first.tobytes() != second.tobytes()
    assert norm_of(first) == pytest.approx(2.9 * norm_of(honest(9, 4)), rel=1e-4)


def test_colluders_agree_though_they_saw_nothing() -> None:
    """Without anything seen they share a random direction, one for each tile."""
    conspiracy = Conspiracy(3)
    one, other = (ask(make("colluding", index, conspiracy), 0) for index in (8, 9))
    assert cosine(one, other) > 0.99
    assert abs(cosine(one, ask(make("colluding", 8, conspiracy), 0, OTHER_TILE))) < 0.2


def test_the_subtle_stay_within_the_spread_of_the_honest() -> None:
    """No value is further than 1.5 deviations from the mean, and none is on the right side of it."""
    seen = np.stack([honest(learner, 2) for learner in range(5)])
    sent = ask(make("subtle", conspiracy=told((2,))), 2)
    away = sent - seen.mean(axis=0)
    assert np.all(np.abs(away) <= 1.51 * seen.std(axis=0))
    assert np.all(away * np.sign(seen.mean(axis=0)) <= 0)


def test_a_conspiracy_remembers_little() -> None:
    """So many changes of a tile and round, and so many rounds; the newest round counts."""
    conspiracy = told((0, 1, 2), learners=SEEN_MAX + 3)
    assert [len(conspiracy.seen(TILE, at)) for at in range(4)] == [0, SEEN_MAX, SEEN_MAX, 0]
    assert ROUNDS_SEEN_MAX == 2
    assert conspiracy.seen_lately(TILE, 7) is conspiracy.seen(TILE, 2)
    assert conspiracy.seen_lately(TILE, 1) is conspiracy.seen(TILE, 1)
    assert not conspiracy.seen_lately(OTHER_TILE, 7)
