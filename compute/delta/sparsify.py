"""Sparsify: keep the largest values of a delta.

    N  values of the tile          K  values kept

``delta_N -> indices_K, kept_K``. Inverse: zeros everywhere else. Error: the sum of squares of what is left out, at
most ``(1 - K/N)`` of the whole, and for trained deltas about 0.45 of it at K = N/10. Bytes: none of its own (``bits``
codes the indices).

Magnitudes are compared as the integers that their bits are (for finite floats the same order), and among equals the
lower index wins, so that the choice is a pure function of the values.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from compute.exact import Float32


def kept_count(values: int, fraction: Fraction) -> int:
    """``ceil(fraction * values)``: how many of so many values a sparse pipeline keeps."""
    return -(-values * fraction.numerator // fraction.denominator)


def top_indices(delta_N: Float32, kept: int) -> NDArray[np.uint32]:
    """Ascending indices of the ``kept`` values largest in magnitude; the lower index wins among equals."""
    if kept >= delta_N.size:
        return np.arange(delta_N.size, dtype=np.uint32)
    if kept == 0:
        return np.zeros(0, np.uint32)
    magnitudes_N = delta_N.view(np.uint32) & np.uint32(0x7FFFFFFF)
    threshold = np.partition(magnitudes_N, delta_N.size - kept)[delta_N.size - kept]
    indices = np.flatnonzero(magnitudes_N >= threshold)
    surplus = indices.size - kept
    if surplus:  # the last of those that equal the threshold go
        equal = np.flatnonzero(magnitudes_N[indices] == threshold)
        indices = np.delete(indices, equal[equal.size - surplus :])
    return indices.astype(np.uint32)


def nonzero_indices(delta_N: Float32) -> NDArray[np.uint32]:
    """Ascending indices of the values that are not zero: what is left of a merged delta of sparse ones."""
    return np.flatnonzero(delta_N != 0).astype(np.uint32)
