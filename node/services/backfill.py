"""The blocks below a checkpoint, fetched downwards while the node does its work (chain.md 4, flow 7).

    oldest block that is kept ---- its parent's digest ----> the block below it, from anybody, and so on down to the first

A header that has the digest which the block above it names is the right one, and so is a body that has its header's. Epoch by
epoch the roster is fetched as well, by the digest in the header: with it the certificates are checked that are kept, so that
whoever asks this node for blocks gets what anybody else would give. How far it is the ledger says: nothing else is remembered.
What became of a transaction in these blocks is not known here, because they were not executed.

It goes slowly, one question at a time, and stops where old blocks would soon have to go again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from consensus.finality.tally import check_certificate
from node.ground import Ground
from node.threads import InThread
from p2p.requests import STATE, SYNC, RequestRule
from p2p.transport import RequestFailed, Transport
from protocol.codec import decode, encode
from protocol.epochs import boundary_of, epoch_of, is_boundary
from protocol.finality import ChainId, FinalizedBlock, Header, VoteKind, body_root
from protocol.ids import Epoch, Height, PeerId, short
from protocol.learning import Blocks, GetBlocks
from protocol.limits import FRAME_BYTES_MAX, KIB, SYNC_BLOCKS_PER_ANSWER_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster, check_roster
from protocol.state_sync import GetTrusted, Trusted
from storage.keys import own_key, pack_u64
from storage.kv import Batch
from storage.ledger import FinalizedBlock as StoredBlock

log = structlog.get_logger()

BLOCKS_PER_STEP: Final = SYNC_BLOCKS_PER_ANSWER_MAX * 3 // 4  # an answer goes on to the next certificate
PAUSE_SECONDS: Final = 0.2  # between steps: blocks and votes go first
WAIT_SECONDS: Final = 60.0  # where nobody had the next ones, or there is no room
ROOM_SHARE: Final = (3, 4)  # of the ledger's allowance: above it blocks would soon be pruned that were just fetched

Report = Callable[[PeerId, Rejected], None]


@dataclass(slots=True)
class Backfill:
    """Fetches one node's history. ``in_thread``: for signatures."""

    ground: Ground
    transport: Transport
    chain: ChainId
    in_thread: InThread
    report: Report
    fetched_blocks: int = 0
    _rosters: dict[Epoch, Roster] = field(default_factory=dict)
    _count: int = BLOCKS_PER_STEP

    def next_height(self) -> Height | None:
        """The block that is to be fetched next; None where all are here, none is, or there is no room for more."""
        oldest, used_bytes = self.ground.ledger.oldest(), self.ground.ledger.statistics().bytes_used
        share, whole = ROOM_SHARE
        if oldest is None or oldest <= 1 or whole * used_bytes >= share * self.ground.settings.storage.chain_bytes_max:
            return None
        return Height(oldest - 1)

    async def run(self) -> None:
        """Until all is here, or cancelled."""
        if not self.ground.settings.storage.history:
            return
        while (oldest := self.ground.ledger.oldest()) is None or oldest > 1:
            is_further = await self.step()
            await trio.sleep(PAUSE_SECONDS if is_further else WAIT_SECONDS)
        if self.fetched_blocks:
            log.info("the history is complete", fetched=self.fetched_blocks)

    async def step(self) -> bool:
        """Fetch some blocks below the oldest one; whether there are any more than before."""
        last = self.next_height()
        if last is None:
            return False
        heights = self.ground.genesis.chain.epoch_heights
        first = Height(max(boundary_of(epoch_of(last, heights) - 1, heights) + 1, last - self._count + 1))
        for peer in self.transport.connected_peers():
            try:
                blocks = await self._ask_blocks(peer, first, last)
                if not blocks:
                    continue
                roster = await self._find_roster(peer, blocks[-1].header)
                if roster is None:
                    continue
                kept = await self.in_thread(lambda blocks=blocks, roster=roster: self._certified(blocks, roster))  # type: ignore[misc]  # lambda's defaults
            except Rejected as refusal:
                log.info("a block of the history was refused", peer=short(peer), why=str(refusal))
                self.report(peer, refusal)
                continue
            if self.ground.ledger.oldest() != last + 1:
                return True  # it was pruned, or begun anew, meanwhile
            self._store(kept, roster)
            self._count = min(2 * self._count, BLOCKS_PER_STEP)
            return True
        self._count = max(1, self._count // 2)  # large blocks: as many did not fit
        return self._count > 1

    async def _ask(self, peer: PeerId, rule: RequestRule, request: GetBlocks | GetTrusted) -> bytes | None:
        try:
            return await self.transport.request(
                peer,
                rule.protocol,
                encode(request),
                timeout_seconds=rule.timeout_seconds,
                response_bytes_max=rule.response_bytes_max,
            )
        except (RequestFailed, Rejected):
            return None

    async def _ask_blocks(self, peer: PeerId, first: Height, last: Height) -> tuple[FinalizedBlock, ...]:
        """A peer's blocks of these heights, as far as they lead down from ours without a gap; raises ``Rejected``.

        What stands above ``last`` came with them to end with a certificate. None where the answer does not reach so far.
        """
        data = await self._ask(peer, SYNC, GetBlocks(first, last - first + 1))
        if data is None:
            return ()
        answer = decode(Blocks, data, limit_bytes=FRAME_BYTES_MAX).blocks
        blocks = tuple(block for block in answer if first <= block.header.height <= last)
        if not blocks or blocks[-1].header.height != last:
            return ()
        above = self.ground.ledger.find_header(Height(last + 1))
        if above is None:
            return ()
        parent = decode(Header, above, limit_bytes=4 * KIB).parent
        for height, block in zip(range(last, first - 1, -1), reversed(blocks), strict=False):
            if block.header.height != height or block.header.digest() != parent:
                raise Rejected(Reason.WRONG_ANCESTRY, f"height {height} does not lead up to what is final")
            if len(block.body) != block.header.body_bytes or body_root(block.body) != block.header.body_root:
                raise Rejected(Reason.WRONG_DIGEST, f"body of height {height}")
            parent = block.header.parent
        return blocks

    async def _find_roster(self, peer: PeerId, header: Header) -> Roster | None:
        """The roster of a header that is known to be right: from the disk, or from whoever gave the header."""
        if header.epoch in self._rosters:
            return self._rosters[header.epoch]
        raw = self.ground.index.get(own_key("roster", pack_u64(header.epoch)))
        if raw is not None:
            roster = decode(Roster, raw, limit_bytes=FRAME_BYTES_MAX)
        else:
            boundary = boundary_of(header.epoch, self.ground.genesis.chain.epoch_heights)
            data = await self._ask(peer, STATE, GetTrusted(boundary))
            shown = None if data is None else decode(Trusted, data, limit_bytes=FRAME_BYTES_MAX).block.roster
            if shown is None:
                return None
            roster = check_roster(shown)
        if roster.digest() != header.roster:
            raise Rejected(Reason.WRONG_DIGEST, f"the roster of epoch {header.epoch} is not the header's")
        self._rosters = {header.epoch: roster}
        return roster

    def _certified(self, blocks: tuple[FinalizedBlock, ...], roster: Roster) -> tuple[FinalizedBlock, ...]:
        """The same blocks with one certificate, the highest, which is checked; raises ``Rejected``.

        With more, as many signatures would have to be checked; with none, nobody could be given these blocks.
        """
        kept, heights = list(blocks), self.ground.genesis.chain.epoch_heights
        is_found = False
        for index in reversed(range(len(kept))):
            certificate, header = kept[index].certificate, kept[index].header
            if certificate is None:
                continue
            if is_found:
                kept[index] = replace(kept[index], certificate=None)
                continue
            is_late = certificate.view > header.view and is_boundary(header.height, heights)
            names_it = certificate.kind is VoteKind.FINALIZE and certificate.block == header.digest()
            if not names_it or not (certificate.view == header.view or is_late):
                raise Rejected(Reason.WRONG_ANCESTRY, f"the certificate of height {header.height} is another block's")
            check_certificate(certificate, roster, self.chain)
            is_found = True
        return tuple(kept)

    def _store(self, blocks: tuple[FinalizedBlock, ...], roster: Roster) -> None:
        extra = Batch()
        extra.put(own_key("roster", pack_u64(roster.epoch)), encode(roster))
        stored = [
            StoredBlock(
                block.header.height,
                encode(block.header),
                block.body,
                b"" if block.certificate is None else encode(block.certificate),
            )
            for block in blocks
        ]
        self.ground.ledger.extend_down(stored, extra)
        self.fetched_blocks += len(stored)
