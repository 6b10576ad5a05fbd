"""Keeping within the disk allowances: room for each round before it writes, and old blocks that go when the chain is large.

What goes first and what never goes is in storage/budget.py, for tiles and blobs, and in storage/ledger.py, for blocks. What
each blob is for only the blocks know; they are read when room is needed. A pruned block leaves a row for each of its blobs that
is still here, so that these can go in their turn:

    own_key("use", digest) -> UseRow

Blobs belong to the event loop and tiles to their thread, so a plan is carried out in both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import structlog
import trio

from node.chain_index import forget_rows
from node.coded_offer import OFFERED_CHECKPOINT
from node.ground import Ground
from node.recall import first_needed, heads_downwards
from node.threads import InThread, in_thread
from protocol.codec import Message, decode, encode
from protocol.finality import Body
from protocol.ids import Digest, Natural, TileField, TileId
from protocol.limits import BODY_BYTES_MAX, KIB, MIB
from protocol.roster import Head
from storage.budget import Held, KeepRule, Kind, StorageFull, room_bytes
from storage.io.room import TILE_KINDS, BlobUse, plan_removal, remove_blobs, remove_tiles
from storage.keys import own_key
from storage.kv import Batch, DatabaseCorrupt, scan_all
from storage.ledger import FinalizedBlock, PruneRule

log = structlog.get_logger()

CHALLENGE_ROUNDS: Final = 4  # how long deltas stay for whoever wants to recompute a merge, when room is short (a guess)
BYTES_PER_TILE_BYTE: Final = (
    2  # a round writes a copy of each tile, updates and deltas a tenth of that each, and the learner's state
)
PRUNE_SECONDS: Final = 10.0  # between looks at the ledger; a few blocks each time, where it is full
PAUSE_SECONDS: Final = 0.05  # between steps: blocks and votes go first
STEP_BLOCKS: Final = 256
STEP_BYTES: Final = 256 * KIB  # some 20 ms, for which everything else waits (docs/log.md)
RECLAIM_BYTES: Final = 64 * MIB  # pruned, before the database is asked to clean up, in a thread: half a second
RECLAIM_DIVISOR: Final = 16  # or this part of the allowance, where that is less
_OWNER: Final = "use"


class UseRow(Message, frozen=True):
    """What a blob was for, as the pruned block says that named it (``storage.io.room.BlobUse``)."""

    kind: Kind
    tile: TileField
    age: Natural


@dataclass(frozen=True, slots=True)
class StorageStatistics:
    """As of the last look, before a round. ``refused``: 1 while there is no room for one.

    ``room_bytes`` may still be written before the allowance or the disk is used up; below 0 it is.
    """

    allowed_bytes: int
    used_bytes: int
    room_bytes: int
    refused: int
    removed_bytes: int  # since the start, to make room


class Housekeeping:
    """One node's disk allowance. ``refusal`` is the sentence that says why there is no room, if there is none."""

    def __init__(
        self,
        ground: Ground,
        in_tile_thread: Callable[[Callable[[], None]], Awaitable[None]],
        in_thread: InThread = in_thread,
    ) -> None:
        self._ground = ground
        self._in_tile_thread = in_tile_thread
        self._in_thread = in_thread
        self.refusal: str | None = None
        self._used_bytes = self._room_bytes = self._removed_bytes = 0
        self._pruned_bytes = 0  # since the database was last asked to clean up
        self._is_over = False  # the ledger takes more than it may, nothing more may go, and that was said

    # -- room for a round -----------------------------------------------------------------------------------------------

    def prepare(self, round_number: int) -> Sequence[Held]:
        """Make room for one round, or say why there is none. Returns what is still to go, by ``remove_tiles``."""
        ground = self._ground
        other_bytes = (
            ground.disk.other_bytes() + ground.cells.bytes_used + (ground.disk.files.size(OFFERED_CHECKPOINT) or 0)
        )
        free_bytes = ground.disk.free_bytes()
        bytes_max = ground.settings.storage.storage_bytes_max
        self._used_bytes = ground.tiles.bytes_used + ground.blobs.bytes_used + other_bytes
        self._room_bytes = room_bytes(self._used_bytes, bytes_max, free_bytes)
        newest = [ground.tiles.newest(tile) for tile in ground.genesis_roots]
        sizes = [ground.tiles.find(t, v) for t, v in zip(ground.genesis_roots, newest, strict=True) if v is not None]
        needed = BYTES_PER_TILE_BYTE * sum(held.size_bytes for held in sizes if held is not None)
        try:
            removed = plan_removal(
                ground.tiles,
                ground.blobs,
                self._uses(),
                KeepRule(
                    first_challenged=max(0, round_number - CHALLENGE_ROUNDS),
                    datasets_in_use=frozenset(manifest.name for manifest in ground.genesis.datasets),
                ),
                needed_bytes=needed,
                bytes_max=bytes_max,
                other_bytes=other_bytes,
                free_bytes=free_bytes,
            )
        except StorageFull as full:
            if self.refusal is None:
                log.error("storage is full", why=str(full))
            self.refusal = str(full)
            return ()
        self.refusal = None
        if removed:
            remove_blobs(ground.blobs, removed)
            self._forget_uses(removed)
            removed_bytes = sum(held.size_bytes for held in removed)
            self._removed_bytes += removed_bytes
            self._used_bytes -= removed_bytes
            self._room_bytes += removed_bytes
            log.info("making room", things=len(removed), bytes=removed_bytes)
        return removed

    def has_room(self, needed_bytes: int) -> bool:
        """Whether so much more may be kept, as of the last look."""
        return self.refusal is None and needed_bytes <= self._room_bytes

    async def remove_tiles(self, removed: Sequence[Held]) -> None:
        """The rest of a plan, where merges and applications go first: nobody may wait for it."""
        await self._in_tile_thread(lambda: remove_tiles(self._ground.tiles, removed))

    def statistics(self) -> StorageStatistics:
        return StorageStatistics(
            self._ground.settings.storage.storage_bytes_max,
            self._used_bytes,
            self._room_bytes,
            int(self.refusal is not None),
            self._removed_bytes,
        )

    def _uses(self) -> Iterator[BlobUse]:
        """What every blob is for. Lazy: nothing is read while there is room."""
        ground = self._ground
        for manifest in ground.genesis.datasets:
            for shard in manifest.shards:
                yield BlobUse(shard, Kind.DATASET_SHARD, manifest.name, 0)
        for delta in ground.candidates():
            yield BlobUse(delta.digest, Kind.DELTA, delta.tile, delta.round, pinned=True)
        for row in ground.learner_record().outstanding:
            yield BlobUse(row.digest, Kind.DELTA, row.tile, row.round, pinned=True)
        prefix = own_key(_OWNER)
        for key, value in scan_all(ground.index, prefix):
            use = decode(UseRow, value, limit_bytes=KIB)
            yield BlobUse(Digest(key[len(prefix) :]), use.kind, use.tile, use.age)
        for _, head in heads_downwards(ground.ledger):
            yield from _uses_of(head)

    def _forget_uses(self, removed: Iterable[Held]) -> None:
        """Of blobs that are gone: what pruned blocks said of them."""
        batch = Batch()
        for gone in removed:
            if gone.kind not in TILE_KINDS:
                batch.delete(own_key(_OWNER, bytes.fromhex(gone.name)))
        self._ground.index.write(batch, durable=False)

    # -- old blocks -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the ledger within its allowance, until cancelled."""
        while True:
            await trio.sleep(PRUNE_SECONDS)
            while self.prune_step():
                await trio.sleep(PAUSE_SECONDS)
            bytes_max = self._ground.settings.storage.chain_bytes_max
            if self._pruned_bytes >= min(RECLAIM_BYTES, bytes_max // RECLAIM_DIVISOR):
                log.info("pruned blocks", bytes=self._pruned_bytes, oldest=self._ground.ledger.oldest())
                self._pruned_bytes = 0
                await self._reclaim()

    async def _reclaim(self) -> None:
        """Cleaning up takes room itself: where there is none, it waits for the next time."""
        try:
            await self._in_thread(self._ground.ledger.reclaim)
        except DatabaseCorrupt:
            raise
        except OSError as error:
            log.warning("the database could not clean up after pruning", why=str(error))

    def prune_step(self) -> bool:
        """Remove some of the oldest blocks, if the ledger takes more than it may; False when nothing is left to do."""
        ground = self._ground
        bytes_max = ground.settings.storage.chain_bytes_max
        if ground.ledger.statistics().bytes_used <= bytes_max:
            self._is_over = False
            return False
        rule = PruneRule(bytes_max, first_needed(ground), ground.genesis.chain.epoch_heights)
        freed = ground.ledger.prune(rule, self._release, blocks_max=STEP_BLOCKS, bytes_max=STEP_BYTES)
        self._pruned_bytes += freed
        if not freed and not self._is_over:
            self._is_over = True
            at = ground.ledger.statistics()
            log.warning(
                "the chain takes more than storage.chain_bytes_max, and no block may go",
                bytes=at.bytes_used,
                allowed=bytes_max,
                oldest=at.oldest_height,
                needed_from=rule.first_needed,
                tip=at.tip_height,
            )
        return freed > 0

    def _release(self, block: FinalizedBlock) -> Batch:
        """What goes and what comes with a block's removal."""
        body = decode(Body, block.body, limit_bytes=BODY_BYTES_MAX)
        batch = forget_rows(body)
        for use in chain.from_iterable(map(_uses_of, body.heads)):
            if self._ground.blobs.size(use.name) is not None:
                batch.put(own_key(_OWNER, use.name), encode(UseRow(use.kind, TileId(use.group), use.age)))
        return batch


def _uses_of(head: Head) -> Iterator[BlobUse]:
    """The blobs that a decided head names."""
    yield BlobUse(head.update, Kind.UPDATE, head.tile, head.version)
    for name in head.counted():
        yield BlobUse(name, Kind.DELTA, head.tile, head.round)
