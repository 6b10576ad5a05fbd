"""Coded blobs: what is said about bytes that are kept as cells, of which any so many rebuild them.

    blob    1 byte to gigabytes, cut in tiles of ``data_cells * cell_bytes_max`` bytes; the last tile may be shorter
    tile    its data, padded with zeros to data cells, and the parity cells that ``storage/erasure/`` computes from them
    cell    what one holder keeps, in leaves of 1 KiB

                          blob root                   digest of geometry, size and the Merkle root over the tile roots
                 tile root       tile root ...        Merkle root over the roots of the tile's cells
         cell root  ...  cell root                    Merkle root over the leaves of the cell
      leaf ... leaf

Every size follows from geometry and size of the blob: a blob has one manifest, and a cell has one length. Leaves and nodes
are hashed apart (``protocol/merkle.py``), and the blob root fixes the shape of all trees below it, so that nothing under it
can be shown as something else.

A manifest and a tile's proof say that these are the cells to which the author committed, not that the author computed
them rightly: whoever rebuilds a tile finds that out (``storage/erasure/tile.py``).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from protocol.codec import Message, decode
from protocol.digest import Domain, digest, number
from protocol.ids import Digest, DigestField
from protocol.limits import (
    CELL_BYTES_MAX,
    CELL_LEAF_BYTES,
    CELLS_PER_TILE_MAX,
    CODED_TILE_BYTES_MAX,
    KIB,
    MANIFEST_BYTES_MAX,
    MERKLE_PATH_MAX,
    MIB,
    TABLES_PATH_MAX,
    TILES_PER_BLOB_MAX,
)
from protocol.merkle import leaf_digest, merkle_root, proof_root
from protocol.rejection import Reason, Rejected

TileIndexField = Annotated[int, Meta(ge=0, le=TILES_PER_BLOB_MAX - 1)]
CellIndexField = Annotated[int, Meta(ge=0, le=CELLS_PER_TILE_MAX - 1)]
LeafIndexField = Annotated[int, Meta(ge=0, le=CELL_BYTES_MAX // CELL_LEAF_BYTES - 1)]
BlobBytesField = Annotated[int, Meta(ge=1, le=TILES_PER_BLOB_MAX * CODED_TILE_BYTES_MAX)]
PathField = Annotated[tuple[DigestField, ...], Meta(max_length=MERKLE_PATH_MAX)]
TilePathField = Annotated[tuple[DigestField, ...], Meta(max_length=TABLES_PATH_MAX)]  # from a tile to its blob


class Geometry(Message, frozen=True):
    """How many cells a tile has, how many of them rebuild it, and how long they are at most."""

    data_cells: Annotated[int, Meta(ge=1, le=CELLS_PER_TILE_MAX - 1)]
    parity_cells: Annotated[int, Meta(ge=1, le=CELLS_PER_TILE_MAX - 1)]
    cell_bytes_max: Annotated[int, Meta(ge=CELL_LEAF_BYTES, le=CELL_BYTES_MAX)]

    @property
    def cells(self) -> int:
        """Cells of a tile: the data cells come first."""
        return self.data_cells + self.parity_cells

    @property
    def tile_bytes(self) -> int:
        """Data of every tile but the last."""
        return self.data_cells * self.cell_bytes_max

    @property
    def any_third_rebuilds(self) -> bool:
        """Whether more than a third of a tile's cells is always enough.

        What two thirds of the stake say they keep, a third may be lying about; so only a blob of such a geometry is
        certainly there once they said it (chain.md 3.1).
        """
        return 3 * self.data_cells <= self.cells

    def tile_count(self, size_bytes: int) -> int:
        return -(-size_bytes // self.tile_bytes)

    def data_bytes(self, size_bytes: int, tile: int) -> int:
        """Data of a tile of a blob, without padding; raises ``IndexError`` where the blob has no such tile."""
        count = self.tile_count(size_bytes)
        if not 0 <= tile < count:
            raise IndexError(f"tile {tile} of {count}")
        return min(self.tile_bytes, size_bytes - tile * self.tile_bytes)

    def cell_leaves(self, size_bytes: int, tile: int) -> int:
        """Leaves of each cell of a tile of a blob; raises ``IndexError`` as ``data_bytes``."""
        return self.cell_bytes(self.data_bytes(size_bytes, tile)) // CELL_LEAF_BYTES

    def cell_bytes(self, data_bytes: int) -> int:
        """Length of each cell of a tile with so much data: the fewest whole leaves that hold it."""
        return CELL_LEAF_BYTES * -(-data_bytes // (self.data_cells * CELL_LEAF_BYTES))

    def faults(self) -> Iterator[str]:
        """What is wrong with it; the types of its fields are checked only where it is decoded."""
        if self.data_cells < 1 or self.parity_cells < 1 or self.cells > CELLS_PER_TILE_MAX:
            yield f"{self.data_cells}+{self.parity_cells} cells: one of each at least, {CELLS_PER_TILE_MAX} at most"
        if not CELL_LEAF_BYTES <= self.cell_bytes_max <= CELL_BYTES_MAX or self.cell_bytes_max % CELL_LEAF_BYTES:
            yield f"cells of {self.cell_bytes_max} bytes are not whole leaves, {CELL_BYTES_MAX} bytes at most"
        if self.cells * self.cell_bytes_max > CODED_TILE_BYTES_MAX:
            yield f"{self.cells} cells of {self.cell_bytes_max} bytes, at most {CODED_TILE_BYTES_MAX} bytes together"


# chain.md 3.1: any 64 of 256 cells; a tile of 4 MiB, four times as much coded
LIVE: Final = Geometry(64, 192, 64 * KIB)
# The source documents' code and largest shard: any 10 of 20, twice as much coded
COLD: Final = Geometry(10, 10, 1 * MIB)


class ReplicationClass(enum.Enum):
    """How important a blob is: ``(name, geometry, holders of each cell, epochs kept)``, None epochs for ever.

    Names and holders are the source documents'. The epochs are guesses but for the third of them: 1,772 epochs of 1,024
    seconds are the 21 days in which what a blob shows can still be punished. What each epoch makes anew is kept for less
    (``protocol/availability.py``).
    """

    CRITICAL = ("critical", LIVE, 5, None)  # genesis, checkpoints from which a newcomer must be able to start
    HIGH = ("high", LIVE, 3, 30_000)  # nearly a year
    NORMAL = ("normal", COLD, 2, 1_772)  # history
    LOW = ("low", COLD, 1, 84)  # what can be made again: a day

    def __init__(self, code: str, geometry: Geometry, holders_per_cell: int, retention_epochs: int | None) -> None:
        self.code = code
        self.geometry = geometry
        self.holders_per_cell = holders_per_cell
        self.retention_epochs = retention_epochs

    def kept_until(self, epoch: int) -> int | None:
        """The last epoch in which a blob of ``epoch`` is kept; None where it is for ever."""
        return None if self.retention_epochs is None else epoch + self.retention_epochs


def blob_root(geometry: Geometry, size_bytes: int, tiles_root: Digest) -> Digest:
    """The root of a blob: whoever shows the Merkle root over its tile roots shows of which size it is."""
    shape = (geometry.data_cells, geometry.parity_cells, geometry.cell_bytes_max, size_bytes)
    return digest(Domain.CODED_BLOB, *(number(value) for value in shape), tiles_root)


class BlobManifest(Message, frozen=True):
    """What an author says of a blob: 32 bytes for each tile."""

    geometry: Geometry
    size_bytes: BlobBytesField
    tile_roots: Annotated[tuple[DigestField, ...], Meta(min_length=1, max_length=TILES_PER_BLOB_MAX)]

    def tiles_root(self) -> Digest:
        """The Merkle root over the tile roots."""
        return merkle_root(self.tile_roots)

    def root(self) -> Digest:
        """The name of the blob in votes, certificates and requests."""
        return blob_root(self.geometry, self.size_bytes, self.tiles_root())


class Shard(Message, frozen=True):
    """One cell with its proof, as it travels."""

    tile: TileIndexField
    cell: CellIndexField
    data: Annotated[bytes, Meta(min_length=CELL_LEAF_BYTES, max_length=CELL_BYTES_MAX)]
    proof: PathField  # from the cell's root to the tile's


class LeafProof(Message, frozen=True):
    """One leaf of a cell with its path to the tile's root: what an audit is answered with."""

    tile: TileIndexField
    cell: CellIndexField
    leaf: LeafIndexField
    data: Annotated[bytes, Meta(min_length=CELL_LEAF_BYTES, max_length=CELL_LEAF_BYTES)]
    cell_path: PathField
    tile_path: PathField


def proved_tile_root(geometry: Geometry, size_bytes: int, proof: LeafProof) -> Digest:
    """The root of the tile to which a leaf leads, of a blob of so many bytes. Raises ``Rejected(BAD_PROOF)``.

    Whether the blob has a tile of this root, the caller asks.
    """
    if proof.tile >= geometry.tile_count(size_bytes):
        raise Rejected(Reason.BAD_PROOF, f"tile {proof.tile} of {geometry.tile_count(size_bytes)}")
    leaves = geometry.cell_leaves(size_bytes, proof.tile)
    cell = proof_root(leaf_digest(proof.data), proof.leaf, leaves, proof.cell_path)
    return proof_root(cell, proof.cell, geometry.cells, proof.tile_path)


@dataclass(frozen=True, slots=True)
class CheckedManifest:
    """A manifest that leads to ``root`` and agrees with itself: made by :func:`check_manifest` and its author only."""

    manifest: BlobManifest
    root: Digest

    @property
    def geometry(self) -> Geometry:
        return self.manifest.geometry

    @property
    def size_bytes(self) -> int:
        return self.manifest.size_bytes

    @property
    def tile_count(self) -> int:
        return len(self.manifest.tile_roots)

    def tile_root(self, tile: int) -> Digest:
        """Raises ``IndexError`` where the blob has no such tile."""
        return self.manifest.tile_roots[tile]

    def data_bytes(self, tile: int) -> int:
        """Data of a tile, without padding; raises ``IndexError`` where the blob has no such tile."""
        return self.geometry.data_bytes(self.size_bytes, tile)

    def cell_bytes(self, tile: int) -> int:
        """Length of each cell of a tile; raises ``IndexError`` where the blob has no such tile."""
        return self.geometry.cell_bytes(self.data_bytes(tile))


def make_manifest(geometry: Geometry, size_bytes: int, tile_roots: tuple[Digest, ...]) -> CheckedManifest:
    """The manifest of a blob that was coded here; raises ``Rejected(BAD_MANIFEST)`` as its readers would."""
    manifest = BlobManifest(geometry, size_bytes, tile_roots)
    _check_structure(manifest)
    return CheckedManifest(manifest, manifest.root())


def check_manifest(data: bytes, root: Digest) -> CheckedManifest:
    """The manifest of the blob that ``root`` names.

    Raises ``Rejected``: MALFORMED, NOT_CANONICAL or TOO_LARGE for bytes that are no manifest, WRONG_DIGEST for another
    blob's, all the sender's fault; BAD_MANIFEST for what the author committed to and must not.
    """
    manifest = decode(BlobManifest, data, limit_bytes=MANIFEST_BYTES_MAX)
    if manifest.root() != root:
        raise Rejected(Reason.WRONG_DIGEST, "the manifest of another blob")
    _check_structure(manifest)
    return CheckedManifest(manifest, root)


def _check_structure(manifest: BlobManifest) -> None:
    for fault in manifest.geometry.faults():
        raise Rejected(Reason.BAD_MANIFEST, fault)
    needed = manifest.geometry.tile_count(manifest.size_bytes)
    if not 1 <= needed <= TILES_PER_BLOB_MAX:
        raise Rejected(
            Reason.BAD_MANIFEST, f"{manifest.size_bytes} bytes are {needed} tiles, not 1 to {TILES_PER_BLOB_MAX}"
        )
    if len(manifest.tile_roots) != needed:
        detail = f"{len(manifest.tile_roots)} tile roots, {manifest.size_bytes} bytes take {needed}"
        raise Rejected(Reason.BAD_MANIFEST, detail)
