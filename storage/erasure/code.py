"""One geometry's code on one kernel: parity from data, lost cells from any K that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from protocol.erasure import Geometry
from storage.erasure.field import Bytes
from storage.erasure.kernel import Cells, Kernel
from storage.erasure.reed_solomon import parity_matrix, recovery_matrix


class ErasureCode:
    """Stateless after it was made: threads may share it. Calls compute for milliseconds; shells call them in a thread."""

    def __init__(self, kernel: Kernel, geometry: Geometry) -> None:
        """``kernel`` has passed ``check_kernel``. Raises ``ValueError`` for a geometry that cannot be."""
        for fault in geometry.faults():
            raise ValueError(fault)
        self.geometry = geometry
        self._kernel = kernel
        self._make_parity = kernel.prepare(parity_matrix(geometry.data_cells, geometry.parity_cells))

    def parity(self, data_K: Cells) -> Bytes:
        """The parity cells, [M, N], of K data cells of any one length."""
        parity_MN = np.empty((self.geometry.parity_cells, data_K[0].size), np.uint8)
        self._make_parity(data_K, list(parity_MN))
        return parity_MN

    def rebuild(self, present: Mapping[int, Bytes], wanted: Sequence[int], out: Cells) -> None:
        """Compute the cells ``wanted`` into ``out`` from the first K of those present, by their index.

        Data cells come before parity cells, and cost least. Raises ``ValueError`` where fewer than K are present.
        """
        chosen = sorted(present)[: self.geometry.data_cells]
        matrix_WK = recovery_matrix(self.geometry.data_cells, self.geometry.parity_cells, chosen, wanted)
        if wanted:
            self._kernel.prepare(matrix_WK)([present[cell] for cell in chosen], out)
