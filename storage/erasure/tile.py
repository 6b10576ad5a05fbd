"""A tile as cells under one root, and back.

    encode_tile     data                        -> CodedTile     padded, coded, committed to
    check_shard     manifest, Shard             -> CheckedShard  the only kind that is stored or decoded
    check_leaf      manifest, LeafProof         -> its bytes     the answer to an audit
    rebuild_tile    manifest, CheckedShards     -> CodedTile     all cells and the data, the same as the author's, or Rejected

A proof says that a cell is the one to which the author committed. It does not say that the cells are one codeword: an author
may commit to anything, and other cells would then rebuild other data. So :func:`rebuild_tile` codes what it rebuilt again
and compares the root: two who read a tile read the same, or neither reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from protocol.erasure import CheckedManifest, LeafProof, Shard, proved_tile_root
from protocol.ids import Digest
from protocol.limits import CELL_LEAF_BYTES
from protocol.merkle import (
    check_merkle_proof,
    merkle_proof,
    merkle_proofs,
    merkle_root,
    page_leaves,
)
from protocol.rejection import Reason, Rejected, check_invariant
from storage.erasure.code import ErasureCode
from storage.erasure.field import Bytes
from storage.tensor_block import BytesLike


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """A cell that leads to its tile's root. Made by :func:`check_shard`, and by whoever coded the tile."""

    shard: Shard
    tile_root: Digest


@dataclass(frozen=True, slots=True)
class CodedTile:
    """All cells of one tile. They are views of two buffers: data, and parity.

    ``data`` is without padding. As long as it fills its cells they are views of what was given to :func:`encode_tile`,
    which must not change while the tile is in use.
    """

    index: int
    data: memoryview
    cells: tuple[memoryview, ...]
    proofs: tuple[tuple[Digest, ...], ...]
    root: Digest

    def checked(self, cell: int) -> CheckedShard:
        """One cell with its proof, copied; raises ``IndexError``."""
        return CheckedShard(Shard(self.index, cell, bytes(self.cells[cell]), self.proofs[cell]), self.root)

    def shards(self) -> Iterator[CheckedShard]:
        """All cells in order, one copy at a time."""
        return map(self.checked, range(len(self.cells)))


def cell_root(data: BytesLike) -> Digest:
    """The root over the leaves of one cell."""
    return merkle_root(_leaves(data))


def encode_tile(code: ErasureCode, index: int, data: BytesLike) -> CodedTile:
    """The cells of tile number ``index`` of a blob: ``data`` is at most the geometry's ``tile_bytes``, and not empty."""
    flat = memoryview(data).cast("B")
    geometry = code.geometry
    if not 0 < flat.nbytes <= geometry.tile_bytes:
        raise ValueError(f"a tile of {flat.nbytes} bytes, at most {geometry.tile_bytes} and at least one")
    cell_bytes = geometry.cell_bytes(flat.nbytes)
    return _commit(code, index, flat.nbytes, _padded(flat, geometry.data_cells * cell_bytes).reshape(-1, cell_bytes))


def check_shard(manifest: CheckedManifest, shard: Shard) -> CheckedShard:
    """A cell that somebody sent, against the blob of ``manifest``; whoever asked compares tile and cell with the question.

    Raises ``Rejected(BAD_PROOF)``: the sender had the proof in its hands.
    """
    _check_place(manifest, shard.tile, shard.cell)
    expected_bytes = manifest.cell_bytes(shard.tile)
    if len(shard.data) != expected_bytes:  # before anything is hashed
        raise Rejected(Reason.BAD_PROOF, f"a cell of {len(shard.data)} bytes, tile {shard.tile} has {expected_bytes}")
    root = manifest.tile_root(shard.tile)
    check_merkle_proof(cell_root(shard.data), shard.cell, manifest.geometry.cells, shard.proof, root)
    return CheckedShard(shard, root)


def prove_leaf(checked: CheckedShard, leaf: int) -> LeafProof:
    """One leaf of a cell that is kept here; raises ``IndexError`` where the cell has no such leaf."""
    shard = checked.shard
    data = shard.data[leaf * CELL_LEAF_BYTES : (leaf + 1) * CELL_LEAF_BYTES]
    if leaf < 0 or not data:
        raise IndexError(f"leaf {leaf} of a cell of {len(shard.data)} bytes")
    path = merkle_proof(_leaves(shard.data), leaf)
    return LeafProof(shard.tile, shard.cell, leaf, data, path, shard.proof)


def check_leaf(manifest: CheckedManifest, proof: LeafProof) -> bytes:
    """The leaf's bytes, against the blob of ``manifest``; raises ``Rejected(BAD_PROOF)``."""
    _check_place(manifest, proof.tile, proof.cell)
    root = proved_tile_root(manifest.geometry, manifest.size_bytes, proof)
    if root != manifest.tile_root(proof.tile):
        raise Rejected(Reason.BAD_PROOF, "does not lead to the root")
    return proof.data


def rebuild_tile(code: ErasureCode, manifest: CheckedManifest, tile: int, shards: Iterable[CheckedShard]) -> CodedTile:
    """A tile from any K of its cells; more, in any order and repeated, do no harm.

    Takes as much memory as all cells of the tile, beside the shards. Raises ``Rejected``: TOO_FEW_CELLS, and BAD_ENCODING
    where the author committed to cells that are not the code of anything, or to padding that is not zero.
    """
    data_KN, data_bytes, root = (
        rebuild_data(code, manifest, tile, shards),
        manifest.data_bytes(tile),
        manifest.tile_root(tile),
    )
    if data_KN.reshape(-1)[data_bytes:].any():
        raise Rejected(Reason.BAD_ENCODING, f"tile {tile} is padded with something")
    coded = _commit(code, tile, data_bytes, data_KN)
    if coded.root != root:
        raise Rejected(Reason.BAD_ENCODING, f"tile {tile} has cells that its data does not give")
    return coded


def rebuild_data(code: ErasureCode, manifest: CheckedManifest, tile: int, shards: Iterable[CheckedShard]) -> Bytes:
    """The data cells, [K, N], that some K of these shards give, padding included; other shards may give others.

    For whoever compares them with something: :func:`rebuild_tile` with the root, ``certified.read_certified`` the shards with
    a table. Raises ``Rejected(TOO_FEW_CELLS)``.
    """
    check_invariant(code.geometry == manifest.geometry, "a tile is rebuilt with the code of its manifest")
    geometry, cell_bytes, root = code.geometry, manifest.cell_bytes(tile), manifest.tile_root(tile)
    present: dict[int, Bytes] = {}
    for checked in shards:
        check_invariant(checked.tile_root == root, "a tile is rebuilt from its own cells")
        present[checked.shard.cell] = np.frombuffer(checked.shard.data, np.uint8)
    if len(present) < geometry.data_cells:
        raise Rejected(Reason.TOO_FEW_CELLS, f"{len(present)} of tile {tile}, {geometry.data_cells} are needed")
    data_KN = np.empty((geometry.data_cells, cell_bytes), np.uint8)
    lost = []
    for cell in range(geometry.data_cells):
        if cell in present:
            data_KN[cell] = present[cell]
        else:
            lost.append(cell)
    code.rebuild(present, lost, [data_KN[cell] for cell in lost])
    return data_KN


def _commit(code: ErasureCode, index: int, data_bytes: int, data_KN: Bytes) -> CodedTile:
    parity_MN = code.parity(list(data_KN))
    cells = tuple(cell.data.toreadonly() for cell in (*data_KN, *parity_MN))
    roots = [cell_root(cell) for cell in cells]
    data = data_KN.reshape(-1).data.toreadonly()[:data_bytes]
    return CodedTile(index, data, cells, tuple(merkle_proofs(roots)), merkle_root(roots))


def _padded(flat: memoryview, size_bytes: int) -> Bytes:
    given = np.frombuffer(flat, np.uint8)
    if given.size == size_bytes:
        return given
    padded = np.zeros(size_bytes, np.uint8)
    padded[: given.size] = given
    return padded


def _check_place(manifest: CheckedManifest, tile: int, cell: int) -> None:
    if not (0 <= tile < manifest.tile_count and 0 <= cell < manifest.geometry.cells):
        place = f"cell {cell} of tile {tile}"
        raise Rejected(Reason.BAD_PROOF, f"{place}: {manifest.tile_count} tiles of {manifest.geometry.cells} cells")


def _leaves(data: BytesLike) -> list[Digest]:
    return page_leaves(memoryview(data), CELL_LEAF_BYTES)
