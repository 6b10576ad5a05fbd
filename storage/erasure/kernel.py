"""What a kernel is: it multiplies cells with a small matrix over GF(2^8). All work on whole cells goes through one.

Kernels differ in speed and in nothing else. None is used before ``self_test.check_kernel`` compared it with the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from storage.erasure.field import Bytes

Cells = Sequence[Bytes] | Bytes  # each [N], contiguous; they may lie anywhere, or be the rows of one array


class Multiply(Protocol):
    """A matrix [R, K] made ready. May be called from several threads at once."""

    def __call__(self, cells_K: Cells, out_R: Cells) -> None:
        """``out_r[t] = XOR over k of matrix[r, k] * cell_k[t]``; what was in ``out_R`` is gone. No output overlaps an input.

        Raises ``ValueError`` unless there are K cells in and R out, all as long, contiguous, of bytes, and R writable.
        """
        ...


class Kernel(Protocol):
    """Makes matrices ready."""

    @property
    def name(self) -> str: ...

    def prepare(self, matrix_RK: Bytes) -> Multiply:
        """Tables for a matrix: some bytes to some kilobytes for each of its entries."""
        ...


def check_arguments(shape: tuple[int, int], cells_K: Cells, out_R: Cells) -> int:
    """The length of all these cells; raises ``ValueError`` where a kernel would read or write something else.

    A sliced array is refused and not copied: native code believes an address and a length.
    """
    rows, inputs = shape
    if (len(out_R), len(cells_K)) != (rows, inputs):
        raise ValueError(f"{len(cells_K)} cells in and {len(out_R)} out, the matrix takes {inputs} and gives {rows}")
    size_bytes = int(cells_K[0].size)
    for cells in (cells_K, out_R):
        # The rows of one array are looked at together: there may be thousands.
        one_array = isinstance(cells, np.ndarray) and cells.flags.c_contiguous
        for cell in cells[:1] if one_array else cells:
            if cell.dtype != np.uint8 or cell.ndim != 1 or cell.size != size_bytes or not cell.flags.c_contiguous:
                raise ValueError(f"a cell of {cell.dtype}{list(cell.shape)} is not {size_bytes} bytes in a row")
    if not all(out.flags.writeable for out in out_R):
        raise ValueError("a cell to be written is read-only")
    return size_bytes
