"""Having a blob kept: offered to every member, until more than two thirds of the weight say that they have their cells.

    data -> coded, named -> our own cells stored -> asked of every member, again and again -> quorum -> a transaction

An author that dies leaves nothing behind but cells that nobody recorded, which go with their epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
import trio

from consensus.availability import AvailabilityTally, CheckedAvailability, check_availability_vote
from node.chain_words import subject_words
from node.coded_offer import CodedOffer, code_offer
from node.kept_cells import KeptCells
from node.services.cell_fetch import CellFetch
from p2p.transport import RequestFailed
from protocol.availability import REPLICATION, AvailabilityClaim, AvailabilityVote, Subject, kept_until
from protocol.erasure import CheckedManifest
from protocol.finality import ChainId
from protocol.ids import Digest, MemberIndex, PeerId, short
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster

log = structlog.get_logger()

ASK_SECONDS: Final = 1.0  # between two questions whether a member has its cells
PATIENCE_SECONDS: Final = 120.0  # for a quorum: a gigabyte over a hundred megabits takes as long
OFFERS_MAX: Final = 8  # that are still given to members which were late


class KeepAuthor:
    """One node's offers. ``sign`` is our own vote for a claim, given when our own cells are stored."""

    def __init__(
        self,
        me: PeerId,
        chain: ChainId,
        cells: KeptCells,
        fetch: CellFetch,
        vote: Callable[[CodedOffer, Roster], Awaitable[AvailabilityVote | None]],
    ) -> None:
        self._me = me
        self._chain = chain
        self._cells = cells
        self._fetch = fetch
        self._vote = vote
        self._offers: OrderedDict[Digest, CodedOffer] = OrderedDict()

    def find(self, blob: Digest) -> CodedOffer | None:
        """An offer by its blob's root."""
        return self._offers.get(blob)

    async def offer(
        self, subject: Subject, data: memoryview, roster: Roster
    ) -> tuple[CodedOffer, CheckedAvailability] | None:
        """Have some bytes kept by the members of a roster; None where too few of them say so in time."""

        replication = REPLICATION[type(subject)]

        def claim_of(manifest: CheckedManifest, tables: Digest) -> AvailabilityClaim:
            return AvailabilityClaim(
                subject=subject.digest(),
                blob=manifest.root,
                tables=tables,
                geometry=manifest.geometry,
                epoch=roster.epoch,
                kept_until=kept_until(roster.epoch),
            )

        coding = partial(code_offer, self._cells.kernel, self._cells.code(replication.geometry), data, claim_of)
        offer = await self._cells.in_thread(coding)
        self._remember(offer)
        tally = AvailabilityTally(offer.claim, roster, self._chain)
        certificate: CheckedAvailability | None = None
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_SECONDS
            counted, votes = trio.open_memory_channel[AvailabilityVote](len(roster.members))
            async with counted:
                nursery.start_soon(self._vote_ourselves, offer, roster, counted.clone())
                for index, member in enumerate(roster.members):
                    if member.node != self._me:
                        nursery.start_soon(self._ask_until_kept, MemberIndex(index), offer, roster, counted.clone())
            async for vote in votes:
                certificate = tally.add(vote)
                if certificate is not None:
                    nursery.cancel_scope.cancel()
        if certificate is None:
            log.warning(
                "too few members keep it",
                what=subject_words(subject),
                missing=len(tally.missing),
                of=len(roster.members),
            )
            return None
        return offer, certificate

    async def _vote_ourselves(
        self, offer: CodedOffer, roster: Roster, counted: trio.MemorySendChannel[AvailabilityVote]
    ) -> None:
        async with counted:
            vote = await self._vote(offer, roster)
            if vote is not None:
                await counted.send(vote)

    async def _ask_until_kept(
        self,
        member: MemberIndex,
        offer: CodedOffer,
        roster: Roster,
        counted: trio.MemorySendChannel[AvailabilityVote],
    ) -> None:
        """A member's vote, checked, as soon as it gives one; a member that will not is left out."""
        async with counted:
            vote = await self._wait_for_vote(member, offer, roster)
            if vote is not None:
                await counted.send(vote)

    async def _wait_for_vote(self, member: MemberIndex, offer: CodedOffer, roster: Roster) -> AvailabilityVote | None:
        peer = roster.members[member].node
        while True:
            vote = None
            try:
                vote = await self._fetch.ask_to_keep(peer, offer.claim, offer.manifest.size_bytes)
            except RequestFailed:
                pass  # it may come back
            except Rejected as refusal:
                log.info("a member does not keep a blob", member=short(peer), why=str(refusal))
                return None
            if vote is not None:
                try:
                    if vote.signer != member or vote.claim != offer.claim:
                        raise Rejected(Reason.MALFORMED, "a vote of another member, or for another claim")
                    return check_availability_vote(vote, roster, self._chain)
                except Rejected as refusal:
                    self._fetch.report(peer, refusal)
                    return None
            await trio.sleep(ASK_SECONDS)

    def _remember(self, offer: CodedOffer) -> None:
        self._offers[offer.manifest.root] = offer
        self._offers.move_to_end(offer.manifest.root)
        if len(self._offers) > OFFERS_MAX:
            self._offers.popitem(last=False)
