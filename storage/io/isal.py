"""The fast kernel: ISA-L, out of the wheel of pyeclib, through ctypes.

pyeclib brings the shared library along; nothing else of it is used. Its own codes put a header on every fragment and choose the
matrix, while ``ec_encode_data`` multiplies with the matrix that it is given, which is ours. It chooses the widest vector
instructions that the machine has. Wheels exist for Linux on x86-64 and aarch64; elsewhere numpy does the work.
"""

from __future__ import annotations

import ctypes
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.erasure.field import Bytes
from storage.erasure.kernel import Cells, Kernel, Multiply, check_arguments
from storage.erasure.numpy_kernel import NumpyKernel
from storage.erasure.self_test import check_kernel

PACKAGE: Final = "pyeclib"
LIBRARY_PREFIX: Final = "libisal"
TABLE_BYTES: Final = 32  # of each entry of the matrix (erasure_code.h, ec_init_tables)
WIDE_BYTES: Final = 64  # below the width of its vectors the library goes byte by byte, up to seventy times slower
# It reads all inputs again for every few outputs, and cells that lie a power of two apart take each other's place in the cache.
# So many inputs are read a few KiB each at a time: 64 + 192 cells of 64 KiB are then coded four times as fast. Few are not
# faster so (docs/log.md, "how a native kernel is fed").
STRIP_BYTES: Final = 4096
INPUTS_IN_ONE_GO_MAX: Final = 32


class IsalKernel:
    """``ec_init_tables`` and ``ec_encode_data`` of one loaded library. Both release the interpreter's lock."""

    name = "isa-l"

    def __init__(self, path: Path) -> None:
        """Load the library; raises ``OSError`` where it does not load, ``AttributeError`` where it is another one."""
        library = ctypes.CDLL(str(path))
        self._init_tables = library.ec_init_tables
        self._init_tables.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._init_tables.restype = None
        self._encode = library.ec_encode_data
        self._encode.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 3)
        self._encode.restype = None

    def prepare(self, matrix_RK: Bytes) -> Multiply:
        matrix_RK = np.ascontiguousarray(matrix_RK, np.uint8)
        rows, inputs = matrix_RK.shape
        tables = np.zeros(TABLE_BYTES * rows * inputs, np.uint8)
        self._init_tables(inputs, rows, matrix_RK.ctypes.data, tables.ctypes.data)
        encode = self._encode

        def multiply(cells_K: Cells, out_R: Cells) -> None:
            size_bytes = check_arguments((rows, inputs), cells_K, out_R)
            if size_bytes < WIDE_BYTES:
                wide_K, wide_R = (np.zeros((count, WIDE_BYTES), np.uint8) for count in (inputs, rows))
                wide_K[:, :size_bytes] = cells_K
                multiply(wide_K, wide_R)
                for out, wide in zip(out_R, wide_R, strict=True):
                    out[:] = wide[:size_bytes]
                return
            from_K, to_R = _addresses(cells_K), _addresses(out_R)
            for length in _strips(inputs, size_bytes):
                encode(length, inputs, rows, tables.ctypes.data, from_K.ctypes.data, to_R.ctypes.data)
                from_K += np.uintp(length)
                to_R += np.uintp(length)

        return multiply


def _strips(inputs: int, size_bytes: int) -> list[int]:
    """The lengths in which a multiplication is done, one after the other; the last has what is left, and is never narrow."""
    count = 1 if inputs <= INPUTS_IN_ONE_GO_MAX else max(1, size_bytes // STRIP_BYTES)
    return [STRIP_BYTES] * (count - 1) + [size_bytes - (count - 1) * STRIP_BYTES]


def _addresses(cells: Cells) -> NDArray[np.uintp]:
    if isinstance(cells, np.ndarray):
        return (cells.ctypes.data + cells.strides[0] * np.arange(len(cells))).astype(np.uintp)
    return np.array([cell.ctypes.data for cell in cells], np.uintp)


def find_isal(package: str = PACKAGE) -> Path | None:
    """Where pyeclib's wheel put the library; None where there is no wheel."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    for file in files:
        if file.name.startswith(LIBRARY_PREFIX):
            return Path(str(file.locate()))
    return None


def open_kernel(package: str = PACKAGE) -> Kernel:
    """The fastest kernel of this machine, after all that it has were compared with the field.

    Raises ``InvariantBroken`` where one computes something else: a node must not run so. ``OSError`` where the library
    is there and does not load: whoever installed it will want to know.
    """
    kernels: list[Kernel] = [NumpyKernel()]
    path = find_isal(package)
    if path is not None:
        kernels.append(IsalKernel(path))
    for kernel in kernels:
        check_kernel(kernel)
    return kernels[-1]
