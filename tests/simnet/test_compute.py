"""The valley: pure, worth learning, slow to learn, and different for each learner."""

from __future__ import annotations

import random

import numpy as np
import pytest

from compute.model.genesis import genesis_tile
from compute.model.tiling import TileMap
from protocol.genesis import ModelShape
from protocol.ids import PeerId, TileId
from protocol.rejection import Rejected
from simnet.compute import FLOOR_NATS, HEIGHT_NATS, Valley

SHAPE = ModelShape(
    vocabulary=258, layers=1, width=16, heads=1, experts=3, expert_width=64, experts_per_token=1, context=32
)
TILE_MAP = TileMap.from_shape(SHAPE, 8192)
SEED = b"valley"
LEARNERS = [PeerId(bytes([index]) * 32) for index in range(6)]


def genesis() -> dict[TileId, np.ndarray]:
    return {tile_id: genesis_tile(SHAPE, TILE_MAP, SEED, tile_id) for tile_id in TILE_MAP.ids}


def test_an_untrained_model_guesses_evenly_and_a_perfect_one_is_at_the_floor() -> None:
    """About 5.5 nats per byte at genesis, 2 at the optimum, whatever the seed."""
    weights = genesis()
    for seed in (b"a", b"b", b"c"):
        valley = Valley(TILE_MAP, seed)
        assert abs(valley.loss(weights) - FLOOR_NATS - HEIGHT_NATS) < 0.2
        best = {tile_id: valley._slope(tile_id).optimum_N for tile_id in TILE_MAP.ids}
        assert valley.loss(best) == FLOOR_NATS


def test_a_change_depends_on_its_arguments_and_on_nothing_else() -> None:
    """Any order of calls, by any number of valleys, gives the same bits; another argument gives others."""
    weights = genesis()
    calls = [
        (tile_id, learner, round_number, steps)
        for tile_id in TILE_MAP.ids[:3]
        for learner in LEARNERS[:2]
        for round_number in (0, 1)
        for steps in (5, 30)
    ]
    first = Valley(TILE_MAP, SEED)
    seen = {call: first.change(call[0], weights[call[0]], *call[1:]).tobytes() for call in calls}
    random.Random(0).shuffle(calls)
    again = Valley(TILE_MAP, SEED)
    assert {call: again.change(call[0], weights[call[0]], *call[1:]).tobytes() for call in calls} == seen
    assert len(set(seen.values())) == len(seen)


def test_learning_goes_down_for_many_rounds() -> None:
    """Averaged changes lower the loss in each of twenty rounds, and the twentieth still finds something."""
    valley, weights = Valley(TILE_MAP, SEED), genesis()
    losses = [valley.loss(weights)]
    for round_number in range(20):
        for tile_id in TILE_MAP.ids:
            changes = [valley.change(tile_id, weights[tile_id], learner, round_number, 30) for learner in LEARNERS]
            weights[tile_id] = weights[tile_id] - np.mean(changes, axis=0)
        losses.append(valley.loss(weights))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-2] - losses[-1] > 0.001


def test_more_steps_go_further_and_none_go_nowhere() -> None:
    """The change of no steps is nothing; that of sixty is longer than that of thirty, but not twice as long."""
    valley, weights, tile = Valley(TILE_MAP, SEED), genesis(), TILE_MAP.ids[0]
    none, some, more = (valley.change(tile, weights[tile], LEARNERS[0], 0, steps) for steps in (0, 30, 60))
    assert not none.any()
    assert np.linalg.norm(some) < np.linalg.norm(more) < 2 * np.linalg.norm(some)


def test_wrong_labels_lead_to_the_opposite_side() -> None:
    """Who learns from wrong labels moves away from the optimum wherever the honest move towards it from the middle."""
    valley, tile = Valley(TILE_MAP, SEED), TILE_MAP.tile(TILE_MAP.ids[-1])
    middle = np.zeros(tile.values, np.float32)
    right = valley.change(tile.id, middle, LEARNERS[0], 0, 30)
    wrong = valley.change(tile.id, middle, LEARNERS[0], 0, 30, flipped=True)
    assert right @ wrong < -0.2 * np.linalg.norm(right) * np.linalg.norm(wrong)
    weights = {tile.id: middle - right}
    assert valley.loss(weights) < valley.loss({tile.id: middle}) < valley.loss({tile.id: middle - wrong})


def test_learners_differ_in_their_data_and_agree_in_the_direction() -> None:
    """At genesis two learners mostly agree; where all have learned, each still pulls to its own optimum."""
    valley, weights, tile = Valley(TILE_MAP, SEED), genesis(), TILE_MAP.ids[-1]

    def cosine(weights_N: np.ndarray) -> float:
        one, other = (valley.change(tile, weights_N, learner, 0, 30).astype(np.float64) for learner in LEARNERS[:2])
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    assert cosine(weights[tile]) > 0.7
    assert abs(cosine(valley._slope(tile).optimum_N)) < 0.1


def test_what_is_no_tile_of_this_model_is_refused() -> None:
    """Another name, another size, another type, and nothing at all."""
    valley, weights = Valley(TILE_MAP, SEED), genesis()
    tile = TILE_MAP.ids[0]
    for bad in (
        {TileId("trunk/99"): weights[tile]},
        {tile: weights[tile][:-1]},
        {tile: weights[tile].astype("f8")},
        {},
    ):
        with pytest.raises(Rejected):
            valley.loss(bad)
    with pytest.raises(Rejected):
        valley.change(tile, weights[tile][:-1], LEARNERS[0], 0, 30)
