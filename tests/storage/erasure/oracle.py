"""The code as chain.md writes it down, byte by byte, with reedsolo's arithmetic; and the kernels of this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from random import Random

import reedsolo

from storage.erasure.kernel import Kernel
from storage.erasure.numpy_kernel import NumpyKernel
from storage.io.isal import IsalKernel, find_isal

reedsolo.init_tables(0x11D)


def kernels() -> list[Kernel]:
    """Every kernel. On Linux the library is installed, or the installation is broken."""
    path = find_isal()
    assert path is not None or sys.platform != "linux", "pyeclib is not installed: see pyproject.toml"
    return [NumpyKernel(), *([] if path is None else [IsalKernel(path)])]


def parity(data: Sequence[bytes], parity_cells: int) -> list[bytes]:
    """parity_i[t] = XOR over j of inv((k + i) ^ j) * data_j[t]."""
    made = []
    for row in range(parity_cells):
        cell = bytearray(len(data[0]))
        for column, data_cell in enumerate(data):
            factor = reedsolo.gf_inverse((len(data) + row) ^ column)
            for at, value in enumerate(data_cell):
                cell[at] ^= reedsolo.gf_mul(factor, value)
        made.append(bytes(cell))
    return made


def drawn_cells(random: Random, count: int, size_bytes: int) -> list[bytes]:
    return [random.randbytes(size_bytes) for _ in range(count)]
