"""Tile arithmetic: merge, verify, apply, over stores in memory."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio
from msgspec.structs import replace

from compute.delta.codec import decode, encode
from compute.merge import merge
from node.config import load_template
from node.genesis_file import found_network
from node.services.tiles import TileService
from node.tile_work import AggregateJob, MergeJob, TileWork, UpdateRebuild, matrices_of, merge_rule
from protocol.digest import blob_digest
from protocol.genesis import Genesis
from protocol.ids import Digest, Epoch, PeerId, Round, Signature, TileId, Version
from protocol.keys import KeyPair
from protocol.learning import Contributor
from protocol.rejection import Reason, Rejected
from protocol.roster import DeltaRef, Head, MemberCard, Slot
from storage.compaction import Trigger
from storage.files import MemoryFiles
from storage.io.blob_store import BlobStore
from storage.io.tile_store import TileStore
from storage.kv import MemoryKeyValue
from storage.tile_format import check_tile, tile_file_name
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


class Holder:
    """A tile thread on stores in memory, and the decided updates that it applies."""

    def __init__(self, rule: str = "average") -> None:
        genesis = make_genesis()
        self.genesis = replace(genesis, learning=replace(genesis.learning, outer_rule=rule))
        self.files, self.index = MemoryFiles(), MemoryKeyValue()
        self.open()
        self.roots = self.work.ensure_genesis()
        self.tile_id = self.work.tile_map.ids[0]

    def open(self) -> None:
        """As a process finds it that begins now."""
        self.blobs = BlobStore(self.files, self.index)
        self.store = TileStore(self.files, self.index, UpdateRebuild(self.genesis, self.blobs.read))
        self.work = TileWork(self.genesis, self.store)

    def decide(self, version: int) -> bytes:
        """A learner's change is merged, verified and applied; returns the state that follows."""
        tile = self.work.tile_map.tile(self.tile_id)
        change = np.random.default_rng(version).normal(0, 1e-3, tile.values).astype(np.float32)
        payload = encode(change, "update_int4", matrices_of(tile))
        reference = DeltaRef(blob_digest(payload), LEARNER, Version(version - 1), 64)
        slot = Slot(self.tile_id, Version(version))
        (merged,) = self.work.merge([MergeJob(slot, ((reference, payload),))])
        assert merged.why == ""
        head = Head(
            tile=self.tile_id,
            version=Version(version),
            epoch=Epoch(0),
            attempt=0,
            round=Round(version),
            parent_root=self.roots[self.tile_id],
            root=merged.root,
            update=self.blobs.put(merged.update),
            update_bytes=len(merged.update),
            deltas=(reference,),
            proposer=LEARNER,
            signature=Signature(bytes(64)),
        )
        assert self.work.verify([(head, merged.update)]) == [None]
        self.work.apply([(head, merged.update)])
        self.roots[self.tile_id] = merged.root
        return bytes(self.store.open(self.tile_id, Version(version)).state)


@pytest.mark.parametrize("rule", ["average", "nesterov", "adamw"])
def test_a_version_is_made_again_bit_for_bit(rule: str) -> None:
    """From its base and its updates, with all that the outer optimiser remembers; after a restart without any copy too."""
    holder = Holder(rule)
    states = {version: holder.decide(version) for version in range(1, 6)}
    tile_id = holder.tile_id
    assert holder.store.versions(tile_id) == [0, 2, 3, 4, 5]
    assert holder.store.find(tile_id, Version(5)).base == 0
    for _ in range(2):
        holder.store.drop_copies(tile_id, holder.store.versions(tile_id))
        for version in (2, 3, 4, 5):
            assert holder.store.open(tile_id, Version(version)).state == states[version]
        holder.open()
    states[6] = holder.decide(6)
    holder.open()
    assert holder.store.open(tile_id, Version(6)).state == states[6]


def test_what_was_folded_needs_no_updates() -> None:
    """The newest opens though every update is gone; a tile whose updates are few is left as it is."""
    holder = Holder()
    states = [holder.decide(version) for version in range(1, 9)]
    triggers = holder.work.fold(holder.tile_id), holder.work.fold(holder.tile_id)
    assert triggers == (Trigger.BYTES, None)
    assert holder.work.fold(holder.work.tile_map.ids[1]) is None
    holder.blobs.delete(*holder.blobs.names())
    holder.open()
    assert holder.store.open(holder.tile_id, Version(8)).state == states[-1]


def test_a_damaged_copy_stops_no_merge() -> None:
    """The parent is made again from what it rests on, while the job waits."""
    holder = Holder()
    holder.decide(1)
    holder.files.damage(tile_file_name(holder.tile_id, Version(1)), 4096)
    assert holder.work.is_whole(holder.tile_id, Version(1))
    holder.decide(2)
    holder.files.damage(tile_file_name(holder.tile_id, Version(2)), 4096)
    holder.decide(3)
    assert not holder.work.is_whole(holder.tile_id, Version(9))
    holder.files.damage(tile_file_name(holder.tile_id, Version(0)), 4096)
    assert not holder.work.is_whole(holder.tile_id, Version(0))


def test_a_worker_is_given_files_of_versions_that_have_none() -> None:
    """Whole, by their names; for what is not held it is told so."""
    holder = Holder()
    state = holder.decide(1)
    holder.store.drop_copies(holder.tile_id, [Version(1)])
    (name,) = holder.work.ensure_files([(holder.tile_id, Version(1))])
    assert check_tile(holder.tile_id, holder.files.read(name), holder.roots[holder.tile_id]).state == state
    with pytest.raises(Rejected) as caught:
        holder.work.ensure_files([(holder.tile_id, Version(7))])
    assert caught.value.reason is Reason.TILE_CORRUPT


def test_who_looks_finds_what_nobody_has_read_yet() -> None:
    """The newest version of a tile is read page by page; where none is held there is nothing to say."""
    holder = Holder()
    other = holder.work.tile_map.ids[1]

    async def at_once(work: Callable[[], Any], limiter: trio.CapacityLimiter | None = None) -> Any:
        return work()

    async def nothing(event: Any) -> None: ...

    async def main() -> None:
        ground: Any = SimpleNamespace(work=holder.work, tiles=holder.store)
        service = TileService(ground, lambda: None, nothing, at_once)  # type: ignore[arg-type, return-value]  # nobody is asked
        assert await service.is_newest_whole(holder.tile_id) is True
        holder.files.damage(tile_file_name(holder.tile_id, Version(0)), 4096)
        assert await service.is_newest_whole(holder.tile_id) is False
        holder.work.ensure_genesis()
        assert await service.is_newest_whole(holder.tile_id) is True
        assert await service.is_newest_whole(TileId("no/0")) is None
        assert await service.is_newest_whole(other) is True

    trio.run(main)
