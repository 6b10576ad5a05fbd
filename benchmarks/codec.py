"""Delta pipelines on one tile of 4 MiB: how small, how fast. Beside int8 blocks through zstd, above a copy of the bytes.

The delta has the unevenness of a trained one (benchmarks/programs/ready_deltas.py); pipelines of updates get what was merged
from four of them. Losses are another program's matter (parity). Decoding includes every check that a stranger's bytes need.
Times are processor time.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import numpy as np
import zstandard

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # also as a plain program; our packages before our neighbours

from benchmarks.common import Row, compare, report, say, standard_options, time_calls
from benchmarks.programs.ready_deltas import ready_delta
from compute.delta.codec import decode, encode
from compute.delta.pipeline import DEFAULT, DEFAULT_UPDATE
from compute.merge import MergeRule, merge
from compute.model.tiling import Segment, Tile
from protocol.ids import TileId

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS, COLUMNS = 1024, 1024
BLOCK: Final = 256
ZSTD_LEVEL: Final = 3  # the library's default
PEER: Final = f"int8 blocks, zstd {ZSTD_LEVEL}"
PIPELINES: Final = (DEFAULT, DEFAULT_UPDATE, "top5_int4", "top20_int8", "update_int8", "int4", "int8")
PIPELINES_OF_UPDATES: Final = (DEFAULT_UPDATE, "update_int8")
MERGED: Final = 4  # deltas in an update
SECONDS_EACH: Final = 1.0


@click.command()
@standard_options
def main(as_json: bool, quick: bool) -> None:
    """Ratio, encoding and decoding of a 4 MiB tile's delta for each pipeline."""
    timed = partial(
        time_calls, seconds=0.0 if quick else SECONDS_EACH, calls_min=1 if quick else 5, clock=time.thread_time
    )
    tile = Tile(TileId("trunk/0"), "trunk", (Segment("matrix", 0, ROWS, COLUMNS, 0),), ROWS * COLUMNS)
    generator = np.random.default_rng(0)
    delta_N = ready_delta(tile, generator)
    matrices = ((ROWS, COLUMNS),)
    decoded = [
        (bytes([learner]), 1, decode(encode(ready_delta(tile, generator), DEFAULT, matrices), tile.values))
        for learner in range(MERGED)
    ]
    merged_N = merge(decoded, MergeRule()).gradient_N
    copy_ms = timed(delta_N.copy)
    packed = pack_int8(delta_N)
    peer_encode_ms = timed(lambda: pack_int8(delta_N))
    peer_decode_ms = timed(lambda: unpack_int8(packed))
    rows: list[Row] = []
    for name in PIPELINES[:2] if quick else PIPELINES:
        source_N = merged_N if name in PIPELINES_OF_UPDATES else delta_N
        payload = encode(source_N, name, matrices)
        encode_ms = timed(partial(encode, source_N, name, matrices))
        decode_ms = timed(partial(_read, payload, tile.values))
        say(f"{name}: {tile.bytes / len(payload):.1f}x, {encode_ms:.1f} ms, {decode_ms:.1f} ms")
        rows += [
            compare(
                f"{name}, ratio", "x", tile.bytes / len(payload), tile.bytes / len(packed), PEER, more_is_better=True
            ),
            compare(f"{name}, encode 4 MiB", "ms", encode_ms, peer_encode_ms, PEER, copy_ms),
            compare(f"{name}, decode 4 MiB", "ms", decode_ms, peer_decode_ms, PEER, copy_ms),
        ]
    report("codec", rows, as_json)


def _read(payload: bytes, values: int) -> NDArray[np.float32]:
    return decode(payload, values).dense()


def pack_int8(delta_N: NDArray[np.float32]) -> bytes:
    """What one would write in an afternoon: a float32 scale for each block of 256, int8 codes, zstd."""
    blocks_BN = delta_N.reshape(-1, BLOCK)
    scales_B = np.abs(blocks_BN).max(axis=1) / np.float32(127)
    codes_BN = np.rint(blocks_BN / np.where(scales_B > 0, scales_B, 1)[:, None]).astype(np.int8)
    return zstandard.compress(scales_B.tobytes() + codes_BN.tobytes(), ZSTD_LEVEL)


def unpack_int8(packed: bytes) -> NDArray[np.float32]:
    """The inverse, without a single check."""
    raw = zstandard.decompress(packed)
    blocks = ROWS * COLUMNS // BLOCK
    scales_B = np.frombuffer(raw, np.float32, blocks)
    codes_BN = np.frombuffer(raw, np.int8, ROWS * COLUMNS, 4 * blocks).reshape(-1, BLOCK)
    return (codes_BN * scales_B[:, None]).reshape(-1)


if __name__ == "__main__":
    main()
