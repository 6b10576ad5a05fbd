"""GF(2^8) modulo 0x11D, by tables: powers of the generator 2, products, inverses.

The field of chain.md 3.1, of ISA-L and of reedsolo. Addition is XOR. All tables are read-only.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL: Final = 0x11D  # x^8 + x^4 + x^3 + x^2 + 1
ORDER: Final = 255  # of the multiplicative group

Bytes = NDArray[np.uint8]


def _powers() -> list[int]:
    powers, value = [], 1
    for _ in range(ORDER):
        powers.append(value)
        value <<= 1
        if value > ORDER:
            value ^= POLYNOMIAL
    return powers


def _frozen(table: Bytes) -> Bytes:
    table.flags.writeable = False
    return table


_POWERS: Final = _powers()
POWERS: Final = _frozen(np.array(_POWERS, np.uint8))  # [255]: 2^i
# [256]: the i with 2^i = value. Zero has none, and stands as 0 for whoever skips it.
LOGARITHMS: Final[NDArray[np.int64]] = np.array([0, *(_POWERS.index(value) for value in range(1, 256))], np.int64)
LOGARITHMS.flags.writeable = False


def _products() -> Bytes:
    table: Bytes = POWERS[(LOGARITHMS[:, None] + LOGARITHMS[None, :]) % ORDER]
    table[0, :] = table[:, 0] = 0
    return table


PRODUCTS: Final = _frozen(_products())  # [256, 256]
INVERSES: Final = _frozen(np.where(np.arange(256) > 0, POWERS[-LOGARITHMS % ORDER], 0).astype(np.uint8))  # 0 for zero


def product(left_RK: Bytes, right_KC: Bytes) -> Bytes:
    """The product of two small matrices, [R, C]. It takes R * K * C bytes: at most 4 MB for 256 cells."""
    terms_RKC = PRODUCTS[left_RK[:, :, None], right_KC[None, :, :]]
    sums_RC: Bytes = np.bitwise_xor.reduce(terms_RKC, axis=1)
    return sums_RC
