"""DecodedDelta: a payload that was checked, in the sparse form that merging reads.

N  values of the tile          K  values kept          G  blocks of scales
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from compute.delta.order import Matrices
from compute.delta.pipeline import Pipeline
from compute.delta.quantize import Codes, Scales, dequantize, scale_values
from compute.exact import Float32, exact_dot
from protocol.ids import Digest


@dataclass(frozen=True, slots=True, eq=False)
class DecodedDelta:
    """What one payload says about the ``values`` values of a tile. Equal payloads have equal ``digest``."""

    digest: Digest  # blob digest of the payload
    pipeline: Pipeline
    values: int
    matrices: Matrices  # by which positions were ordered; empty if they were not
    indices_K: NDArray[np.uint32]  # ascending; every index for a dense pipeline
    codes_K: Codes  # empty for raw float32
    scale_bits_G: Scales  # bfloat16
    raw_K: Float32  # only for raw float32, else empty

    @property
    def kept(self) -> int:
        """How many values the payload carries."""
        return self.indices_K.size

    @property
    def scales_G(self) -> Float32:
        """Scales of the blocks."""
        return scale_values(self.scale_bits_G)

    def kept_values(self) -> Float32:
        """The values at ``indices_K``: exact products of code and scale, normal numbers or +0."""
        if self.raw_K.size:
            return self.raw_K
        return dequantize(self.codes_K, self.scale_bits_G, self.pipeline.block)

    def dense(self) -> Float32:
        """All values of the tile, zero where nothing was kept."""
        if self.kept == self.values:
            return self.kept_values().copy()
        dense_N = np.zeros(self.values, np.float32)
        dense_N[self.indices_K] = self.kept_values()
        return dense_N

    def squared_norm(self) -> Fraction:
        """The sum of squares of the values, exact."""
        kept_K = self.kept_values()
        return exact_dot(kept_K, kept_K)
