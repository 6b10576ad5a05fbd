"""Whole runs: four, seven members, faults of every kind, a villain; safety always, liveness after the heal.

A seed decides everything. Another range than the default: ``FINALITY_SEEDS=1000:1100``.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import pytest

from consensus.finality.past import EPOCHS_REMEMBERED_MAX
from consensus.finality.signer import RECORD_BYTES_MAX, VoteRecord
from protocol.codec import decode, encode
from protocol.finality import ValidatorMessage
from protocol.ids import Epoch
from protocol.limits import FRAME_BYTES_MAX
from simnet.finality.genesis import ActorId
from simnet.finality.options import ALMOST_CALM, BOUNDARIES, CALM, Options
from simnet.finality.run import Plan
from simnet.finality.watch import Broken
from simnet.finality.world import CHAOS_MS, World
from tests.consensus.finality.mutants import GENERATORS, MUTANTS, find_break

FIRST, _, LAST = os.environ.get("FINALITY_SEEDS", "0:300").partition(":")
SEEDS = range(int(FIRST), int(LAST))
SEEDS_OF_SEVEN = range(int(FIRST), int(FIRST) + max(1, len(SEEDS) // 6))
MUTANT_SEEDS_MAX = 20


def run(seed: int, count: int) -> World:
    try:
        return World(seed, count).run()
    except Broken as broken:
        pytest.fail(f"{broken}\nrepeat: {Plan(count).command(seed)}")


@pytest.mark.parametrize("seed", SEEDS)
def test_four_members(seed):
    """Four members agree through any faults, none is framed, and after the heal all finalize ten blocks in 60 Delta."""
    run(seed, 4)


@pytest.mark.parametrize("seed", SEEDS_OF_SEVEN)
def test_seven_members(seed):
    """Seven members, two of whom may be villains."""
    run(seed, 7)


def test_faults_are_really_drawn():
    """Among the seeds there are journals lost, torn, damaged and shortened, villains, partitions, crashes between effects."""
    worlds = [World(seed, 4) for seed in range(100)]
    for world in worlds:
        world.run()
    drawn = [world.options for world in worlds]
    assert len({options.villain for options in drawn}) >= 5
    assert len({shape for options in drawn for shape in options.partitions}) >= 4
    assert any(options.pauses and options.clogs for options in drawn)
    assert sum(world.network.messages_lost_by_queues for world in worlds) >= 8
    assert any(len(set(world.roster.weights)) > 1 for world in worlds)
    assert sum(world.sets.changes_through(world.epoch) for world in worlds) >= 65
    assert sum(len(world.checkers.framing.re_proposals) for world in worlds) >= 8
    assert any(member.skew_ms for world in worlds for member in world.members)
    assert any(member.left_behind for world in worlds for member in world.members)
    assert any(member.disk.journals_lost for world in worlds for member in world.members)
    disks = [member.disk for world in worlds for member in world.members]
    assert sum(disk.writes_torn for disk in disks) >= 3
    assert sum(disk.journals_damaged for disk in disks) >= 3
    assert sum(disk.rows_damaged for disk in disks) >= 5
    assert sum(disk.journals_replaced for disk in disks) >= 33
    assert sum(disk.renames_lost for disk in disks) >= 3
    assert sum(len(world.checkers.framing.accused_in) for world in worlds) >= 8


@pytest.mark.parametrize("first", range(0, 16, 8))
def test_crash_between_any_two_effects(first):
    """Member 0 dies before each effect of each of its first events, and comes back: nobody is framed, all are live."""
    for event in range(first + 1, first + 9):
        for position in range(6):
            World(event, 4, CALM, chaos_ms=4_000, cut_at=(event, position)).run()


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_crash_between_any_two_effects_of_an_epochs_end(first):
    """The same where every second or third block is an epoch's last: before Finalized, within, and before the next epoch."""
    for event in range(first + 1, first + 9):
        for position in range(6):
            options = replace(CALM, epoch_heights=2 + event % 2, set_changes=True)
            World(event, 4, options, chaos_ms=8_000, cut_at=(event, position)).run()


@pytest.mark.parametrize("heights", [2, 3, 5])
def test_epochs_of_a_few_heights(heights):
    """However short an epoch is, and whatever else goes wrong: sets change, the chain goes on."""
    for seed in range(12):
        options = replace(Options.draw(random.Random(seed)), epoch_heights=heights, set_changes=True)
        assert World(seed, 4, options).run().epoch >= 2


def test_calm_epochs_cost_no_view():
    """Without faults no boundary block is proposed again, no view is nullified, and everybody follows, members or not."""
    world = World(3, 4, replace(CALM, epoch_heights=2, set_changes=True)).run()  # whoever joins has started by then
    assert world.epoch >= 15
    assert world.sets.changes_through(world.epoch) >= 8
    assert not world.checkers.framing.re_proposals
    for member in world.members:
        assert member.core is not None
        assert member.core.statistics().views_nullified == 0
        assert member.disk.epoch >= world.epoch - 1


def test_members_that_lost_their_journal_vote_again_two_epochs_later():
    """And not before: each has a journal again, whose votes are of later epochs than the one in which it was lost."""
    voted = 0
    for seed in range(30):
        options = replace(BOUNDARIES, crashes=5, lost_journals=True)
        world = World(seed, 4, options).run()
        for member in world.members:
            if member.disk.journals_lost:
                records = [decode(VoteRecord, record, limit_bytes=RECORD_BYTES_MAX) for record in member.disk.journal]
                assert records[0].vote is None
                assert all(record.vote.epoch >= records[0].epoch for record in records[1:])
                voted += len(records) > 1
    assert voted >= 5


def test_stragglers_of_many_epochs_come_back():
    """A member that was away for more epochs than anybody remembers boundaries of is brought on by the sync protocol."""
    world = World(5, 4, replace(CALM, epoch_heights=2), chaos_ms=90_000)
    world.later(1_000, world.members[0].go_away, 88_000)
    behind = []
    world.later(88_900, lambda: behind.append(world.epoch - world.members[0].disk.epoch))
    world.run()
    assert behind[0] > EPOCHS_REMEMBERED_MAX


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four(count):
    """Networks too small to bear a fault work while nobody fails, and through crashes once all are back."""
    quiet = replace(CALM, crashes=3, cut=0.002)
    for seed in range(3):
        World(seed, count, quiet).run()


class WiredWorld(World):
    """Every message travels as bytes."""

    def deliver(self, source: ActorId, to: ActorId, message: Any) -> None:
        wired = encode(message) if isinstance(message, ValidatorMessage) else message
        if isinstance(message, ValidatorMessage):
            wired = decode(ValidatorMessage, wired, limit_bytes=FRAME_BYTES_MAX)  # type: ignore[arg-type]
        super().deliver(source, to, wired)


def test_messages_survive_the_wire():
    """Whatever the machine sends decodes strictly, and a run over bytes is the same run."""
    assert WiredWorld(7, 4).run().log.hexdigest() == World(7, 4).run().log.hexdigest()


def test_calm_network_finalizes_every_view():
    """Without faults no view is nullified, and every block is final before the next one but one."""
    world = World(1, 4, CALM).run()
    for member in world.members:
        assert member.core is not None
        numbers = member.core.statistics()
        assert numbers.views_nullified == 0
        assert numbers.rejections == 0
        assert numbers.blocks_finalized >= CHAOS_MS // 1_000
        assert numbers.view - numbers.finalized_view <= 2


def test_villains_are_exposed():
    """An active equivocator leaves evidence at the members it lied to."""
    world = World(3, 4, replace(ALMOST_CALM, villain="equivocator")).run()
    assert tuple(world.checkers.framing.accused_in[Epoch(0)]) == world.byzantine


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_machines_are_noticed(name):
    """Each rule that is removed is missed by a checker, within a few seeds of one generator or another."""
    for seed in range(MUTANT_SEEDS_MAX):
        for generator in GENERATORS:
            if find_break(MUTANTS[name], generator, seed) is not None:
                return
    pytest.fail(f"{name} survived {MUTANT_SEEDS_MAX} seeds of every generator")
