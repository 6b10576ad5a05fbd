"""Looking whether others keep what they are to keep: audits of members, samples of tiles (chain.md 3.4 and 3.5).

    audit    the epoch's beacon draws leaves of each member's cells, the same ones for everybody who asks
    sample   cells that we draw ourselves, so that nobody knows which, of a few tiles in each epoch

Both wait for the second half of an epoch: in the first, cells are handed over. Who does not show what it is to keep is told of
by name. A tile of which a sample misses too much is put together, and if that fails it is an alarm for people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import structlog

from consensus.custody import Audit, draw_audits
from consensus.state import KeptEntry
from node.kept_cells import Custody, KeptCells
from node.services.cell_fetch import CellFetch
from node.services.keep_upkeep import KeepUpkeep
from p2p.transport import Transport
from protocol.cells import GetLeaf
from protocol.erasure import CheckedManifest
from protocol.ids import Digest, PeerId, short
from protocol.rejection import Rejected
from protocol.roster import Roster
from storage.erasure.tile import check_leaf
from storage.sampling.sampler import Verdict

log = structlog.get_logger()

# Everybody draws the same leaves of a member: a few who ask each are enough, and a crowd need not be heard by all of them.
MEMBERS_AUDITED: Final = 4  # by each who asks, in an epoch (a guess)
AUDITS_PER_MEMBER: Final = 4  # 6 kB (a guess)
# In an epoch; eight in an hour: a hundred who do so find one bad tile of 256 with 96 % (chain.md 3.5).
SAMPLED_TILES: Final = 2


@dataclass(frozen=True, slots=True)
class AuditStatistics:
    """Since the start."""

    audits: int
    audits_failed: int
    samples: int
    samples_lost: int


class KeepAudit:
    """One node's audits and samples."""

    def __init__(
        self,
        me: PeerId,
        cells: KeptCells,
        fetch: CellFetch,
        upkeep: KeepUpkeep,
        transport: Transport,
        roster: Callable[[], Roster],
        generator: Random,
    ) -> None:
        self._me = me
        self._cells = cells
        self._fetch = fetch
        self._upkeep = upkeep
        self._transport = transport
        self._roster = roster
        self._generator = generator
        self.faults: Counter[PeerId] = Counter()  # what was not shown, by holder
        self._audits = self._samples = self._lost = 0

    def statistics(self) -> AuditStatistics:
        return AuditStatistics(self._audits, self.faults.total(), self._samples, self._lost)

    async def look(self) -> None:
        """Audit some members that are connected, and sample some tiles; once in an epoch."""
        roster = self._roster()
        kept = await self._kept(roster)
        members = [peer for peer in self._transport.connected_peers() if roster.find_index(peer) is not None]
        for member in self._generator.sample(members, min(MEMBERS_AUDITED, len(members))):
            await self._audit(member, roster, kept)
        tiles = [(custody, tile) for custody in kept.values() for tile in range(custody.manifest.tile_count)]
        for custody, tile in self._generator.sample(tiles, min(SAMPLED_TILES, len(tiles))):
            await self._sample(custody, tile, roster)

    async def _kept(self, roster: Roster) -> dict[Digest, Custody]:
        """Of the blobs that were recorded before this epoch and are kept in it: whose cells had time to be handed over."""
        found = {}
        for blob, entries in self._upkeep.by_blob().items():
            settled = [entry for entry in entries if _was_there(entry, roster)]
            if settled:
                manifest = await self._upkeep.find_manifest(blob)
                if manifest is not None:
                    found[blob] = Custody.of(manifest, settled)
        return found

    async def _audit(self, holder: PeerId, roster: Roster, kept: dict[Digest, Custody]) -> None:
        def cells_of(manifest: CheckedManifest, tile: int) -> tuple[int, ...]:
            return kept[manifest.root].duty(holder, roster, tile)

        manifests = [custody.manifest for custody in kept.values()]
        for audit in draw_audits(roster.beacon, holder, manifests, cells_of, AUDITS_PER_MEMBER):
            self._audits += 1
            if not await self._shows(holder, kept[audit.blob].manifest, audit):
                self.faults[holder] += 1
                log.warning(
                    "a member does not show what it keeps",
                    member=short(holder),
                    blob=audit.blob.hex()[:16],
                    tile=audit.tile,
                    cell=audit.cell,
                )

    async def _shows(self, holder: PeerId, manifest: CheckedManifest, audit: Audit) -> bool:
        proof = await self._fetch.find_leaf(holder, GetLeaf(audit.blob, audit.tile, audit.cell, audit.leaf))
        if proof is None or (proof.tile, proof.cell, proof.leaf) != (audit.tile, audit.cell, audit.leaf):
            return False
        try:
            check_leaf(manifest, proof)
        except Rejected as refusal:
            self._fetch.report(holder, refusal)
            return False
        return True

    async def _sample(self, custody: Custody, tile: int, roster: Roster) -> None:
        peers = (self._me, *self._transport.connected_peers())
        manifest, custodians = custody.manifest, custody.custodians(tile, [roster], peers)
        concluded, accused = await self._fetch.sample(manifest, tile, custodians)
        self._samples += 1
        for each in accused:
            self.faults[each.peer] += 1
        if concluded.verdict is Verdict.AVAILABLE:
            return
        # Many cells are away, as when some members are: whether enough are there only as many as rebuild it can tell.
        found = {shard.shard.cell for shard in await self._upkeep.gather_any(custody, tile)}
        if len(found) < manifest.geometry.data_cells:
            self._lost += 1
            log.error("a tile looks lost", blob=manifest.root.hex()[:16], tile=tile, cells_found=len(found))


def _was_there(entry: KeptEntry, roster: Roster) -> bool:
    return entry.epoch < roster.epoch and not entry.is_over(roster.epoch)
