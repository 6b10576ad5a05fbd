"""Deltas for benchmarks are as compressible as trained ones."""

from __future__ import annotations

import numpy as np

from benchmarks.programs.ready_deltas import ready_payload
from compute.delta.pipeline import DEFAULT
from compute.model.tiling import Segment, Tile
from protocol.ids import TileId

TRAINED_RATIO = 45  # compute/delta/pipeline.py


def test_ratio_is_that_of_trained_deltas() -> None:
    """A benchmark on noise would flatter or slander the codec: the ratio is within a tenth of that on trained deltas."""
    tile = Tile(TileId("trunk/0"), "trunk", (Segment("matrix", 0, 512, 512, 0),), 512 * 512)
    payload = ready_payload(tile, DEFAULT, np.random.default_rng(3))
    assert abs(tile.bytes / len(payload) / TRAINED_RATIO - 1) < 0.1
