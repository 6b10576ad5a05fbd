"""What the traffic benchmark measures with: sizes between those that were encoded, and networks of exactly four tiles."""

from __future__ import annotations

import pytest

from benchmarks.traffic import MERGED, SMALL_VALUES, TILES, LargeTiles, Sizes, make_scenario, measure_sizes
from compute.delta.codec import MAGIC


@pytest.mark.parametrize(("deltas", "size"), [(1, 100), (2, 200), (3, 300), (4, 400), (5, 400), (64, 400)])
def test_size_between_two_measured_ones_is_on_the_line(deltas: int, size: int) -> None:
    """Above the most that was measured it stays what that is."""
    assert Sizes(90, {1: 100, 2: 200, 4: 400}).of_merged(deltas) == size


def test_merges_of_more_deltas_are_larger() -> None:
    """The largest values of several learners are not all the same ones; a merge says all of them."""
    sizes = measure_sizes(1 << 14, (1, 2, 8))
    assert sizes.delta < sizes.merged[2] < sizes.merged[8] < 1 << 14
    assert len(MERGED) == len(set(MERGED))


@pytest.mark.parametrize(("peers", "validators"), [(10, 7), (100, 10)])
def test_network_has_four_tiles(peers: int, validators: int) -> None:
    """And the roster and regions of ``calm``, or as many of them as were asked for, with the routes between these."""
    scenario = make_scenario(peers, aggregation=True, regions=2)
    assert (scenario.peers, scenario.validators, len(scenario.regions)) == (peers, validators, 2)
    assert {name for route in scenario.routes for name in route.between} == {region.name for region in scenario.regions}
    world = LargeTiles(scenario, 1, Sizes(1_000, {1: 2_000, 64: 4_000}))
    assert [tile.values <= SMALL_VALUES for tile in world.shared.tile_map.tiles] == [True] * TILES


def test_payloads_weigh_what_large_tiles_would() -> None:
    """An update is of everybody's deltas; what surrounds a payload keeps its bytes."""
    world = LargeTiles(make_scenario(10, aggregation=True), 1, Sizes(1_000, {1: 2_000, 10: 3_000}))
    assert world.weigh(MAGIC + bytes(50)) == 3_000
