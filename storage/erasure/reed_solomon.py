"""The two matrices of the code: from data cells to parity cells, and from any K cells to those that are wanted.

Cell i of a tile stands at the point i of GF(2^8), data cells at 0 ... K-1, parity cells at K ... K+M-1:

    parity_i[t] = XOR over j < K of data_j[t] / (i + j),  i = K ... K+M-1        (chain.md 3.1; + is XOR)

Every square part of such a matrix (Cauchy's) is invertible, which is why any K cells are enough; and its inverse has a
closed form, so that rebuilding solves no equations and meets no pivot of zero:

    data cells E are lost, as many parity cells P are there: part C[p, e] = 1 / (p + e), and its inverse is

               product over q in P of (q + e)  *  product over f in E of (p + f)
    B[e, p] = ------------------------------------------------------------------------------
              (p + e) * product over q != p of (p + q)  *  product over f != e of (e + f)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from storage.erasure.field import INVERSES, LOGARITHMS, ORDER, POWERS, Bytes, product

Points = NDArray[np.int64]


def parity_matrix(data_cells: int, parity_cells: int) -> Bytes:
    """The Cauchy matrix, [M, K]: how parity cells come from data cells. At most 256 cells in all."""
    if not (data_cells >= 1 and parity_cells >= 1 and data_cells + parity_cells <= 256):
        raise ValueError(f"{data_cells} data cells and {parity_cells} parity cells are no code over 256 points")
    return _cauchy(np.arange(data_cells, data_cells + parity_cells), np.arange(data_cells))


def recovery_matrix(data_cells: int, parity_cells: int, present: Sequence[int], wanted: Sequence[int]) -> Bytes:
    """How ``wanted`` cells come from the K ``present`` ones, [len(wanted), K], columns in the order of ``present``.

    ``present`` is ascending and without repetition. Raises ``ValueError`` for anything else.
    """
    ascending = all(before < after for before, after in itertools.pairwise(present))
    if len(present) != data_cells or not ascending:
        raise ValueError(f"{len(present)} cells present, {data_cells} different ones in order are needed")
    for cell in (*present, *wanted):
        if not 0 <= cell < data_cells + parity_cells:
            raise ValueError(f"cell {cell} of {data_cells + parity_cells}")
    data_KK = _data_from(data_cells, np.array(present, np.int64))
    is_parity = np.array([cell >= data_cells for cell in wanted], bool)
    wanted_W = np.array(wanted, np.int64)
    rows_WK = np.empty((len(wanted), data_cells), np.uint8)
    rows_WK[~is_parity] = data_KK[wanted_W[~is_parity]]
    if is_parity.any():
        rows_WK[is_parity] = product(_cauchy(wanted_W[is_parity], np.arange(data_cells)), data_KK)
    return rows_WK


def _cauchy(rows: Points, columns: Points) -> Bytes:
    matrix_RC: Bytes = INVERSES[rows[:, None] ^ columns[None, :]]
    return matrix_RC


def _data_from(data_cells: int, present: Points) -> Bytes:
    """Every data cell from the present cells, [K, K]."""
    kept, parities = present[present < data_cells], present[present >= data_cells]
    lost = np.setdiff1d(np.arange(data_cells), kept)
    data_KK = np.zeros((data_cells, data_cells), np.uint8)
    data_KK[kept, np.arange(len(kept))] = 1
    if len(lost):
        # What parity cells say beside the data cells that are there is what they say of the lost ones.
        inverse_EE = _cauchy_inverse(parities, lost)
        data_KK[lost, : len(kept)] = product(inverse_EE, _cauchy(parities, kept)) if len(kept) else 0
        data_KK[lost, len(kept) :] = inverse_EE
    return data_KK


def _cauchy_inverse(rows: Points, columns: Points) -> Bytes:
    """The inverse of the Cauchy matrix of these rows and columns, [columns, rows]: the formula above, in logarithms."""
    across = LOGARITHMS[columns[:, None] ^ rows[None, :]]
    # The diagonal of these is the logarithm of zero, which stands as 0: the factors that the products leave out.
    between_rows = LOGARITHMS[rows[:, None] ^ rows[None, :]].sum(axis=0)
    between_columns = LOGARITHMS[columns[:, None] ^ columns[None, :]].sum(axis=0)
    above = across.sum(axis=1)[:, None] + across.sum(axis=0)[None, :]
    below = across + between_rows[None, :] + between_columns[:, None]
    inverse_CR: Bytes = POWERS[(above - below) % ORDER]
    return inverse_CR
