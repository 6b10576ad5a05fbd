"""Tile arithmetic: merge, verify, apply, over stores in memory."""

from __future__ import annotations

import numpy as np

from compute.delta.codec import decode, encode
from compute.merge import merge
from node.config import load_template
from node.genesis_file import found_network
from node.tile_work import AggregateJob, MergeJob, TileWork, matrices_of, merge_rule
from protocol.digest import blob_digest
from protocol.genesis import Genesis
from protocol.ids import Digest, PeerId, TileId, Version
from protocol.keys import KeyPair
from protocol.learning import Contributor
from protocol.roster import DeltaRef, MemberCard, Slot
from storage.files import MemoryFiles
from storage.io.tile_store import TileStore
from storage.kv import MemoryKeyValue
from tests.node.processes import CREATED_MS, corpus

LEARNER = PeerId(bytes([7]) * 32)


def make_genesis() -> Genesis:
    card = MemberCard.bind(*(KeyPair.from_seed(bytes([seed]) * 32) for seed in (1, 2, 3)))
    return found_network(load_template("test"), [card], [corpus()[:65_536]], 0, CREATED_MS)


def make_work() -> TileWork:
    work = TileWork(make_genesis(), TileStore(MemoryFiles(), MemoryKeyValue()))
    work.ensure_genesis()
    return work


def job(work: TileWork, tile_id: TileId, deltas: list[tuple[int, bytes]]) -> MergeJob:
    """Deltas of one learner: (base, payload)."""
    references = tuple(
        (DeltaRef(Digest(blob_digest(bytes([base]) + payload)), LEARNER, Version(base), 64), payload)
        for base, payload in deltas
    )
    return MergeJob(Slot(tile_id, Version(1)), references)


def test_equal_deltas_of_one_learner_on_two_bases_are_merged() -> None:
    """A learner whose tokens reached an expert in neither of two rounds sends the same zeros twice: that is no repetition."""
    work = make_work()
    tile_id = work.tile_map.ids[0]
    tile = work.tile_map.tile(tile_id)
    zeros = encode(np.zeros(tile.values, np.float32), "top10_int4", matrices_of(tile))
    result = work.merge([job(work, tile_id, [(0, zeros), (1, zeros)])])[0]
    assert (result.why, result.unusable) == ("", ())


def test_a_delta_that_does_not_decode_is_named() -> None:
    """A merge with a broken payload fails, and says which delta is to blame."""
    work = make_work()
    broken = job(work, work.tile_map.ids[0], [(0, b"\xff" * 40)])
    result = work.merge([broken])[0]
    assert result.why
    assert result.unusable == (broken.deltas[0][0].delta,)


def test_a_merge_without_its_parent_blames_no_delta() -> None:
    """Where the parent's file is gone, the merge fails for that reason and the deltas stay."""
    work = make_work()
    tile_id = work.tile_map.ids[0]
    tile = work.tile_map.tile(tile_id)
    zeros = encode(np.zeros(tile.values, np.float32), "top10_int4", matrices_of(tile))
    later = MergeJob(Slot(tile_id, Version(5)), job(work, tile_id, [(0, zeros)]).deltas)
    result = work.merge([later])[0]
    assert "not held" in result.why
    assert result.unusable == ()


def aggregate_job(work: TileWork, payloads: list[bytes]) -> AggregateJob:
    """One delta of each of so many learners."""
    contributors = [
        Contributor(PeerId(bytes([number]) * 32), blob_digest(payload + bytes([number])), 64 * (number + 1))
        for number, payload in enumerate(payloads)
    ]
    return AggregateJob(work.tile_map.ids[0], tuple(zip(contributors, payloads, strict=True)))


def changes(work: TileWork, count: int) -> list[bytes]:
    """Payloads of learners that changed a tile differently."""
    tile = work.tile_map.tile(work.tile_map.ids[0])
    drawn = np.random.default_rng(3).normal(0, 1e-3, (count, tile.values)).astype(np.float32)
    return [encode(row, "top10_int4", matrices_of(tile)) for row in drawn]


def test_an_aggregate_is_the_merge_of_its_contributors() -> None:
    """The same bytes whoever derives them and in whatever order; an owner merges it as a delta, near what all give it."""
    work = make_work()
    tile = work.tile_map.tile(work.tile_map.ids[0])
    whole = aggregate_job(work, changes(work, 5))
    (result,) = work.aggregate([whole])
    assert result.why == ""
    reversed_job = AggregateJob(whole.tile, whole.deltas[::-1])
    assert work.aggregate([reversed_job]) == [result]
    direct = [(each.learner, each.weight, decode(payload, tile.values)) for each, payload in whole.deltas]
    gradient_N = merge(direct, merge_rule(make_genesis().learning)).gradient_N
    said_N = decode(result.payload, tile.values).dense()
    assert np.linalg.norm(said_N - gradient_N) < 0.2 * np.linalg.norm(gradient_N)
    slot = Slot(whole.tile, Version(1))
    reference = DeltaRef(blob_digest(result.payload), LEARNER, Version(0), 960, (blob_digest(b"one"),))
    assert work.merge([MergeJob(slot, ((reference, result.payload),))])[0].why == ""


def test_an_aggregation_names_what_does_not_decode() -> None:
    """A broken payload spoils its own job and no other."""
    work = make_work()
    good, bad = aggregate_job(work, changes(work, 2)), aggregate_job(work, [changes(work, 1)[0], b"\xff" * 40])
    spoiled, whole = work.aggregate([bad, good])
    assert (spoiled.payload, spoiled.unusable) == (b"", (bad.deltas[1][0].delta,))
    assert "1 of 2 deltas do not decode" in spoiled.why
    assert whole.payload
