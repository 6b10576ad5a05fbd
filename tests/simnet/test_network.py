"""The network of a scenario: shares are met, plans follow from the seed, and the genesis is one that nodes accept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from compute.model.tiling import TileMap
from protocol.codec import encode
from protocol.genesis import check_genesis
from protocol.rejection import Rejected
from simnet.network import make_genesis, make_keys, model_shape, plan_peers
from simnet.scenario import (
    Arrivals,
    HardwareClass,
    Learning,
    MustHold,
    Region,
    Scenario,
    SkewClocks,
    Villains,
    check_scenario,
)

SCENARIO = check_scenario(
    Scenario(
        name="sample",
        says="A network for these tests.",
        seconds=3600.0,
        peers=40,
        validators=10,
        bootstraps=3,
        regions=(Region("here", 3.0, (10.0, 50.0)), Region("there", 1.0, (-90.0, 40.0))),
        routes=(),
        hardware=(HardwareClass("fast", 1.0, 10.0, 100.0, 500.0), HardwareClass("slow", 1.0, 30.0, 10.0, 50.0)),
        learning=Learning(),
        must_hold=MustHold(()),
        arrivals=(Arrivals(4, 60.0, 100.0),),
        faults=(SkewClocks(0.1, 3.0),),
        villains=(Villains("noise", 0.2), Villains("lazy", 0.1, 2)),
    )
)


def test_shares_are_met_among_validators_and_others() -> None:
    """Regions, machines and villains are as many as the scenario says, to the nearest peer."""
    plans = plan_peers(SCENARIO, 7)
    assert Counter(plan.region.name for plan in plans)["here"] in (29, 30, 31)
    assert Counter(plan.region.name for plan in plans[:10])["here"] in (7, 8)
    assert Counter(plan.villain for plan in plans) == {None: 28, "noise": 8, "lazy": 4}
    assert sum(plan.clock_offset_ms != 0 for plan in plans) == 4
    assert [plan.arrives_seconds for plan in plans][-5:] == [0.0, 60.0, 70.0, 80.0, 90.0]


def test_a_seed_is_one_plan() -> None:
    """The same seed gives the same peers; another gives others."""

    def told(seed: int) -> list[tuple[object, ...]]:
        return [(plan.peer, plan.region, plan.hardware, plan.villain) for plan in plan_peers(SCENARIO, seed)]

    assert told(7) == told(7)
    assert told(7) != told(8)


def test_the_genesis_is_one_that_nodes_accept() -> None:
    """It has the validators as founders and as many tiles as the scenario asked for."""
    genesis = make_genesis(SCENARIO, make_keys(7, 40))
    assert check_genesis(encode(genesis)) == genesis
    assert len(genesis.founders) == 10
    assert len(TileMap.from_shape(genesis.model, genesis.tile_bytes).tiles) == SCENARIO.learning.tiles


def test_a_model_needs_tiles_for_its_trunk() -> None:
    """Fewer tiles than the trunk alone takes are refused."""
    with pytest.raises(Rejected, match="at least"):
        model_shape(3, 2048)


def test_a_scenario_that_cannot_be_is_refused() -> None:
    """One sentence says what is wrong."""
    with pytest.raises(Rejected, match="validators must be there"):
        check_scenario(replace(SCENARIO, validators=39))
