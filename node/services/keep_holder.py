"""Being asked to keep a blob: manifest, tables and our cells of each tile are fetched, checked and stored; then we vote.

    claim -> is it of this epoch, and its author a member? is there room? -> fetched in the background; asked again, our vote

Store before sign: a vote says that the cells are on the disk. And that the blob is what it is said to be: a tile's version that
we hold is coded again and compared, and then no cell need be fetched from anybody; one that was decided and is not here yet is
waited for. For the state at the epoch's beginning only cells are vouched for, since every reader proves it; anything else is
not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from typing import Final, TypeVar

import structlog
import trio

from consensus.heads import TileHead
from consensus.state import EPOCH_MARKS, KEPT, State
from node.coded_offer import CodedOffer
from node.ground import Ground
from node.kept_cells import Custody, KeptCells, check_size
from node.services.cell_fetch import CellFetch
from node.services.keep_upkeep import KeepUpkeep
from p2p.transport import Transport
from protocol.availability import (
    AvailabilityClaim,
    AvailabilityVote,
    StateCheckpoint,
    Subject,
    TileSnapshot,
    check_claim,
)
from protocol.digest import number
from protocol.erasure import CheckedManifest
from protocol.ids import Digest, Height, MemberIndex, PeerId, TileId, Version, short
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from storage.erasure.tile import encode_tile

log = structlog.get_logger()

Value = TypeVar("Value")
TileData = Callable[[TileId, Version], Awaitable[memoryview | None]]

TAKES_MAX: Final = 64  # claims that are being taken in, or wait for it: who asks again later loses nothing
TAKES_AT_ONCE: Final = 2
VOTES_REMEMBERED_MAX: Final = 4_096


class KeepHolder:
    """One node's votes. ``tile_data``: the file of a tile's version; None where it is not here."""

    def __init__(
        self,
        ground: Ground,
        cells: KeptCells,
        fetch: CellFetch,
        upkeep: KeepUpkeep,
        transport: Transport,
        state: Callable[[], State],
        roster: Callable[[], Roster],
        heads: Callable[[], Mapping[TileId, TileHead]],
        tile_data: TileData,
        has_room: Callable[[int], bool],
    ) -> None:
        self._ground = ground
        self._chain = ground.chain
        self._cells = cells
        self._fetch = fetch
        self._upkeep = upkeep
        self._transport = transport
        self._state = state
        self._roster = roster
        self._heads = heads
        self._tile_data = tile_data
        self._has_room = has_room
        self._votes: OrderedDict[Digest, AvailabilityVote] = OrderedDict()
        self._refusals: OrderedDict[Digest, Rejected] = OrderedDict()
        self._taking: dict[Digest, None] = {}
        self._limit = trio.CapacityLimiter(TAKES_AT_ONCE)
        self._nursery: trio.Nursery | None = None
        self.voted = self.refused = 0  # claims, since the start

    async def run(self) -> None:
        """Until cancelled: claims are taken in meanwhile."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def consider(self, peer: PeerId, claim: AvailabilityClaim, size_bytes: int) -> AvailabilityVote | None:
        """Our vote for a claim, if our cells are stored; None while they are being fetched. Raises ``Rejected``."""
        name, roster = claim.text(self._chain), self._roster()
        if name in self._votes:
            return self._votes[name]
        if name in self._refusals:
            raise self._refusals[name]
        if claim.epoch != roster.epoch:
            raise Rejected(Reason.WRONG_EPOCH, f"epoch {claim.epoch}, it is epoch {roster.epoch}")
        if roster.find_index(peer) is None or roster.find_index(self._ground.peer) is None:
            raise Rejected(Reason.NOT_A_MEMBER, "members ask members")
        check_claim(claim)
        self._find_subject(claim.subject, roster)
        if self._state().find(KEPT, claim.subject) is not None:
            raise Rejected(Reason.ALREADY_RECORDED, "somebody has it kept already")
        if name not in self._taking and len(self._taking) < TAKES_MAX and self._nursery is not None:
            self._check_room(claim, size_bytes, roster)
            self._taking[name] = None
            self._nursery.start_soon(self._take_in, peer, claim, size_bytes, roster)
        return None

    async def keep_own(self, offer: CodedOffer, roster: Roster) -> AvailabilityVote | None:
        """Our vote for an offer of ours; None where we are no member, or cannot store our cells."""
        if roster.find_index(self._ground.peer) is None:
            return None
        claim, manifest, store = offer.claim, offer.manifest, self._cells.store
        custody = Custody(manifest, claim.tables, (roster.beacon,))

        def keep() -> None:
            store.put_blob(manifest, claim.tables, offer.tables, claim.kept_until)
            for tile in range(manifest.tile_count):
                coded = self._cells.coded.of(offer, tile)
                ours = custody.duty(self._ground.peer, roster, tile)
                store.put_cells(claim.blob, [coded.checked(cell) for cell in ours])

        try:
            self._check_room(claim, manifest.size_bytes, roster)
            await self._cells.in_thread(keep)
        except (OSError, Rejected) as error:
            log.error("our own cells are not stored", why=str(error))
            return None
        return self._vote(claim, roster)

    # -- taking a claim in ----------------------------------------------------------------------------------------------

    def _check_room(self, claim: AvailabilityClaim, size_bytes: int, roster: Roster) -> None:
        coded_bytes = -(-size_bytes * claim.geometry.cells // claim.geometry.data_cells)
        if not self._has_room(coded_bytes * roster.weights[self._index(roster)] // roster.weight_total):
            raise Rejected(Reason.BUSY, "there is no room for our cells within storage.storage_bytes_max")

    def _index(self, roster: Roster) -> MemberIndex:
        index = roster.find_index(self._ground.peer)
        if index is None:
            raise Rejected(Reason.NOT_A_MEMBER, "this node is no member")
        return index

    async def _take_in(self, peer: PeerId, claim: AvailabilityClaim, size_bytes: int, roster: Roster) -> None:
        name = claim.text(self._chain)
        try:
            async with self._limit:
                await self._take(peer, claim, size_bytes, roster)
        except Rejected as refusal:
            self.refused += 1
            log.warning("a claim was refused", author=short(peer), why=str(refusal))
            self._transport.report(peer, refusal)
            _remember(self._refusals, name, refusal)
        except (OSError, LookupError) as error:  # LookupError: the blob's time was over meanwhile
            log.error("cells could not be stored", why=str(error))
        finally:
            self._taking.pop(name, None)

    async def _take(self, peer: PeerId, claim: AvailabilityClaim, size_bytes: int, roster: Roster) -> None:
        """Where something does not come, nothing is said, and the author's next question begins again."""
        subject = self._find_subject(claim.subject, roster)
        data = None
        if isinstance(subject, TileSnapshot):
            data = await self._tile_data(subject.tile, subject.version)
            if data is None:
                return
        manifest = await self._fetch.find_manifest(claim.blob, [peer])
        if manifest is None:
            return
        check_claim(claim, manifest)
        check_size(manifest, size_bytes)
        if data is not None:
            await self._compare(manifest, data)
        if not await self._upkeep.ensure_blob(manifest, claim.tables, claim.kept_until, peer):
            return
        custody = Custody(manifest, claim.tables, (roster.beacon,))
        for tile in range(manifest.tile_count):
            if await self._upkeep.fill_tile(custody, tile, roster, peer):
                return
        self._vote(claim, roster)

    async def _compare(self, manifest: CheckedManifest, data: memoryview) -> None:
        """Code the bytes that the blob is said to be of; raises ``Rejected(BAD_ENCODING)`` where that is another blob."""
        if data.nbytes != manifest.size_bytes:
            raise Rejected(Reason.BAD_ENCODING, f"a blob of {manifest.size_bytes} bytes, its tile has {data.nbytes}")
        code, tile_bytes = self._cells.code(manifest.geometry), manifest.geometry.tile_bytes

        def compare(tile: int) -> None:
            coded = encode_tile(code, tile, data[tile * tile_bytes : (tile + 1) * tile_bytes])
            if coded.root != manifest.tile_root(tile):
                raise Rejected(Reason.BAD_ENCODING, f"tile {tile} of the blob is not of what it is said to be")
            self._cells.coded.keep(coded)

        for tile in range(manifest.tile_count):
            await self._cells.in_thread(lambda tile=tile: compare(tile))  # type: ignore[misc]  # of this turn

    def _find_subject(self, name: Digest, roster: Roster) -> Subject:
        """What a claim is about: a tile's version that is held or decided, or the state with which the epoch began.

        Raises ``Rejected(WRONG_SUBJECT)`` for anything else.
        """
        state = self._state()
        mark = state.find(EPOCH_MARKS, number(roster.epoch))
        if mark is not None and mark.boundary_root is not None:
            checkpoint = StateCheckpoint(Height(mark.height - 1), mark.boundary_root)
            if checkpoint.digest() == name:
                return checkpoint
        held = (TileSnapshot(each.tile_id, each.version, each.root) for each in self._ground.tiles.held())
        decided = (TileSnapshot(tile, at.version, at.root) for tile, at in self._heads().items())
        for snapshot in chain(decided, held):
            if snapshot.digest() == name:
                return snapshot
        raise Rejected(Reason.WRONG_SUBJECT, "neither a tile's version that is known here nor the state of this epoch")

    def _vote(self, claim: AvailabilityClaim, roster: Roster) -> AvailabilityVote:
        """Everything that it says is on the disk."""
        text = claim.text(self._chain)
        vote = AvailabilityVote(claim, self._index(roster), self._ground.keys.vote.sign(text))
        self.voted += 1
        _remember(self._votes, text, vote)
        return vote


def _remember(table: OrderedDict[Digest, Value], name: Digest, value: Value) -> None:
    table[name] = value
    if len(table) > VOTES_REMEMBERED_MAX:
        table.popitem(last=False)
