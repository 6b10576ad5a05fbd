"""Which key holds what. The first byte is the family; numbers are big-endian, so that the order of keys is theirs.

    family  rest of the key              value
    h       height:u64                   header bytes of a finalized block
    b       height:u64                   its body bytes
    c       height:u64                   its finalization certificate
    t                                    height:u64 of the last finalized block
    o                                    height:u64 of the oldest block that is kept whole
    n                                    size:u64 that the rows of h, b, c and r take, keys and values
    r       any                          a row that was written with a block and goes when it is pruned
    s       digest:32                    size:u64 of a blob
    i       digest:32                    its bytes, if it is small; a large one is a file
    v       tile name | 00 | version:u64 root:32 | size:u64 of a tile version's file; and, where that need not be there,
                                         base:u64 | bytes:u64 | digest:32 of each update above the base
    k       digest:32                    a coded blob of which cells are kept: manifest, tables' root, until when
    a       digest:32 | tile:u64         the table of one of its tiles
    e       digest:32 | tile:u64 | cell:u64
                                         file:u64 | offset:u64 | size:u64 of where a cell of it is
    x       owner word | 00 | any        rows of a caller's own, e.g. written in one batch with a block

A tile name and an owner word hold no zero byte, so one name's keys are never a prefix of another's.
"""

from __future__ import annotations

import struct
from typing import Final

from protocol.ids import Digest, Height, TileId, Version

_U64: Final = struct.Struct(">Q")

HEADER: Final = b"h"
BODY: Final = b"b"
CERTIFICATE: Final = b"c"
TIP: Final = b"t"
OLDEST: Final = b"o"
LEDGER_BYTES: Final = b"n"
BLOCK_ROW: Final = b"r"
BLOB_SIZE: Final = b"s"
INLINE_BLOB: Final = b"i"
TILE_VERSION: Final = b"v"
KEPT_BLOB: Final = b"k"
TABLE: Final = b"a"
CELL: Final = b"e"
OWN: Final = b"x"


def pack_u64(value: int) -> bytes:
    return _U64.pack(value)


def unpack_u64(raw: bytes) -> int:
    """Raises ``struct.error`` when ``raw`` is not eight bytes: the database is ours, so that would be our bug."""
    return int(_U64.unpack(raw)[0])


def block_key(family: bytes, height: Height) -> bytes:
    """``family`` is HEADER, BODY or CERTIFICATE."""
    return family + pack_u64(height)


def block_row_key(rest: bytes) -> bytes:
    """A row of the caller's own that lives as long as the block with which it is written."""
    return BLOCK_ROW + rest


def blob_key(family: bytes, name: Digest) -> bytes:
    """``family`` is BLOB_SIZE, INLINE_BLOB or KEPT_BLOB."""
    return family + name


def tile_prefix(tile_id: TileId) -> bytes:
    """Before all versions of one tile."""
    return TILE_VERSION + tile_id.encode("ascii") + b"\x00"


def tile_key(tile_id: TileId, version: Version) -> bytes:
    return tile_prefix(tile_id) + pack_u64(version)


def split_tile_key(key: bytes) -> tuple[TileId, Version]:
    """The inverse of :func:`tile_key`."""
    return TileId(key[1:-9].decode("ascii")), Version(unpack_u64(key[-8:]))


def table_key(blob: Digest, tile: int) -> bytes:
    return TABLE + blob + pack_u64(tile)


def cell_key(blob: Digest, tile: int, cell: int) -> bytes:
    return CELL + blob + pack_u64(tile) + pack_u64(cell)


def split_cell_key(key: bytes) -> tuple[Digest, int, int]:
    """The inverse of :func:`cell_key`."""
    return Digest(key[1:33]), unpack_u64(key[33:41]), unpack_u64(key[41:])


def own_key(owner: str, rest: bytes = b"") -> bytes:
    """A row of the caller's own; ``owner`` is a word without a zero byte, such as ``"consensus"``."""
    return OWN + owner.encode("ascii") + b"\x00" + rest
