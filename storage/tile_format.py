"""A tile's state file: a TensorBlock of float32 with shape [planes, values].

    plane 0        the tile's weights, as they were decided
    plane 1 ...    the state of the outer optimiser, one plane for each moment it keeps

Weights and optimiser state lie in one file under one root, so that whoever holds the file can be the tile's next owner
and nothing is lost. The tile's root is the block's root: SHA-256 Merkle over the 64 KiB pages of header and data. Two
peers whose roots agree hold the same bits; the root says nothing of the tile's name or version, which the head that
names it does.

Opening a tile reads its header and Merkle index only. A plane's pages are checked when the plane is first asked for, or
all at once by ``verify``; a wrong page is ``Rejected(TILE_CORRUPT)``, and its holder fetches the tile again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from protocol.ids import Digest, TileId, Version
from protocol.rejection import Reason, Rejected
from storage.tensor_block import (
    BlockShape,
    BytesLike,
    CheckedBlock,
    Dtype,
    Layout,
    PageVerifier,
    Quantisation,
    block_root,
    build_block,
    check_block,
)

VALUE_BYTES: Final = 4
TILE_FILE_SUFFIX: Final = ".tblock"
# Narrower than TileField by one rule: a group may not begin with a dot, because it becomes the name of a folder.
_TILE_ID: Final = re.compile(r"([a-z0-9][a-z0-9.]*)/([0-9]+)", re.ASCII)


class CheckedTile:
    """A tile's state, in place. Views stay valid for as long as somebody holds them.

    The views of a mapped tile are writable, because ``torch`` wants writable memory, but the memory belongs to this
    process: a write never reaches the file, and makes later verification fail. Copy before changing anything.
    """

    __slots__ = ("_block", "_on_corrupt", "_verifier", "tile_id")

    def __init__(
        self, tile_id: TileId, block: CheckedBlock, root: Digest, on_corrupt: Callable[[], None] = lambda: None
    ) -> None:
        """``on_corrupt`` is called before a ``Rejected(TILE_CORRUPT)`` leaves a method of this tile."""
        self.tile_id = tile_id
        self._block = block
        self._on_corrupt = on_corrupt
        self._verifier = PageVerifier(block, root, f"tile {tile_id}", Reason.TILE_CORRUPT)

    @property
    def planes(self) -> int:
        return self._block.shape.rows

    @property
    def values(self) -> int:
        """float32 values of one plane."""
        return self._block.shape.columns

    @property
    def root(self) -> Digest:
        return self._block.root

    @property
    def memory(self) -> memoryview:
        """The whole file, as it is sent to a peer. Not verified by taking it: the receiver verifies."""
        return self._block.memory

    @property
    def weights(self) -> memoryview:
        """The bytes of plane 0, verified; raises ``Rejected(TILE_CORRUPT)``."""
        return self.plane(0)

    @property
    def state(self) -> memoryview:
        """The bytes of all planes, verified; raises ``Rejected(TILE_CORRUPT)``."""
        self.verify()
        return self._block.data

    @property
    def pending_pages(self) -> int:
        """How many pages have not been verified yet."""
        return self._verifier.pending_count

    def plane(self, index: int) -> memoryview:
        """The bytes of one plane, verified; raises ``Rejected(TILE_CORRUPT)``."""
        return self.read(index, 0, self.values)

    def read(self, plane: int, start: int, stop: int) -> memoryview:
        """The bytes of values ``[start, stop)`` of a plane; verifies only the pages that hold them.

        Raises ``Rejected(TILE_CORRUPT)``, and ``IndexError`` outside of the tile.
        """
        if not (0 <= plane < self.planes and 0 <= start <= stop <= self.values):
            raise IndexError(f"tile {self.tile_id} has {self.planes} planes of {self.values} values")
        first = self._block.shape.data_offset + (plane * self.values + start) * VALUE_BYTES
        last = first + (stop - start) * VALUE_BYTES
        try:
            self._verifier.check_bytes(first, last)
        except Rejected:
            self._on_corrupt()
            raise
        return self._block.memory[first:last]

    def verify(self) -> None:
        """Check every page that has not been checked yet.

        Raises ``Rejected(TILE_CORRUPT)`` naming the first wrong one.
        """
        try:
            self._verifier.check_all()
        except Rejected:
            self._on_corrupt()
            raise


def tile_block(tile_id: TileId, planes_bytes: BytesLike, planes: int, values: int) -> tuple[bytes, Digest]:
    """The whole file of a tile's state and its root.

    ``planes_bytes``: little-endian float32 of shape [planes, values]. Raises ``ValueError`` naming the tile when the
    size is another.
    """
    pieces, root = build_block(_tile_shape(tile_id, planes_bytes, planes, values), [planes_bytes])
    return b"".join(pieces), root


def tile_root(tile_id: TileId, planes_bytes: BytesLike, planes: int, values: int) -> Digest:
    """The root of the file that :func:`tile_block` would make, without making it."""
    return block_root(_tile_shape(tile_id, planes_bytes, planes, values), [planes_bytes])


def check_tile(
    tile_id: TileId, memory: memoryview, root: Digest, on_corrupt: Callable[[], None] = lambda: None
) -> CheckedTile:
    """A tile's state from the bytes of its file, against the root that was decided for it.

    Checks structure and Merkle index; pages follow when they are used. Raises ``Rejected(TILE_CORRUPT)`` when the
    bytes are cut short or are no tile of this root.
    """
    try:
        block = check_block(memory, f"tile {tile_id}", Reason.TILE_CORRUPT)
        if block.shape != BlockShape(Dtype.FLOAT32, block.shape.rows, block.shape.columns):
            raise Rejected(Reason.TILE_CORRUPT, f"tile {tile_id}: not float32, row-major and unquantised")
        return CheckedTile(tile_id, block, root, on_corrupt)
    except Rejected:
        on_corrupt()
        raise


def tile_folder(tile_id: TileId) -> str:
    """Where a tile's versions lie under the data directory.

    Raises ``Rejected(MALFORMED)`` for a name that is no tile's.
    """
    match = _TILE_ID.fullmatch(tile_id)
    if match is None:
        raise Rejected(Reason.MALFORMED, f"{tile_id!r} is not a tile name such as trunk/0")
    return f"tiles/{match[1]}/{match[2]}"


def tile_file_name(tile_id: TileId, version: Version) -> str:
    """The name of one version's file under the data directory."""
    return f"{tile_folder(tile_id)}/{version}{TILE_FILE_SUFFIX}"


def _tile_shape(tile_id: TileId, planes_bytes: BytesLike, planes: int, values: int) -> BlockShape:
    shape = BlockShape(Dtype.FLOAT32, planes, values, Layout.ROW_MAJOR, Quantisation.NONE)
    size_bytes = memoryview(planes_bytes).nbytes
    if planes < 1 or values < 1 or size_bytes != shape.data_bytes:
        raise ValueError(f"tile {tile_id}: {size_bytes} bytes are not {planes} planes of {values} float32 values")
    return shape
