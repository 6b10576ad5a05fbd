"""Tile versions: kept, mapped, pruned; damage is found, named and put aside."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import Digest, TileId, Version
from protocol.rejection import Reason, Rejected
from storage.files import MemoryFiles, PowerCut
from storage.io.tile_store import QUARANTINE_FILES_MAX, TileStore
from storage.kv import MemoryKeyValue
from storage.tile_format import tile_block, tile_file_name

TRUNK, EXPERT = TileId("trunk/0"), TileId("layer3.expert7/10")
VALUES = 20_000


def state(version: int) -> bytes:
    return struct.pack(f"<{2 * VALUES}f", *([version] * VALUES + [-version] * VALUES))


def put(store: TileStore, tile_id: TileId, version: int) -> None:
    file, root = tile_block(tile_id, state(version), 2, VALUES)
    store.put(tile_id, Version(version), file, root)


def test_put_and_open(files, index):
    """A version opens with its planes, also after a restart; pieces are as good as one buffer."""
    store = TileStore(files, index)
    store.put_many(
        [(TRUNK, Version(1), *tile_block(TRUNK, state(1), 2, VALUES)), (EXPERT, Version(4), b"", Digest(bytes(32)))]
    )
    put(store, EXPERT, 4)
    store.put_many([])
    file, root = tile_block(TRUNK, state(2), 2, VALUES)
    store.put(TRUNK, Version(2), [file[:100], file[100:]], root)
    for again in (store, TileStore(files, index)):
        assert again.versions(TRUNK) == [1, 2]
        assert (again.newest(TRUNK), again.newest(EXPERT), again.newest(TileId("no/0"))) == (2, 4, None)
        tile = again.open(TRUNK, Version(2))
        assert (tile.weights, tile.state, tile.root) == (state(2)[: 4 * VALUES], state(2), root)
        assert again.find(TRUNK, Version(2)).root == root
        assert again.bytes_used == 3 * len(file)
        assert [(held.tile_id, held.version) for held in again.held()] == [(EXPERT, 4), (TRUNK, 1), (TRUNK, 2)]
        assert (again.statistics().tiles, again.statistics().versions) == (2, 3)


def test_a_version_not_held_is_a_lookup_error(files, index):
    """Opening what is not there names what is."""
    store = TileStore(files, index)
    put(store, TRUNK, 3)
    with pytest.raises(LookupError, match=r"version 4 of tile trunk/0 is not held; held: \[3\]"):
        store.open(TRUNK, Version(4))
    assert store.find(TRUNK, Version(4)) is None


def test_prune_keeps_the_newest_and_the_pinned(files, index):
    """Old versions go, pinned ones stay, other tiles are untouched, and an open tile stays usable."""
    store = TileStore(files, index)
    for version in range(1, 8):
        put(store, TRUNK, version)
    put(store, EXPERT, 1)
    first = store.open(TRUNK, Version(1))
    assert store.prune(TRUNK, 3, pinned={Version(2)}) == [1, 3, 4]
    assert store.prune(TRUNK, 3, pinned={Version(2)}) == []
    assert store.prune(EXPERT, 3) == []
    for again in (store, TileStore(files, index)):
        assert again.versions(TRUNK) == [2, 5, 6, 7]
        assert again.versions(EXPERT) == [1]
    assert first.state == state(1)
    assert store.prune(TRUNK, 0) == [2, 5, 6, 7]
    assert store.bytes_used == TileStore(files, index).bytes_used == files.size(tile_file_name(EXPERT, Version(1)))
    assert files.names("tiles") == [tile_file_name(EXPERT, Version(1))]


def test_a_flipped_bit_is_found_when_it_is_used(files, index, damage):
    """The page and the tile are named, the file goes to quarantine, and a new put heals the version."""
    store = TileStore(files, index)
    put(store, TRUNK, 1)
    put(store, TRUNK, 2)
    damage(files, tile_file_name(TRUNK, Version(2)), 4096 + 4 * VALUES + 50_000)
    tile = store.open(TRUNK, Version(2))
    assert tile.weights == state(2)[: 4 * VALUES]
    for _ in range(2):  # the second time there is nothing left to put aside
        with pytest.raises(Rejected, match="tile trunk/0: page 2 of 3") as caught:
            tile.verify()
        assert caught.value.reason is Reason.TILE_CORRUPT
    assert store.versions(TRUNK) == [1]
    assert files.names("quarantine") == ["quarantine/trunk.0.2"]
    assert store.statistics().corrupt_count == 1
    put(store, TRUNK, 2)
    with pytest.raises(Rejected):
        tile.verify()  # the old map is still wrong, and does not take the new file with it
    assert store.open(TRUNK, Version(2)).state == state(2)


@pytest.mark.parametrize("length", [None, 0, 127, 4096, 160_000])
def test_a_file_cut_short_is_found_when_it_is_opened(files, index, cut_short, length):
    """A file that lost bytes, or is gone, is ``TILE_CORRUPT``, and the version is no longer held, after a restart too."""
    store = TileStore(files, index)
    put(store, TRUNK, 2)
    if length is None:
        files.remove(tile_file_name(TRUNK, Version(2)))
    else:
        cut_short(files, tile_file_name(TRUNK, Version(2)), length)
    store = TileStore(files, index)
    with pytest.raises(Rejected, match="tile trunk/0") as caught:
        store.open(TRUNK, Version(2))
    assert caught.value.reason is Reason.TILE_CORRUPT
    for again in (store, TileStore(files, index)):
        assert again.versions(TRUNK) == []


def test_a_sound_file_of_another_version_is_corrupt(files, index):
    """The root that was put decides, not the one that the file claims."""
    store = TileStore(files, index)
    put(store, TRUNK, 2)
    files.write(tile_file_name(TRUNK, Version(2)), [tile_block(TRUNK, state(1), 2, VALUES)[0]])
    with pytest.raises(Rejected, match="does not lead to root"):
        store.open(TRUNK, Version(2))


def test_quarantine_is_bounded(files, index, cut_short):
    """Only the last few damaged files are kept."""
    store = TileStore(files, index)
    for version in range(QUARANTINE_FILES_MAX + 3):
        put(store, TRUNK, version)
        cut_short(files, tile_file_name(TRUNK, Version(version)), 9)
        with pytest.raises(Rejected):
            store.open(TRUNK, Version(version))
    assert len(files.names("quarantine")) == QUARANTINE_FILES_MAX


def test_files_without_a_row_are_swept(files, index):
    """A file whose put never returned is gone after a restart."""
    files.write(tile_file_name(TRUNK, Version(9)), [b"unfinished"])
    assert TileStore(files, index).versions(TRUNK) == []
    assert files.names("tiles") == []


@given(st.integers(0, 14), st.integers())
def test_power_cut_in_the_middle_of_puts(steps, seed):
    """After a power cut at any step every acknowledged version verifies, and so does everything else that is held."""
    files, index, acknowledged = MemoryFiles(), MemoryKeyValue(), []
    store = TileStore(files, index)
    files.cut_power_after(steps)
    small = struct.pack("<4f", 1, 2, 3, 4)
    file, root = tile_block(TRUNK, small, 1, 4)
    with contextlib.suppress(PowerCut):
        for version in range(3):
            store.put(TRUNK, Version(version), file, root)
            acknowledged.append(version)
        store.prune(TRUNK, 2)
    index.crash()
    files = files.after_power_cut(random.Random(seed))
    files.sweep()
    store = TileStore(files, index)
    assert set(acknowledged) - {0} <= set(store.versions(TRUNK))
    for version in store.versions(TRUNK):
        assert store.open(TRUNK, version).state == small
