"""The kernel that runs everywhere: a table from a byte to its products with 16 rows, and numpy's ``take``.

For each cell k and group of 16 rows there is a table of 256 x 16 bytes. Taking from it turns a run of bytes into the run of
their 16 products, which are added to the sums of the group; the sums, [run, 16], are turned into rows at the end of the run.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.erasure.field import PRODUCTS, Bytes
from storage.erasure.kernel import Cells, Multiply, check_arguments

Words = NDArray[np.uint64]

GROUP_ROWS: Final = 16  # two words: what `take` copies as fast as one byte (32 is no faster, measured)
RUN_BYTES: Final = 16 * 1024  # the sums of one group, 256 KiB, stay in the cache of a core


class NumpyKernel:
    """Native code of numpy alone: hundreds of megabytes a second for small codes, tens for large ones."""

    name = "numpy"

    def prepare(self, matrix_RK: Bytes) -> Multiply:
        return _NumpyMultiply(np.ascontiguousarray(matrix_RK, np.uint8))


class _NumpyMultiply:
    """``tables``: [K, groups, 256, 2] words, 4 KiB for 16 entries of the matrix."""

    def __init__(self, matrix_RK: Bytes) -> None:
        rows, inputs = matrix_RK.shape
        self._shape = (rows, inputs)
        self._groups = -(-rows // GROUP_ROWS)
        padded_RK = np.zeros((self._groups * GROUP_ROWS, inputs), np.uint8)
        padded_RK[:rows] = matrix_RK
        products_KGB16 = PRODUCTS[padded_RK].reshape(self._groups, GROUP_ROWS, inputs, 256).transpose(2, 0, 3, 1)
        self._tables = np.ascontiguousarray(products_KGB16).view(np.uint64)

    def __call__(self, cells_K: Cells, out_R: Cells) -> None:
        size_bytes = check_arguments(self._shape, cells_K, out_R)
        run_bytes = min(RUN_BYTES, size_bytes)
        sums = np.empty((self._groups, run_bytes, 2), np.uint64)
        taken = np.empty((run_bytes, 2), np.uint64)
        for start in range(0, size_bytes, RUN_BYTES):
            stop = min(start + RUN_BYTES, size_bytes)
            self._sum(cells_K, start, stop, sums[:, : stop - start], taken[: stop - start])
            rows_GN16 = sums[:, : stop - start].view(np.uint8)
            for row, out in enumerate(out_R):
                out[start:stop] = rows_GN16[row // GROUP_ROWS, :, row % GROUP_ROWS]

    def _sum(self, cells_K: Cells, start: int, stop: int, sums: Words, taken: Words) -> None:
        sums[:] = 0
        for cell, tables in zip(cells_K, self._tables, strict=True):
            places = cell[start:stop].astype(np.intp)  # `take` would convert them for every group
            for group in range(self._groups):
                # "clip" spares the check that a byte is below 256, and with it a copy of the output.
                np.take(tables[group], places, axis=0, out=taken, mode="clip")
                np.bitwise_xor(sums[group], taken, out=sums[group])
