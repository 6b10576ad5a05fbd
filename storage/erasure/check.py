"""Whether cells belong to one code, found out by whoever holds a few of them (chain.md 3.3).

T takes a cell of N bytes to TABLE_COLUMNS = S of them, linearly over GF(2^8). It folds and then sums, so that the matrices are
small and the long work is a matrix times cells, which kernels do:

    cell as rows of W = 64 bytes [N/W, W]  ->  A [S, N/W] times them: [S, W]  ->  B [S, S*W] times that as one column: [S]
    A, B    = SHAKE-256 of (geometry, N, tile root), row after row, A first
    table   = T of each data cell;  cell i agrees when T(cell_i) = sum over j of G[i, j] * table[j], with G the code's matrix

Bytes that are not zero have a column of W that is not, which A takes to zero with a chance of 256^-S, and what is left B
takes to zero with as much: less than 2 * 2^-384. Everything else of the argument is in docs/decisions/0022. It holds because
the cells are fixed by the tile root before A and B are drawn, and because all who compare were shown the same table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from protocol.coded_tables import CheckedTable, is_sound, soundness_bits
from protocol.digest import Domain, expand, number
from protocol.erasure import CheckedManifest, Geometry
from protocol.ids import Digest
from protocol.limits import TABLE_COLUMNS
from protocol.rejection import Reason, Rejected, check_invariant
from storage.erasure.field import Bytes, product
from storage.erasure.kernel import Kernel
from storage.erasure.reed_solomon import parity_matrix
from storage.erasure.tile import CheckedShard, CodedTile
from storage.tensor_block import BytesLike

FOLD_BYTES: Final = 64  # W: the shortest run for which native kernels have wide instructions


@dataclass(frozen=True, slots=True)
class AgreeingShard:
    """A cell that agrees with its tile's table under ``tables_root``: made by :class:`TileCheck` only."""

    checked: CheckedShard
    tables_root: Digest


class TileCheck:
    """The matrices of one tile, made ready: 3 ms and six megabytes for a live tile by ISA-L, 65 ms and fifty by numpy.

    Stateless after it was made: threads may share it.
    """

    def __init__(self, kernel: Kernel, geometry: Geometry, cell_bytes: int, tile_root: Digest) -> None:
        """``cell_bytes`` is of this tile's cells. Raises ``ValueError`` for a geometry with which agreement means nothing."""
        if not is_sound(geometry):
            bits = soundness_bits(geometry)
            raise ValueError(f"{geometry.data_cells} of {geometry.cells} cells: deceived with a chance of 2^{-bits}")
        self._geometry = geometry
        self._cell_bytes = cell_bytes
        self._tile_root = tile_root
        rows = cell_bytes // FOLD_BYTES
        shape = (geometry.data_cells, geometry.parity_cells, cell_bytes)
        drawn = expand(
            Domain.CHECK_MATRICES,
            TABLE_COLUMNS * rows + TABLE_COLUMNS * TABLE_COLUMNS * FOLD_BYTES,
            *(number(value) for value in shape),
            tile_root,
        )
        matrices = np.frombuffer(drawn, np.uint8)
        self._fold = kernel.prepare(matrices[: TABLE_COLUMNS * rows].reshape(TABLE_COLUMNS, rows))
        self._sum = kernel.prepare(matrices[TABLE_COLUMNS * rows :].reshape(TABLE_COLUMNS, -1))

    @classmethod
    def of(cls, kernel: Kernel, manifest: CheckedManifest, tile: int) -> TileCheck:
        """Of a tile of a blob; raises ``IndexError``, and ``ValueError`` as the constructor."""
        return cls(kernel, manifest.geometry, manifest.cell_bytes(tile), manifest.tile_root(tile))

    def sums(self, cells: Sequence[BytesLike]) -> Bytes:
        """T of each cell, [C, S]; at least one cell, each of ``cell_bytes``."""
        rows, count = self._cell_bytes // FOLD_BYTES, len(cells)
        side_by_side = np.empty((rows, count, FOLD_BYTES), np.uint8)
        for at, cell in enumerate(cells):
            side_by_side[:, at] = np.frombuffer(cell, np.uint8).reshape(rows, FOLD_BYTES)
        folded = np.empty((TABLE_COLUMNS, count * FOLD_BYTES), np.uint8)
        self._fold(side_by_side.reshape(rows, -1), folded)
        folded_SCW = folded.reshape(TABLE_COLUMNS, count, FOLD_BYTES)
        columns = np.ascontiguousarray(folded_SCW.transpose(0, 2, 1)).reshape(-1, count)
        sums_SC = np.empty((TABLE_COLUMNS, count), np.uint8)
        self._sum(columns, sums_SC)
        return np.ascontiguousarray(sums_SC.T)

    def table(self, tile: CodedTile) -> bytes:
        """What the author publishes of a tile: ``data_cells * TABLE_COLUMNS`` bytes."""
        check_invariant(tile.root == self._tile_root, "a table is made of its own tile")
        return self.sums(tile.cells[: self._geometry.data_cells]).tobytes()

    def agree(self, table: CheckedTable, shards: Iterable[CheckedShard]) -> list[AgreeingShard]:
        """Those of the shards that agree with the table; what a reader may put together."""
        chosen = list(shards)
        roots = [table.tile_root, *(each.tile_root for each in chosen)]
        check_invariant(
            all(root == self._tile_root for root in roots), "cells are compared with the table of their tile"
        )
        if not chosen:
            return []
        table_KS = np.frombuffer(table.sums, np.uint8).reshape(self._geometry.data_cells, TABLE_COLUMNS)
        expected_CS = product(self._rows([each.shard.cell for each in chosen]), table_KS)
        same = (self.sums([each.shard.data for each in chosen]) == expected_CS).all(axis=1)
        return [AgreeingShard(each, table.root) for each, agrees in zip(chosen, same, strict=True) if agrees]

    def check(self, table: CheckedTable, shards: Iterable[CheckedShard]) -> list[AgreeingShard]:
        """All of the shards, or none: what a holder asks of its own cells before it signs.

        Raises ``Rejected(BAD_ENCODING)``, the author's fault: of the cells, or of the table that it published with them.
        """
        chosen = list(shards)
        agreeing = self.agree(table, chosen)
        if len(agreeing) < len(chosen):
            detail = f"{len(chosen) - len(agreeing)} of {len(chosen)} cells of tile {table.tile} contradict its table"
            raise Rejected(Reason.BAD_ENCODING, detail)
        return agreeing

    def _rows(self, cells: Sequence[int]) -> Bytes:
        """How these cells come from the data cells, [C, K]: rows of the systematic matrix."""
        geometry = self._geometry
        parity_MK = parity_matrix(geometry.data_cells, geometry.parity_cells)
        rows_CK = np.zeros((len(cells), geometry.data_cells), np.uint8)
        for row, cell in zip(rows_CK, cells, strict=True):
            if cell < geometry.data_cells:
                row[cell] = 1
            else:
                row[:] = parity_MK[cell - geometry.data_cells]
        return rows_CK
