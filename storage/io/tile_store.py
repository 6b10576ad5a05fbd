"""TileStore: versions of tiles. Some are durable files, the others rest on one of those and on the updates since.

    tiles/<group>/<index>/<version>.tblock    a whole version
    row v | tile | version                    root and size; and on what the version rests, if not on its file
    quarantine/<group>.<index>.<version>      a file that was found changed, for whoever wants to know why

    base      its file is written and synced first, its row second: only now is the version held
    update    its update is durable since before it was decided; a row is enough, and names the base and every update above it.
              A file is written nevertheless, because the newest version is mapped at once, but nobody waits for the disk: it
              is a copy, which goes when two newer versions came, mostly before the disk has seen it
    fold      a copy is checked, synced, and its row becomes a base's (storage/compaction.py says when)

        base 7 ---- u8 ---- u9 ---- u10 ---- u11      held: 7, 8, 9, 10, 11; files: 7, and copies of 10 and 11
          ^          8       9       10       11      a fold of 11 syncs its copy; 7 goes when 8, 9 and 10 are gone

So a file without a row was never acknowledged and is removed at the start; a copy from before the start may be torn, and
is checked whole before it is believed; a version without a copy is made again when it is opened. A base whose file is gone, cut
short or changed is found out when it is used, and its holder fetches that version again and puts it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from protocol.ids import Digest, TileId, Version
from protocol.limits import MIB
from protocol.rejection import Reason, Rejected
from storage.compaction import Chain, CompactionRule, Trigger, find_trigger
from storage.files import Files
from storage.keys import TILE_VERSION, pack_u64, split_tile_key, tile_key, unpack_u64
from storage.kv import Batch, KeyValue, scan_all
from storage.tensor_block import DIGEST_BYTES, BytesLike
from storage.tile_format import CheckedTile, check_tile, tile_file_name

QUARANTINE_FOLDER: Final = "quarantine"
QUARANTINE_FILES_MAX: Final = 8  # enough to see a pattern, small enough not to fill the disk with rubbish (a guess)
COPIES_KEPT: Final = 2  # the newest, and the one that somebody still reads when it comes
REBUILT_BYTES_MAX: Final = 32 * MIB  # versions that were made again for a reader, who comes for each range of pages


@dataclass(frozen=True, slots=True)
class TileVersion:
    """What is known of one stored version without opening it.

    ``base`` is itself where its own file is durable; else ``updates`` lead there from the base, ``update_bytes`` in all.
    """

    tile_id: TileId
    version: Version
    root: Digest
    size_bytes: int
    base: Version
    updates: tuple[Digest, ...] = ()
    update_bytes: int = 0

    @property
    def is_base(self) -> bool:
        return not self.updates


@dataclass(frozen=True, slots=True)
class Updated:
    """A version that an update makes of the one before it. The update is durable already, and stays while it is in use."""

    tile_id: TileId
    version: Version
    block_bytes: BytesLike
    root: Digest
    update: Digest
    update_bytes: int


@dataclass(frozen=True, slots=True)
class TileStatistics:
    """``corrupt_count`` counts files that were found changed, and moved to quarantine, since the start.

    ``resting`` versions have no file that is promised; ``copies`` lie there nevertheless, ``torn_copies`` were cut short by
    a power cut, or changed, and made again. ``bytes_saved``: what whole files for all versions would take more. Folds are
    counted by their trigger; ``bytes_put`` is what the versions put since the start weigh, and ``bytes_synced`` what of
    that was written through to the disk.
    """

    tiles: int
    versions: int
    bytes_used: int
    corrupt_count: int
    resting: int
    copies: int
    torn_copies: int
    rebuilt: int
    bytes_saved: int
    folds_for_length: int
    folds_for_bytes: int
    folds_for_load: int
    bytes_put: int
    bytes_synced: int


class Rebuild(Protocol):
    """Makes a version's file again, from an earlier version and the updates between, bit for bit."""

    def __call__(self, base: CheckedTile, base_version: Version, updates: Sequence[Digest]) -> BytesLike:
        """Raises ``Rejected`` where the base or an update is damaged or gone."""
        ...


class TileStore:
    """The tile versions that this node holds. One writer; safe after a crash at any moment.

    Without ``rebuild`` every version is a base.
    """

    def __init__(
        self,
        files: Files,
        index: KeyValue,
        rebuild: Rebuild | None = None,
        monotonic_ms: Callable[[], int] = lambda: 0,
        rule: CompactionRule | None = None,
    ) -> None:
        """Read which versions there are, and remove the files of puts that never returned. Raises ``OSError``."""
        self._files = files
        self._index = index
        self._rebuild = rebuild
        self._monotonic_ms = monotonic_ms
        self._rule = rule or CompactionRule()
        self._held: dict[TileId, dict[Version, TileVersion]] = {}
        self._copies: dict[tuple[TileId, Version], int] = {}  # their bytes
        self._unchecked: set[tuple[TileId, Version]] = set()  # copies from before the start; asked only "is it in"
        self._rebuilt: OrderedDict[tuple[TileId, Version], BytesLike] = OrderedDict()
        self._load_ms: dict[tuple[TileId, Version], int] = {}  # the longest, of versions that rest on this base
        self._counts: Counter[str] = Counter()
        self._folds: Counter[Trigger] = Counter()
        self._bytes_used = 0
        for key, value in scan_all(index, TILE_VERSION):
            self._remember(_read_row(*split_tile_key(key), value))
        known = {tile_file_name(held.tile_id, held.version): held for held in self.held()}
        for file_name in files.names("tiles"):
            held = known.get(file_name)
            if held is None:
                files.remove(file_name)
            elif not held.is_base:
                self._remember_copy(held)
                self._unchecked.add((held.tile_id, held.version))

    # -- putting --------------------------------------------------------------------------------------------------------

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
        written = [self._write_base(*tile) for tile in tiles]
        self._acknowledge(written)

    def put_updated(self, updated: Iterable[Updated]) -> None:
        """Keep several versions, at most one of each tile; durable on return, with one sync for all.

        A version rests on its update, if the one before it is held and its base too; else it becomes a base. After a
        crash any of them may be there. Raises ``OSError``.
        """
        written = []
        for each in updated:
            before = self.find(each.tile_id, Version(each.version - 1))
            if before is None or not self._may_rest_on(before) or self.find(each.tile_id, each.version) is not None:
                written.append(self._write_base(each.tile_id, each.version, each.block_bytes, each.root))
                continue
            size_bytes = self._files.write(
                tile_file_name(each.tile_id, each.version), [each.block_bytes], durable=False
            )
            self._counts["bytes_put"] += size_bytes
            written.append(
                TileVersion(
                    each.tile_id,
                    each.version,
                    each.root,
                    size_bytes,
                    before.base,
                    (*before.updates, each.update),
                    before.update_bytes + each.update_bytes,
                )
            )
        self._acknowledge(written)

    def _may_rest_on(self, before: TileVersion) -> bool:
        """A chain that nobody folds ends by itself."""
        base = self.find(before.tile_id, before.base)
        is_short = len(before.updates) <= self._rule.updates_max
        return self._rebuild is not None and is_short and base is not None and base.is_base

    def _write_base(
        self, tile_id: TileId, version: Version, block_bytes: BytesLike | Iterable[BytesLike], root: Digest
    ) -> TileVersion:
        pieces = [block_bytes] if isinstance(block_bytes, (bytes, bytearray, memoryview)) else block_bytes
        size_bytes = self._files.write(tile_file_name(tile_id, version), pieces)
        self._counts["bytes_put"] += size_bytes
        self._counts["bytes_synced"] += size_bytes
        return TileVersion(tile_id, version, root, size_bytes, version)

    def _acknowledge(self, written: Sequence[TileVersion]) -> None:
        batch = Batch()
        for held in written:
            batch.put(tile_key(held.tile_id, held.version), _row(held))
        if batch:
            self._index.write(batch)
        for held in written:
            self._forget_copy(held)
            self._remember(held)
            if not held.is_base:
                self._remember_copy(held)

    # -- opening --------------------------------------------------------------------------------------------------------

    def open(self, tile_id: TileId, version: Version) -> CheckedTile:
        """Map a version, or make it again. Header and Merkle index are checked now, each page when it is first used.

        Raises ``LookupError`` where the version is not held, and ``Rejected(TILE_CORRUPT)``, now or from the tile's
        methods, when what it is made of is missing, cut short or changed: a file goes to quarantine, and the version is no
        longer held. One that rests on updates is held still when only its copy was changed, and can be opened again.
        """
        held = self._get(tile_id, version)
        return self._open_file(held) if held.is_base or self._is_copy_whole(held) else self._make_again(held)

    def ensure_file(self, tile_id: TileId, version: Version) -> str:
        """The name of a version's whole file, for a reader in another process; a copy is made where there is none.

        It stays for as long as the version is among the newest ``COPIES_KEPT``. Raises as :meth:`open`, and ``OSError``.
        """
        held = self._get(tile_id, version)
        file_name = tile_file_name(tile_id, version)
        if not held.is_base and not self._is_copy_whole(held):
            self._files.write(file_name, [self._make_again(held).memory], durable=False)
            self._remember_copy(held)
        return file_name

    def _get(self, tile_id: TileId, version: Version) -> TileVersion:
        held = self.find(tile_id, version)
        if held is None:
            raise LookupError(f"version {version} of tile {tile_id} is not held; held: {self.versions(tile_id)}")
        return held

    def _open_file(self, held: TileVersion) -> CheckedTile:
        try:
            memory = self._files.read(tile_file_name(held.tile_id, held.version))
        except FileNotFoundError as error:
            self._forget_file(held)
            raise Rejected(Reason.TILE_CORRUPT, f"{_named(held)}: its file is gone; fetch it from a peer") from error
        return check_tile(held.tile_id, memory, held.root, lambda: self._quarantine(held))

    def _is_copy_whole(self, held: TileVersion) -> bool:
        """Whether there is a copy to be opened. One from before the start is checked first, and goes if it is torn."""
        key = held.tile_id, held.version
        if key not in self._unchecked:
            return key in self._copies
        file_name = tile_file_name(held.tile_id, held.version)
        try:
            check_tile(held.tile_id, self._files.read(file_name), held.root).verify()
        except (Rejected, FileNotFoundError):
            self._counts["torn_copies"] += 1
            self._forget_copy(held)
            self._files.remove(file_name)
            return False
        self._unchecked.discard(key)
        return True

    def _make_again(self, held: TileVersion) -> CheckedTile:
        """A version from its base and the updates above it."""
        key = held.tile_id, held.version
        file = self._rebuilt.pop(key, None)
        if file is None:
            file = self._derive(held)
        self._rebuilt[key] = file
        while len(self._rebuilt) > 1 and sum(map(len, self._rebuilt.values())) > REBUILT_BYTES_MAX:
            self._rebuilt.popitem(last=False)
        return check_tile(held.tile_id, memoryview(file), held.root, lambda: self._forget_damaged(held))

    def _derive(self, held: TileVersion) -> BytesLike:
        began_ms = self._monotonic_ms()
        try:
            if self._rebuild is None:
                raise Rejected(Reason.NOT_FOUND, "nothing here applies updates")
            file = self._rebuild(self.open(held.tile_id, held.base), held.base, held.updates)
        except (LookupError, Rejected) as error:
            self._forget_damaged(held)
            why = f"{_named(held)}: what it rests on is damaged ({error}); fetch it from a peer"
            raise Rejected(Reason.TILE_CORRUPT, why) from error
        at = held.tile_id, held.base
        self._load_ms[at] = max(self._load_ms.get(at, 0), self._monotonic_ms() - began_ms)
        self._counts["rebuilt"] += 1
        return file

    # -- folding --------------------------------------------------------------------------------------------------------

    def fold(self, tile_id: TileId) -> Trigger | None:
        """Make the newest version of a tile a base, if its updates have become too many; durable on return.

        Whoever has a version open keeps it. Raises as :meth:`open`, and ``OSError``; then nothing has changed.
        """
        newest = self.newest(tile_id)
        held = None if newest is None else self.find(tile_id, newest)
        if held is None or held.is_base:
            return None
        load_ms = self._load_ms.get((tile_id, held.base), 0)
        chain = Chain(len(held.updates), held.update_bytes, held.size_bytes, load_ms)
        trigger = find_trigger(chain, self._rule)
        if trigger is None:
            return None
        file_name = tile_file_name(tile_id, held.version)
        tile = self.open(tile_id, held.version)
        tile.verify()
        if (tile_id, held.version) in self._copies:
            self._files.sync(file_name)
        else:
            self._files.write(file_name, [tile.memory])
        self._counts["bytes_synced"] += held.size_bytes
        self._acknowledge([TileVersion(tile_id, held.version, held.root, held.size_bytes, held.version)])
        self._folds[trigger] += 1
        return trigger

    # -- knowing --------------------------------------------------------------------------------------------------------

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
        return [held for tile_id in sorted(self._held) for _, held in sorted(self._held.get(tile_id, {}).items())]

    def copies(self) -> list[TileVersion]:
        """The versions of which a copy lies there, by tile and version."""
        return [held for held in self.held() if (held.tile_id, held.version) in self._copies]

    def in_use(self) -> set[Digest]:
        """The updates on which a version rests: whoever removes one loses it. Asked only "is it in"."""
        return {update for held in self.held() for update in held.updates}

    def bases_in_use(self) -> set[tuple[TileId, Version]]:
        """The versions on which another rests. Asked only "is it in"."""
        return {(held.tile_id, held.base) for held in self.held() if not held.is_base}

    @property
    def bytes_used(self) -> int:
        return self._bytes_used

    def statistics(self) -> TileStatistics:
        held = self.held()
        return TileStatistics(
            tiles=len(self._held),
            versions=len(held),
            bytes_used=self._bytes_used,
            corrupt_count=self._counts["corrupt"],
            resting=sum(not each.is_base for each in held),
            copies=len(self._copies),
            torn_copies=self._counts["torn_copies"],
            rebuilt=self._counts["rebuilt"],
            bytes_saved=sum(each.size_bytes for each in held) - self._bytes_used,
            folds_for_length=self._folds[Trigger.LENGTH],
            folds_for_bytes=self._folds[Trigger.BYTES],
            folds_for_load=self._folds[Trigger.LOAD],
            bytes_put=self._counts["bytes_put"],
            bytes_synced=self._counts["bytes_synced"],
        )

    # -- dropping -------------------------------------------------------------------------------------------------------

    def prune(self, tile_id: TileId, keep: int, pinned: Collection[Version] = ()) -> list[Version]:
        """Drop all but the newest ``keep`` versions of a tile, those pinned, and their bases; returns what was dropped.

        Of the copies the newest ``COPIES_KEPT`` stay.
        """
        versions = self.versions(tile_id)
        self.drop_copies(tile_id, versions[:-COPIES_KEPT])
        return self.drop(tile_id, [version for version in versions[: -keep or None] if version not in pinned])

    def drop(self, tile_id: TileId, versions: Collection[Version]) -> list[Version]:
        """Forget versions of a tile; those not held are no error. A base stays while a version that stays rests on it.

        Tiles opened before stay usable. Returns what was dropped.
        """
        needed = [version for version in self.versions(tile_id) if version not in versions]
        for version in needed:  # and what these rest on, which joins them
            base = self._get(tile_id, version).base
            if base not in needed and self.find(tile_id, base) is not None:
                needed.append(base)
        going = [self._get(tile_id, version) for version in self.versions(tile_id) if version not in needed]
        self._forget(*going)
        for held in going:
            self._files.remove(tile_file_name(tile_id, held.version))
        return [held.version for held in going]

    def drop_copies(self, tile_id: TileId, versions: Collection[Version]) -> None:
        """Remove copies, if there are any; the versions stay."""
        for version in versions:
            held = self.find(tile_id, version)
            if held is not None and (tile_id, version) in self._copies:
                self._forget_copy(held)
                self._files.remove(tile_file_name(tile_id, version))

    def _quarantine(self, held: TileVersion) -> None:
        """Move a damaged file aside, unless a good one has taken its place since the damaged one was opened."""
        if self.find(held.tile_id, held.version) is not held:
            return
        self._counts["corrupt"] += 1
        self._forget_file(held)
        aside = f"{QUARANTINE_FOLDER}/{held.tile_id.replace('/', '.')}.{held.version}"
        self._files.move(tile_file_name(held.tile_id, held.version), aside)
        older = [name for name in self._files.names(QUARANTINE_FOLDER) if name != aside]
        for name in older[: max(0, len(older) + 1 - QUARANTINE_FILES_MAX)]:
            self._files.remove(name)

    def _forget_file(self, held: TileVersion) -> None:
        """A version's file is lost: with a base the version is, without its copy it is not."""
        if held.is_base:
            self._forget(held)
        else:
            self._forget_copy(held)

    def _forget_damaged(self, held: TileVersion) -> None:
        """What a version rests on does not lead to its root."""
        if self.find(held.tile_id, held.version) is held:
            self._forget(held)
            self._files.remove(tile_file_name(held.tile_id, held.version))

    def _forget(self, *gone: TileVersion) -> None:
        batch = Batch()
        for held in gone:
            batch.delete(tile_key(held.tile_id, held.version))
        if batch:
            # The row first: a file without a row is swept at the next start; a row without a file breaks a promise.
            self._index.write(batch)
        for held in gone:
            self._forget_copy(held)
            versions = self._held[held.tile_id]
            del versions[held.version]
            if held.is_base:
                self._bytes_used -= held.size_bytes
                self._load_ms.pop((held.tile_id, held.version), None)
            if not versions:
                del self._held[held.tile_id]

    def _remember(self, held: TileVersion) -> None:
        versions = self._held.setdefault(held.tile_id, {})
        replaced = versions.get(held.version)
        versions[held.version] = held
        for each, sign in ((held, 1), (replaced, -1)):
            if each is not None and each.is_base:
                self._bytes_used += sign * each.size_bytes

    def _remember_copy(self, held: TileVersion) -> None:
        self._copies[held.tile_id, held.version] = held.size_bytes
        self._bytes_used += held.size_bytes

    def _forget_copy(self, held: TileVersion) -> None:
        """It is gone, or a base now; what was made again goes with it."""
        key = held.tile_id, held.version
        self._rebuilt.pop(key, None)
        self._unchecked.discard(key)
        self._bytes_used -= self._copies.pop(key, 0)


def _named(held: TileVersion) -> str:
    return f"tile {held.tile_id} version {held.version}"


def _row(held: TileVersion) -> bytes:
    row = held.root + pack_u64(held.size_bytes)
    if held.is_base:
        return row
    return row + pack_u64(held.base) + pack_u64(held.update_bytes) + b"".join(held.updates)


def _read_row(tile_id: TileId, version: Version, row: bytes) -> TileVersion:
    root, size_bytes, rest = Digest(row[:32]), unpack_u64(row[32:40]), row[40:]
    if not rest:
        return TileVersion(tile_id, version, root, size_bytes, version)
    updates = tuple(Digest(rest[at : at + DIGEST_BYTES]) for at in range(16, len(rest), DIGEST_BYTES))
    base, update_bytes = Version(unpack_u64(rest[:8])), unpack_u64(rest[8:16])
    return TileVersion(tile_id, version, root, size_bytes, base, updates, update_bytes)
