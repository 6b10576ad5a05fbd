"""The parts of level one: links, trees, learners, what is shared, disks."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from compute.delta.codec import decode as decode_delta
from consensus.events import StartLearning
from protocol.codec import decode
from protocol.genesis import MILLION
from protocol.ids import Height, Round, Version
from protocol.learning import SignedDelta, check_delta_signature
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Reason, Rejected
from simnet.cores.gossip import FANOUT, Gossip
from simnet.cores.learner import LearnerRecord
from simnet.cores.network import FRAME_BYTES, Network
from simnet.cores.peer import Peer
from simnet.cores.shared import Memo
from simnet.cores.world import World
from simnet.scenario import HardwareClass, Region, Route, Scenario
from tests.simnet.cores.test_world import SMALL

STILL = replace(
    SMALL,
    peers=40,
    regions=(Region("north", 1, (0.0, 50.0)), Region("south", 1, (0.0, -50.0))),
    routes=(Route(("north", "south"), 100.0), Route(("north", "north"), 10.0), Route(("south", "south"), 10.0)),
    hardware=(HardwareClass("all", 1, 8, upload_megabits=8, download_megabits=16),),
)


@pytest.fixture
def world() -> World:
    """Forty peers in two regions, all of them running, nothing said yet."""
    world = World(STILL, 1)
    for peer in world.peers:
        peer.start()
    return world


def pick(world: World, region: str, count: int = 1) -> list[Peer]:
    return [peer for peer in world.peers if peer.region == region][:count]


# -- links --------------------------------------------------------------------------------------------------------------


def test_bytes_wait_for_the_line_and_for_the_light(world: World) -> None:
    """A megabyte at eight megabits a second takes a second and the route; the next one waits for the first."""
    (north,), (south,) = pick(world, "north"), pick(world, "south")
    megabyte = 1_000_000 - FRAME_BYTES
    assert world.network.send_ms(north, south, megabyte, 0, "blob") == pytest.approx(1_100)
    assert world.network.send_ms(north, south, megabyte, 0, "blob") == pytest.approx(2_100)
    assert world.network.send_ms(north, south, megabyte, 5_000, "blob") == pytest.approx(1_100)
    assert world.network.traffic.between["north", "south"] == world.network.traffic.by_kind["blob"] == 3_000_000


def test_slow_region_is_slow_both_ways_and_then_as_before(world: World) -> None:
    """Latencies are multiplied and rates divided while it lasts."""
    (north,), (south,) = pick(world, "north"), pick(world, "south")
    world.network.slow("south", 5.0, 0.5)
    for source, to in ((north, south), (south, north)):
        assert world.network.send_ms(source, to, 1_000_000 - FRAME_BYTES, 0, "blob") == pytest.approx(2_500)
    world.network.slow("south", 1 / 5.0, 1 / 0.5)
    assert world.network.latency_ms("north", "south") == pytest.approx(100)


def test_cut_region_is_reached_by_itself_alone(world: World) -> None:
    """Faults that overlap are counted: it is back when the last is over. Who does not run is reached by nobody."""
    (north, other), (south, near) = pick(world, "north", 2), pick(world, "south", 2)
    reaches = world.network.reaches
    assert reaches(north, south)
    world.network.cut("south", 1)
    world.network.cut("south", 1)
    world.network.cut("south", -1)
    assert not reaches(north, south)
    assert not reaches(south, north)
    assert reaches(south, near)
    assert reaches(north, other)
    world.network.cut("south", -1)
    assert reaches(north, south)
    south.kill()
    assert not reaches(north, south)


def test_lost_gossip_is_as_frequent_as_the_route_says() -> None:
    """Drawn, one by one; a route without loss draws nothing."""
    scenario: Scenario = replace(STILL, routes=(Route(("north", "south"), 100.0, loss=0.25),))
    network = Network(scenario, random.Random(1))
    lost = sum(network.is_lost("north", "south") for _ in range(4_000))
    assert 900 < lost < 1_100
    assert not any(network.is_lost("north", "north") for _ in range(100))


def test_another_scenario_has_its_own_routes() -> None:
    """What was looked up in one is not known to one that was made from it with other routes."""
    assert STILL.route("south", "north").latency_ms == 100.0
    assert replace(STILL, routes=(Route(("north", "south"), 7.0),)).route("south", "north").latency_ms == 7.0


# -- gossip -------------------------------------------------------------------------------------------------------------


def test_tree_reaches_everybody_once(world: World) -> None:
    """As many copies as receivers, between the regions that they are counted between; depth bounds the delay."""
    source = world.peers[3]
    tree = world.gossip.tree(source)
    assert sorted(peer.index for peer, _ in tree.delays) == [peer.index for peer in world.peers if peer is not source]
    assert sum(copies for _, _, copies in tree.hops) == len(world.peers) - 1
    depth = 3
    assert FANOUT**depth > len(world.peers)
    assert max(delay for _, delay in tree.delays) <= depth * (100 + 3) + 1
    assert {peer.index for peer, _ in tree.waiting} >= set(range(world.scenario.validators)) - {source.index}
    assert world.gossip.tree(source) is tree


def test_tree_grows_anew_where_somebody_went(world: World) -> None:
    """The dead are in no tree, nor who is cut off; a tree from behind the cut reaches its own region."""
    world.peers[5].kill()
    (north,), (south,) = pick(world, "north"), pick(world, "south")
    world.network.cut("south", 1)
    for source in (north, south):
        reached = [peer for peer, _ in world.gossip.tree(source).delays]
        alive = [peer for peer in world.peers if peer.region == source.region and peer.index != 5]
        assert len(reached) == len(alive) - 1
        assert {peer.region for peer in reached} == {source.region}


def test_trees_are_drawn_from_the_seed(world: World) -> None:
    """Two gossips of one seed have the same trees."""
    trees = [Gossip(world.network, world.peers, random.Random(7)).tree(world.peers[0]) for _ in range(2)]
    assert trees[0].delays == trees[1].delays


# -- learners -----------------------------------------------------------------------------------------------------------


def test_what_is_said_and_what_waits_is_what_was_found(world: World) -> None:
    """A delta's payload and the residual, undecayed, are the change and what waited before; a withheld tile's waits whole."""
    peer, shared = world.peers[0], world.shared
    tiles = shared.tile_map.ids
    bases = tuple((tile, Version(0)) for tile in tiles)
    weights = {tile: shared.weights(tile, Version(0)) for tile in tiles}
    known = {tile: held for tile, held in weights.items() if held is not None}
    request = StartLearning(Round(0), bases, withheld=tiles[:1], merged=(), lost=())
    change = world.make_change(peer, 0)
    record, blobs = world.learner_work.learn(request, LearnerRecord(), known, {}, peer.plan.keys.node, change)
    assert [delta.tile for delta in record.outstanding] == list(tiles[1:])
    assert [delta.digest for delta in record.outstanding] == list(blobs)
    decay = Fraction(shared.genesis.learning.residual_decay_micro, MILLION)
    for data in blobs.values():
        delta = decode(SignedDelta, data, limit_bytes=FRAME_BYTES_MAX)
        check_delta_signature(delta)
        said_N = decode_delta(delta.payload, known[delta.tile].size).dense()
        found_N = change(delta.tile, Version(0), known[delta.tile])
        np.testing.assert_allclose(said_N + record.residuals[delta.tile] / float(decay), found_N, atol=1e-6)
    np.testing.assert_array_equal(record.residuals[tiles[0]], change(tiles[0], Version(0), known[tiles[0]]))


def test_lost_delta_waits_again(world: World) -> None:
    """What nobody took returns to the residual before the next steps are taken, and its row is settled."""
    peer, shared = world.peers[1], world.shared
    tile = shared.tile_map.ids[0]
    held = shared.weights(tile, Version(0))
    assert held is not None
    work, key = world.learner_work, peer.plan.keys.node

    def nothing(*_: object) -> None:
        return None

    first = StartLearning(Round(0), ((tile, Version(0)),), (), (), ())
    record, blobs = work.learn(first, LearnerRecord(), {tile: held}, {}, key, world.make_change(peer, 0))
    (name,) = blobs
    again = StartLearning(Round(1), ((tile, Version(0)),), (), (), lost=(name,))
    after, made = work.learn(again, record, {tile: held}, dict(blobs), key, nothing)
    said_N = decode_delta(decode(SignedDelta, blobs[name], limit_bytes=FRAME_BYTES_MAX).payload, held.size).dense()
    np.testing.assert_allclose(after.residuals[tile], record.residuals[tile] + said_N, atol=1e-7)
    assert (after.round, after.outstanding, made) == (1, (), {})


# -- what is shared -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("enabled", "asked"), [(True, 1), (False, 3)])
def test_memo_asks_once_for_answers_and_for_refusals(enabled: bool, asked: int) -> None:
    """A refusal is raised each time, as a new one; a memo that is switched off asks each time."""
    memo, calls = Memo(enabled), []

    def answer() -> int:
        calls.append("answer")
        return 7

    def refuse() -> int:
        calls.append("refuse")
        raise Rejected(Reason.BAD_SIGNATURE, "no")

    assert [memo.ask("right", answer) for _ in range(3)] == [7, 7, 7]
    refusals = []
    for _ in range(3):
        with pytest.raises(Rejected) as refused:
            memo.ask("wrong", refuse)
        refusals.append(refused.value)
    assert {(each.reason, each.detail) for each in refusals} == {(Reason.BAD_SIGNATURE, "no")}
    assert len({id(each) for each in refusals}) == 3
    assert (calls.count("answer"), calls.count("refuse")) == (asked, asked)


def test_a_ledger_is_served_up_to_its_epoch_and_a_certificate() -> None:
    """An answer of the sync protocol begins where it was asked to, stays in one epoch, and ends with a certificate."""
    world = World(replace(SMALL, seconds=240.0), 3)
    world.run()
    disk = world.peers[0].disk
    heights = world.shared.genesis.chain.epoch_heights
    assert disk.tip > heights
    served = disk.serve(Height(heights - 1), 64)
    assert [block.header.height for block in served] == [heights - 1, heights]
    assert served[-1].certificate is not None
    assert [block.header.height for block in disk.serve(Height(2), 5)] == [2, 3, 4, 5, 6]
    assert disk.serve(Height(disk.tip + 1), 64) == ()
