"""The custody trial's arithmetic: what was lost, and the fewest bytes that bring it back."""

from __future__ import annotations

from pathlib import Path

from benchmarks.custody import COPIED, Floor, Kept, Ring, add_floor, empty, fewest_cells
from protocol.erasure import LIVE, make_manifest
from protocol.ids import Digest

NODES = ("a", "b", "c", "d", "e")
ROOT = Digest(b"\x01" * 32)
MANIFEST = make_manifest(LIVE, 1_000, (ROOT,))
CELL_BYTES = MANIFEST.cell_bytes(0)


BEACON = Digest(b"\x02" * 32)


def ring(epoch: int) -> Ring:
    """Others are heavier in each epoch."""
    return Ring(NODES, tuple(1 + (index + epoch) % 2 for index in range(len(NODES))))


def cells(*chosen: int) -> frozenset[int]:
    return frozenset(chosen)


def floor_of(kept_epoch: int, died: int, returned: int, whole: int) -> Floor:
    floor = Floor()
    rings = {epoch: ring(epoch) for epoch in range(6)}
    kept = Kept("a tile", MANIFEST.root, 1_000, 1, kept_epoch, (BEACON,), {"tile": "trunk/0"})
    add_floor(floor, kept, 0, MANIFEST, rings, ["b"], died, returned, whole)
    return floor


def test_whoever_lacks_more_than_rebuilds_the_tile_fetches_only_that() -> None:
    """Each of the others fetches what it lacks; who holds some needs fewer to rebuild; somebody does where it must be."""
    held = {"a": cells(1, 2, 3), "b": cells()}
    assert fewest_cells({"a": cells(), "b": cells(4, 5)}, held, 4, is_lost=False) == (2, 2)
    assert fewest_cells({"a": cells(), "b": cells(4, 5, 6, 7, 8, 9)}, held, 4, is_lost=False) == (6, 4)
    assert fewest_cells({"a": cells(), "b": cells(4, 5)}, held, 4, is_lost=True) == (2, 3)
    assert fewest_cells({"a": cells(4), "b": cells(5)}, held, 4, is_lost=True) == (2, 2)


def test_a_blob_of_the_same_epoch_is_rebuilt() -> None:
    """Only its holder had a cell: all that the dead one held is moved, and one rebuild's worth of cells."""
    floor = floor_of(2, 2, 2, 2)
    lost = len(ring(2).duties((BEACON,), ROOT, LIVE.cells)["b"])
    assert (floor.lost_cells, floor.lost_bytes, floor.rebuilt_tiles) == (lost, lost * CELL_BYTES, 1)
    assert floor.by_tile_bytes == (lost + LIVE.data_cells) * CELL_BYTES
    assert floor.bytes < floor.by_tile_bytes


def test_what_others_had_in_the_epoch_before_counts_as_held() -> None:
    """After a hand-over most of what is lost is still with those who kept it before."""
    fresh, older = floor_of(2, 2, 2, 2), floor_of(1, 2, 2, 2)
    assert older.lost_cells == fresh.lost_cells
    assert older.bytes <= fresh.bytes


def test_an_epoch_that_ends_meanwhile_is_handed_over_in_the_floor() -> None:
    """Everybody's new cells are moved too."""
    assert floor_of(2, 2, 2, 3).by_tile_bytes > floor_of(2, 2, 2, 2).by_tile_bytes
    assert floor_of(2, 2, 3, 3).bytes < floor_of(2, 2, 2, 3).bytes


def test_an_emptied_directory_keeps_what_is_copied_elsewhere(tmp_path: Path) -> None:
    """Keys, genesis and configuration stay; all that the node wrote goes."""
    for name in ("keys", "db", "cells"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"1")
    for name in ("genesis.bin", "config.toml", "api.token"):
        (tmp_path / name).write_bytes(b"1")
    empty(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(COPIED)
    assert (tmp_path / "keys" / "file").exists()
