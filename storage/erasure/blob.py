"""Blobs of gigabytes: tile after tile, so that memory holds one of them, coded, and what the caller keeps.

    pieces of any sizes -> cut_tiles -> encode_blob -> CodedTile, CodedTile, ...    their roots -> make_manifest
    manifest, the shards of each tile -> decode_blob -> the data of each tile

Both are lazy: nothing is coded before somebody takes it, and a source that is read from disk or network piece by piece is read
no further than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from protocol.erasure import CheckedManifest
from storage.erasure.code import ErasureCode
from storage.erasure.tile import CheckedShard, CodedTile, encode_tile, rebuild_tile
from storage.tensor_block import BytesLike


def cut_tiles(tile_bytes: int, pieces: Iterable[BytesLike]) -> Iterator[memoryview]:
    """The same bytes in tiles; the last may be shorter. A piece that holds whole tiles, as a mapped file, is not copied."""
    gathered = bytearray()
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest.nbytes:
            if not gathered and rest.nbytes >= tile_bytes:
                yield rest[:tile_bytes]
                rest = rest[tile_bytes:]
                continue
            taken_bytes = min(rest.nbytes, tile_bytes - len(gathered))
            gathered += rest[:taken_bytes]
            rest = rest[taken_bytes:]
            if len(gathered) == tile_bytes:
                yield memoryview(gathered)
                gathered = bytearray()  # the tile before belongs to whoever took it
    if gathered:
        yield memoryview(gathered)


def encode_blob(code: ErasureCode, pieces: Iterable[BytesLike]) -> Iterator[CodedTile]:
    """The coded tiles of a blob, in order. Their roots and sizes make its manifest."""
    for index, data in enumerate(cut_tiles(code.geometry.tile_bytes, pieces)):
        yield encode_tile(code, index, data)


def decode_blob(
    code: ErasureCode, manifest: CheckedManifest, shards_of_tiles: Iterable[Iterable[CheckedShard]]
) -> Iterator[memoryview]:
    """The data of each tile, in order, from the shards of each tile, which are asked for one tile at a time.

    Raises ``Rejected`` as :func:`rebuild_tile` does, and ``ValueError`` where there are fewer or more tiles than in the blob.
    """
    for tile, shards in zip(range(manifest.tile_count), shards_of_tiles, strict=True):
        yield rebuild_tile(code, manifest, tile, shards).data
