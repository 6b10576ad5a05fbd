"""Ledger: the finalized blocks, each written in one batch with whatever must become true together with it.

The bytes are opaque here: ``consensus`` made them and ``node`` hands them over. What the ledger promises is order and
atomicity: heights follow each other without a gap, a height is written once and never again, and after a crash a block
is there with all its rows or not at all.

    height        1 ........... oldest .................. first needed ............ tip
    kept          headers and   whole blocks              whole blocks, whatever
                  certificates  and their rows            they take
                  of boundaries

The oldest blocks go when all take more than they may: body, header, certificate and the rows under ``BLOCK_ROW`` that were
written with them. Whoever began at a checkpoint may have them written again, downwards. Headers and certificates at the
epochs' boundaries stay for ever, because a light client's proof leads over them. The oldest height and the bytes are rows too,
in the batch of whatever changes them: so they are exact after a crash at any moment, and a ledger that is half pruned is one
that is pruned up to there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.ids import Height
from protocol.rejection import InvariantBroken
from storage.keys import (
    BLOCK_ROW,
    BODY,
    CERTIFICATE,
    HEADER,
    LEDGER_BYTES,
    OLDEST,
    TIP,
    block_key,
    pack_u64,
    unpack_u64,
)
from storage.kv import Batch, DatabaseCorrupt, KeyValue, scan_all

_FAMILIES: Final = (HEADER, BODY, CERTIFICATE)
_COUNTED: Final = (*_FAMILIES, BLOCK_ROW)


@dataclass(frozen=True, slots=True)
class FinalizedBlock:
    """One height of the finalized log, as the bytes that travelled."""

    height: Height
    header: bytes
    body: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class PruneRule:
    """What may go. ``boundary_heights``: headers and certificates of its multiples stay for ever.

    ``bytes_max`` is what the ledger may take, ``first_needed`` the lowest block that stays whatever it takes.
    """

    bytes_max: int
    first_needed: Height
    boundary_heights: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """``bytes_used``: keys and values of blocks and their rows, before the database compresses them. Heights: 0 for none."""

    bytes_used: int
    oldest_height: int
    tip_height: int


class Ledger:
    """The finalized log over a :class:`KeyValue`. One writer."""

    def __init__(self, index: KeyValue) -> None:
        """Raises ``DatabaseCorrupt``. A database from before ledgers were counted is counted now, which takes a while."""
        self._index = index
        self._tip = self._height(TIP)
        self._oldest = self._height(OLDEST)
        raw = index.get(LEDGER_BYTES)
        self._bytes_used = 0 if raw is None else unpack_u64(raw)
        if self._tip is not None and (raw is None or self._oldest is None):
            self._bytes_used = count_bytes(index)
            self._oldest = Height(unpack_u64(index.scan(BODY, limit=1)[0][0][len(BODY) :]))

    def _height(self, key: bytes) -> Height | None:
        raw = self._index.get(key)
        return None if raw is None else Height(unpack_u64(raw))

    def tip(self) -> Height | None:
        """The last finalized height, or ``None`` before the first block."""
        return self._tip

    def oldest(self) -> Height | None:
        """The lowest height of which the whole block is kept, and of every one above it; ``None`` before the first block."""
        return self._oldest

    def statistics(self) -> Statistics:
        return Statistics(self._bytes_used, self._oldest or 0, self._tip or 0)

    def append(self, block: FinalizedBlock, extra: Batch | None = None) -> None:
        """Write the block above the tip, and the rows of ``extra``, all or nothing; durable on return.

        Rows of ``extra`` under ``BLOCK_ROW`` belong to the block: they are counted with it and pruned with it.
        The first block may have any height: a node that starts from a checkpoint has none below it. Raises ``OSError``;
        ``InvariantBroken`` when the height is not the next one, because a finalized height is never written twice.
        """
        if self._tip is not None and block.height != self._tip + 1:
            raise InvariantBroken(f"finalized height {block.height} does not follow {self._tip}")
        batch = Batch()
        for family, value in zip(_FAMILIES, (block.header, block.body, block.certificate), strict=True):
            batch.put(block_key(family, block.height), value)
        if extra is not None:
            batch.extend(extra)
        oldest = block.height if self._oldest is None else self._oldest
        bytes_used = self._bytes_used + self._growth(batch, set())
        batch.put(TIP, pack_u64(block.height))
        batch.put(OLDEST, pack_u64(oldest))
        batch.put(LEDGER_BYTES, pack_u64(bytes_used))
        self._index.write(batch)
        self._tip, self._oldest, self._bytes_used = block.height, oldest, bytes_used

    def find(self, height: Height) -> FinalizedBlock | None:
        """The block, or ``None`` where it is not kept. Raises ``DatabaseCorrupt`` when it should be there and is not."""
        if self._tip is None or self._oldest is None or not self._oldest <= height <= self._tip:
            return None
        header, body, certificate = (self._index.get(block_key(family, height)) for family in _FAMILIES)
        if header is None or body is None or certificate is None:
            raise DatabaseCorrupt(f"The database lacks block {height}, or a part of it: sync again from peers.")
        return FinalizedBlock(height, header, body, certificate)

    def begin_at(self, block: FinalizedBlock, extra: Batch, boundary_heights: int) -> None:
        """Begin anew with a block above the tip that is known to be final: what was below it goes, as if it were pruned.

        The block and the rows of ``extra`` come in the last batch, all or nothing; durable on return. A crash before it
        leaves a ledger that says to have blocks that it lacks: whoever calls this has written down that it will, and calls it
        again. Raises ``OSError``; ``InvariantBroken`` for a block at or below the tip.
        """
        if self._tip is not None and block.height <= self._tip:
            raise InvariantBroken(f"the ledger cannot begin at {block.height}: its tip is {self._tip}")
        self._remove_blocks(lambda family, height: family in (HEADER, CERTIFICATE) and height % boundary_heights == 0)
        self.append(block, extra)

    def extend_down(self, blocks: Sequence[FinalizedBlock], extra: Batch | None = None) -> None:
        """Write blocks right below the oldest one, ascending, and the rows of ``extra``, all or nothing; not yet durable.

        A certificate that is here already stays where a block comes without one. Raises ``OSError``; ``InvariantBroken``
        where a height is not the one below.
        """
        heights = [block.height for block in blocks]
        if self._oldest is None or not blocks or heights != list(range(self._oldest - len(blocks), self._oldest)):
            raise InvariantBroken(f"heights {heights[:1]} to {heights[-1:]} do not lead to {self._oldest}")
        if heights[0] < 1:
            raise InvariantBroken("there is no block below the first")
        batch = Batch()
        for block in blocks:
            batch.put(block_key(HEADER, block.height), block.header)
            batch.put(block_key(BODY, block.height), block.body)
            certificate = block.certificate or self.find_certificate(block.height) or b""
            batch.put(block_key(CERTIFICATE, block.height), certificate)
        if extra is not None:
            batch.extend(extra)
        bytes_used = self._bytes_used + self._growth(batch, set())
        batch.put(OLDEST, pack_u64(heights[0]))
        batch.put(LEDGER_BYTES, pack_u64(bytes_used))
        self._index.write(batch, durable=False)
        self._oldest, self._bytes_used = heights[0], bytes_used

    def forget(self) -> None:
        """Remove everything, as if there had never been a block; durable on return. Raises ``OSError``."""
        self._remove_blocks(lambda family, height: False)
        batch = Batch()
        for key in (TIP, OLDEST, LEDGER_BYTES):
            batch.delete(key)
        self._index.write(batch)

    def _remove_blocks(self, stays: Callable[[bytes, int], bool]) -> None:
        """Remove blocks and their rows but for what stays; not yet durable."""
        for family in _COUNTED:
            removal = Batch()
            for key, _ in scan_all(self._index, family):
                if family == BLOCK_ROW or not stays(family, unpack_u64(key[len(family) :])):
                    removal.delete(key)
            self._index.write(removal, durable=False)
        self._tip = self._oldest = None
        self._bytes_used = count_bytes(self._index)

    def find_header(self, height: Height) -> bytes | None:
        """Of a block that is kept, or of a pruned one at a boundary."""
        return self._index.get(block_key(HEADER, height))

    def find_certificate(self, height: Height) -> bytes | None:
        """Of a block that is kept, or of a pruned one at a boundary."""
        return self._index.get(block_key(CERTIFICATE, height))

    def get(self, height: Height) -> FinalizedBlock:
        """The block; raises ``LookupError`` where it is not kept."""
        block = self.find(height)
        if block is None:
            raise LookupError(f"block {height} is not kept here; the oldest is {self._oldest}, the tip is {self._tip}")
        return block

    def range(self, first: Height, last: Height) -> list[FinalizedBlock]:
        """The blocks kept of ``[first, last]``, in order. The caller bounds the range."""
        if self._tip is None or self._oldest is None:
            return []
        heights = range(max(first, self._oldest), min(last, self._tip) + 1)
        return [self.get(Height(height)) for height in heights]

    def prune(
        self,
        rule: PruneRule,
        release: Callable[[FinalizedBlock], Batch],
        *,
        blocks_max: int,
        bytes_max: int,
    ) -> int:
        """Remove the oldest blocks until ``rule`` is kept or nothing more may go; returns the bytes that went.

        A step of at most ``blocks_max`` blocks, and not much more than ``bytes_max`` bytes, in one batch that is not yet
        durable: 0 says that nothing is left to do. ``release`` gives what else must happen with a block's removal, above all
        the deletion of its rows. Raises ``OSError``.
        """
        if self._oldest is None or self._tip is None:
            return 0
        batch, freed, height = Batch(), 0, self._oldest
        seen: set[bytes] = set()
        stop = min(rule.first_needed, self._tip, self._oldest + blocks_max)  # the tip: the next block builds on it
        while height < stop and freed < bytes_max and self._bytes_used - freed > rule.bytes_max:
            block, removal = self.get(height), Batch()
            is_boundary = height % rule.boundary_heights == 0
            for family in (BODY,) if is_boundary else _FAMILIES:
                removal.delete(block_key(family, height))
            removal.extend(release(block))
            freed -= self._growth(removal, seen)
            batch.extend(removal)
            height = Height(height + 1)
        if height == self._oldest:
            return 0
        batch.put(OLDEST, pack_u64(height))
        batch.put(LEDGER_BYTES, pack_u64(self._bytes_used - freed))
        self._index.write(batch, durable=False)
        self._oldest, self._bytes_used = height, self._bytes_used - freed
        return freed

    def reclaim(self) -> None:
        """Have the database give back the disk that pruned blocks took; from any thread. Raises ``OSError``.

        Their rows lie among those of newer blocks, all of which would have to be written anew: they wait for the database's
        own cleaning.
        """
        if self._oldest is not None:
            for family in _FAMILIES:
                self._index.reclaim(block_key(family, Height(0)), block_key(family, self._oldest))

    def _growth(self, batch: Batch, seen: set[bytes]) -> int:
        """By how many bytes the rows that the ledger counts will have grown after ``batch``, but for those in ``seen``.

        The last word on a key wins, as in the database. ``seen`` takes the keys of this batch.
        """
        rows = {key: value for key, value in batch.operations if key[:1] in _COUNTED and key not in seen}
        seen.update(rows)
        return sum(_row_bytes(key, value) - _row_bytes(key, self._index.get(key)) for key, value in rows.items())


def count_bytes(index: KeyValue) -> int:
    """What :meth:`Ledger.statistics` must say, by reading every row."""
    return sum(len(key) + len(value) for family in _COUNTED for key, value in scan_all(index, family))


def _row_bytes(key: bytes, value: bytes | None) -> int:
    return 0 if value is None else len(key) + len(value)
