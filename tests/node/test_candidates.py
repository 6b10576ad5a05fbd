"""Rows of deltas: what others gave, and the aggregates that this node made of it."""

from __future__ import annotations

from consensus.events import Delta
from node.ground import DELTA_ROW_BYTES_MAX, DeltaRow
from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.ids import PeerId, Round, Version
from protocol.learning import Contributor
from protocol.limits import CONTRIBUTORS_PER_AGGREGATE_MAX
from protocol.roster import Slot
from storage.kv import Batch
from tests.consensus.samples import STRANGERS, TILE, member
from tests.node.ground_samples import MemoryGround, make_ground

LARGEST = 2**63 - 1


def make_delta(learner: PeerId, base: int, inside: int = 0) -> Delta:
    """A delta, or an aggregate of so many."""
    contributors = tuple(Contributor(peer, blob_digest(peer), 2**40) for peer in STRANGERS[:inside])
    name = blob_digest(learner + bytes([base, inside]))
    return Delta(TILE, Version(base), Round(base), learner, name, LARGEST, contributors)


def store(ground: MemoryGround, *deltas: Delta) -> None:
    batch = Batch()
    ground.store_candidates(batch, deltas)
    ground.index.write(batch)


def test_an_aggregate_has_a_row_beside_its_maker_s_own_delta():
    """Both come back after a restart, and go when they are too old to count."""
    ground = make_ground()
    own, whole, newer = make_delta(member(0), 3), make_delta(member(0), 3, inside=5), make_delta(member(1), 4)
    store(ground, own, whole, newer)
    assert set(make_ground(ground.index).candidates()) == {own, whole, newer}
    batch = Batch()
    ground.forget_candidates(batch, Slot(TILE, Version(5)))
    ground.index.write(batch)
    assert ground.candidates() == (newer,)


def test_an_aggregator_knows_what_it_said():
    """Of a tile and base, its own aggregate: neither its own delta, nor another's aggregate."""

    class MyGround(MemoryGround):
        peer = member(0)

    ground = make_ground()
    ground.__class__ = MyGround
    mine = make_delta(member(0), 3, inside=2)
    store(ground, make_delta(member(0), 4), make_delta(member(1), 4, inside=2), mine)
    assert ground.find_aggregate(TILE, Version(3)) == mine
    assert ground.find_aggregate(TILE, Version(4)) is None


def test_the_longest_row_can_be_read():
    """Of as many contributors as an aggregate takes, with the longest of numbers."""
    whole = make_delta(member(0), 3, inside=CONTRIBUTORS_PER_AGGREGATE_MAX)
    assert len(encode(DeltaRow.of(whole))) <= DELTA_ROW_BYTES_MAX
    ground = make_ground()
    store(ground, whole)
    assert ground.candidates() == (whole,)
