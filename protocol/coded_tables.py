"""Tables by which the holder of a few cells knows that they belong to the one code of a tile (chain.md 3.3).

A table holds ``TABLE_COLUMNS`` random sums of each data cell of a tile. They are linear, so those of any other cell follow from
them by the code's matrix, and its holder compares. How they are computed is ``storage/erasure/check.py``; why agreement means
anything, and where it does not, is docs/decisions/0022.

For any K cells there is some table with which they agree. So all tables of a blob are under one root, which binds the blob's,
and what is said of a blob's availability names both:

    tables root = digest("nock/coded-tables/1", blob root, merkle root over SHA-256(0x00 | table of each tile))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from protocol.codec import Message
from protocol.digest import Domain, digest
from protocol.erasure import CheckedManifest, Geometry, TileIndexField
from protocol.ids import Digest, DigestField
from protocol.limits import CELLS_PER_TILE_MAX, TABLE_COLUMNS, TABLES_PATH_MAX
from protocol.merkle import leaf_digest, merkle_proofs, merkle_root, proof_root
from protocol.rejection import Reason, Rejected

GRINDING_BITS: Final = 80  # chain.md 3.3: an author may try 2^80 tile roots
SOUNDNESS_BITS: Final = 80  # and deceives with less than 2^-80 all the same


class TileTable(Message, frozen=True):
    """The table of one tile, as it travels: of data cell 0 all columns, then of data cell 1; with its proof."""

    tile: TileIndexField
    sums: Annotated[bytes, Meta(min_length=TABLE_COLUMNS, max_length=TABLE_COLUMNS * (CELLS_PER_TILE_MAX - 1))]
    proof: Annotated[tuple[DigestField, ...], Meta(max_length=TABLES_PATH_MAX)]


@dataclass(frozen=True, slots=True)
class CheckedTable:
    """A table that leads to ``root``. Whether the cells agree with it is another question."""

    tile: int
    tile_root: Digest
    sums: bytes
    root: Digest


def soundness_bits(geometry: Geometry, columns: int = TABLE_COLUMNS) -> int:
    """Cells that are not of one code agree with one table with a chance below ``2**-bits``, after all grinding.

    A set of cells that is no part of a codeword has K + 1 cells that are none. Each such subset passes with less than
    ``2 * 2**(-8 * columns)``; there are ``C(N, K + 1)`` of them, and ``2**GRINDING_BITS`` roots. Negative: no bound at all.
    """
    subsets = _combinations(geometry.cells, geometry.data_cells + 1)
    return 8 * columns - 1 - GRINDING_BITS - subsets.bit_length()


def _combinations(all_of: int, chosen: int) -> int:
    count = 1
    for taken in range(chosen):
        count = count * (all_of - taken) // (taken + 1)
    return count


def is_sound(geometry: Geometry, columns: int = TABLE_COLUMNS) -> bool:
    """Whether agreement with one table means one codeword, for tiles of this geometry."""
    return soundness_bits(geometry, columns) >= SOUNDNESS_BITS


def make_tables(manifest: CheckedManifest, tables: Sequence[bytes]) -> tuple[Digest, list[TileTable]]:
    """The root of the tables of a blob that was coded here, and each table with its proof; one for every tile."""
    if len(tables) != manifest.tile_count:
        raise ValueError(f"{len(tables)} tables of {manifest.tile_count} tiles")
    leaves = [leaf_digest(table) for table in tables]
    made = [TileTable(tile, tables[tile], proof) for tile, proof in enumerate(merkle_proofs(leaves))]
    return _tables_root(manifest, merkle_root(leaves)), made


def check_table(manifest: CheckedManifest, root: Digest, table: TileTable) -> CheckedTable:
    """A table that somebody sent, against the tables' root; whoever asked compares the tile with the question.

    Raises ``Rejected(BAD_PROOF)``: the sender had the proof in its hands.
    """
    if not 0 <= table.tile < manifest.tile_count:
        raise Rejected(Reason.BAD_PROOF, f"the table of tile {table.tile}, there are {manifest.tile_count}")
    expected_bytes = TABLE_COLUMNS * manifest.geometry.data_cells
    if len(table.sums) != expected_bytes:
        raise Rejected(Reason.BAD_PROOF, f"a table of {len(table.sums)} bytes, this geometry's have {expected_bytes}")
    top = proof_root(leaf_digest(table.sums), table.tile, manifest.tile_count, table.proof)
    if _tables_root(manifest, top) != root:
        raise Rejected(Reason.BAD_PROOF, "a table of other tables")
    return CheckedTable(table.tile, manifest.tile_root(table.tile), table.sums, root)


def _tables_root(manifest: CheckedManifest, top: Digest) -> Digest:
    return digest(Domain.CODED_TABLES, manifest.root, top)
