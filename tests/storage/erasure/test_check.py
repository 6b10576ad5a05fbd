"""The check of an encoding by holders of a few cells: what it sees, what it cannot see alone, and where it does not hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import reedsolo
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.coded_tables import CheckedTable, check_table, make_tables
from protocol.digest import Domain, digest, number
from protocol.erasure import COLD, LIVE, CheckedManifest, Geometry
from protocol.ids import Digest
from protocol.limits import KIB, TABLE_COLUMNS
from protocol.rejection import Blame, InvariantBroken, Reason
from storage.erasure.certified import read_certified
from storage.erasure.check import FOLD_BYTES, TileCheck
from storage.erasure.field import INVERSES, PRODUCTS, Bytes, product
from storage.erasure.kernel import Kernel
from storage.erasure.reed_solomon import recovery_matrix
from storage.erasure.tile import CheckedShard, CodedTile, rebuild_tile
from tests.storage.erasure.oracle import kernels
from tests.storage.erasure.samples import SMALL, blob, code, committed, kernel, refused


def tile_check(manifest: CheckedManifest, tile: int = 0) -> TileCheck:
    return TileCheck.of(kernel(), manifest, tile)


def publish(manifest: CheckedManifest, tables: Sequence[bytes]) -> list[CheckedTable]:
    """What everybody is shown who names the same tables' root."""
    root, made = make_tables(manifest, tables)
    return [check_table(manifest, root, table) for table in made]


def honest_tables(manifest: CheckedManifest, tiles: Sequence[CodedTile]) -> list[CheckedTable]:
    return publish(manifest, [tile_check(manifest, tile.index).table(tile) for tile in tiles])


def cells_of(tile: CodedTile) -> list[bytes]:
    return [bytes(cell) for cell in tile.cells]


def fitting_table(check: TileCheck, geometry: Geometry, shards: Sequence[CheckedShard]) -> bytes:
    """The table with which any K cells at all agree: the sums of the data that these K would give."""
    chosen = sorted(shards, key=lambda each: each.shard.cell)[: geometry.data_cells]
    matrix_KK = recovery_matrix(
        geometry.data_cells,
        geometry.parity_cells,
        [each.shard.cell for each in chosen],
        range(geometry.data_cells),
    )
    return product(matrix_KK, check.sums([each.shard.data for each in chosen])).tobytes()


# -- what is computed --------------------------------------------------------------------------------------------------


def sums_written_out(geometry: Geometry, cell: bytes, root: Digest) -> bytes:
    """T of one cell, byte by byte, with reedsolo's arithmetic."""
    rows = len(cell) // FOLD_BYTES
    shape = [number(value) for value in (geometry.data_cells, geometry.parity_cells, len(cell))]
    seed = digest(Domain.CHECK_MATRICES, *shape, root)
    drawn = hashlib.shake_256(seed).digest(48 * rows + 48 * 48 * FOLD_BYTES)
    folded = bytearray()
    for row in range(48):
        for column in range(FOLD_BYTES):
            at = 0
            for inner in range(rows):
                at ^= reedsolo.gf_mul(drawn[row * rows + inner], cell[inner * FOLD_BYTES + column])
            folded.append(at)
    rest = drawn[48 * rows :]
    sums = bytearray(48)
    for row in range(48):
        for at, value in enumerate(folded):
            sums[row] ^= reedsolo.gf_mul(rest[row * len(folded) + at], value)
    return bytes(sums)


@pytest.mark.parametrize("kernel", kernels(), ids=lambda kernel: kernel.name)
def test_a_table_is_what_the_decision_writes_down(kernel: Kernel) -> None:
    """Every kernel computes the sums that reedsolo's arithmetic gives, of cells one by one and side by side."""
    _, manifest, (tile,) = blob(8 * KIB)
    check = TileCheck.of(kernel, manifest, 0)
    expected = [sums_written_out(SMALL, cell, tile.root) for cell in cells_of(tile)[:5]]
    assert [sums.tobytes() for sums in check.sums(cells_of(tile)[:5])] == expected
    assert check.sums(tile.cells[4:5]).tobytes() == expected[4]
    assert check.table(tile) == b"".join(expected[:4])


@pytest.mark.parametrize("geometry", [LIVE, COLD], ids=["live", "cold"])
def test_kernels_make_the_same_table_of_a_profiles_tile(geometry: Geometry) -> None:
    """Of as many cells as there are, two leaves each."""
    _, manifest, (tile,) = blob(geometry.data_cells * 2 * KIB - 1, geometry)
    tables = [TileCheck.of(each, manifest, 0).table(tile) for each in kernels()]
    assert len({*tables}) == 1
    assert len(tables[0]) == TABLE_COLUMNS * geometry.data_cells
    (table,) = publish(manifest, tables[:1])
    assert len(tile_check(manifest).check(table, tile.shards())) == geometry.cells


@given(st.integers(1, 40), st.integers(1, 80), st.integers(1, 3), st.integers(1, 20 * KIB), st.integers(0, 2**32))
@settings(max_examples=25)
def test_honest_cells_agree_whoever_holds_them(
    data_cells: int, parity_cells: int, leaves: int, size_bytes: int, seed: int
) -> None:
    """Of every geometry, of full tiles and of the last one, whose cells are shorter; alone and together."""
    geometry = Geometry(data_cells, parity_cells, leaves * KIB)
    _, manifest, tiles = blob(size_bytes, geometry, seed)
    for table, tile in zip(honest_tables(manifest, tiles), tiles, strict=True):
        check, random = tile_check(manifest, tile.index), Random(seed)
        some = [tile.checked(cell) for cell in random.sample(range(geometry.cells), random.randint(1, geometry.cells))]
        agreeing = check.check(table, some)
        assert [each.checked for each in agreeing] == some
        assert {each.tables_root for each in agreeing} == {table.root}
        assert check.check(table, some[:1]) == agreeing[:1]
    assert check.agree(table, []) == []


# -- what is caught ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 8), st.integers(0, 2 * KIB - 1), st.integers(1, 255))
@settings(max_examples=60)
def test_a_forged_cell_is_refused_by_its_holder(cell: int, at: int, bits: int) -> None:
    """One wrong byte in one cell, rightly proved under the tile's root: it contradicts the table of the others."""
    _, _, (tile,) = blob(8 * KIB)
    cells = [bytearray(each) for each in tile.cells]
    cells[cell][at] ^= bits
    manifest, shards = committed([bytes(each) for each in cells], 8 * KIB)
    check = tile_check(manifest)
    (table,) = publish(manifest, [check.sums(tile.cells[:4]).tobytes()])  # of the code that the others are of
    agreeing = check.agree(table, shards)
    assert [each.checked.shard.cell for each in agreeing] == [index for index in range(9) if index != cell]
    refused(Reason.BAD_ENCODING, lambda: check.check(table, shards[cell : cell + 1]))
    assert Reason.BAD_ENCODING.blame is Blame.AUTHOR


@given(st.integers(0, 4 * TABLE_COLUMNS - 1), st.integers(1, 255))
@settings(max_examples=40)
def test_a_forged_table_is_refused_by_all_but_a_few(at: int, bits: int) -> None:
    """One byte: the cell whose sums they are contradicts it, and all parity, which comes from every data cell."""
    _, manifest, (tile,) = blob(8 * KIB)
    check = tile_check(manifest)
    wrong = bytearray(check.table(tile))
    wrong[at] ^= bits
    (table,) = publish(manifest, [bytes(wrong)])
    agreeing = {each.checked.shard.cell for each in check.agree(table, tile.shards())}
    assert agreeing == {0, 1, 2, 3} - {at // TABLE_COLUMNS}


def test_the_table_of_another_blob_or_tile_is_its_senders_fault() -> None:
    """The tables' root binds the blob's, and its proof the tile: no table passes for another one's."""
    _, manifest, tiles = blob(20 * KIB)
    root, made = make_tables(manifest, [tile_check(manifest, tile.index).table(tile) for tile in tiles])
    assert [check_table(manifest, root, table).tile for table in made] == [0, 1, 2]
    other = blob(20 * KIB, seed=1)[1]
    first = made[0]
    for wounded in (
        replace(first, tile=1),
        replace(first, tile=3),
        replace(first, tile=-1),
        replace(first, sums=made[1].sums),
        replace(first, sums=first.sums[:-1]),
        replace(first, sums=first.sums + b"\x00"),
        replace(first, proof=first.proof[1:]),
        replace(first, proof=(*first.proof, root)),
    ):
        refused(Reason.BAD_PROOF, lambda wounded=wounded: check_table(manifest, root, wounded))
    refused(Reason.BAD_PROOF, lambda: check_table(other, root, first))
    assert Reason.BAD_PROOF.blame is Blame.SENDER
    with pytest.raises(ValueError, match="2 tables of 3 tiles"):
        make_tables(manifest, [table.sums for table in made[:2]])
    with pytest.raises(InvariantBroken):
        tile_check(manifest, 0).table(tiles[1])
    tables = [check_table(manifest, root, table) for table in made]
    for table, shards in ((tables[0], tiles[1].shards()), (tables[1], tiles[0].shards())):
        with pytest.raises(InvariantBroken):
            tile_check(manifest, 0).check(table, shards)


def test_the_matrices_are_drawn_by_the_whole_shape() -> None:
    """Two blobs may share a tile's root, as complete trees of leaves do; then they do not share its sums."""
    root = blob(8 * KIB)[2][0].root
    shapes = [
        (Geometry(2, 6, 2 * KIB), 2 * KIB),
        (Geometry(3, 5, 2 * KIB), 2 * KIB),
        (Geometry(2, 7, 2 * KIB), 2 * KIB),
    ]
    sums = [TileCheck(kernel(), geometry, size, root).sums([bytes([1]) * size]).tobytes() for geometry, size in shapes]
    short = TileCheck(kernel(), shapes[0][0], KIB, root).sums([bytes([1]) * KIB]).tobytes()
    assert len({*sums, short}) == 4


# -- what is not caught by holders alone ---------------------------------------------------------------------------------


def test_any_k_cells_agree_with_some_table() -> None:
    """Noise under a root: each of four holders is shown a table of its own, and finds nothing wrong.

    That is why tables are under one root and votes name it: these four votes name four roots, and make no quorum. With any one
    of the four tables the other three holders refuse all that they hold.
    """
    geometry = Geometry(16, 48, KIB)
    manifest, shards = committed([Random(7).randbytes(KIB) for _ in range(64)], 16 * KIB, geometry)
    check = tile_check(manifest)
    held = [shards[16 * holder : 16 * (holder + 1)] for holder in range(4)]
    tables = [publish(manifest, [fitting_table(check, geometry, cells)])[0] for cells in held]
    for table, cells in zip(tables, held, strict=True):
        assert len(check.check(table, cells)) == 16
        assert len(check.agree(table, shards)) == 16
    assert len({table.root for table in tables}) == 4


def test_one_root_may_have_two_tables_and_two_contents() -> None:
    """Half of the cells are of one code and half of another: each table has enough cells to be read by.

    Two certificates may then exist for one blob root. So its root alone does not name a blob: the root of its tables does, too.
    """
    geometry = Geometry(4, 12, KIB)
    (one, _, (first,)), (other, _, (second,)) = (blob(4 * KIB, geometry, seed) for seed in (1, 2))
    manifest, shards = committed(cells_of(first)[:8] + cells_of(second)[8:], 4 * KIB, geometry)
    check = tile_check(manifest)
    for data, tile, cells in ((one, first, shards[:8]), (other, second, shards[8:])):
        (table,) = publish(manifest, [check.sums(tile.cells[:4]).tobytes()])
        assert [each.checked for each in check.agree(table, shards)] == cells
        assert bytes(read_certified(code(geometry), kernel(), manifest, table, shards)) == data
    refused(Reason.BAD_ENCODING, lambda: rebuild_tile(code(geometry), manifest, 0, shards))


def invisible_bytes(check: TileCheck, cell_bytes: int) -> bytes:
    """Bytes, not all zero, that a known T takes to zero: solved for in cells of more rows than T has columns."""
    units = [bytes([row == at // FOLD_BYTES and at % FOLD_BYTES == 0 for at in range(cell_bytes)]) for row in range(49)]
    solution = kernel_vector(check.sums(units))
    found = bytearray(cell_bytes)
    for row, factor in enumerate(solution):
        found[row * FOLD_BYTES] = factor
    return bytes(found)


def kernel_vector(rows_RC: Bytes) -> list[int]:
    """Factors, not all zero, with which more rows than there are columns add up to zero, by elimination."""
    work = np.concatenate([rows_RC, np.eye(len(rows_RC), dtype=np.uint8)], axis=1)
    columns, done = rows_RC.shape[1], 0
    for column in range(columns):
        pivots = np.nonzero(work[done:, column])[0]
        if len(pivots):
            work[[done, done + pivots[0]]] = work[[done + pivots[0], done]]
            work[done] = PRODUCTS[INVERSES[work[done, column]], work[done]]
            for below in range(done + 1, len(work)):
                work[below] ^= PRODUCTS[work[below, column], work[done]]
            done += 1
    assert not work[-1, :columns].any()
    return work[-1, columns:].tolist()


def test_it_does_not_hold_for_cells_that_are_chosen_after_the_matrices() -> None:
    """Whoever knows the matrices forges a cell that they do not see. Under the forged cell's own root they are others."""
    geometry = Geometry(4, 5, 4 * KIB)
    _, manifest, (tile,) = blob(16 * KIB, geometry)
    known = tile_check(manifest)
    hidden = invisible_bytes(known, 4 * KIB)
    assert any(hidden)
    forged = bytes(left ^ right for left, right in zip(tile.cells[8], hidden, strict=True))
    assert known.sums([forged]).tobytes() == known.sums(tile.cells[8:]).tobytes()
    forged_manifest, shards = committed([*cells_of(tile)[:8], forged], 16 * KIB, geometry)
    check = tile_check(forged_manifest)
    (table,) = publish(forged_manifest, [check.sums(tile.cells[:4]).tobytes()])
    assert [each.checked.shard.cell for each in check.agree(table, shards)] == list(range(8))


@pytest.mark.parametrize("geometry", [Geometry(128, 128, KIB), Geometry(85, 171, KIB)], ids=str)
def test_a_geometry_with_too_many_subsets_is_refused(geometry: Geometry) -> None:
    """Where the bound is not below 2^-80, agreement is no argument, and nobody computes it by accident."""
    with pytest.raises(ValueError, match="deceived with a chance"):
        TileCheck(kernel(), geometry, KIB, Digest(bytes(32)))


# -- reading under a certificate ---------------------------------------------------------------------------------------


@given(st.integers(0, 15), st.integers(0, KIB - 1), st.integers(1, 255), st.integers(0, 2**32))
@settings(max_examples=40)
def test_one_wrong_cell_does_not_make_a_certified_tile_unreadable(cell: int, at: int, bits: int, seed: int) -> None:
    """Its holder lies and signs; two thirds have signed; the root holds for nobody, and everybody reads the same data."""
    geometry = Geometry(4, 12, KIB)
    data, _, (tile,) = blob(4 * KIB - 9, geometry)
    cells = [bytearray(each) for each in tile.cells]
    cells[cell][at] ^= bits
    manifest, shards = committed([bytes(each) for each in cells], 4 * KIB - 9, geometry)
    (table,) = publish(manifest, [tile_check(manifest).sums(tile.cells[:4]).tobytes()])
    some = Random(seed).sample(shards, 5)
    refused(Reason.BAD_ENCODING, lambda: rebuild_tile(code(geometry), manifest, 0, some))
    assert bytes(read_certified(code(geometry), kernel(), manifest, table, some)) == data


def test_padding_that_is_not_zero_does_not_make_a_certified_tile_unreadable() -> None:
    """It is cut off: nobody but the holder of the last data cells could have refused it."""
    data, _, (tile,) = blob(8 * KIB)
    manifest, shards = committed(cells_of(tile), 8 * KIB - 5)
    (table,) = honest_tables(manifest, [tile])
    refused(Reason.BAD_ENCODING, lambda: rebuild_tile(code(), manifest, 0, shards))
    assert bytes(read_certified(code(), kernel(), manifest, table, shards[5:])) == data[:-5]


def test_a_root_that_holds_needs_no_table_and_too_few_cells_are_nobodys_fault() -> None:
    """A good tile is read by its root, even beside a table that agrees with nothing; a bad one asks for K that agree."""
    data, manifest, (tile,) = blob(8 * KIB)
    (nonsense,) = publish(manifest, [bytes(range(1, 4 * TABLE_COLUMNS + 1))])
    assert bytes(read_certified(code(), kernel(), manifest, nonsense, list(tile.shards())[3:7])) == data
    cells = cells_of(tile)
    manifest, shards = committed([*cells[:8], bytes(2 * KIB)], 8 * KIB)
    (table,) = publish(manifest, [tile_check(manifest).sums(tile.cells[:4]).tobytes()])
    for too_few in (shards[5:], shards[:3], []):
        refused(
            Reason.TOO_FEW_CELLS,
            lambda manifest=manifest, too_few=too_few: read_certified(code(), kernel(), manifest, table, too_few),
        )
