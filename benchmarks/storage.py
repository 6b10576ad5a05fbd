"""A tile's file beside pickle, numpy and torch, and small durable writes beside a bare fdatasync.

Files are in the page cache: what is measured is the formats, not the disk. Ours is verified against the tile's root when it is
read, page by page; the others believe what they read. Durable writes are the disk's business: their floor is one write and one
fdatasync of as many bytes.
"""

from __future__ import annotations

import itertools
import os
import pickle
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import click
import numpy as np

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, standard_options, time_calls

TILE_MIB: Final = 64
QUICK_MIB: Final = 4
RECORD_BYTES: Final = 256  # a vote, a head
PAGE_VALUES: Final = 1024
SECONDS_EACH: Final = 1.0
BLOCKS: Final = 2_000  # of 100 transactions, of a hundred members
QUICK_BLOCKS: Final = 200
TRANSACTIONS_PER_BLOCK: Final = 100
HEADER_BYTES, TRANSACTION_BYTES, CERTIFICATE_BYTES, ENTRY_BYTES = 500, 200, 4_350, 60


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="On which disk. [default: temporary]")
@standard_options
def main(folder: Path | None, as_json: bool, quick: bool) -> None:
    """Map, verify and read a tile of 64 MiB; write it; write small records durably."""
    size_mib = QUICK_MIB if quick else TILE_MIB
    timed = partial(time_calls, seconds=0.0 if quick else SECONDS_EACH, calls_min=1 if quick else 5)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nock-", dir=folder) as inside:
        rows = [
            *tile_rows(Path(inside), size_mib, timed),
            *record_rows(Path(inside), timed),
            *chain_rows(Path(inside), QUICK_BLOCKS if quick else BLOCKS),
        ]
    report("storage", rows, as_json, {"tile_mib": size_mib})


def tile_rows(folder: Path, size_mib: int, timed: Callable[[Callable[[], object]], float]) -> list[Row]:
    """Reading and writing one tile."""
    import torch

    from protocol.ids import TileId
    from storage.io.files import map_file, write_file
    from storage.tile_format import check_tile, tile_block

    torch.set_num_threads(1)
    values = size_mib * (1 << 20) // 4
    weights_N = np.random.default_rng(0).standard_normal(values, np.float32)
    tile_id = TileId("trunk/0")
    block, root = tile_block(tile_id, weights_N.data.cast("B"), 1, values)
    ours, pickled, plain, torched = (folder / name for name in ("tile.tblock", "tile.pickle", "tile.npy", "tile.pt"))
    write_file(ours, [block])
    pickled.write_bytes(pickle.dumps(weights_N, protocol=5))
    np.save(plain, weights_N)
    torch.save(torch.from_numpy(weights_N), torched)

    def make() -> object:
        return tile_block(tile_id, weights_N.data.cast("B"), 1, values)

    def read_ours() -> object:
        mapped = map_file(ours)
        return np.frombuffer(check_tile(tile_id, mapped.view, root).weights, np.float32).copy()

    def read_page_ours() -> object:
        mapped = map_file(ours)
        return bytes(check_tile(tile_id, mapped.view, root).read(0, values // 2, values // 2 + PAGE_VALUES))

    def read_pickle() -> object:
        return pickle.loads(pickled.read_bytes())

    def read_page_numpy() -> object:
        return np.load(plain, mmap_mode="r")[values // 2 : values // 2 + PAGE_VALUES].tobytes()

    def write_torch() -> None:
        with torched.open("wb") as file:
            torch.save(torch.from_numpy(weights_N), file)
            file.flush()
            os.fdatasync(file.fileno())

    copy_ms = timed(weights_N.copy)
    read_ms = timed(read_ours)
    what = f"read {size_mib} MiB"
    return [
        compare(f"{what}, verified", "ms", read_ms, timed(read_pickle), "pickle, unverified", copy_ms),
        compare(f"{what}, verified", "ms", read_ms, timed(lambda: np.load(plain)), "np.load, unverified", copy_ms),
        compare(f"{what}, verified", "ms", read_ms, timed(lambda: torch.load(torched)), "torch.load, unverified", copy_ms),
        compare(
            f"map {size_mib} MiB and read 4 KiB of it, verified",
            "ms",
            timed(read_page_ours),
            timed(read_page_numpy),
            "np.load mapped, unverified",
            timed(lambda: map_file(ours)),
        ),
        compare(f"make the file of {size_mib} MiB and its root", "ms", timed(make), floor=copy_ms),
        compare(
            f"write {size_mib} MiB durably",
            "ms",
            timed(lambda: write_file(ours, [block])),
            timed(write_torch),
            "torch.save, fdatasync",
            timed(lambda: _write_bare(folder / "bare", block)),
        ),
    ]  # fmt: skip


def record_rows(folder: Path, timed: Callable[[Callable[[], object]], float]) -> list[Row]:
    """Small records, each durable before the next."""
    from storage.io.blob_store import BlobStore
    from storage.io.files import DirectoryFiles
    from storage.io.journal_file import create_journal
    from storage.io.rocks import RocksKeyValue
    from storage.keys import own_key, pack_u64
    from storage.kv import Batch

    record = bytes(range(RECORD_BYTES))
    numbers = itertools.count()
    floor_ms = timed(lambda: _append_bare(folder / "bare-log", record))
    database = sqlite3.connect(folder / "sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE records (number INTEGER PRIMARY KEY, record BLOB)")
    sqlite_ms = timed(lambda: database.execute("INSERT INTO records VALUES (?, ?)", (next(numbers), record)))
    database.close()
    journal = create_journal(folder / "votes.journal")
    journal_ms = timed(lambda: journal.append(record))
    journal.close()
    index = RocksKeyValue(folder / "db")

    def write_row() -> None:
        batch = Batch()
        batch.put(own_key("benchmark", pack_u64(next(numbers))), record)
        index.write(batch)

    blobs = BlobStore(DirectoryFiles(folder / "blobs"), index)
    row_ms = timed(write_row)
    blob_ms = timed(lambda: blobs.put_many([pack_u64(next(numbers)) + record]))
    index.close()
    return [
        compare(
            f"append {RECORD_BYTES} B to a journal, durable",
            "ms",
            journal_ms,
            sqlite_ms,
            "sqlite, one commit",
            floor_ms,
        ),
        compare(f"put a row of {RECORD_BYTES} B, durable", "ms", row_ms, sqlite_ms, "sqlite, one commit", floor_ms),
        compare(f"put a blob of {RECORD_BYTES} B, durable", "ms", blob_ms, sqlite_ms, "sqlite, one commit", floor_ms),
    ]


def chain_rows(folder: Path, blocks: int) -> list[Row]:
    """A block with its rows in one batch; and what it costs to let the oldest half of them go again."""
    from protocol.ids import Height
    from storage.io.rocks import RocksKeyValue
    from storage.keys import block_row_key, own_key
    from storage.kv import Batch
    from storage.ledger import FinalizedBlock, Ledger, PruneRule

    generator = random.Random(0)
    names = {
        height: [generator.randbytes(32) for _ in range(TRANSACTIONS_PER_BLOCK)] for height in range(1, blocks + 1)
    }
    index = RocksKeyValue(folder / "chain")
    ledger = Ledger(index)
    heights = itertools.count(1)
    block = [
        generator.randbytes(n) for n in (HEADER_BYTES, TRANSACTIONS_PER_BLOCK * TRANSACTION_BYTES, CERTIFICATE_BYTES)
    ]
    bare_bytes = sum(map(len, block)) + TRANSACTIONS_PER_BLOCK * (33 + 20 + 40 + ENTRY_BYTES)

    def append() -> None:
        height = next(heights)
        extra = Batch()
        for name in names[height]:
            extra.put(block_row_key(name), bytes(20))
            extra.put(own_key("state", b"a" + name), bytes(ENTRY_BYTES))
        body = height.to_bytes(8) + block[1]
        ledger.append(FinalizedBlock(Height(height), block[0], body, block[2]), extra)

    def release(gone: FinalizedBlock) -> Batch:
        batch = Batch()
        for name in names[gone.height]:
            batch.delete(block_row_key(name))
        return batch

    def prune() -> None:
        rule = PruneRule(0, Height(blocks // 2 + 1), 1_024)
        while ledger.prune(rule, release, blocks_max=256, bytes_max=1 << 20):
            pass

    append_ms = _milliseconds(lambda: [append() for _ in range(blocks)]) / blocks
    floor_ms = _milliseconds(lambda: [_append_bare(folder / "bare-chain", bytes(bare_bytes)) for _ in range(100)]) / 100
    full_bytes = _folder_bytes(folder / "chain")
    prune_ms = _milliseconds(prune) / (blocks // 2)
    reclaim_ms = _milliseconds(ledger.reclaim)
    left_bytes = _folder_bytes(folder / "chain")
    index.close()
    return [
        compare("append a block with 100 changes, durable", "ms", append_ms, floor=floor_ms),
        compare("prune such a block", "ms", prune_ms),
        compare(f"give back the disk of {blocks // 2} such blocks", "ms", reclaim_ms),
        compare("the folder after half of its blocks went", "MB", left_bytes / 1e6, full_bytes / 1e6, "before"),
    ]


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _write_bare(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fdatasync(file.fileno())


def _append_bare(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, data)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
