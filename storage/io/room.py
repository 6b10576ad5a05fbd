"""Making room: what ``storage/budget.py`` plans, carried out on the stores.

The stores know sizes; only the caller knows what a blob is for. So the caller names the uses of its blobs, and a blob
that nobody names stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from protocol.ids import Digest, TileId, Version
from storage.budget import Held, KeepRule, Kind, plan_room
from storage.io.blob_store import BlobStore
from storage.io.tile_store import TileStore


@dataclass(frozen=True, slots=True)
class BlobUse:
    """What a blob is for: ``kind``, ``group``, ``age`` and ``pinned`` as in :class:`storage.budget.Held`."""

    name: Digest
    kind: Kind
    group: str
    age: int
    pinned: bool = False


def make_room(
    tiles: TileStore,
    blobs: BlobStore,
    uses: Iterable[BlobUse],
    rule: KeepRule,
    *,
    needed_bytes: int,
    bytes_max: int,
    other_bytes: int = 0,
    pinned: Collection[tuple[TileId, Version]] = (),
) -> tuple[Held, ...]:
    """Remove what may go until ``needed_bytes`` more fit in ``bytes_max``; returns what was removed, in order.

    For before the bytes are written. ``other_bytes``: what lies in the data directory beside the stores (journals,
    index). ``pinned``: tile versions that stay whatever their age. A blob of two uses stays. Raises ``StorageFull``,
    having removed nothing, and ``OSError`` when the disk fails.
    """
    used_bytes = tiles.bytes_used + blobs.bytes_used + other_bytes
    if used_bytes + needed_bytes <= bytes_max:
        return ()
    held = _held_blobs(blobs, uses) + _held_tiles(tiles, pinned)
    plan = plan_room(held, rule, used_bytes=used_bytes, needed_bytes=needed_bytes, bytes_max=bytes_max)
    blobs.delete(*(Digest(bytes.fromhex(gone.name)) for gone in plan if gone.kind is not Kind.TILE_VERSION))
    for gone in plan:
        if gone.kind is Kind.TILE_VERSION:
            tiles.drop(TileId(gone.group), [Version(gone.age)])
    return plan


def _held_blobs(blobs: BlobStore, uses: Iterable[BlobUse]) -> list[Held]:
    held: dict[Digest, Held] = {}
    for use in uses:
        size_bytes = blobs.size(use.name)
        if use.name in held:
            held[use.name] = replace(held[use.name], pinned=True)
        elif size_bytes is not None:
            held[use.name] = Held(use.kind, use.name.hex(), use.group, use.age, size_bytes, use.pinned)
    return list(held.values())


def _held_tiles(tiles: TileStore, pinned: Collection[tuple[TileId, Version]]) -> list[Held]:
    return [
        Held(
            Kind.TILE_VERSION,
            f"{tile.tile_id}@{tile.version}",
            tile.tile_id,
            tile.version,
            tile.size_bytes,
            (tile.tile_id, tile.version) in pinned,
        )
        for tile in tiles.held()
    ]
