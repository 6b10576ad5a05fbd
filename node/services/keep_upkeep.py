"""Having what is ours: the cells that the ring gives this node, of every blob that the record says is kept.

    in this epoch ours and not here -> from their holders, of this epoch's ring or the last one's (hand-over)
                                    -> or from the tile's repairer, who makes them again from any that are enough (repair)
    neither in this epoch nor in the last one ours -> let go, once nothing of ours is missing

The repairer is the first in the tile's order who is there. Everybody who lacks something of the tile asks the same one, and it
rebuilds once: repair costs one tile's worth of cells, however many holders lost theirs. What is to be done is found out anew
from record and disk, so that a restart forgets nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from functools import reduce
from typing import Final

import structlog
import trio

from consensus.kept import kept_blobs
from consensus.state import KEPT, ROSTERS, KeptEntry, State
from node.coded_offer import CodedOffer
from node.kept_cells import Custody, KeptCells
from node.services.cell_fetch import CellFetch
from p2p.transport import Transport
from protocol.digest import number
from protocol.erasure import CheckedManifest
from protocol.ids import Digest, PeerId, after
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from storage.cells import later
from storage.erasure.certified import read_certified
from storage.erasure.tile import CheckedShard, CodedTile, rebuild_tile
from storage.gathering import Agreement

log = structlog.get_logger()

Way = Callable[[Custody, int, Roster, Sequence[int]], Awaitable[list[CheckedShard]]]  # to cells of one tile

REBUILDS_AT_ONCE: Final = 1  # a tile takes its cells, and four times as much


class KeepUpkeep:
    """One node's cells, kept up."""

    def __init__(
        self,
        me: PeerId,
        cells: KeptCells,
        fetch: CellFetch,
        transport: Transport,
        state: Callable[[], State],
        roster: Callable[[], Roster],
        find_offer: Callable[[Digest], CodedOffer | None],
    ) -> None:
        self._me = me
        self._cells = cells
        self._fetch = fetch
        self._transport = transport
        self._state = state
        self._roster = roster
        self._find_offer = find_offer
        self._rebuilding = trio.CapacityLimiter(REBUILDS_AT_ONCE)
        self._recorded: tuple[KeptEntry, ...] = ()
        self._by_blob: dict[Digest, tuple[KeptEntry, ...]] = {}
        self._recorded_root: Digest | None = None
        self._epoch = -1  # in which these are whole
        self._whole: dict[Digest, tuple[KeptEntry, ...]] = {}  # and what the record said of them
        self._unrecorded: dict[Digest, None] = {}  # blobs that nobody had recorded when the epoch began
        self.missing: dict[Digest, int] = {}  # cells that are ours and not here, by blob
        self.rebuilt_tiles = 0

    def recorded(self) -> tuple[KeptEntry, ...]:
        """What is to be kept, by the record; read again when that has changed."""
        state = self._state()
        root = state.trees[KEPT.chain].root()
        if root != self._recorded_root:
            self._recorded_root, self._recorded = root, tuple(kept_blobs(state))
            by_blob: dict[Digest, tuple[KeptEntry, ...]] = {}
            for entry in sorted(self._recorded, key=lambda entry: (entry.height, entry.subject.digest())):
                by_blob[entry.blob] = (*by_blob.get(entry.blob, ()), entry)
            self._by_blob = by_blob
        return self._recorded

    def by_blob(self) -> Mapping[Digest, tuple[KeptEntry, ...]]:
        """The same by blob, of which the record may speak more than once; what was recorded first comes first."""
        self.recorded()
        return self._by_blob

    def missing_of(self, blob: Digest) -> int:
        """Cells of a recorded blob that are ours and not here; at least one until it was looked at in this epoch."""
        if self._epoch == self._roster().epoch and self._whole.get(blob) == self.by_blob().get(blob):
            return 0
        return max(1, self.missing.get(blob, 0))

    @property
    def is_complete(self) -> bool:
        """Whether nothing of ours is missing, as of the last look."""
        return not self.missing

    async def look(self) -> None:
        """Fetch what is ours and not here, blob by blob; let go of what is ours no more."""
        roster = self._roster()
        if roster.epoch != self._epoch:
            self._epoch = roster.epoch
            self._whole.clear()
            self.missing.clear()
            recorded = self.by_blob()
            await self._cells.in_thread(lambda: self._release(roster.epoch, recorded))
            self._fetch.forget_others(recorded)
            self._fetch.silent.clear()  # they are tried again
        for blob, entries in list(self.by_blob().items()):
            if self._whole.get(blob) != entries:
                try:
                    await self._fill(blob, entries, roster)
                except (OSError, LookupError, Rejected) as error:  # the disk; or the blob was dropped meanwhile
                    log.error("cells could not be stored", why=str(error))
                    return

    async def _fill(self, blob: Digest, entries: tuple[KeptEntry, ...], roster: Roster) -> None:
        manifest = await self.find_manifest(blob)
        self.missing[blob] = 1  # as long as nothing is known of it
        if manifest is None or not await self.ensure_blob(manifest, entries[0].tables, _latest(entries)):
            return
        custody = Custody.of(manifest, entries)
        missing = 0
        for tile in range(manifest.tile_count):
            missing += await self.fill_tile(custody, tile, roster)
        self.missing[blob] = missing
        if not missing:
            del self.missing[blob]
            self._whole[blob] = entries
            rosters = self._rosters(roster)
            await self._cells.in_thread(lambda: self._let_go(custody, rosters))

    def _release(self, epoch: int, recorded: Container[Digest]) -> None:
        """Of blobs whose time is over; and of those that were unrecorded an epoch ago, and are still."""
        store = self._cells.store
        store.release(epoch)
        unrecorded = [kept.manifest.root for kept in store.blobs() if kept.manifest.root not in recorded]
        for blob in unrecorded:
            if blob in self._unrecorded:
                store.drop_blob(blob)
        self._unrecorded = dict.fromkeys(unrecorded)

    def _rosters(self, roster: Roster) -> list[Roster]:
        """Of this epoch, and of the one before where there was one."""
        before = self._state().find(ROSTERS, number(roster.epoch - 1)) if roster.epoch else None
        return [roster] if before is None else [roster, before]

    def _let_go(self, custody: Custody, rosters: Sequence[Roster]) -> None:
        blob = custody.manifest.root
        for tile in range(custody.manifest.tile_count):
            ours = {cell for roster in rosters for cell in custody.duty(self._me, roster, tile)}
            held = self._cells.store.cells_held(blob, tile)
            self._cells.store.drop_cells(blob, tile, [cell for cell in held if cell not in ours])

    def doubt(self, blob: Digest) -> None:
        """A cell of a blob was looked for in vain: look again whether all of ours are here."""
        if self._whole.pop(blob, None) is not None:
            self.missing[blob] = 1

    def find_custody(self, manifest: CheckedManifest) -> Custody | None:
        """By the record; None where it says nothing of the blob."""
        entries = self.by_blob().get(manifest.root)
        return None if entries is None else Custody.of(manifest, entries)

    # -- one blob, one tile ---------------------------------------------------------------------------------------------

    def _sources(self) -> list[PeerId]:
        """Whom to ask: connected members first, who have what is on the record, and last who was silent when it was asked.

        Of each kind those behind our own place, so that a crowd asks all of them.
        """
        roster, silent = self._roster(), self._fetch.silent
        ring = after(self._me, self._transport.connected_peers())
        return sorted(ring, key=lambda peer: (peer in silent, roster.find_index(peer) is None))

    async def find_manifest(self, blob: Digest) -> CheckedManifest | None:
        """Ours, or somebody's."""
        offer = self._find_offer(blob)
        held = offer.manifest if offer is not None else self._cells.store.find_manifest(blob)
        return held or await self._fetch.find_manifest(blob, self._sources())

    async def ensure_blob(
        self, manifest: CheckedManifest, tables_root: Digest, kept_until: int | None, author: PeerId | None = None
    ) -> bool:
        """Manifest and tables on the disk, the latter from its author or from anybody; False where nobody gives them."""
        held = self._cells.store.find_blob(manifest.root)
        if held is not None and (held.tables_root, held.kept_until) == (tables_root, kept_until):
            return True
        sources = self._sources() if author is None else [author]
        tables = await self._fetch.find_tables(manifest, tables_root, sources)
        if tables is None:
            return False
        await self._cells.in_thread(lambda: self._cells.store.put_blob(manifest, tables_root, tables, kept_until))
        return True

    async def fill_tile(self, custody: Custody, tile: int, roster: Roster, author: PeerId | None = None) -> int:
        """Fetch and store our cells of one tile; returns how many are still missing.

        A cell that contradicts the tile's table is its author's lie: of a blob that an ``author`` offers that is a
        ``Rejected``, and nobody else is asked; of one that is recorded, such a cell can be had from nobody and is not missing.
        """
        store, manifest = self._cells.store, custody.manifest
        ours = custody.duty(self._me, roster, tile)
        held = await self._cells.in_thread(lambda: store.cells_held(manifest.root, tile))
        missing = [cell for cell in ours if cell not in held]
        if not missing:
            return 0
        found = await self.at_hand(manifest, tile, missing)
        ways = (self._given, self._gathered, self._repaired) if author is None else (self._offered(author),)
        for way in ways:
            wanted = [cell for cell in missing if cell not in found]
            if wanted:
                found.update({each.shard.cell: each for each in await way(custody, tile, roster, wanted)})

        def keep() -> None:
            agreement = self._cells.agreement(custody, tile)
            agreeing = [each.checked for each in agreement.check.agree(agreement.table, list(found.values()))]
            if author is not None and len(agreeing) < len(found):
                raise Rejected(Reason.BAD_ENCODING, f"cells of tile {tile} contradict their table")
            store.put_cells(manifest.root, agreeing)

        if found:
            await self._cells.in_thread(keep)
        return len(missing) - len(found)

    async def at_hand(self, manifest: CheckedManifest, tile: int, cells: Sequence[int]) -> dict[int, CheckedShard]:
        """Those of the cells that need not be asked of anybody: offered by us, coded lately, or kept."""

        def find() -> dict[int, CheckedShard]:
            offer = self._find_offer(manifest.root)
            coded = self._cells.coded.find(manifest.tile_root(tile))
            if coded is None and offer is not None:
                coded = self._cells.coded.of(offer, tile)
            if coded is not None:
                return {cell: coded.checked(cell) for cell in cells}
            looked = {cell: self._cells.store.find(manifest.root, tile, cell) for cell in cells}
            return {cell: checked for cell, checked in looked.items() if checked is not None}

        return await self._cells.in_thread(find)

    def _offered(self, author: PeerId) -> Way:
        """From whoever offers the blob: it has every cell."""

        async def gather(custody: Custody, tile: int, roster: Roster, cells: Sequence[int]) -> list[CheckedShard]:
            manifest = custody.manifest
            return await self._fetch.gather(manifest, tile, dict.fromkeys(cells, (author,)), cells=cells)

        return gather

    async def _given(self, custody: Custody, tile: int, roster: Roster, cells: Sequence[int]) -> list[CheckedShard]:
        """From one member, in one question: who signed lately has the whole tile at hand."""
        first = next(iter(self._sources()), None)
        if first is None or roster.find_index(first) is None:
            return []
        return await self._fetch.given(first, custody.manifest, tile, cells)

    async def _gathered(self, custody: Custody, tile: int, roster: Roster, cells: Sequence[int]) -> list[CheckedShard]:
        """From those who are to have them."""
        custodians = custody.custodians(tile, self._rosters(roster), self._transport.connected_peers())
        return await self._fetch.gather(custody.manifest, tile, custodians, cells=cells)

    async def _repaired(self, custody: Custody, tile: int, roster: Roster, cells: Sequence[int]) -> list[CheckedShard]:
        """From the tile's repairer, who may be ourselves."""
        connected = self._transport.connected_peers()
        for repairer in custody.repairers(roster, tile):
            if repairer == self._me:
                coded = await self.rebuild(custody, tile)
                return [] if coded is None else [coded.checked(cell) for cell in cells]
            if repairer in connected:
                got = await self._fetch.given(repairer, custody.manifest, tile, cells, rebuild=True)
                if got:
                    return got
        return []

    # -- whole tiles ----------------------------------------------------------------------------------------------------

    async def rebuild(self, custody: Custody, tile: int) -> CodedTile | None:
        """All cells of a tile, from any that are enough; None where they are not to be had, or are no codeword."""
        manifest = custody.manifest
        async with self._rebuilding:
            coded = self._cells.coded.find(manifest.tile_root(tile))
            if coded is not None:
                return coded
            shards = await self.gather_any(custody, tile)
            code = self._cells.code(manifest.geometry)
            try:
                coded = await self._cells.in_thread(lambda: rebuild_tile(code, manifest, tile, shards))
            except Rejected as refusal:
                log.info("a tile is not rebuilt", blob=manifest.root.hex()[:16], tile=tile, why=str(refusal))
                return None
            self.rebuilt_tiles += 1
            return self._cells.coded.keep(coded)

    async def gather_any(self, custody: Custody, tile: int, agreement: Agreement | None = None) -> list[CheckedShard]:
        """As many cells of a tile as rebuild it, our own first; fewer where they are not to be had.

        With ``agreement`` a cell that contradicts the tile's table is passed over and another asked for.
        """
        store, manifest = self._cells.store, custody.manifest
        held = await self._cells.in_thread(lambda: store.cells_held(manifest.root, tile))
        own = await self.at_hand(manifest, tile, held[: manifest.geometry.data_cells])
        rosters = self._rosters(self._roster())
        custodians = custody.custodians(tile, rosters, self._transport.connected_peers())
        got = await self._fetch.gather(manifest, tile, custodians, held=list(own), agreement=agreement)
        return [*own.values(), *got]

    async def read_tile(self, entry: KeptEntry, manifest: CheckedManifest, tile: int) -> memoryview:
        """The data of one tile of a recorded blob, as its holders certified it. Raises ``Rejected(TOO_FEW_CELLS)``."""
        entries = [each for each in self.by_blob().get(entry.blob, [entry]) if each.tables == entry.tables]
        if not await self.ensure_blob(manifest, entry.tables, _latest(entries)):
            raise Rejected(Reason.TOO_FEW_CELLS, "nobody gives the blob's tables")
        custody = Custody.of(manifest, entries)
        agreement = await self._cells.in_thread(lambda: self._cells.agreement(custody, tile))
        shards = await self.gather_any(custody, tile, agreement)
        code, kernel = self._cells.code(manifest.geometry), self._cells.kernel

        def read() -> memoryview:
            return read_certified(code, kernel, manifest, agreement.table, shards)

        return await self._cells.in_thread(read)


def _latest(entries: Sequence[KeptEntry]) -> int | None:
    """Until when the longest of them is kept."""
    ends: list[int | None] = [entry.kept_until for entry in entries]
    return reduce(later, ends)
