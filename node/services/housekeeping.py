"""Keeping within the disk allowance: before each round there is room for what it will write, or the node says so.

What goes first and what never goes is in storage/budget.py. Here is what each blob is for, which only the ledger knows; it is
read only when room is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from node.ground import Ground
from protocol.codec import decode
from protocol.finality import Body
from protocol.ids import Height
from protocol.limits import BODY_BYTES_MAX
from storage.budget import KeepRule, Kind, StorageFull
from storage.io.room import BlobUse, make_room

log = structlog.get_logger()

CHALLENGE_ROUNDS = 4  # how long deltas stay for whoever wants to recompute a merge, when room is short (a guess)
BYTES_PER_TILE_BYTE = (
    2  # a round writes a version of each tile, updates and deltas a tenth of that each, and the learner's state
)


class Housekeeping:
    """One node's disk allowance. ``refusal`` is the sentence that says why there is no room, if there is none."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.refusal: str | None = None

    def prepare(self, round_number: int) -> None:
        """Make room for one round."""
        ground = self._ground
        newest = [ground.tiles.newest(tile) for tile in ground.genesis_roots]
        sizes = [ground.tiles.find(t, v) for t, v in zip(ground.genesis_roots, newest, strict=True) if v is not None]
        needed = BYTES_PER_TILE_BYTE * sum(held.size_bytes for held in sizes if held is not None)
        try:
            removed = make_room(
                ground.tiles,
                ground.blobs,
                self._uses(),
                KeepRule(
                    first_challenged=max(0, round_number - CHALLENGE_ROUNDS),
                    datasets_in_use=frozenset(manifest.name for manifest in ground.genesis.datasets),
                ),
                needed_bytes=needed,
                bytes_max=ground.settings.storage.storage_bytes_max,
                other_bytes=self._other_bytes(),
            )
        except StorageFull as full:
            if self.refusal is None:
                log.error("storage is full", why=str(full))
            self.refusal = str(full)
            return
        self.refusal = None
        if removed:
            log.info("made room", things=len(removed), bytes=sum(held.size_bytes for held in removed))

    def _other_bytes(self) -> int:
        """Index, journals, learner's state and logs."""
        places = self._ground.settings.places
        folders = (places.database, places.journal, places.learner, places.log.parent)
        return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())

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
        for height in range(1, (ground.ledger.tip() or 0) + 1):
            block = ground.ledger.find(Height(height))
            if block is None:
                continue
            for head in decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads:
                yield BlobUse(head.update, Kind.UPDATE, head.tile, head.version)
                for reference in head.deltas:
                    yield BlobUse(reference.delta, Kind.DELTA, head.tile, head.round)
