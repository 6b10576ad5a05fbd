"""The check of an encoding by its holders: what it costs an author, a holder of some cells, a reader where a holder lied.

Beside ours stands the dense matrix of the design (chain.md 3.3), as numpy computes it: as many random bytes for each byte of
a cell as a table has columns, drawn anew for each tile as ours are. Both draw their matrices within what is measured, since
no two tiles share them. Milliseconds of processor time of one core; the floor is what holders compute anyway, Merkle proofs.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options, time_calls
from protocol.coded_tables import CheckedTable, check_table, make_tables
from protocol.digest import Domain, expand
from protocol.erasure import LIVE, CheckedManifest, Geometry, Shard, make_manifest
from protocol.limits import KIB, TABLE_COLUMNS
from protocol.merkle import merkle_proofs, merkle_root
from storage.erasure.certified import read_certified
from storage.erasure.check import TileCheck
from storage.erasure.code import ErasureCode
from storage.erasure.field import PRODUCTS
from storage.erasure.kernel import Kernel
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.self_test import check_kernel
from storage.erasure.tile import CheckedShard, CodedTile, cell_root, check_shard, encode_tile, rebuild_tile
from storage.io.isal import IsalKernel, find_isal

QUICK_CELL_BYTES: Final = 4 * KIB
HELD: Final = (1, 4, 27, 64)  # cells of a tile: at home, and of a hundred, ten, four validators
SECONDS_EACH: Final = 1.0
DENSE_RUN: Final = 4 * KIB  # bytes of a cell whose products are in memory at once
DENSE: Final = "dense matrix, numpy"


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Tables, checks and reading of one live tile of 4 MiB."""
    timed = partial(
        time_calls, seconds=0.0 if quick else SECONDS_EACH, calls_min=1 if quick else 3, clock=time.thread_time
    )
    geometry = Geometry(LIVE.data_cells, LIVE.parity_cells, QUICK_CELL_BYTES if quick else LIVE.cell_bytes_max)
    path = find_isal()
    kernels: list[Kernel] = [*([] if path is None else [IsalKernel(path)]), NumpyKernel()]
    rows: list[Row] = []
    dense = {held: timed(partial(dense_sums, geometry, held)) for held in (*HELD, geometry.data_cells)}
    say("the dense matrix: done")
    for kernel in kernels:
        check_kernel(kernel)
        code = ErasureCode(kernel, geometry)
        tile = encode_tile(code, 0, random.Random(0).randbytes(geometry.tile_bytes))
        manifest = make_manifest(geometry, geometry.tile_bytes, (tile.root,))
        table = publish(manifest, TileCheck.of(kernel, manifest, 0).table(tile))
        rows += author_and_holders(kernel, manifest, tile, table, dense, timed)
        rows += reader(kernel, code, manifest, tile, timed)
        say(f"{kernel.name}: done")
    report("encoding_check", rows, as_json, {"kernels": [kernel.name for kernel in kernels], "columns": TABLE_COLUMNS})


def publish(manifest: CheckedManifest, table: bytes) -> CheckedTable:
    root, (made,) = make_tables(manifest, [table])
    return check_table(manifest, root, made)


def dense_sums(geometry: Geometry, cells: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``cells`` times the matrix of the design, [cells, columns]."""
    drawn = expand(Domain.CHECK_MATRICES, TABLE_COLUMNS * geometry.cell_bytes_max, bytes([cells]))
    matrix = np.frombuffer(drawn, np.uint8).reshape(-1, TABLE_COLUMNS)
    cell = np.frombuffer(random.Random(0).randbytes(geometry.cell_bytes_max), np.uint8)
    sums = np.zeros((cells, TABLE_COLUMNS), np.uint8)
    for row in range(cells):
        for start in range(0, cell.size, DENSE_RUN):
            run = slice(start, start + DENSE_RUN)
            sums[row] ^= np.bitwise_xor.reduce(PRODUCTS[cell[run, None], matrix[run]], axis=0)
    return sums


def author_and_holders(
    kernel: Kernel,
    manifest: CheckedManifest,
    tile: CodedTile,
    table: CheckedTable,
    dense: dict[int, float],
    timed: Callable[..., float],
) -> list[Row]:
    """The table, and the check of so many cells."""
    floor = timed(lambda: check_shard(manifest, tile.checked(255).shard))
    made = timed(lambda: TileCheck.of(kernel, manifest, 0).table(tile))
    rows = [compare(f"author's table, {kernel.name}", "ms", made, dense[manifest.geometry.data_cells], DENSE)]
    for held in HELD:
        shards = [tile.checked(cell) for cell in range(manifest.geometry.cells - held, manifest.geometry.cells)]
        checked = timed(partial(check_own, kernel, manifest, table, shards))
        rows.append(
            compare(f"{held} held cells of a tile, {kernel.name}", "ms", checked, dense[held], DENSE, held * floor)
        )
    return rows


def check_own(kernel: Kernel, manifest: CheckedManifest, table: CheckedTable, shards: list[CheckedShard]) -> None:
    TileCheck.of(kernel, manifest, 0).check(table, shards)


def reader(
    kernel: Kernel, code: ErasureCode, manifest: CheckedManifest, tile: CodedTile, timed: Callable[..., float]
) -> list[Row]:
    """A tile of which one cell is not of the code: who reads it by the root cannot, who reads it by its table takes longer."""
    geometry = manifest.geometry
    cells = [bytes(cell) for cell in tile.cells]
    cells[-1] = bytes(len(cells[-1]))
    roots = [cell_root(cell) for cell in cells]
    forged = make_manifest(geometry, manifest.size_bytes, (merkle_root(roots),))
    proofs = merkle_proofs(roots)
    shards = [
        check_shard(forged, Shard(0, cell, cells[cell], proofs[cell]))
        for cell in range(geometry.cells - geometry.data_cells - 1, geometry.cells)
    ]
    check = TileCheck.of(kernel, forged, 0)
    table = publish(forged, check.sums(cells[: geometry.data_cells]).tobytes())
    if read_certified(code, kernel, forged, table, shards) != tile.data:
        raise SystemExit(f"{kernel.name} reads something else")
    by_table = timed(lambda: read_certified(code, kernel, forged, table, shards))
    good = [tile.checked(each.shard.cell) for each in shards]
    by_root = timed(lambda: rebuild_tile(code, manifest, 0, good))
    return [compare(f"reading a tile with a liar's cell, {kernel.name}", "ms", by_table, by_root, "a good tile's root")]


if __name__ == "__main__":
    main()
