"""The virtual world of the finality machine: one seed is one run, villains do no harm, every checker sees what it is for."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_message

from consensus.finality.core import FinalityCore
from consensus.finality.events import Effect, Event, Persist, StoreBlocks, StoredBlock
from consensus.finality.signer import EPOCHS_REFUSED, RECORD_BYTES_MAX, JournalState, VoteRecord
from consensus.finality.tally import build_certificate, votes_of
from protocol.codec import decode, encode
from protocol.finality import EMPTY_BODY, NO_BLOCK, BodyMessage, FinalizedBlock, Vote, VoteKind
from protocol.ids import Epoch, Height, MemberIndex, View
from protocol.limits import BODY_BYTES_MAX
from protocol.roster import Roster
from simnet.finality.checkers import Ancestry, Membership
from simnet.finality.disk import Disk
from simnet.finality.genesis import RULE, WEIGHTS, ActorId, choose_byzantine, make_keys
from simnet.finality.ledger import Commit
from simnet.finality.members import RIGHT, Machine
from simnet.finality.network import QUEUE_BYTES_MAX, RATES_BYTES_PER_S, SHAPES, SWIZZLE, FromTwin, Queue, size_of
from simnet.finality.options import ALMOST_CALM, CALM, Options
from simnet.finality.run import Plan, run_many, run_seed
from simnet.finality.sets import Sets
from simnet.finality.villains import VILLAINS
from simnet.finality.villains.villain import Ground, Villain
from simnet.finality.watch import Broken, Rule
from simnet.finality.world import World
from tests.consensus.finality.mutants import MUTANTS, find_break

ROOT = Path(__file__).parents[2]


# -- one seed, one run ------------------------------------------------------------------------------------------------


def test_same_seed_same_digest_under_any_hash_seed():
    """Ten worlds have the same log in this process, again, and in two others with other hash seeds."""
    code = (
        "from simnet.finality.run import Plan, run_many\n"
        "print(run_many(Plan(4), range(10), 1, lambda totals: None).digest)"
    )
    digests = [run_many(Plan(4), range(10), 1, lambda totals: None).digest for _ in range(2)]
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        digests.append(done.stdout.strip())
    assert len(set(digests)) == 1, digests
    assert len(digests[0]) == 64


@pytest.mark.parametrize("villain", VILLAINS)
def test_villains_too_have_the_same_digest_twice(villain):
    """Nothing that a villain does depends on anything but the seed."""
    runs = [run_seed(Plan(4, villain), RIGHT, 3).digest for _ in range(2)]
    assert runs[0] == runs[1]


def test_seeds_differ():
    """Another seed is another run, and other members lead."""
    worlds = [World(seed, 4, CALM) for seed in range(3)]
    assert len({world.roster.beacon for world in worlds}) == 3
    assert len({world.run().log.hexdigest() for world in worlds}) == 3


def test_several_processes_give_the_same_totals():
    """How many processes share the work is not part of the result."""
    alone, shared = (run_many(Plan(4), range(9), jobs, lambda totals: None) for jobs in (1, 2))
    assert alone.digest == shared.digest
    assert (alone.seeds, alone.events, alone.simulated_ms) == (shared.seeds, shared.events, shared.simulated_ms)


# -- villains ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("villain", VILLAINS)
def test_villains_below_a_third_do_no_harm(villain):
    """Whatever else goes wrong: safe, nobody framed, durable, and live after the heal."""
    totals = run_many(Plan(4, villain), range(4), 1, lambda totals: None)
    assert not totals.failures, totals.failures
    assert not run_many(Plan(7, villain), range(1), 1, lambda totals: None).failures


def test_ten_members_and_thirty_one():
    """Larger rosters, with as much weight of villains as they can bear."""
    for count in (10, 31):
        assert run_seed(Plan(count, "equivocator"), RIGHT, 0).rule is None


def test_too_many_villains_fork_the_chain_and_are_convicted():
    """With more than a third Byzantine some chains fork, and each fork convicts more than a third and nobody honest."""
    totals = run_many(Plan(4, "equivocator", over=True), range(210, 280), 1, lambda totals: None)
    assert totals.forked >= 2
    # The machines' own evidence convicts too, unless epochs of two heights have passed over it: they look one epoch back.
    assert totals.exposed >= totals.forked - 1
    assert not totals.failures, totals.failures


def test_byzantine_members_hold_the_most_weight_below_a_third():
    """No set of members has more and is still below; with ``over`` the weight is between one and two thirds."""
    for name, seed, count in itertools.product(WEIGHTS, range(5), (4, 7)):
        weights = WEIGHTS[name](random.Random(seed), count)
        total = sum(weights)
        subsets = itertools.chain.from_iterable(itertools.combinations(weights, size) for size in range(count))
        most = max(sum(subset) for subset in subsets if 3 * sum(subset) < total)
        below = choose_byzantine(random.Random(seed), weights, over=False)
        assert sum(weights[member] for member in below) == most
        over = sum(weights[member] for member in choose_byzantine(random.Random(seed), weights, over=True))
        assert total < 3 * over < 2 * total


def new_sets(seed: int, byzantine: tuple[ActorId, ...], *, over: bool = False) -> Sets:
    rule = replace_message(RULE, epoch_heights=4)
    first = (2, 3, 1, 2, 2, 0, 0) if over else (2, 3, 2, 1, 2, 0, 0)
    return Sets(random.Random(seed), make_keys(7), Roster, rule, first, byzantine, changes=True, over=over)


@pytest.mark.parametrize("over", [False, True])
def test_villains_hold_what_they_may_in_every_epoch(over):
    """Below a third and as much as the honest leave them, or nothing; or between one and two thirds."""
    byzantine = (ActorId(1),) if not over else (ActorId(0), ActorId(1))
    away = 0
    for seed in range(5):
        sets = new_sets(seed, byzantine, over=over)
        for epoch in range(1, 60):
            held, total = sets.byzantine_weight(epoch), sum(sets.weights(epoch))
            away += held == 0
            if over:
                assert total < 3 * held < 2 * total
            elif sets.weights(epoch) != sets.weights(epoch - 1):
                assert held in (0, (total - held - 1) // 2)
                assert 3 * held < total
    assert (away > 0) is not over


def test_sets_change_in_every_way():
    """Members join, leave and come back, weights rise and fall, and sometimes an epoch is like the one before."""
    sets, seen = new_sets(1, (ActorId(1),)), set()
    for epoch in range(1, 80):
        for before, after in zip(sets.weights(epoch - 1), sets.weights(epoch), strict=True):
            seen.add((before > 0, after > 0, (after > before) - (after < before)))
    assert len(seen) == 6
    assert 40 < sets.changes_through(79) < 79
    assert len({sets.roster(epoch).beacon for epoch in range(80)}) == 80


def test_a_villains_epoch_is_not_the_worlds():
    """A withholder may be an epoch ahead of everybody; whose journal may be lost is asked of the epoch of the honest."""
    options = Options(
        loss=0.1, loss_of_finalize=0.5, repeat=0.2, clogs=5, crashes=15, lost_journals=True, weights="one large",
        epoch_heights=2, set_changes=True, villain="withholder",
    )  # fmt: skip
    for seed in range(60, 90):
        world = World(seed, 4, options).run()
        assert world.epoch == max(member.disk.epoch for member in world.members)


def test_whoever_is_gone_is_in_no_set_that_is_not_fixed():
    """As on a real chain, where others stake in its place."""
    sets = new_sets(3, ())
    fixed = sets.weights(2)
    sets.gone.append(ActorId(0))
    assert sets.weights(2) == fixed
    assert all(sets.weights(epoch)[0] == 0 for epoch in range(3, 40))


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*SHAPES, SWIZZLE])
def test_every_partition_stops_something_and_ends(shape):
    """While a partition holds somebody cannot reach somebody; after the heal everybody reaches everybody."""
    world = World(1, 4, replace(CALM, partitions=(shape, shape)))
    pairs = [(ActorId(a), ActorId(b)) for a in range(4) for b in range(4) if a != b]
    stopped = []
    for at_ms in range(0, world.chaos_ms, 250):
        world.later(at_ms, lambda: stopped.append([pair for pair in pairs if not world.network.reaches(*pair)]))
    world.run()
    assert any(stopped)
    assert all(world.network.reaches(*pair) for pair in pairs)


def test_one_way_partition_is_one_way():
    """One side is heard and does not hear."""
    links = SHAPES["asymmetric"](random.Random(1), 7)
    assert links
    assert not {(b, a) for a, b in links} & set(links)


@given(
    st.sampled_from(RATES_BYTES_PER_S),
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, BODY_BYTES_MAX)), max_size=30),
)
def test_a_slow_link_keeps_its_rate_and_its_bound(rate, pushes):
    """Messages leave in order, no faster than the rate allows; the queue keeps its bound, and tells what it lost."""
    queue, now_ms, sent_bytes, last_ms = Queue(rate), 0, 0, 0
    for pause_ms, size_bytes in pushes:
        now_ms += pause_ms
        lost, waiting_bytes = queue.lost, queue.waiting_bytes(now_ms)
        waits_ms = queue.push(size_bytes, now_ms)
        assert queue.waiting_bytes(now_ms) <= QUEUE_BYTES_MAX
        assert (waits_ms is None) == (waiting_bytes + size_bytes > QUEUE_BYTES_MAX) == (queue.lost > lost)
        if waits_ms is not None:
            sent_bytes += size_bytes
            assert now_ms + waits_ms >= last_ms
            last_ms = now_ms + waits_ms
            assert 1_000 * sent_bytes <= rate * (last_ms + 1)


def test_an_idle_slow_link_takes_the_largest_body():
    """Its queue has room for two."""
    queue = Queue(1_000)
    assert queue.push(BODY_BYTES_MAX, 0) == BODY_BYTES_MAX
    assert queue.push(BODY_BYTES_MAX, 0) == 2 * BODY_BYTES_MAX
    assert queue.push(BODY_BYTES_MAX, 0) is None
    assert queue.push(1, 3) == 2 * BODY_BYTES_MAX + 1 - 3


def test_a_message_is_as_large_as_on_the_wire():
    """Whoever sends it, and whether it was decoded."""
    body = BodyMessage(NO_BLOCK, bytes(1_000))
    assert size_of(body) == size_of(encode(body)) == size_of(FromTwin(1, body)) == len(encode(body)) > 1_000


def test_slow_links_make_large_bodies_late_and_let_go_at_the_heal():
    """Queues fill while there are faults; then messages pass at once again, and the members are live."""
    options = replace(CALM, slow_links=1.0, body_bytes_max=BODY_BYTES_MAX)
    late, lost = 0, 0
    for seed in range(4):
        world = World(seed, 4, options)
        waiting: list[int] = []
        for at_ms in range(0, world.chaos_ms, 500):
            world.later(at_ms, lambda world=world, waiting=waiting: waiting.append(max(world.network.waiting_bytes())))
        world.run()
        assert max(waiting) <= QUEUE_BYTES_MAX
        late += max(waiting) > BODY_BYTES_MAX // 2
        lost += world.network.messages_lost_by_queues
    assert late >= 3
    assert lost > 0


def test_a_torn_write_is_a_part_of_it():
    """A torn record is never in the journal, and of blocks there is a prefix, with the state after it."""
    world = World(0, 4, CALM).run()
    ledger = world.members[0].disk.ledger
    application = world.make_application(None)
    rows = [application.finalize(block, world.sets.roster(0)).rows() for block in ledger[:5]]
    for seed in range(20):
        disk = Disk()
        disk.tear(Persist((b"record",)), random.Random(seed))
        disk.tear(Commit(tuple(ledger[:5]), tuple(rows)), random.Random(seed))
        disk.tear(StoreBlocks(), random.Random(seed))
        assert disk.state is JournalState.TORN
        assert disk.journal == []
        assert disk.ledger == ledger[: len(disk.ledger)]
        assert 1 <= len(disk.ledger) < 5
        assert disk.read_state().root() == disk.ledger[-1].header.state_root


def records(count: int) -> list[bytes]:
    return [b"record %d" % number for number in range(count)]


def disk_with(count: int) -> Disk:
    disk = Disk()
    for record in records(count):
        disk.append((record,))
    return disk


@given(st.integers(2, 8), st.integers(0))
def test_any_bit_damages_the_journal(count, seed):
    """Wherever it flips the past is unknown, or, in the last frame, looks torn: never a journal that is clean or longer."""
    disk = disk_with(count)
    disk.flip_journal_bit(random.Random(seed))
    found, state = disk.open_journal()
    assert state is JournalState.DAMAGED or (state is JournalState.TORN and found == records(count)[:-1])
    assert found == records(count)[: len(found)]
    assert disk.journals_damaged == 1


def test_a_journal_of_one_record_is_spared():
    """A last frame that was damaged looks like one that was torn."""
    for count in (0, 1):
        disk = disk_with(count)
        disk.flip_journal_bit(random.Random(0))
        assert disk.open_journal() == (records(count), JournalState.CLEAN)
        assert disk.journals_damaged == 0


def test_a_torn_record_is_cut_off_and_the_journal_goes_on():
    """What is appended after the cut is read again, with what was there before."""
    disk = disk_with(2)
    disk.tear(Persist((b"torn",)), random.Random(0))
    assert disk.open_journal() == (records(2), JournalState.TORN)
    disk.append((b"record 2",))
    assert disk.open_journal() == (records(3), JournalState.CLEAN)


def test_a_rename_is_lost_until_the_directory_is_synced():
    """The old file is there again, without anything that was appended to the new one; after the sync the new one stays."""
    for synced, expected in ((False, records(2)), (True, [b"short", b"later"])):
        disk = disk_with(2)
        disk.rename_journal((b"short",))
        if synced:
            disk.sync_directory()
        disk.append((b"later",))
        disk.lose_power()
        assert disk.open_journal() == (expected, JournalState.CLEAN)
        disk.append((b"more",))
        assert disk.journal == [*expected, b"more"]
        disk.lose_power()
        assert disk.journal == [*expected, b"more"]
        assert disk.renames_lost == (not synced)


def test_a_lost_rename_may_bring_back_that_there_was_no_journal():
    """Then its past is as unknown as before."""
    disk = disk_with(2)
    disk.lose_journal()
    disk.rename_journal((b"floor",))
    disk.lose_power()
    assert disk.open_journal() == ([], JournalState.MISSING)


def test_a_damaged_row_is_thrown_away_and_remembered_by_the_checkers():
    """The machine sees one row less; that the body had been written still counts."""
    disk = Disk()
    block = stored_block(World(0, 4, CALM))
    disk.store(StoreBlocks((block,)))
    name = block.proposal.header.digest()
    disk.flip_row_bit(random.Random(0))
    assert disk.restored().blocks == ()
    assert not disk.holds(name)
    assert disk.wrote(name)
    disk.flip_row_bit(random.Random(0))
    assert disk.rows_damaged == 1


def stored_block(world: World) -> StoredBlock:
    villain = Villain(world, ActorId(0))
    ground = Ground(None, None)
    return StoredBlock(villain.propose(villain.make_header(View(1), ground), ground), EMPTY_BODY)


def test_a_member_with_a_damaged_journal_signs_nothing_in_that_epoch():
    """It follows, and says so in the first record of its new journal."""
    world = World(3, 4, CALM)
    member = world.members[0]

    def damage() -> None:
        member.disk.flip_journal_bit(world.random)
        member.start()

    world.later(2_000, damage)
    world.run()
    assert member.disk.journals_damaged == 1
    (record,) = [decode(VoteRecord, each, limit_bytes=RECORD_BYTES_MAX) for each in member.disk.journal]
    assert (record.epoch, record.vote) == (EPOCHS_REFUSED, None)
    assert len(member.disk.ledger) > 10


def test_a_paused_member_hears_nothing_until_it_wakes():
    """A pause is a delay, not a loss: the world goes on, and the member catches up."""
    heard: list[int] = []

    class Listening(FinalityCore):
        """Notes when member 0 handles something."""

        def handle(self, event: Event, now_ms: int) -> list[Effect]:
            if self._me == 0:
                heard.append(now_ms)
            return super().handle(event, now_ms)

    world = World(2, 4, CALM, Machine(core=Listening))
    world.later(1_000, world.members[0].pause, 5_000)
    world.run()
    gaps = [later - earlier for earlier, later in itertools.pairwise(heard)]
    assert max(gaps) >= 4_900
    assert sorted(gaps)[-2] < 1_000


# -- each checker sees what it is for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "mutant", "generator", "over"),
    [
        (Rule.UNSAFE, "R3 without skip check", "skipper", False),
        (Rule.FRAMED, "S2 removed", "swarm", False),
        (Rule.FRAMED, "accuses the cautious", "swarm", False),
        (Rule.NOT_LIVE, "R8 removed", "swarm", False),
        (Rule.NOT_DURABLE, "S5 removed", "crashes", False),
        (Rule.NOT_CONSERVED, "money minted", "swarm", False),
        (Rule.NOT_CONSERVED, "burned fees forgotten", "swarm", False),
        (Rule.NOT_REPLAYED, "state counts executions", "swarm", False),
        (Rule.NOT_REPLAYED, "state root not compared", "forger", False),
        (Rule.NOT_REPLAYED, "rows written late", "crashes", False),
        (Rule.BROKEN, "finalizes twice", "swarm", False),
        (Rule.UNATTRIBUTED, "quorum 2f", "equivocator", True),
    ],
)
def test_each_rule_is_seen_broken_when_it_is(rule, mutant, generator, over):
    """A machine with a rule removed is told by the checker of that rule, within some seeds."""
    found = [find_break(MUTANTS[mutant], generator, seed, over=over) for seed in range(40)]
    assert rule in [broken.rule for broken in found if broken is not None]


def test_agreement_sees_two_blocks_at_one_height():
    """And a block that stands on another than the one below."""
    world = World(0, 4, CALM)
    one, other = (final(world, copy) for copy in range(2))
    world.checkers.agreement.finalized(ActorId(0), one)
    world.checkers.agreement.finalized(ActorId(1), one)
    for wrong in (other, replace_height(other, 2), replace_height(other, 5)):
        with pytest.raises(Broken, match="unsafe"):
            world.checkers.agreement.finalized(ActorId(2), wrong)


def final(world: World, copy: int) -> FinalizedBlock:
    header = Villain(world, ActorId(0)).make_header(View(1), Ground(None, None), copy)
    return FinalizedBlock(header, EMPTY_BODY, None)


def replace_height(block: FinalizedBlock, height: int) -> FinalizedBlock:
    header = replace_message(block.header, height=Height(height))
    return FinalizedBlock(header, block.body, None)


def test_ancestry_sees_two_notarized_blocks_in_a_view():
    """Whoever stores the second certificate gives it away."""
    world = World(0, 4, CALM).run()
    certificate = next(block.certificate for block in world.members[0].disk.ledger if block.certificate is not None)
    notarized = replace_message(certificate, kind=VoteKind.NOTARIZE)
    ancestry = Ancestry(world)
    ancestry.stored(ActorId(0), notarized)
    with pytest.raises(Broken, match="unsafe: two blocks are notarized"):
        ancestry.stored(ActorId(0), replace_message(notarized, block=NO_BLOCK))


def test_membership_counts_by_the_plan():
    """A certificate of too little weight, or with a vote by somebody else, is told; so is a header with another roster."""
    world = World(0, 4, CALM).run()
    block = next(block for block in world.members[0].disk.ledger if block.certificate is not None)
    membership = Membership(world)
    membership.stored(ActorId(0), block.certificate)
    membership.finalized(ActorId(0), block)
    weak = build_certificate(votes_of(block.certificate)[:2], world.roster)
    with pytest.raises(Broken, match="unsafe: a certificate of epoch 0 has 2 of 4"):
        membership.stored(ActorId(0), weak)
    forged = replace_message(block.certificate, view=View(10**6))
    with pytest.raises(Broken, match="unsafe: a vote by none of the members"):
        membership.stored(ActorId(0), forged)
    for field in ("roster", "next_roster"):
        header = replace_message(block.header, **{field: NO_BLOCK})
        with pytest.raises(Broken, match="unsafe"):
            membership.finalized(ActorId(0), replace_message(block, header=header))


def test_framing_remembers_across_restarts():
    """A member that signs NULLIFY and FINALIZE in one view is seen, whenever it does."""
    world = World(0, 4, CALM)
    vote = Vote(Epoch(0), View(10**6), VoteKind.NULLIFY, NO_BLOCK, MemberIndex(1), world.keys[1].sign(b""))
    world.checkers.sent(ActorId(1), vote)
    world.checkers.sent(ActorId(0), vote)  # somebody else's, relayed
    with pytest.raises(Broken, match="framed"):
        world.checkers.sent(ActorId(1), replace_message(vote, kind=VoteKind.FINALIZE))


def test_every_fault_of_the_swarm_is_drawn():
    """Among a hundred seeds each option has its harmless value and another."""
    drawn = [Options.draw(random.Random(seed)) for seed in range(100)]
    for name in Options.__slots__:
        values = [getattr(options, name) for options in drawn]
        assert any(value != values[0] for value in values), name
    assert {options.villain for options in drawn} == {None, *VILLAINS}
    assert {options.weights for options in drawn} == set(WEIGHTS)
    assert CALM.told() == "calm"
    assert "villain='twins'" in replace(ALMOST_CALM, villain="twins").told()


def test_members_left_behind_stay_away_and_the_rest_is_more_than_two_thirds():
    """After the heal a random core lives alone, and is live."""
    gone = 0
    for seed in range(12):
        world = World(seed, 7, replace(ALMOST_CALM, leave_behind=True, weights="drawn")).run()
        weights, core = world.roster.weights, [member.me for member in world.core]
        assert 3 * sum(weights[member] for member in core) > 2 * sum(weights)
        gone += sum(member.left_behind and member.core is None for member in world.members)
    assert gone >= 12
