"""A tile stream: matrices as streamed tiles in one file, to be read from its beginning to its end.

    offset        bytes  field                                                           (all numbers little-endian)
    0                 8  magic "TSTREAM1"
    8                 4  version, 1
    12                4  matrices K, 1 to 16
    16             12 K  of each: rows, columns, rows of a tile (its last tile may have fewer)
    16 + 12 K            the tiles, one after another: matrix by matrix, from the first row on (``storage/streamed_tile.py``)
    the last 36 T        of each of the T tiles: its bytes (4), the digest of its content (32)

    root = Merkle root over leaf(the first 16 + 12 K bytes), digest of tile 0, digest of tile 1, ...

The root pins shapes and contents, and no compressed byte: two who stream the same rows have the same root, whatever
their zstd. Whoever has a path to the root can check one tile alone. The table comes last, so that a stream is written
in one pass by somebody who holds one tile; T and every tile's shape follow from the front. Nothing lies between or
behind.

What the matrices are is not said here, nor whose: as with a tile's root, the head or record that names the stream does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from protocol.ids import Digest
from protocol.limits import STREAMED_MATRICES_MAX, STREAMED_TILE_VALUES_MAX, TILES_MAX
from protocol.merkle import leaf_digest, merkle_root
from protocol.rejection import Reason, Rejected
from storage.streamed_tile import Codes, Scales, TileRows, encode_tile

MAGIC: Final = b"TSTREAM1"
VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sII")
_MATRIX: Final = struct.Struct("<3I")
_ENTRY: Final = struct.Struct("<I32s")
FRONT_BYTES_MAX: Final = _HEAD.size + STREAMED_MATRICES_MAX * _MATRIX.size


@dataclass(frozen=True, slots=True)
class StreamedMatrix:
    """A matrix and how many of its rows a tile holds."""

    rows: int
    columns: int
    tile_rows: int

    @property
    def tiles(self) -> int:
        return -(-self.rows // self.tile_rows)


@dataclass(frozen=True, slots=True)
class TilePlace:
    """Which rows of which matrix a tile holds: ``[first_row, first_row + shape.rows)``."""

    matrix: int
    first_row: int
    shape: TileRows


@dataclass(frozen=True)
class StreamShape:
    """The matrices of a stream; everything else but sizes and digests follows from them.

    Raises ``ValueError`` for matrices that make no stream: empty, too many, or of too many tiles or too large ones.
    """

    matrices: tuple[StreamedMatrix, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.matrices) <= STREAMED_MATRICES_MAX:
            raise ValueError(f"{len(self.matrices)} matrices, a stream has 1 to {STREAMED_MATRICES_MAX}")
        for matrix in self.matrices:
            if not 1 <= matrix.tile_rows <= matrix.rows or matrix.columns < 1:
                raise ValueError(f"{matrix} has no rows, no columns or a tile that is larger")
            if matrix.tile_rows * matrix.columns > STREAMED_TILE_VALUES_MAX:
                raise ValueError(f"{matrix} has tiles of more than {STREAMED_TILE_VALUES_MAX} values")
        if self.tiles > TILES_MAX:
            raise ValueError(f"{self.tiles} tiles, a stream has at most {TILES_MAX}")

    @property
    def tiles(self) -> int:
        return sum(matrix.tiles for matrix in self.matrices)

    @property
    def table_bytes(self) -> int:
        return _ENTRY.size * self.tiles

    @cached_property
    def front(self) -> bytes:
        """The first bytes of the file."""
        rows = (_MATRIX.pack(matrix.rows, matrix.columns, matrix.tile_rows) for matrix in self.matrices)
        return _HEAD.pack(MAGIC, VERSION, len(self.matrices)) + b"".join(rows)

    @property
    def largest_tile(self) -> TileRows:
        """The tile of most values."""
        largest = max(self.matrices, key=lambda matrix: matrix.tile_rows * matrix.columns)
        return TileRows(largest.tile_rows, largest.columns)

    def places(self) -> Iterator[TilePlace]:
        """The tiles in their order in the file."""
        for number, matrix in enumerate(self.matrices):
            for first_row in range(0, matrix.rows, matrix.tile_rows):
                rows = min(matrix.tile_rows, matrix.rows - first_row)
                yield TilePlace(number, first_row, TileRows(rows, matrix.columns))


@dataclass(frozen=True, slots=True)
class StreamedTile:
    """Where a tile lies in the file and what it must be."""

    place: TilePlace
    offset: int
    stored_bytes: int
    name: Digest


@dataclass(frozen=True, slots=True)
class CheckedStream:
    """A stream whose shapes and digests lead to its root. No tile has been looked at yet."""

    shape: StreamShape
    tiles: tuple[StreamedTile, ...]
    root: Digest


class StreamBuilder:
    """Makes the file, piece by piece: iterate over ``pieces``, write each, then take ``root``."""

    def __init__(self, shape: StreamShape) -> None:
        self._shape = shape
        self._names: list[Digest] = []

    def pieces(self, tiles: Iterable[tuple[Codes, Scales]]) -> Iterator[bytes]:
        """The bytes of the file. ``tiles``: codes and scales of each place of the shape, in order; at most one is held.

        Raises ``ValueError`` where they are not those of the shape.
        """
        yield self._shape.front
        table = b""
        for place, (codes_RC, scales_R) in zip(self._shape.places(), tiles, strict=True):
            if codes_RC.shape != (place.shape.rows, place.shape.columns):
                raise ValueError(f"codes of shape {codes_RC.shape} for {place}")
            stored, name = encode_tile(codes_RC, scales_R)
            self._names.append(name)
            table += _ENTRY.pack(len(stored), name)
            yield stored
        yield table

    @property
    def root(self) -> Digest:
        """Of the tiles that were written; raises ``ValueError`` before all are."""
        if len(self._names) != self._shape.tiles:
            raise ValueError(f"{len(self._names)} of {self._shape.tiles} tiles are written")
        return stream_root(self._shape, self._names)


def stream_root(shape: StreamShape, names: Iterable[Digest]) -> Digest:
    """The root over the front and the digests of all tiles."""
    return merkle_root([leaf_digest(shape.front), *names])


def check_front(
    prefix: bytes | memoryview, what: str = "tile stream", reason: Reason = Reason.BAD_BLOCK
) -> StreamShape:
    """The matrices of a file that begins so. ``prefix``: ``FRONT_BYTES_MAX`` bytes, or the whole file if it is shorter.

    Raises ``Rejected(reason)``; ``what`` names the stream in the sentence.
    """
    if len(prefix) < _HEAD.size:
        raise Rejected(reason, f"{what}: cut short, {len(prefix)} bytes")
    magic, version, count = _HEAD.unpack_from(prefix)
    if magic != MAGIC or version != VERSION:
        raise Rejected(reason, f"{what}: not a TSTREAM1 of version {VERSION}")
    if not 1 <= count <= STREAMED_MATRICES_MAX or len(prefix) < _HEAD.size + count * _MATRIX.size:
        raise Rejected(reason, f"{what}: cut short, or {count} matrices")
    try:
        return StreamShape(
            tuple(
                StreamedMatrix(*_MATRIX.unpack_from(prefix, _HEAD.size + index * _MATRIX.size))
                for index in range(count)
            )
        )
    except ValueError as error:
        raise Rejected(reason, f"{what}: {error}") from error


def check_table(
    shape: StreamShape,
    table: bytes | memoryview,
    file_bytes: int,
    root: Digest,
    what: str = "tile stream",
    reason: Reason = Reason.BAD_BLOCK,
) -> CheckedStream:
    """The tiles of a file of so many bytes that ends with ``table``, against its root.

    Raises ``Rejected(reason)`` where they do not lead to the root, or a size is impossible for its tile or for the file.
    """
    if len(table) != shape.table_bytes:
        raise Rejected(reason, f"{what}: a table of {len(table)} bytes, {shape.tiles} tiles need {shape.table_bytes}")
    tiles = []
    offset = len(shape.front)
    for place, (stored_bytes, name) in zip(shape.places(), _ENTRY.iter_unpack(table), strict=True):
        if not place.shape.frame_offset < stored_bytes <= place.shape.stored_bytes_max:
            raise Rejected(reason, f"{what}: {stored_bytes} bytes cannot hold {place.shape}")
        tiles.append(StreamedTile(place, offset, stored_bytes, Digest(name)))
        offset += stored_bytes
    if offset + len(table) != file_bytes:
        raise Rejected(reason, f"{what}: {file_bytes} bytes where its tiles need {offset + len(table)}")
    if stream_root(shape, [tile.name for tile in tiles]) != root:
        raise Rejected(reason, f"{what}: its table does not lead to root {root.hex()[:16]}")
    return CheckedStream(shape, tuple(tiles), root)
