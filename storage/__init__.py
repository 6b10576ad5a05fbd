"""Storage: bytes by their names, and the promise that what was acknowledged is still there after a crash.

It keeps tensors, tiles, blobs, finalized blocks and journals. It does not know what they mean: no vote, no model and
no peer is understood here, and nothing is fetched; who finds something missing or damaged is told which, and fetches
it.

Reading order:

    tensor_block   one tensor in a file that is used where it lies
    tile_format    a tile's state as such a file
    streamed_tile  rows in eight bits, compressed; tile_stream: a file of them, to be read while one computes
    files          immutable files, and a false disk that loses power
    kv, keys       the index: ordered rows, and which key holds what
    blobs          bytes by their digest
    ledger         finalized blocks
    state_sync     a state from many sources, part by part: what to ask whom, what to keep, whom to blame
    journal        what must be on disk before anybody hears of it
    budget         what goes first when the disk is full
    compaction     when the updates on which a tile's version rests are folded into a file
    erasure/       bytes as cells, any so many of which give them back; and whether cells are of one code
    custodians     words of all that asks custodians for cells
    sampling/      whether a tile is there, found out with a few of its cells
    gathering      cells of a tile from their custodians: whom to ask for which, what to keep, whom to blame
    cells          cells that are kept
    io/            the real disk: files, rocks, journal_file, blob_store, tile_store, cell_store; room makes some when it is
                   full; tile_reader reads a stream ahead; isal is the erasure code's native kernel

Nothing outside ``io/`` opens anything. The stores of ``io/`` take a ``Files`` and a ``KeyValue``, so that ``simnet``
runs them on ``MemoryFiles`` and ``MemoryKeyValue``. They are imported by their own names, because they bring RocksDB
along: ``from storage.io.rocks import RocksKeyValue``.

Three kinds of failure leave this package: ``Rejected`` (bytes that are not what they should be: TILE_CORRUPT,
BLOB_CORRUPT, BAD_BLOCK), ``OSError`` (the disk failed or is full: StorageFull, DatabaseLocked, DatabaseCorrupt,
DirectoryBusy), and ``InvariantBroken`` (a finalized height written twice).
"""

from storage.budget import Held, KeepRule, Kind, StorageFull, plan_room
from storage.files import Files, MemoryFiles
from storage.journal import Journal, JournalContents, JournalState, MemoryJournal, read_journal
from storage.kv import Batch, DatabaseCorrupt, DatabaseLocked, KeyValue, MemoryKeyValue
from storage.ledger import FinalizedBlock, Ledger
from storage.tensor_block import (
    BlockShape,
    CheckedBlock,
    Dtype,
    Layout,
    PageVerifier,
    Quantisation,
    block_root,
    build_block,
    check_block,
)
from storage.tile_format import CheckedTile, check_tile, tile_block, tile_root

__all__ = [
    "Batch",
    "BlockShape",
    "CheckedBlock",
    "CheckedTile",
    "DatabaseCorrupt",
    "DatabaseLocked",
    "Dtype",
    "Files",
    "FinalizedBlock",
    "Held",
    "Journal",
    "JournalContents",
    "JournalState",
    "KeepRule",
    "KeyValue",
    "Kind",
    "Layout",
    "Ledger",
    "MemoryFiles",
    "MemoryJournal",
    "MemoryKeyValue",
    "PageVerifier",
    "Quantisation",
    "StorageFull",
    "block_root",
    "build_block",
    "check_block",
    "check_tile",
    "plan_room",
    "read_journal",
    "tile_block",
    "tile_root",
]
