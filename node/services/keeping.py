"""What this node keeps for everybody, and what it has kept: where the parts of custody meet (chain.md 3.4 to 3.6).

    author   a tile's owner has its newest version kept, once in an epoch; somebody whom the beacon draws, the state at its end
    holder   members store their cells, then say so
    upkeep   cells follow the ring from epoch to epoch; what was lost is made again
    audit    whether others keep theirs
    proof    the leaf that the chain asks of us
    server   all of it, for whoever asks

Whose turn it is to have something kept heights say: the first in its order begins when it sees it due, the next an eighth of an
epoch later, and so on; whatever two of them say, the record takes the first.

Nothing is done on a clock but what did not succeed: a block that changes the record, or begins an eighth, is what wakes us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

import structlog
import trio

from consensus.election import election_order
from consensus.heads import TileHead
from consensus.state import KEPT, KeptEntry, State
from node.chain_words import subject_words
from node.checkpoint_file import export_checkpoint
from node.checkpoints import list_checkpoints
from node.clock import Clock
from node.coded_offer import OFFERED_CHECKPOINT
from node.ground import Ground
from node.kept_cells import KeptCells, open_kernel_once
from node.services.cell_fetch import CellFetch
from node.services.cell_server import CellServer
from node.services.keep_audit import KeepAudit
from node.services.keep_author import KeepAuthor
from node.services.keep_holder import KeepHolder, TileData
from node.services.keep_proof import KeepProof
from node.services.keep_upkeep import KeepUpkeep
from node.services.submission import Submission
from node.threads import InThread
from p2p.transport import Transport
from protocol.availability import StateCheckpoint, Subject, TileSnapshot
from protocol.epochs import boundary_of
from protocol.ids import Digest, Height, TileId
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.transactions import AvailabilityRecord

log = structlog.get_logger()

TURNS: Final = 8  # of an epoch: after each, the next in the order may have kept what the others did not
RETRY_SECONDS: Final = 5.0  # while something is missing or was not recorded
STATE: Final = TileId("state/0")  # whose order says who has the state kept


@dataclass(frozen=True, slots=True)
class KeepingStatistics:
    """Since the start, but for the first two: as of the last look. Bytes are of cells."""

    recorded_blobs: int
    missing_cells: int
    votes: int
    refused_claims: int
    recorded: int  # by us
    fetched_bytes: int  # to keep them, or to read a blob
    sampled_bytes: int  # to look at them
    given_bytes: int
    rebuilt_tiles: int
    answered: int  # leaves that the chain asked for


class Keeping:
    """One node's custody. ``state`` is the decided one and ``height`` its block's; ``heads``: where every tile stands."""

    def __init__(
        self,
        ground: Ground,
        transport: Transport,
        clock: Clock,
        in_thread: InThread,
        state: Callable[[], State],
        roster: Callable[[], Roster],
        height: Callable[[], Height],
        heads: Callable[[], Mapping[TileId, TileHead]],
        tile_data: TileData,
        has_room: Callable[[int], bool],
        submit: Submission,
        generator: Random,
    ) -> None:
        self._ground = ground
        self._transport = transport
        self._state = state
        self._roster = roster
        self._height = height
        self._heads = heads
        self._tile_data = tile_data
        self._submit = submit
        self.cells = KeptCells(ground.cells, open_kernel_once(), in_thread)
        self.fetch = CellFetch(transport, clock, self.cells, generator, lambda *cells: self.upkeep.at_hand(*cells))
        self.author = KeepAuthor(
            ground.peer, ground.chain, self.cells, self.fetch, lambda *offer: self.holder.keep_own(*offer)
        )
        self.upkeep = KeepUpkeep(ground.peer, self.cells, self.fetch, transport, state, roster, self.author.find)
        self.holder = KeepHolder(
            ground, self.cells, self.fetch, self.upkeep, transport, state, roster, heads, tile_data, has_room
        )
        self.audit = KeepAudit(ground.peer, self.cells, self.fetch, self.upkeep, transport, roster, generator)
        self.proof = KeepProof(ground.peer, self.cells, self.upkeep.doubt, state, submit)
        self.server = CellServer(self.cells, transport, roster, self.author, self.holder, self.upkeep)
        self._news = trio.Event()
        self._seen: tuple[object, ...] = ()
        self._audited_epoch = -1
        self._is_waiting = False  # for what we submitted, or could not have kept
        self._submitted: dict[Digest, Subject] = {}  # in this epoch
        self._due_turn: dict[TileId, int] = {}  # in which we saw first, in this epoch, that something is due
        self._tried: dict[Digest, int] = {}  # subjects, and in which turn
        self._submitted_epoch = -1
        self.recorded = 0

    def statistics(self) -> KeepingStatistics:
        return KeepingStatistics(
            recorded_blobs=len(self.upkeep.recorded()),
            missing_cells=sum(self.upkeep.missing_of(entry.blob) for entry in self.upkeep.recorded()),
            votes=self.holder.voted,
            refused_claims=self.holder.refused,
            recorded=self.recorded,
            fetched_bytes=self.fetch.fetched_bytes,
            sampled_bytes=self.fetch.sampled_bytes,
            given_bytes=self.server.given_bytes,
            rebuilt_tiles=self.upkeep.rebuilt_tiles,
            answered=self.proof.answered,
        )

    def note_block(self) -> None:
        """A block became final: wake up where it is news for us."""
        seen = (self._roster().epoch, self._turn(), self._state().trees[KEPT.chain].root())
        if seen != self._seen:
            self._seen = seen
            self._news.set()

    async def run(self) -> None:
        """Until cancelled; begun when the node has caught up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.holder.run)
            self._news.set()
            while True:
                is_unfinished = self._is_waiting or self.proof.is_waiting or not self.upkeep.is_complete
                with trio.move_on_after(RETRY_SECONDS if is_unfinished else float("inf")):
                    await self._news.wait()
                self._news = trio.Event()
                await self.proof.look(self._turn())
                await self.upkeep.look()
                await self._have_kept()
                await self._look_around()

    async def read_tile(self, blob: Digest, tile: int) -> bytes:
        """One tile of a recorded blob, from any cells that are enough. Raises ``Rejected`` (NOT_FOUND, TOO_FEW_CELLS)."""
        entry = next((entry for entry in self.upkeep.recorded() if entry.blob == blob), None)
        if entry is None or not 0 <= tile < entry.geometry.tile_count(entry.size_bytes):
            raise Rejected(Reason.NOT_FOUND, f"no tile {tile} of a blob {blob.hex()[:16]} is recorded as kept")
        manifest = await self.upkeep.find_manifest(blob)
        if manifest is None:
            raise Rejected(Reason.TOO_FEW_CELLS, "nobody who is connected gives the blob's manifest")
        return bytes(await self.upkeep.read_tile(entry, manifest, tile))

    async def _look_around(self) -> None:
        epoch = self._roster().epoch
        if epoch > self._audited_epoch and self._turn() >= TURNS // 2:
            self._audited_epoch = epoch
            await self.audit.look()

    # -- having things kept ---------------------------------------------------------------------------------------------

    def _turn(self) -> int:
        """How many eighths of the epoch are over."""
        heights = self._ground.genesis.chain.epoch_heights
        done = self._height() - boundary_of(self._roster().epoch - 1, heights)
        return done // max(1, heights // TURNS)

    async def _have_kept(self) -> None:
        roster = self._roster()
        if roster.epoch != self._submitted_epoch:
            self._submitted_epoch = roster.epoch
            self._submitted.clear()
            self._due_turn.clear()
            self._tried.clear()
        self._is_waiting = False
        for subject in list(self._due(roster)):
            if self._roster().epoch != roster.epoch:
                return
            name, turn = subject.digest(), self._turn()
            if self._tried.get(name) == turn:
                self._is_waiting = True  # for the next eighth: whoever did not answer then is asked again
                continue
            self._tried[name] = turn
            data = await self._data_of(subject)
            if data is None:
                self._is_waiting = True
                continue
            await self._have_it_kept(subject, data, roster)

    async def _have_it_kept(self, subject: Subject, data: memoryview, roster: Roster) -> None:
        kept = await self.author.offer(subject, data, roster)
        if kept is None:
            self._is_waiting = True
            return
        offer, certificate = kept
        record = AvailabilityRecord(
            subject, offer.manifest.size_bytes, offer.manifest.manifest.tiles_root(), certificate.plain
        )
        try:
            name = await self._submit(record)
        except Rejected as refusal:
            log.warning("what is kept is not recorded", what=subject_words(subject), why=str(refusal))
            return
        self.recorded += 1
        self._submitted[subject.digest()] = subject
        log.info("kept", what=subject_words(subject), bytes=data.nbytes, transaction=name.hex()[:16])

    def _due(self, roster: Roster) -> Iterator[Subject]:
        """What is to be kept, and is ours to have kept by now; of each tile one version in an epoch."""
        if roster.find_index(self._ground.peer) is None:
            return
        recorded = self.upkeep.recorded()
        known = {entry.subject.digest() for entry in recorded} | set(self._submitted)
        of_this_epoch = [entry.subject for entry in recorded if entry.epoch == roster.epoch]
        of_this_epoch += self._submitted.values()
        fresh = {subject.tile for subject in of_this_epoch if isinstance(subject, TileSnapshot)}
        unchanged = set(still_kept(recorded, roster.epoch))
        checkpoint = self._newest_checkpoint(roster)
        if checkpoint is not None and checkpoint.digest() not in known and self._is_our_turn(STATE, roster):
            yield checkpoint
        for tile, at in sorted(self._heads().items()):
            snapshot = TileSnapshot(tile, at.version, at.root)
            is_new = at.version > 0 and tile not in fresh and snapshot.digest() not in known
            if is_new and (tile, at.root) not in unchanged and self._is_our_turn(tile, roster):
                yield snapshot

    def _is_our_turn(self, tile: TileId, roster: Roster) -> bool:
        turn = self._turn()
        order = election_order(roster.beacon, tile, roster)[: turn - self._due_turn.setdefault(tile, turn) + 1]
        return any(roster.members[member].node == self._ground.peer for member in order)

    def _newest_checkpoint(self, roster: Roster) -> StateCheckpoint | None:
        """Of the state with which this epoch began, if it is here."""
        newest = next(list_checkpoints(self._ground.disk), None)
        boundary = boundary_of(roster.epoch - 1, self._ground.genesis.chain.epoch_heights)
        if newest is None or newest.height != boundary:
            return None
        return StateCheckpoint(newest.height, newest.block.header.state_root)

    async def _data_of(self, subject: Subject) -> memoryview | None:
        if isinstance(subject, TileSnapshot):
            return await self._tile_data(subject.tile, subject.version)

        def export() -> memoryview | None:
            newest = next(list_checkpoints(self._ground.disk), None)
            if newest is None or newest.height != subject.height:
                return None
            files = self._ground.disk.files
            files.write(OFFERED_CHECKPOINT, export_checkpoint(self._ground, newest, lambda *_: None), durable=False)
            return files.read(OFFERED_CHECKPOINT)

        try:
            return await self.cells.in_thread(export)
        except (OSError, Rejected) as error:
            log.warning("the state cannot be exported", why=str(error))
            return None


def still_kept(recorded: Iterable[KeptEntry], epoch: int) -> Iterator[tuple[TileId, Digest]]:
    """Tiles and their roots that are kept for half of their time yet: versions with the same root are the same bytes."""
    for entry in recorded:
        until = entry.kept_until
        if isinstance(entry.subject, TileSnapshot) and (until is None or 2 * (until - epoch) >= until - entry.epoch):
            yield entry.subject.tile, entry.subject.root
