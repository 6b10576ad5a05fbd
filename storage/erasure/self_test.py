"""What a kernel must compute before anybody uses it: at every start, a few milliseconds.

A kernel that is wrong in one byte makes cells that nobody else can use, under roots that look right. So each is compared,
on fixed cells, with the code as it is written down, computed with the field of another implementation: reedsolo's tables
of powers and logarithms. Our own tables are compared with them whole.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import reedsolo
from numpy.typing import NDArray

from protocol.rejection import check_invariant
from storage.erasure.field import INVERSES, POLYNOMIAL, PRODUCTS, Bytes
from storage.erasure.kernel import Kernel
from storage.erasure.reed_solomon import parity_matrix, recovery_matrix

# Data cells, parity cells, bytes of a cell: both profiles; whole steps of vector code, a rest behind them, less than a step;
# and more cells of more bytes than a kernel takes in one go.
CASES: Final = ((10, 10, 1024), (10, 10, 333), (64, 192, 96), (3, 2, 7), (1, 1, 1), (33, 2, 8_291))
# Rows, inputs, bytes of each: more inputs than a code has cells, as the check's matrices have; a run of bytes, and less.
WIDE: Final = ((7, 300, 64), (7, 300, 5))


class ReferenceField:
    """Products and inverses in GF(2^8) by reedsolo's tables; nothing of ours is in it."""

    def __init__(self) -> None:
        logarithms, powers, _ = reedsolo.init_tables(POLYNOMIAL)
        self._logarithms: NDArray[np.int64] = np.array(list(logarithms), np.int64)
        self._powers: Bytes = np.array(list(powers), np.uint8)

    def multiply(self, left: NDArray[np.uint8], right: NDArray[np.uint8]) -> Bytes:
        """Elementwise, with numpy's rules for shapes."""
        found = self._powers[self._logarithms[left] + self._logarithms[right]]
        products: Bytes = np.where((left == 0) | (right == 0), np.uint8(0), found)
        return products

    def parity(self, data_KN: Bytes, parity_cells: int) -> Bytes:
        """The parity cells of these data cells, [M, N], one entry of the Cauchy matrix after the other."""
        data_cells = len(data_KN)
        parity_MN = np.zeros((parity_cells, data_KN.shape[1]), np.uint8)
        for row in range(parity_cells):
            points = (data_cells + row) ^ np.arange(data_cells)
            inverses_K = self._powers[255 - self._logarithms[points]]
            parity_MN[row] = np.bitwise_xor.reduce(self.multiply(inverses_K[:, None], data_KN), axis=0)
        return parity_MN


def check_kernel(kernel: Kernel) -> None:
    """Stop the node (``InvariantBroken``) where the kernel, or our own field, differs from the reference."""
    field = ReferenceField()
    every = np.arange(256, dtype=np.uint8)
    products = field.multiply(every[:, None], every[None, :])
    check_invariant(bool((products == PRODUCTS).all()), "our GF(2^8) has other products than reedsolo's")
    ones = field.multiply(every[1:], INVERSES[1:])
    check_invariant(bool((ones == 1).all()), "our GF(2^8) has other inverses than reedsolo's")
    for data_cells, parity_cells, cell_bytes in CASES:
        case = f"{kernel.name} at {data_cells}+{parity_cells} cells of {cell_bytes} bytes"
        data_KN = fixed_cells(data_cells, cell_bytes)
        expected_MN = field.parity(data_KN, parity_cells)
        parity_MN = np.full_like(expected_MN, 0xFF)
        kernel.prepare(parity_matrix(data_cells, parity_cells))(list(data_KN), list(parity_MN))
        check_invariant(bool((parity_MN == expected_MN).all()), f"{case}: other parity than the code's")
        cells = [*data_KN, *expected_MN]
        present = range(parity_cells, parity_cells + data_cells)  # as many data cells lost as can be
        wanted = range(parity_cells)
        rebuilt_WN = np.full((parity_cells, cell_bytes), 0xFF, np.uint8)
        matrix_WK = recovery_matrix(data_cells, parity_cells, present, wanted)
        kernel.prepare(matrix_WK)([cells[cell] for cell in present], list(rebuilt_WN))
        same = all((rebuilt_WN[cell] == cells[cell]).all() for cell in wanted)
        check_invariant(same, f"{case}: rebuilds other cells than were lost")

    for rows, inputs, size_bytes in WIDE:
        matrix_RK, cells_KN = fixed_cells(rows, inputs), fixed_cells(inputs, size_bytes)
        expected_RN = np.bitwise_xor.reduce(field.multiply(matrix_RK[:, :, None], cells_KN[None, :, :]), axis=1)
        sums_RN = np.full_like(expected_RN, 0xFF)
        kernel.prepare(matrix_RK)(cells_KN, sums_RN)
        check_invariant(
            bool((sums_RN == expected_RN).all()), f"{kernel.name} with {inputs} cells: other sums than the field's"
        )


def fixed_cells(cells: int, cell_bytes: int) -> Bytes:
    """The same cells in every run, [cells, cell_bytes], each byte value among them where there is room."""
    drawn = hashlib.shake_128(b"nock erasure self-test").digest(cells * cell_bytes)
    return np.frombuffer(drawn, np.uint8).reshape(cells, cell_bytes)
