"""Whole engines in a false world: what is decided is one, and learning goes on whatever breaks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from consensus import events as e
from consensus.finality import events as f
from protocol.codec import decode
from protocol.epochs import boundary_of, cut_of
from protocol.finality import Body, FinalizedBlock
from protocol.ids import Digest
from protocol.limits import BODY_BYTES_MAX
from protocol.rejection import InvariantBroken
from protocol.roster import Slot
from tests.consensus.genesis import ROUND_MS
from tests.consensus.mutants import MUTANTS
from tests.consensus.oracle import Broken
from tests.consensus.world import RIGHT, Mutant, Options, Peer, World

SEEDS_OF_ONE = range(12)
SEEDS_OF_FOUR = range(40)
SEEDS_OF_SEVEN = range(5)
SETTLE_ROUNDS = 3  # after faults end: restarts, reconnections, one round that is late
CALM_ROUNDS = 4


def check_calm(world: World, rounds: int = CALM_ROUNDS) -> None:
    """After faults have stopped, every tile advances in every round and rounds stay within one of each other."""
    world.run(max(world.now_ms, world.heal_ms) + SETTLE_ROUNDS * ROUND_MS)
    since_ms = world.now_ms
    first = max(peer.rounds.statistics().round for peer in world.alive)

    def is_over() -> bool:
        numbers = [peer.rounds.statistics() for peer in world.alive]
        opened = [each.round for each in numbers]
        if max(opened) - min(opened) > 1:
            raise Broken(f"rounds are apart: {opened}")
        return all(each.done or each.round >= first + rounds for each in numbers)

    if not world.run_until(is_over, 2 * rounds * ROUND_MS):
        raise Broken(f"not live: {[peer.rounds.statistics() for peer in world.alive]}")
    for peer in world.alive:
        late = [closed for at_ms, closed in peer.closed if at_ms > since_ms and closed.lagging]
        if late:
            raise Broken(f"not live: peer {peer.index} closed {late}")
    decided = {(head.tile, head.round) for head in world.oracle.decided.values()}
    for number in range(first, first + rounds):
        if world.options.rounds_max is None and any((tile, number) not in decided for tile in world.tiles):
            raise Broken(f"a tile was not decided in round {number}")
    world.oracle.check_accounts(settled=world.options.rounds_max is None)
    world.oracle.check_disks()
    world.oracle.check_payments()


def run_seed(seed: int, count: int, mutant: Mutant = RIGHT) -> World:
    """The whole life of one world. A failure says how to repeat it."""
    world = World(seed, count, mutant=mutant)
    try:
        check_calm(world.run(world.heal_ms))
    except BaseException as failure:
        command = f"python -m pytest -n 0 tests/consensus/test_world.py -k 'of_{count} and {seed}-'"
        failure.add_note(f"seed {seed}, {world.options}\nrepeat: {command}")
        raise
    return world


def names(seeds: range) -> list[str]:
    """A dash behind the number, so that ``-k 4-`` is not 14."""
    return [f"{seed}-" for seed in seeds]


@pytest.mark.parametrize("seed", SEEDS_OF_ONE, ids=names(SEEDS_OF_ONE))
def test_a_world_of_1_survives_its_faults(seed):
    """One member, and sometimes an observer: nothing is decided twice, nothing is lost, learning goes on."""
    run_seed(seed, 1)


@pytest.mark.parametrize("seed", SEEDS_OF_FOUR, ids=names(SEEDS_OF_FOUR))
def test_a_world_of_4_survives_its_faults(seed):
    """Crashes, partitions and a bad network: one root a version, no delta twice or lost, then every tile in every round."""
    run_seed(seed, 4)


@pytest.mark.parametrize("seed", SEEDS_OF_SEVEN, ids=names(SEEDS_OF_SEVEN))
def test_a_world_of_7_survives_its_faults(seed):
    """The same with seven members."""
    run_seed(seed, 7)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_generator_notices_every_missing_rule(name):
    """With one rule removed, some seed breaks: a world that nothing breaks in would prove nothing."""
    for seed in SEEDS_OF_FOUR:
        try:
            run_seed(seed, 4, MUTANTS[name])
        except (Broken, InvariantBroken):
            return
    raise AssertionError(f"{len(SEEDS_OF_FOUR)} seeds did not notice: {name}")


def calm_world(count: int = 4, seed: int = 1, **options: object) -> World:
    """No faults but those that a test makes; ``chaos_ms`` 0, so that nothing is drawn."""
    return World(seed, count, Options(**options), chaos_ms=0)  # type: ignore[arg-type]  # the fields of Options


def primary(world: World, tile: str) -> Peer:
    """The tile's owner."""
    rules = world.peers[0].engine.execution.head_rules
    return world.peers[rules.order(tile)[0]]


def reach_round(world: World, number: int) -> None:
    """Run until every living peer has opened a round."""
    assert world.run_until(
        lambda: all(peer.running and peer.rounds.statistics().round >= number for peer in world.alive),
        (number + 4) * 3 * ROUND_MS,
    )


EFFECTS = (
    f.Persist,
    f.StoreBlocks,
    e.StoreFinalized,
    e.VerifyHeads,
    e.VerifyHistory,
    e.WalkHistory,
    e.Decide,
    e.RoundOpened,
    e.RoundClosed,
    e.Announce,
    e.StartLearning,
    e.DeliverDeltas,
    e.StartMerge,
    e.Propose,
)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("kind", EFFECTS, ids=lambda kind: kind.__name__)
def test_a_crash_before_any_effect_costs_nothing(kind, count):
    """A peer dies just before it performs an effect of each kind, restarts from its disk, and every tile goes on."""
    if count == 1 and kind in (e.VerifyHeads, e.VerifyHistory, e.DeliverDeltas):
        pytest.skip("a lone member asks nobody")
    histories = kind in (e.VerifyHistory, e.WalkHistory)
    world = calm_world(count, epoch_heights=5) if histories else calm_world(count)
    reach_round(world, 1)
    owner = primary(world, world.tiles[0])
    asks_owners = kind in (e.VerifyHeads, e.DeliverDeltas)
    victim = world.peers[owner.index - 1] if asks_owners else owner
    victim.crash_when = lambda effect: isinstance(effect, kind)
    assert world.run_until(lambda: victim.engine is None, (16 if histories else 4) * ROUND_MS)
    victim.crash_when = None
    world.run(world.now_ms + 700)
    victim.start()
    check_calm(world, rounds=2)


@pytest.mark.parametrize("count", [1, 4])
def test_a_power_cut_costs_nothing(count):
    """All die at once, in mid-round, and come back one after the other: learning goes on from their disks."""
    world = calm_world(count)
    for moment in (300, 2_500, 4_000):
        reach_round(world, max(p.rounds.statistics().round for p in world.alive) + 1)
        world.run(world.now_ms + moment)
        for peer in world.peers:
            peer.crash(world.random.randrange(100, 6_000))
        assert world.run_until(lambda: len(world.alive) == count, 8_000)
    check_calm(world)


def test_without_a_quorum_nothing_is_decided_and_the_stall_says_why():
    """With two of four dead no slot is decided; both others say how many are reachable; all goes on when they return."""
    world = calm_world()
    reach_round(world, 2)
    dead = world.peers[2:]
    for peer in dead:
        peer.stays_dead = True
        peer.crash(None)
    world.run(world.now_ms + 2_000)
    decided = len(world.oracle.decided)
    world.run(world.now_ms + 8 * ROUND_MS)
    assert len(world.oracle.decided) == decided
    for peer in world.alive:
        assert peer.stalls[-1] == "2 of 4 roster members are reachable, 3 are needed to decide anything"
        assert peer.rounds.statistics().stalled == peer.stalls[-1]
    assert all("2 of 4" in lagging.reason for peer in world.alive for lagging in peer.lagged)
    for peer in dead:
        peer.stays_dead = False
        peer.start()
    check_calm(world)
    assert all(peer.stalls[-1] is None for peer in world.peers[:2])


def test_a_tile_that_nobody_can_merge_lags_with_the_reason_and_stops_nobody():
    """Where every merge of one tile fails, each round reports that tile with the reason, and the others advance."""
    world = calm_world()
    tile = world.tiles[0]
    for peer in world.peers:
        peer.fails_to_merge = frozenset([tile])
    reach_round(world, 3)
    for peer in world.peers:
        assert {lagging.slot for _, closed in peer.closed for lagging in closed.lagging} == {Slot(tile, 1)}
        reasons = {lagging.reason for _, closed in peer.closed for lagging in closed.lagging}
        assert any("merge" in reason or "no head came" in reason for reason in reasons)
    assert not [slot for slot in world.oracle.decided if slot.tile == tile]
    assert all(Slot(other, 3) in world.oracle.decided for other in world.tiles[1:])
    for peer in world.peers:
        peer.fails_to_merge = frozenset()
    check_calm(world)


def test_a_failing_merge_is_tried_again_but_not_at_once():
    """A merge that always fails costs a few attempts a round, not a busy loop."""
    world = calm_world(1)
    world.peers[0].fails_to_merge = frozenset(world.tiles)
    before = world.events
    world.run(world.now_ms + 5 * ROUND_MS)
    assert 0 < world.events - before < 1_000


def test_a_silent_primary_is_taken_over_though_it_is_connected():
    """A primary that never merges is replaced by a standby in every round, and no round lags."""
    world = calm_world()
    silent = primary(world, world.tiles[0])
    silent.merge_ms = (10**9, 10**9 + 1)
    reach_round(world, 3)
    heads = [head for head in world.oracle.decided.values() if head.tile == world.tiles[0]]
    assert len(heads) >= 3
    assert all(head.attempt > 0 for head in heads)
    assert not [closed for peer in world.peers for _, closed in peer.closed if closed.lagging]


@pytest.mark.parametrize("seed", range(3))
def test_a_primary_that_is_merely_slow_is_not_taken_over(seed):
    """Slow learners, slow merges, messages that take their time: as long as all stay below the deadline, none is needed."""
    world = World(seed, 4, Options(delay_mean=60.0, learn_ms=(500, 6_000)), chaos_ms=10 * ROUND_MS)
    for peer in world.peers:
        peer.merge_ms = (100, 1_900)
    reach_round(world, 6)
    assert {head.attempt for head in world.oracle.decided.values()} == {0}
    assert {head.attempt for peer in world.peers for head in peer.disk.proposals} == {0}


def test_rounds_that_are_far_too_short_cost_no_takeover_and_no_tile():
    """Where every learner needs three deadlines, each tile advances in every round, by its primary."""
    world = calm_world()
    for peer in world.peers:
        peer.learn_ms = (3 * ROUND_MS, 3 * ROUND_MS + 1_500)
    reach_round(world, 3)
    assert {head.attempt for head in world.oracle.decided.values()} == {0}
    assert not [closed for peer in world.peers for _, closed in peer.closed if closed.lagging]


@pytest.mark.parametrize("seed", range(3))
def test_an_owner_killed_in_every_round_costs_hardly_a_tile(seed):
    """Each round the primary of some tile dies; standbys take over, and 95 of 100 tile-rounds advance."""
    world = calm_world(4, seed)
    reach_round(world, 1)
    rounds = 12
    for number in range(1, 1 + rounds):
        reach_round(world, number)
        victim = primary(world, world.tiles[number % 3])
        world.run(world.now_ms + world.random.randrange(0, 4_000))
        if victim.engine is not None:
            victim.crash(world.random.randrange(3_000, 9_000))
        world.run_until(lambda: len(world.alive) == 4, 2 * ROUND_MS)
    decided = {(head.tile, head.round) for head in world.oracle.decided.values()}
    last = min(peer.rounds.statistics().round for peer in world.alive)
    due = [(tile, number) for tile in world.tiles for number in range(last)]
    assert sum(each in decided for each in due) >= 0.95 * len(due)
    assert any(head.attempt > 0 for head in world.oracle.decided.values())
    check_calm(world)


def test_a_late_learners_deltas_are_taken_on_the_grandparent_or_returned():
    """A learner that needs longer than a round delays nobody for ever; each of its deltas is merged later, or given back."""
    world = calm_world()
    late = world.peers[3]
    late.learn_ms = (ROUND_MS + 1_000, ROUND_MS + 4_000)
    reach_round(world, 8)
    mine = [each for each in world.oracle.accounts.values() if each.delta.learner == late.id]
    merged = [each for each in mine if each.merged_in is not None]
    assert any(each.merged_in.version == each.delta.base + 2 for each in merged)
    world.oracle.check_accounts()
    late.learn_ms = None
    check_calm(world)


def test_after_the_last_round_everybody_is_done_and_stays_done():
    """With a limit of rounds all end; one that restarts afterwards is done too, and nobody opens another round."""
    world = calm_world(rounds_max=3)
    assert world.run_until(lambda: all(p.running and p.rounds.statistics().done for p in world.peers), 12 * ROUND_MS)
    assert [closed.round for _, closed in world.peers[0].closed] == [0, 1, 2]
    world.peers[1].crash(500)
    world.run(world.now_ms + 3 * ROUND_MS)
    numbers = [peer.rounds.statistics() for peer in world.peers]
    assert all(each.done and each.round == 2 and each.rounds_closed == 3 for each in numbers)
    assert all(slot.version <= 3 for slot in world.oracle.decided)
    assert all(number < 3 for peer in world.peers for _, number in peer.opened)


def test_a_peer_that_was_away_for_the_last_rounds_is_done_when_it_returns():
    """The others finished without it; it catches up with the blocks and is done."""
    world = calm_world(rounds_max=4)
    reach_round(world, 1)
    world.peers[2].crash(None)
    assert world.run_until(lambda: all(peer.rounds.statistics().done for peer in world.alive), 20 * ROUND_MS)
    world.peers[2].start()
    assert world.run_until(lambda: world.peers[2].running and world.peers[2].rounds.statistics().done, 4 * ROUND_MS)
    world.oracle.check_disks()


def test_an_observer_that_joins_late_contributes_from_the_next_round():
    """A learner outside the roster syncs, follows the chain, and a head of the round after its arrival lists its delta."""
    world = calm_world(observers=1)
    observer = world.peers[4]
    assert world.run_until(lambda: observer.running, 6 * ROUND_MS)
    joined = observer.rounds.statistics().round
    assert joined > 0
    reach_round(world, joined + 2)
    rounds = {head.round for head in world.oracle.decided.values() for ref in head.deltas if ref.learner == observer.id}
    assert joined + 1 in rounds or joined in rounds
    assert not observer.disk.proposals
    check_calm(world)


def test_a_peer_that_restarts_in_mid_round_resends_and_does_not_learn_again():
    """Its deltas were journaled: after the restart the same bytes go out, and the round lists each exactly once."""
    world = calm_world()
    reach_round(world, 2)
    victim = world.peers[primary(world, world.tiles[0]).index - 1]
    victim.crash_when = lambda effect: isinstance(effect, e.DeliverDeltas)
    assert world.run_until(lambda: victim.engine is None, 3 * ROUND_MS)
    victim.crash_when = None
    journaled = victim.disk.learner
    victim.start()
    assert world.run_until(lambda: victim.disk.learner != journaled, 3 * ROUND_MS)
    assert len(victim.learned_rounds) == len(set(victim.learned_rounds))
    assert all(world.oracle.accounts[delta.digest].merged_in is not None for delta in journaled.outstanding)


# -- epochs and their histories -----------------------------------------------------------------------------------------


def height_of(world: World) -> int:
    """The highest decided block."""
    return max(len(peer.disk.ledger) for peer in world.peers)


@pytest.mark.parametrize("epoch_heights", [2, 5, 20])
def test_every_epoch_has_one_history_and_hardly_anybody_walks_it(epoch_heights):
    """Whoever proposes first after the cut walks; the others verify what it tells, in one block between cut and boundary."""
    world = calm_world(4, epoch_heights=epoch_heights)
    assert world.run_until(lambda: height_of(world) > 6 * epoch_heights, 60 * ROUND_MS)
    told = [block.header.height for block in max((p.disk.ledger for p in world.peers), key=len) if history_of(block)]
    for epoch in range(6):
        inside = range(cut_of(epoch, epoch_heights) + 1, boundary_of(epoch, epoch_heights) + 1)
        assert sum(height in inside for height in told) == 1
    assert sum(len(peer.verified_histories) for peer in world.peers) >= 6
    world.oracle.check_payments()


def history_of(block: FinalizedBlock) -> tuple[Digest, ...]:
    return decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).history


@pytest.mark.parametrize("seed", range(4))
def test_an_epoch_ends_though_the_leader_of_its_boundary_is_dead(seed):
    """Whoever leads the view after that walks the history itself, and waits for it."""
    world = calm_world(4, seed, epoch_heights=5)
    for epoch in range(1, 4):
        before = cut_of(epoch, 5)
        assert world.run_until(lambda before=before: height_of(world) >= before, 20 * ROUND_MS)
        teller = max(world.alive, key=lambda peer: len(peer.disk.ledger))
        victim = world.peers[teller.engine.finality.statistics().leader]
        victim.crash(None)
        assert world.run_until(lambda before=before: height_of(world) > before + 1, 4 * ROUND_MS)
        victim.start()
    check_calm(world, rounds=2)


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_history_is_refused_and_its_teller_blamed(seed):
    """The views that a liar leads are lost; the others tell the truth."""
    world = calm_world(4, seed, epoch_heights=5)
    liar = world.peers[seed % 4]
    liar.lies_about_history = True
    assert world.run_until(lambda: height_of(world) > 12 * 5, 100 * ROUND_MS)
    world.oracle.check_payments()
    assert any(False in peer.verified_histories for peer in world.peers if peer is not liar)


@pytest.mark.parametrize("seed", [3, 8])
def test_the_same_seed_gives_the_same_run_under_any_hash_seed(seed):
    """The log of every event and effect has one digest, whatever order sets and dicts of bytes have."""
    program = (
        "from tests.consensus.world import World\n"
        f"world = World({seed}, 4)\n"
        "world.run(world.heal_ms + 10_000)\n"
        "print(world.log.hexdigest(), world.events)\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(said) == 1


# -- regions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("regions", "members"), [("a", 4), ("ab", 4), ("abc", 7)])
def test_what_crosses_between_regions_grows_with_regions(regions, members):
    """Five learners a region or more: each tile crosses once for each region that its owner is not in."""
    world = calm_world(members, regions=regions, observers=8)
    world.run(world.now_ms + 4 * ROUND_MS)
    start, crossed = len(world.oracle.decided), world.crossed
    world.run(world.now_ms + 5 * ROUND_MS)
    slots = len(world.oracle.decided) - start
    assert slots > 3 * len(world.tiles)
    assert world.crossed - crossed <= (slots + len(world.tiles)) * (len(regions) - 1)
    world.oracle.check_accounts()
    assert sum(account.lost_told for account in world.oracle.accounts.values()) <= len(world.tiles)
    counted = [head.learners for head in list(world.oracle.decided.values())[start:]]
    assert sum(counted) >= (members + 8) * slots - len(
        world.tiles
    )  # a delta that came late counts in the version after


def test_aggregators_that_die_cost_time_and_no_delta():
    """Whoever is about to make an aggregate dies: its region's deltas take the direct way, and every tile advances."""
    world = calm_world(10, regions="ab")
    for peer in world.peers:
        peer.crash_when = lambda effect: isinstance(effect, e.StartAggregation)
    world.run(world.now_ms + 2 * ROUND_MS)
    assert not world.oracle.aggregates
    assert len(world.alive) < 10
    for peer in world.peers:
        peer.crash_when = None
        if peer.engine is None:
            peer.start()
    check_calm(world)
    assert world.oracle.aggregates


def test_an_aggregator_that_never_delivers_is_passed_by():
    """Its aggregates stay with it: asked before the deadline it says so, and the learners' own deltas are in time."""
    world = calm_world(10, regions="ab")
    for peer in world.peers:
        deliver = peer._hand_over

        def hand_over(effect, peer=peer, deliver=deliver):
            if any(name in world.oracle.aggregates for name in effect.deltas):
                peer.later(1_500, lambda: peer.handle(e.DeliveryFailed(effect.owner, effect.deltas)))
            else:
                deliver(effect)

        peer._hand_over = hand_over
    world.run(world.now_ms + 6 * ROUND_MS)
    assert world.oracle.aggregates
    assert not any(reference.contributors for head in world.oracle.decided.values() for reference in head.deltas)
    assert {head.learners for head in world.oracle.decided.values()} == {10}
    world.oracle.check_accounts()
