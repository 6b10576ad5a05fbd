"""What a start reads from blocks is still there, whatever was pruned before it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.ground import DeltaRow, LearnerRecord
from node.recall import EPOCHS_KEPT, counted, decided_but_not_applied, first_needed, heads_downwards
from protocol.digest import blob_digest
from protocol.ids import Round
from protocol.roster import Head
from storage.kv import Batch
from storage.ledger import PruneRule
from tests.consensus.genesis import TILES
from tests.consensus.samples import member
from tests.node.ground_samples import EPOCH_HEIGHTS, GroundedChain, make_ground


def delta_of(head: Head, *, other: bool = False) -> DeltaRow:
    """The delta that a head lists, as its learner's journal has it; ``other``: one with the same base that it does not."""
    (reference,) = head.deltas
    name = blob_digest(reference.delta) if other else reference.delta
    return DeltaRow(head.tile, reference.base, head.round, member(0), name, 1)


def note_outstanding(chain: GroundedChain, *rows: DeltaRow) -> None:
    chain.ground.store_learner(LearnerRecord(Round(1), "state", rows, 0))


def prune_what_may_go(chain: GroundedChain) -> None:
    rule = PruneRule(0, first_needed(chain.ground), EPOCH_HEIGHTS)
    chain.ground.ledger.prune(rule, lambda _: Batch(), blocks_max=10**6, bytes_max=10**9)


def test_two_epochs_are_needed():
    """The epoch of the tip and the one before it, from its first block on; at the beginning everything."""
    chain = GroundedChain(make_ground())
    assert first_needed(chain.ground) == 1
    needed = []
    for _ in range(13):
        chain.add(payments=1)
        needed.append(first_needed(chain.ground))
    assert EPOCHS_KEPT == 2
    assert needed == [1] * 8 + [5] * 4 + [9]


def test_heads_whose_tiles_are_not_on_disk_are_needed():
    """From the version after the one that is held; once it is applied, they are not."""
    chain = GroundedChain(make_ground())
    chain.apply(*chain.add(TILES[0], TILES[1])[0])
    waiting, _ = chain.add(TILES[0])
    later, _ = chain.add(TILES[0])
    for _ in range(20):
        chain.add()
    assert first_needed(chain.ground) == 2
    prune_what_may_go(chain)
    assert [each.head for each in decided_but_not_applied(chain.ground)] == [*waiting, *later]
    chain.apply(*later)
    assert decided_but_not_applied(chain.ground) == []
    assert first_needed(chain.ground) == 17


def test_blocks_that_tell_the_fate_of_our_deltas_are_needed():
    """A delta was counted or not by one of the two heads after its base: both stay until the learner's journal drops it."""
    chain = GroundedChain(make_ground())
    first, _ = chain.add(TILES[0])
    chain.apply(*first)
    row, lost = delta_of(first[0]), delta_of(first[0], other=True)
    note_outstanding(chain, row, lost)
    for _ in range(10):
        chain.add()
    assert first_needed(chain.ground) == 1
    prune_what_may_go(chain)
    second, _ = chain.add(TILES[0])
    chain.apply(*second)
    assert counted(chain.ground, (row, lost)) == {row.digest}
    prune_what_may_go(chain)
    assert counted(chain.ground, (row, lost)) == {row.digest}
    note_outstanding(chain)
    assert first_needed(chain.ground) == 5


steps = st.lists(
    st.tuples(st.sets(st.sampled_from(TILES[:3])), st.booleans(), st.booleans(), st.booleans()), min_size=6, max_size=24
)


@given(steps)
@settings(deadline=None, max_examples=60)
def test_pruning_changes_nothing_that_a_start_reads(plan: list[tuple[Any, bool, bool, bool]]):
    """Whatever is decided, applied late and learned: after any pruning the same heads wait and the same deltas are counted."""
    chain, whole = GroundedChain(make_ground()), GroundedChain(make_ground())
    waiting: list[Head] = []
    outstanding: list[DeltaRow] = []
    for tiles, applies, forgets, prunes in plan:
        heads, _ = chain.add(*tiles)
        whole.add(*tiles)
        waiting += heads
        if applies:
            for each in (chain, whole):
                each.apply(*waiting)
            waiting = []
        outstanding = [] if forgets else [*outstanding, *(delta_of(head, other=not prunes) for head in heads)]
        for each in (chain, whole):
            note_outstanding(each, *outstanding)
        if prunes:
            prune_what_may_go(chain)
        assert decided_but_not_applied(chain.ground) == decided_but_not_applied(whole.ground)
        assert counted(chain.ground, outstanding) == counted(whole.ground, outstanding)


def test_heads_come_newest_first():
    """With their heights, from as many blocks as were asked for, and from those that are kept."""
    chain = GroundedChain(make_ground())
    one, _ = chain.add(TILES[0], TILES[1])
    chain.add()
    two, _ = chain.add(TILES[0])
    expected = [(3, two[0]), (1, one[1]), (1, one[0])]
    assert list(heads_downwards(chain.ground.ledger)) == expected
    assert list(heads_downwards(chain.ground.ledger, 2)) == expected[:1]
    assert list(heads_downwards(make_ground().ledger)) == []
