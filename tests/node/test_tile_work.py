"""Tile arithmetic: merge, verify, apply, over stores in memory."""

from __future__ import annotations

import numpy as np

from compute.delta.codec import encode
from node.config import load_template
from node.genesis_file import found_network
from node.tile_work import MergeJob, TileWork, matrices_of
from protocol.digest import blob_digest
from protocol.genesis import Genesis
from protocol.ids import Digest, PeerId, TileId, Version
from protocol.keys import KeyPair
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
