"""Making room: what ``storage/budget.py`` plans, carried out on the stores.

The stores know sizes, and which updates their tile versions rest on; only the caller knows what a blob is for. So the caller
names the uses of its blobs, and a blob that nobody names stays. A plan is made at once and carried out in two parts, because
the two stores may belong to two threads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from protocol.ids import Digest, TileId, Version
from storage.budget import Held, KeepRule, Kind, plan_room, room_bytes
from storage.io.blob_store import BlobStore
from storage.io.tile_store import TileStore, TileVersion

TILE_KINDS = (Kind.TILE_COPY, Kind.TILE_VERSION)


@dataclass(frozen=True, slots=True)
class BlobUse:
    """What a blob is for: ``kind``, ``group``, ``age`` and ``pinned`` as in :class:`storage.budget.Held`."""

    name: Digest
    kind: Kind
    group: str
    age: int
    pinned: bool = False


def plan_removal(
    tiles: TileStore,
    blobs: BlobStore,
    uses: Iterable[BlobUse],
    rule: KeepRule,
    *,
    needed_bytes: int,
    bytes_max: int,
    other_bytes: int = 0,
    free_bytes: int | None = None,
    pinned: Collection[tuple[TileId, Version]] = (),
) -> tuple[Held, ...]:
    """What to remove, in order, so that ``needed_bytes`` more fit in ``bytes_max``, and on the disk.

    For before the bytes are written. ``other_bytes``: what lies in the data directory beside the stores (journals,
    index); ``free_bytes``: what the disk has left, where that is known. ``pinned``: tile versions that stay whatever their
    age. A blob of two uses stays, and so does an update on which a tile version rests. Raises ``StorageFull``.
    """
    used_bytes = tiles.bytes_used + blobs.bytes_used + other_bytes
    if needed_bytes <= room_bytes(used_bytes, bytes_max, free_bytes):
        return ()
    held = _held_blobs(blobs, uses, tiles.in_use()) + _held_tiles(tiles, pinned)
    return plan_room(
        held, rule, used_bytes=used_bytes, needed_bytes=needed_bytes, bytes_max=bytes_max, free_bytes=free_bytes
    )


def remove_blobs(blobs: BlobStore, plan: Sequence[Held]) -> None:
    """The blobs of a plan. Raises ``OSError``."""
    blobs.delete(*(Digest(bytes.fromhex(gone.name)) for gone in plan if gone.kind not in TILE_KINDS))


def remove_tiles(tiles: TileStore, plan: Sequence[Held]) -> None:
    """The tile versions and copies of a plan. Raises ``OSError``."""
    for gone in plan:
        if gone.kind is Kind.TILE_COPY:
            tiles.drop_copies(TileId(gone.group), [Version(gone.age)])
        elif gone.kind is Kind.TILE_VERSION:
            tiles.drop(TileId(gone.group), [Version(gone.age)])


def _held_blobs(blobs: BlobStore, uses: Iterable[BlobUse], in_use: Collection[Digest]) -> list[Held]:
    held: dict[Digest, Held] = {}
    for use in uses:
        size_bytes = blobs.size(use.name)
        if use.name in held:
            held[use.name] = replace(held[use.name], pinned=True)
        elif size_bytes is not None:
            is_pinned = use.pinned or use.name in in_use
            held[use.name] = Held(use.kind, use.name.hex(), use.group, use.age, size_bytes, is_pinned)
    return list(held.values())


def _held_tiles(tiles: TileStore, pinned: Collection[tuple[TileId, Version]]) -> list[Held]:
    """A version that rests on updates takes no room but its copy's: nothing would be won if it went."""
    bases = tiles.bases_in_use()

    def held(kind: Kind, tile: TileVersion, size_bytes: int, is_pinned: bool) -> Held:
        return Held(kind, f"{tile.tile_id}@{tile.version}", tile.tile_id, tile.version, size_bytes, is_pinned)

    versions = []
    for tile in tiles.held():
        at = tile.tile_id, tile.version
        size_bytes = tile.size_bytes if tile.is_base else 0
        versions.append(held(Kind.TILE_VERSION, tile, size_bytes, not tile.is_base or at in pinned or at in bases))
    return versions + [held(Kind.TILE_COPY, tile, tile.size_bytes, False) for tile in tiles.copies()]
