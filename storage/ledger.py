"""Ledger: the finalized blocks, each written in one batch with whatever must become true together with it.

The bytes are opaque here: ``consensus`` made them and ``node`` hands them over. What the ledger promises is order and
atomicity: heights follow each other without a gap, a height is written once and never again, and after a crash a block
is there with all its rows or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.ids import Height
from protocol.rejection import InvariantBroken
from storage.keys import BODY, CERTIFICATE, HEADER, TIP, block_key, pack_u64, unpack_u64
from storage.kv import Batch, DatabaseCorrupt, KeyValue

_FAMILIES: Final = (HEADER, BODY, CERTIFICATE)


@dataclass(frozen=True, slots=True)
class FinalizedBlock:
    """One height of the finalized log, as the bytes that travelled."""

    height: Height
    header: bytes
    body: bytes
    certificate: bytes


class Ledger:
    """The finalized log over a :class:`KeyValue`. One writer."""

    def __init__(self, index: KeyValue) -> None:
        self._index = index
        raw = index.get(TIP)
        self._tip = None if raw is None else Height(unpack_u64(raw))

    def tip(self) -> Height | None:
        """The last finalized height, or ``None`` before the first block."""
        return self._tip

    def append(self, block: FinalizedBlock, extra: Batch | None = None) -> None:
        """Write the block above the tip, and the rows of ``extra``, all or nothing; durable on return.

        The first block may have any height: a node that starts from a checkpoint has none below it. Raises ``OSError``;
        ``InvariantBroken`` when the height is not the next one, because a finalized height is never written twice.
        """
        if self._tip is not None and block.height != self._tip + 1:
            raise InvariantBroken(f"finalized height {block.height} does not follow {self._tip}")
        batch = Batch()
        for family, value in zip(_FAMILIES, (block.header, block.body, block.certificate), strict=True):
            batch.put(block_key(family, block.height), value)
        batch.put(TIP, pack_u64(block.height))
        if extra is not None:
            batch.extend(extra)
        self._index.write(batch)
        self._tip = block.height

    def find(self, height: Height) -> FinalizedBlock | None:
        """The block, or ``None`` where it is not kept. Raises ``DatabaseCorrupt`` when only part of it is there."""
        header, body, certificate = (self._index.get(block_key(family, height)) for family in _FAMILIES)
        if header is None and body is None and certificate is None:
            return None
        if header is None or body is None or certificate is None:
            raise DatabaseCorrupt(f"The database holds only a part of block {height}: sync again from peers.")
        return FinalizedBlock(height, header, body, certificate)

    def get(self, height: Height) -> FinalizedBlock:
        """The block; raises ``LookupError`` where it is not kept."""
        block = self.find(height)
        if block is None:
            raise LookupError(f"block {height} is not kept here; the tip is {self._tip}")
        return block

    def range(self, first: Height, last: Height) -> list[FinalizedBlock]:
        """The blocks kept of ``[first, last]``, in order. The caller bounds the range."""
        stop = -1 if self._tip is None else min(last, self._tip)
        found = (self.find(Height(height)) for height in range(first, stop + 1))
        return [block for block in found if block is not None]
