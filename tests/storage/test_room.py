"""The allowance is kept by removing what may go from the stores themselves."""

from __future__ import annotations

import struct

import pytest

from protocol.ids import TileId, Version
from storage.budget import KeepRule, Kind, StorageFull
from storage.io.blob_store import BlobStore
from storage.io.room import BlobUse, plan_removal, remove_blobs, remove_tiles
from storage.io.tile_store import TileStore
from storage.tile_format import tile_block

TRUNK = TileId("trunk/0")
RULE = KeepRule(first_challenged=5, tile_versions_kept=2, updates_kept=1)


def make_room(tiles, blobs, uses, rule, **limits):
    """A plan, carried out."""
    plan = plan_removal(tiles, blobs, uses, rule, **limits)
    remove_blobs(blobs, plan)
    remove_tiles(tiles, plan)
    return plan


def filled(files, index):
    """Six tile versions, an old and a challenged delta, one delta of two tiles, two updates, and a blob of unknown use."""
    tiles, blobs = TileStore(files, index), BlobStore(files, index)
    file, root = tile_block(TRUNK, struct.pack("<4f", 1, 2, 3, 4), 1, 4)
    for version in range(6):
        tiles.put(TRUNK, Version(version), file, root)
    names = blobs.put_many([b"old delta", b"new delta", b"shared delta", b"old update", b"new update", b"unknown"])
    ages = [(Kind.DELTA, 1), (Kind.DELTA, 5), (Kind.DELTA, 2), (Kind.UPDATE, 3), (Kind.UPDATE, 4)]
    uses = [BlobUse(name, kind, TRUNK, age) for name, (kind, age) in zip(names[:5], ages, strict=True)]
    return tiles, blobs, names, [*uses, BlobUse(names[2], Kind.DELTA, "trunk/1", 2)]


def test_room_is_made_and_no_more(files, index):
    """Only as much goes as has to, in the order of the plan, from both stores."""
    tiles, blobs, names, uses = filled(files, index)
    used_bytes = tiles.bytes_used + blobs.bytes_used
    common = {"needed_bytes": 1000, "other_bytes": 50}
    assert make_room(tiles, blobs, uses, RULE, bytes_max=used_bytes + 1050, **common) == ()
    gone = make_room(tiles, blobs, uses, RULE, bytes_max=used_bytes + 1030, pinned=[(TRUNK, Version(0))], **common)
    assert [each.name for each in gone] == [names[0].hex(), names[3].hex(), "trunk/0@1"]
    assert tiles.versions(TRUNK) == [0, 2, 3, 4, 5]
    assert [blobs.has(name) for name in names] == [False, True, True, False, True, True]


def test_when_nothing_may_go_nothing_goes(files, index):
    """A refusal removes nothing."""
    tiles, blobs, names, uses = filled(files, index)
    with pytest.raises(StorageFull, match="raise storage_bytes_max"):
        make_room(tiles, blobs, uses, RULE, needed_bytes=1, bytes_max=100)
    assert len(tiles.versions(TRUNK)) == 6
    assert all(blobs.has(name) for name in names)
