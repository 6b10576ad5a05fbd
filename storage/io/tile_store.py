"""TileStore: versions of tiles, each an immutable file, mapped when used.

    tiles/<group>/<index>/<version>.tblock    the file, written first
    row v | tile | version                    its root and size, written second: only now is the version held
    quarantine/<group>.<index>.<version>      a file that was found changed, for whoever wants to know why

So a file without a row was never acknowledged and is removed at the start; a row whose file is gone, cut short or
changed is found out when it is used, and its holder fetches that version again and puts it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from protocol.ids import Digest, TileId, Version
from protocol.rejection import Reason, Rejected
from storage.files import Files
from storage.keys import TILE_VERSION, pack_u64, split_tile_key, tile_key, unpack_u64
from storage.kv import Batch, KeyValue
from storage.tensor_block import BytesLike
from storage.tile_format import CheckedTile, check_tile, tile_file_name

QUARANTINE_FOLDER: Final = "quarantine"
QUARANTINE_FILES_MAX: Final = 8  # enough to see a pattern, small enough not to fill the disk with rubbish (a guess)
_SCAN_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class TileVersion:
    """What is known of one stored version without opening it."""

    tile_id: TileId
    version: Version
    root: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TileStatistics:
    """``corrupt_count`` counts versions that were found changed, and moved to quarantine, since the start."""

    tiles: int
    versions: int
    bytes_used: int
    corrupt_count: int


class TileStore:
    """The tile versions that this node holds. One writer; safe after a crash at any moment."""

    def __init__(self, files: Files, index: KeyValue) -> None:
        """Read which versions there are, and remove the files of puts that never returned. Raises ``OSError``."""
        self._files = files
        self._index = index
        self._held: dict[TileId, dict[Version, TileVersion]] = {}
        self._corrupt_count = 0
        self._bytes_used = 0
        start = b""
        while rows := index.scan(TILE_VERSION, start=start, limit=_SCAN_ROWS):
            for key, value in rows:
                tile_id, version = split_tile_key(key)
                self._remember(TileVersion(tile_id, version, Digest(value[:32]), unpack_u64(value[32:])))
            start = rows[-1][0] + b"\x00"
        known = {tile_file_name(held.tile_id, held.version) for held in self.held()}
        for file_name in files.names("tiles"):
            if file_name not in known:
                files.remove(file_name)

    def put(
        self, tile_id: TileId, version: Version, block_bytes: BytesLike | Iterable[BytesLike], root: Digest
    ) -> None:
        """Keep a version's file; durable on return. The same version may be put again, to replace a damaged file.

        ``block_bytes``: the whole file, in one piece or several. They are believed: bytes from a peer go through
        ``storage.tile_format.check_tile`` and ``verify`` first. Raises ``OSError``.
        """
        self.put_many([(tile_id, version, block_bytes, root)])

    def put_many(self, tiles: Iterable[tuple[TileId, Version, BytesLike | Iterable[BytesLike], Digest]]) -> None:
        """Keep several versions as :meth:`put` does, with one sync for their rows.

        After a crash any of them may be there.
        """
        batch = Batch()
        written: list[TileVersion] = []
        for tile_id, version, block_bytes, root in tiles:
            pieces = [block_bytes] if isinstance(block_bytes, (bytes, bytearray, memoryview)) else block_bytes
            size_bytes = self._files.write(tile_file_name(tile_id, version), pieces)
            batch.put(tile_key(tile_id, version), root + pack_u64(size_bytes))
            written.append(TileVersion(tile_id, version, root, size_bytes))
        if batch:
            self._index.write(batch)
        for held in written:
            self._remember(held)

    def open(self, tile_id: TileId, version: Version) -> CheckedTile:
        """Map a version. Header and Merkle index are checked now, each page when it is first used.

        Raises ``LookupError`` where the version is not held, and ``Rejected(TILE_CORRUPT)``, now or from the tile's
        methods, when the file is missing, cut short or changed: it goes to quarantine, and the version is no longer
        held.
        """
        held = self._held.get(tile_id, {}).get(version)
        if held is None:
            raise LookupError(f"version {version} of tile {tile_id} is not held; held: {self.versions(tile_id)}")
        what = f"tile {tile_id} version {version}"
        try:
            memory = self._files.read(tile_file_name(tile_id, version))
        except FileNotFoundError as error:
            self._forget(held)
            raise Rejected(Reason.TILE_CORRUPT, f"{what}: its file is gone; fetch it from a peer") from error
        return check_tile(tile_id, memory, held.root, lambda: self._quarantine(held))

    def find(self, tile_id: TileId, version: Version) -> TileVersion | None:
        """What is known of a version, or ``None`` where it is not held."""
        return self._held.get(tile_id, {}).get(version)

    def versions(self, tile_id: TileId) -> list[Version]:
        """The versions held of a tile, oldest first."""
        return sorted(self._held.get(tile_id, ()))

    def newest(self, tile_id: TileId) -> Version | None:
        """The newest version held of a tile, or ``None``."""
        return max(self._held.get(tile_id, ()), default=None)

    def held(self) -> list[TileVersion]:
        """Everything held, by tile and version."""
        return [self._held[tile_id][version] for tile_id in sorted(self._held) for version in self.versions(tile_id)]

    def prune(self, tile_id: TileId, keep: int, pinned: Collection[Version] = ()) -> list[Version]:
        """Drop all but the newest ``keep`` versions of a tile, and those pinned; returns what was dropped."""
        dropped = [version for version in self.versions(tile_id)[: -keep or None] if version not in pinned]
        self.drop(tile_id, dropped)
        return dropped

    def drop(self, tile_id: TileId, versions: Collection[Version]) -> None:
        """Forget versions of a tile; those not held are no error. Tiles opened before stay usable."""
        held = [found for version in versions if (found := self.find(tile_id, version)) is not None]
        self._forget(*held)
        for each in held:
            self._files.remove(tile_file_name(tile_id, each.version))

    @property
    def bytes_used(self) -> int:
        return self._bytes_used

    def statistics(self) -> TileStatistics:
        versions = sum(map(len, self._held.values()))
        return TileStatistics(len(self._held), versions, self.bytes_used, self._corrupt_count)

    def _quarantine(self, held: TileVersion) -> None:
        """Move a damaged file aside, unless a good one has taken its place since the damaged one was opened."""
        if self.find(held.tile_id, held.version) is not held:
            return
        self._corrupt_count += 1
        self._forget(held)
        aside = f"{QUARANTINE_FOLDER}/{held.tile_id.replace('/', '.')}.{held.version}"
        self._files.move(tile_file_name(held.tile_id, held.version), aside)
        older = [name for name in self._files.names(QUARANTINE_FOLDER) if name != aside]
        for name in older[: max(0, len(older) + 1 - QUARANTINE_FILES_MAX)]:
            self._files.remove(name)

    def _forget(self, *gone: TileVersion) -> None:
        batch = Batch()
        for held in gone:
            batch.delete(tile_key(held.tile_id, held.version))
        if batch:
            # The row first: a file without a row is swept at the next start; a row without a file breaks a promise.
            self._index.write(batch)
        for held in gone:
            versions = self._held[held.tile_id]
            del versions[held.version]
            self._bytes_used -= held.size_bytes
            if not versions:
                del self._held[held.tile_id]

    def _remember(self, held: TileVersion) -> None:
        versions = self._held.setdefault(held.tile_id, {})
        replaced = versions.get(held.version)
        versions[held.version] = held
        self._bytes_used += held.size_bytes - (0 if replaced is None else replaced.size_bytes)
