"""kill -9 of a process in the middle of its writes: everything that it reported as kept is found afterwards.

A kill shows the order of steps, not the syncs (the kernel keeps its cache); the false disk's power cuts show those.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from protocol.digest import blob_digest
from protocol.erasure import CheckedManifest, Geometry, make_manifest
from protocol.ids import Digest, TileId
from protocol.limits import KIB
from storage.erasure.blob import encode_blob
from storage.erasure.code import ErasureCode
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.tile import CodedTile
from storage.io.blob_store import BlobStore
from storage.io.cell_store import CellStore
from storage.io.files import DirectoryFiles, DirectoryLock
from storage.io.journal_file import open_journal
from storage.io.rocks import RocksKeyValue
from storage.io.tile_store import TileStore
from storage.keys import BLOCK_ROW, HEADER
from storage.ledger import Ledger, count_bytes
from storage.tile_format import CheckedTile, tile_block

# Each prints a line after every call that returned; its parent kills it after so many lines.
_PRELUDE = """
import itertools, struct, sys
from pathlib import Path
from protocol.ids import Height, TileId, Version
from storage.io.blob_store import BlobStore
from storage.io.files import DirectoryFiles, DirectoryLock
from storage.io.journal_file import create_journal, open_journal
from storage.io.rocks import RocksKeyValue
from storage.io.tile_store import TileStore
from storage.kv import Batch
from storage.keys import block_row_key
from storage.ledger import FinalizedBlock, Ledger, PruneRule
from storage.tile_format import tile_block
folder = Path(sys.argv[1])
lock = DirectoryLock(folder)
files = DirectoryFiles(folder)
files.sweep()
index = RocksKeyValue(folder / "index")
def say(*words): print(*words, flush=True)
"""
WRITERS = {
    "journal": """
opened = open_journal(folder / "j")
journal = opened.journal or create_journal(folder / "j")
for number in itertools.count(len(opened.records) // 2):
    journal.append(b"%d" % number, bytes(3000))
    say(number)
""",
    "blobs": """
store = BlobStore(files, index)
for number in itertools.count(len(store.names())):
    say(*(name.hex() for name in store.put_many([b"small %d" % number, b"large %d" % number * 20000])))
""",
    "tiles": """
store = TileStore(files, index)
for number in itertools.count((store.newest("trunk/0") or 0) + 1):
    file, root = tile_block("trunk/0", struct.pack("<f", number) * 40000, 1, 40000)
    store.put(TileId("trunk/0"), Version(number), file, root)
    say(number)
    store.prune("trunk/0", 3)
""",
    "updates of tiles": """
from storage.io.tile_store import Updated
def step(state, update): return bytes(a ^ b for a, b in zip(state, update * 1000))
def rebuild(base, version, updates):
    state = bytes(base.state)
    for name in updates: state = step(state, bytes(blobs.read(name)))
    return tile_block("trunk/0", state, 1, 1000)[0]
blobs = BlobStore(files, index)
store = TileStore(files, index, rebuild)
if store.newest("trunk/0") is None:
    store.put(TileId("trunk/0"), Version(0), *tile_block("trunk/0", bytes(4000), 1, 1000))
state = bytes(store.open("trunk/0", store.newest("trunk/0")).state)
for number in itertools.count(store.newest("trunk/0") + 1):
    update = b"%04d" % number
    state = step(state, update)
    name = blobs.put(update)
    store.put_updated([Updated(TileId("trunk/0"), Version(number), *tile_block("trunk/0", state, 1, 1000), name, 4)])
    say(number)
    store.prune("trunk/0", 3)
    store.fold("trunk/0")
    in_use = store.in_use()
    blobs.delete(*(name for name in blobs.names() if name not in in_use))
""",
    "cells": """
from protocol.coded_tables import make_tables
from storage.io.cell_store import CellStore
from tests.storage.test_crash import coded_blob
store = CellStore(files, index)
for number in itertools.count(len(list(store.blobs()))):
    manifest, tile = coded_blob(number)
    store.put_blob(manifest, *make_tables(manifest, [bytes(48 * 2)]), None)
    store.put_cells(manifest.root, tile.shards())
    store.drop_cells(manifest.root, 0, [0, 1, number % 3 + 2])
    say(number)
""",
    "ledger": """
ledger = Ledger(index)
for number in itertools.count((ledger.tip() or 0) + 1):
    extra = Batch()
    extra.put(b"xheight", b"%d" % number)
    ledger.append(FinalizedBlock(Height(number), b"h%d" % number, bytes(2000), b"c"), extra)
    say(number)
""",
    "pruned ledger": """
ledger = Ledger(index)
def release(block):
    batch = Batch()
    batch.delete(block_row_key(block.header))
    return batch
for number in itertools.count((ledger.tip() or 0) + 1):
    extra = Batch()
    extra.put(block_row_key(b"h%d" % number), b"row")
    ledger.append(FinalizedBlock(Height(number), b"h%d" % number, bytes(2000), b"c"), extra)
    ledger.prune(PruneRule(20_000, Height(number - 3), 16), release, blocks_max=2, bytes_max=10**6)
    say(number, ledger.oldest())
""",
}


def write_and_kill(folder: Path, writer: str, lines: int) -> list[str]:
    """Run a writer until it has reported ``lines`` times, kill it where it is, and return all it ever reported."""
    child = subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + WRITERS[writer], str(folder)],
        cwd=Path(__file__).parents[2],  # a writer may import what the test knows too
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        heard = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        heard += child.stdout.readlines()
    assert all(heard), "the writer ended by itself"
    return [line.strip() for line in heard if line.endswith("\n")]


def state_after(version: int) -> bytes:
    """What the updates up to ``version`` make of nothing."""
    state = bytes(4)
    for number in range(1, version + 1):
        state = bytes(a ^ b for a, b in zip(state, b"%04d" % number, strict=True))
    return state * 1000


def rebuilt(base: CheckedTile, blobs: BlobStore, updates: Sequence[Digest]) -> bytes:
    """The same from a base, by the updates that are kept."""
    state = bytes(base.state)[:4]
    for name in updates:
        state = bytes(a ^ b for a, b in zip(state, blobs.read(name), strict=True))
    return tile_block(base.tile_id, state * 1000, 1, 1000)[0]


def coded_blob(number: int) -> tuple[CheckedManifest, CodedTile]:
    """Two data cells and three others, of bytes that nothing else has."""
    data = b"%08d" % number * 128
    (tile,) = encode_blob(ErasureCode(NumpyKernel(), Geometry(2, 3, KIB)), [data])
    return make_manifest(Geometry(2, 3, KIB), len(data), (tile.root,)), tile


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_nothing_acknowledged_is_lost(tmp_path: Path, writer: str):
    """Killed three times in the middle, each time restarted on what is there, the store still has every acknowledged write."""
    heard = [line for lines in (1, 23, 57) for line in write_and_kill(tmp_path, writer, lines)]
    with DirectoryLock(tmp_path):
        files = DirectoryFiles(tmp_path)
        files.sweep()
        index = RocksKeyValue(tmp_path / "index")
        match writer:
            case "journal":
                opened = open_journal(tmp_path / "j")
                opened.journal.close()
                numbers = [int(record) for record in opened.records[::2]]
                assert numbers == list(range(len(numbers)))
                assert {int(line) for line in heard} <= set(numbers)
            case "blobs":
                blobs = BlobStore(files, index)
                names = {name.hex() for name in blobs.names()}
                assert {name for line in heard for name in line.split()} <= names
                assert all(blob_digest(blobs.find(name)) == name for name in blobs.names())
            case "tiles":
                tiles = TileStore(files, index)
                newest = tiles.newest(TileId("trunk/0"))
                assert newest >= max(map(int, heard))
                assert len(tiles.versions(TileId("trunk/0"))) >= 3
                for version in tiles.versions(TileId("trunk/0")):
                    tiles.open(TileId("trunk/0"), version).verify()
            case "updates of tiles":
                blobs = BlobStore(files, index)
                tiles = TileStore(files, index, lambda base, version, updates: rebuilt(base, blobs, updates))
                newest = tiles.newest(TileId("trunk/0"))
                assert newest >= max(map(int, heard))
                for version in tiles.versions(TileId("trunk/0")):
                    tile = tiles.open(TileId("trunk/0"), version)
                    assert tile.state == state_after(version)
                assert tiles.statistics().corrupt_count == 0
            case "cells":
                cells = CellStore(files, index)
                assert cells.statistics().corrupt_count == 0
                for number in {int(line): None for line in heard}:
                    manifest, tile = coded_blob(number)
                    kept = tuple(cell for cell in (2, 3, 4) if cell != number % 3 + 2)
                    assert cells.cells_held(manifest.root, 0) == kept
                    assert [cells.find(manifest.root, 0, cell) for cell in kept] == [*map(tile.checked, kept)]
            case "ledger":
                ledger = Ledger(index)
                assert ledger.tip() >= max(map(int, heard))
                assert [block.header for block in ledger.range(1, ledger.tip())] == [
                    b"h%d" % height for height in range(1, ledger.tip() + 1)
                ]
                assert index.get(b"xheight") == b"%d" % ledger.tip()
            case "pruned ledger":
                ledger = Ledger(index)
                at, last = ledger.statistics(), heard[-1].split()
                assert at.tip_height >= int(last[0])
                assert at.oldest_height >= int(last[1]) > 1
                assert at.bytes_used == count_bytes(index)
                kept = [block.header for block in ledger.range(1, ledger.tip())]
                assert kept == [b"h%d" % height for height in range(at.oldest_height, at.tip_height + 1)]
                assert {key[1:] for key, _ in index.scan(BLOCK_ROW, limit=999)} == set(kept)
                boundaries = [b"h%d" % height for height in range(16, at.oldest_height, 16)]
                assert [value for _, value in index.scan(HEADER, limit=999)] == boundaries + kept
        index.close()
