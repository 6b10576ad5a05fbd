"""Cells that are kept: which file they are in, and what is remembered of their blobs.

    cells/<first two hex digits of the blob>/<all 64>/<tile>.<number>     cells of one tile, one after the other
        shard | shard | ...                                              each as it travels, with its proof

Every file has its own number, so that none is ever written again: what was put together goes together, and cells that are to
stay when the others went are moved to a new file. Where a cell is in its file is a row of the index, as is all that is known of
a blob (``storage/keys.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.codec import Message
from protocol.erasure import BlobManifest, CheckedManifest
from protocol.ids import Digest, DigestField, EpochField
from protocol.limits import MANIFEST_BYTES_MAX
from storage.keys import pack_u64, unpack_u64

CELL_FOLDER: Final = "cells"
KEPT_ROW_BYTES_MAX: Final = MANIFEST_BYTES_MAX + 64


class KeptRow(Message, frozen=True):
    """The row of a blob. ``kept_until``: the last epoch in which it is kept, None for ever."""

    manifest: BlobManifest
    tables_root: DigestField
    kept_until: EpochField | None


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """A blob of which cells are kept here, or are to be. ``bytes_used``: of their files."""

    manifest: CheckedManifest
    tables_root: Digest
    kept_until: int | None
    bytes_used: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell is: ``size_bytes`` from ``offset`` in file number ``file``."""

    file: int
    offset: int
    size_bytes: int

    def pack(self) -> bytes:
        return b"".join(map(pack_u64, (self.file, self.offset, self.size_bytes)))


def unpack_place(row: bytes) -> Place:
    """The inverse of :meth:`Place.pack`."""
    return Place(*(unpack_u64(row[at : at + 8]) for at in (0, 8, 16)))


def cell_file_name(blob: Digest, tile: int, file: int) -> str:
    text = blob.hex()
    return f"{CELL_FOLDER}/{text[:2]}/{text}/{tile}.{file}"


def later(one: int | None, other: int | None) -> int | None:
    """The later of two last epochs; None is after all of them."""
    return None if one is None or other is None else max(one, other)
