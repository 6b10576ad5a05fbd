"""What is asked and answered about coded blobs fits where it has to."""

from __future__ import annotations

import pytest

from p2p.requests import CELLS
from protocol.availability import AvailabilityClaim
from protocol.cells import (
    AskToKeep,
    Cells,
    GetCells,
    GetLeaf,
    GetTables,
    Manifest,
    Tables,
    cells_per_answer,
)
from protocol.codec import encode
from protocol.coded_tables import TileTable
from protocol.digest import blob_digest
from protocol.erasure import COLD, LIVE, CheckedManifest, Geometry, Shard, make_manifest
from protocol.ids import Digest, Epoch
from protocol.limits import (
    CELL_BYTES_MAX,
    CELL_LEAF_BYTES,
    CELLS_PER_TILE_MAX,
    KIB,
    MANIFEST_BYTES_MAX,
    MERKLE_PATH_MAX,
    TABLE_COLUMNS,
    TABLES_PATH_MAX,
    TABLES_PER_REQUEST_MAX,
    TILES_PER_BLOB_MAX,
)

ROOT = blob_digest(b"root")
LAST_TILE, LAST_CELL = TILES_PER_BLOB_MAX - 1, CELLS_PER_TILE_MAX - 1


def manifest(geometry: Geometry, size_bytes: int) -> CheckedManifest:
    return make_manifest(geometry, size_bytes, (ROOT,) * geometry.tile_count(size_bytes))


def test_the_largest_questions_fit() -> None:
    """Every list full, every number its longest."""
    claim = AvailabilityClaim(ROOT, ROOT, LIVE, ROOT, Epoch(2**53), Epoch(2**53))
    for question in (
        GetTables(ROOT, ROOT, (LAST_TILE,) * TABLES_PER_REQUEST_MAX),
        GetCells(ROOT, LAST_TILE, (LAST_CELL,) * CELLS_PER_TILE_MAX, True),
        GetLeaf(ROOT, LAST_TILE, LAST_CELL, CELL_BYTES_MAX // CELL_LEAF_BYTES - 1),
        AskToKeep(claim, 2**53),
    ):
        assert len(encode(question)) <= CELLS.request_bytes_max


@pytest.mark.parametrize("cell_bytes", [KIB, 16 * KIB, 64 * KIB, CELL_BYTES_MAX])
def test_as_many_cells_as_are_answered_fit(cell_bytes: int) -> None:
    """Of any length, with the longest proofs."""
    data_cells = 10 if cell_bytes == CELL_BYTES_MAX else 64
    count = cells_per_answer(manifest(Geometry(data_cells, 10, cell_bytes), data_cells * cell_bytes), 0)
    shard = Shard(LAST_TILE, LAST_CELL, bytes(cell_bytes), (ROOT,) * MERKLE_PATH_MAX)
    assert len(encode(Cells((shard,) * count))) <= CELLS.response_bytes_max


def test_how_many_cells_are_answered() -> None:
    """As many live cells as rebuild their tile, four of the longest; of a short last tile all that there are."""
    live = manifest(LIVE, LIVE.tile_bytes + 1)
    assert [cells_per_answer(live, tile) for tile in (0, 1)] == [LIVE.data_cells, CELLS_PER_TILE_MAX]
    assert cells_per_answer(manifest(COLD, COLD.tile_bytes), 0) == 4
    with pytest.raises(IndexError):
        cells_per_answer(live, 2)


def test_the_largest_manifest_and_tables_fit() -> None:
    """Of 64 GiB, and of as many data cells as there can be."""
    assert len(encode(Manifest(bytes(MANIFEST_BYTES_MAX)))) <= CELLS.response_bytes_max
    sums = bytes(TABLE_COLUMNS * (CELLS_PER_TILE_MAX - 1))
    table = TileTable(LAST_TILE, sums, (Digest(ROOT),) * TABLES_PATH_MAX)
    assert len(encode(Tables((table,) * TABLES_PER_REQUEST_MAX))) <= CELLS.response_bytes_max
