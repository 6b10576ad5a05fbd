"""What a node stands on: its directory, keys, genesis, stores, journals, and the state that they restore.

Everything here is synchronous and happens before the first socket opens. Opening is in the order of blame: a busy directory
is told before a damaged file, a damaged file before a wrong key.

Own rows in the database (storage.keys.own_key):

    genesis   tile                  -> root                of version 0, so that a start need not draw it again
    state, fetched, fetching        -> the state, written with the blocks that change it (node/state_rows.py)
    roster    epoch                 -> Roster              of an epoch that is over: a light client's proof leads over them
    open      epoch | view | 0 or 1 | id -> StoredBlock or Certificate    finality above the tip, dropped when final
    delta     tile | base | learner -> Delta               deltas given to this node as an owner or aggregator; and, with a
                                                           + behind the key, aggregates
    peers                           -> KnownPeers          whom this node was connected to, to find the network again
    learner                         -> LearnerRecord       the learner's journal: state file and deltas without a fate
    pool      id                    -> Transaction         our own transactions that are in no block yet
    fork                            -> ForkRow             the emergency recovery that was adopted (node/fork_rows.py)
    halted                          -> HaltRow             a final block whose state is another one here
    sequence                        -> u64                 envelope numbers below this may have been used
    round     number                -> JSON                what this node saw of a round
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import structlog
from msgspec import Meta

from consensus.events import CommittedBlock, Delta
from consensus.finality.events import Anchor, Restored, StoredBlock
from consensus.finality.past import EPOCHS_REMEMBERED_MAX
from consensus.finality.signer import REFUSALS
from consensus.finality.signer import JournalState as VoteJournalState
from consensus.heads import TileHead
from consensus.light_client import LightClientRule, Trust
from consensus.state import ROSTERS, TILES, State, TileEntry, all_rows, state_of_genesis
from node.chain_index import transaction_rows
from node.checkpoints import take_checkpoint
from node.clock import Clock
from node.config import Settings
from node.disk import DirectoryDisk, Disk, Journals
from node.fork_rows import Fork, find_fork, find_pending, put_fork, trust_of
from node.genesis_file import read_genesis
from node.keys import AskPassphrase, NodeKeys, load_keys
from node.state_rows import (
    NOT_THE_STATE,
    STATE,
    FetchRow,
    count_buckets,
    end_fetch,
    find_fetch,
    open_rows,
    state_key,
    store_changes,
)
from node.tile_work import TileWork, UpdateRebuild
from protocol.codec import Message, decode, encode
from protocol.digest import number
from protocol.epochs import boundary_of, epoch_of, is_boundary
from protocol.finality import Body, Certificate, ChainId, Header
from protocol.genesis import Genesis
from protocol.ids import (
    Digest,
    DigestField,
    Height,
    NetworkId,
    PeerField,
    PeerId,
    Round,
    RoundField,
    TileField,
    TileId,
    Version,
    VersionField,
    View,
    parse_hex32,
)
from protocol.learning import Contributor
from protocol.light_client import LightBlock
from protocol.limits import (
    BODY_BYTES_MAX,
    CONTRIBUTORS_PER_AGGREGATE_MAX,
    FRAME_BYTES_MAX,
    KIB,
    STATE_ENTRY_BYTES_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import Head, Roster, Slot
from storage.io.blob_store import BlobStore
from storage.io.cell_store import CellStore
from storage.io.tile_store import TileStore
from storage.journal import Journal, JournalState, OpenedJournal
from storage.keys import CERTIFICATE, HEADER, block_key, own_key, pack_u64, unpack_u64
from storage.kv import Batch, DatabaseCorrupt, KeyValue
from storage.kv import scan_all as _scan
from storage.ledger import FinalizedBlock, Ledger

log = structlog.get_logger()

VOTES_FILE = "votes.journal"
PROPOSALS_FILE = "proposals.journal"
DELTA_ROW_BYTES_MAX = 8 * KIB  # an aggregate of 64: 5 KiB
_AGGREGATE = b"+"  # ends the key of an aggregate's row: its aggregator may have a delta of its own


class DeltaRow(Message, frozen=True):
    """A delta as a row: what the rules know of it."""

    tile: TileField
    base: VersionField
    round: RoundField
    learner: PeerField
    digest: DigestField
    tokens: int
    contributors: Annotated[tuple[Contributor, ...], Meta(max_length=CONTRIBUTORS_PER_AGGREGATE_MAX)] = ()

    @classmethod
    def of(cls, delta: Delta) -> DeltaRow:
        return cls(delta.tile, delta.base, delta.round, delta.learner, delta.digest, delta.tokens, delta.contributors)

    def delta(self) -> Delta:
        return Delta(self.tile, self.base, self.round, self.learner, self.digest, self.tokens, self.contributors)


class LearnerRecord(Message, frozen=True):
    """The learner's journal entry: one row, so that deltas, residuals and optimiser state are valid together or not at all.

    ``state_file`` is the name of a file in the learner's folder, written and synced before this row.
    """

    round: RoundField
    state_file: str
    outstanding: tuple[DeltaRow, ...]
    tokens_total: int


class KnownPeers(Message, frozen=True):
    """Addresses at which peers were reached lately: where a node looks when those that it was told to begin with are gone."""

    addresses: tuple[str, ...]


@dataclass(slots=True)
class Ground:
    """An opened data directory. ``close`` gives everything back."""

    settings: Settings
    disk: Disk
    keys: NodeKeys
    genesis: Genesis
    genesis_bytes: bytes
    network: NetworkId
    index: KeyValue  # of the disk
    blobs: BlobStore
    tiles: TileStore
    cells: CellStore
    work: TileWork
    ledger: Ledger
    votes: Journal | None  # None: damaged or lost, so that nothing may be signed
    vote_records: tuple[bytes, ...]
    vote_state: VoteJournalState
    proposals: Journal
    proposed: tuple[Head, ...]
    genesis_roots: dict[TileId, Digest]
    fork: Fork | None = None  # of the chain, that was adopted
    pending: Fork | None = None  # that is to be adopted

    @property
    def chain(self) -> ChainId:
        """What is signed with, and what others' signatures are checked with."""
        return ChainId.of(self.network) if self.fork is None else self.fork.chain

    def trust(self) -> tuple[Trust, LightClientRule]:
        """Where proofs of what is final begin, and their rule: the newest recovery that its operator named, or the genesis."""
        return trust_of(self.pending or self.fork, self.genesis)

    @property
    def peer(self) -> PeerId:
        return PeerId(self.keys.node.public)

    def close(self) -> None:
        """Close journals and disk."""
        self.close_journals()
        self.disk.close()

    def close_journals(self) -> None:
        """Close them alone; closing twice is no error."""
        if self.votes is not None:
            self.votes.close()
        self.proposals.close()

    def renewed(self) -> Ground:
        """The ground as a process finds it that begins now, on the same disk. This one must not be used again."""
        self.close_journals()
        return stand_on(self.disk, self.settings, self.keys, self.genesis)

    # -- restored state -------------------------------------------------------------------------------------------------

    def genesis_state(self) -> State:
        """The state before the first block."""
        return state_of_genesis(self.genesis, self.genesis_roots.items())

    def load_state(self) -> State:
        """The decided state as of the ledger's tip, which is read from the database when it is looked at.

        Raises ``DatabaseCorrupt`` when the digests of its buckets are not what its header says; who looks at a bucket gets it
        where the entries are not those of the digest.
        """
        if find_fetch(self.index) is not None:
            raise DatabaseCorrupt(
                "The state in the database is only a part of one: start the node, which fetches the rest."
            )
        root = self.anchor().state_root
        if not self.index.scan(STATE, limit=1):
            state, batch = self.genesis_state(), Batch()
            store_changes(batch, all_rows(state), state)
            self.index.write(batch)
        found = open_rows(self.index, root)
        if found is None:  # the digests are of another state than the entries, or an older program left none
            count_buckets(self.index)
            found = open_rows(self.index, root)
        if found is None:
            raise DatabaseCorrupt(NOT_THE_STATE)
        return found

    def check_state(self) -> None:
        """Read all of the state; raises ``DatabaseCorrupt`` where it is not what the tip's header says."""
        if find_fetch(self.index) is None and self.index.scan(STATE, limit=1):
            count_buckets(self.index)
        self.load_state()

    def tile_heads(self) -> dict[TileId, TileHead]:
        """Where each tile stands as of the ledger's tip; may be asked from any thread."""
        heads = {}
        for tile in self.genesis_roots:
            value = self.index.get(state_key(bytes([TILES.chain]) + TILES.prefix + tile.encode()))
            if value is not None:
                entry = decode(TileEntry, value, limit_bytes=STATE_ENTRY_BYTES_MAX)
                heads[tile] = TileHead(entry.version, entry.root, entry.head)
        return heads

    def anchor(self) -> Anchor:
        """The last finalized block, or genesis; as the new fork begins with it, where that is all there is of it."""
        tip = self.ledger.tip()
        if tip is None:
            return Anchor.genesis(self.genesis_state().root(), self.genesis.created_ms)
        block = self.ledger.get(tip)
        header = decode(Header, block.header, limit_bytes=4 * KIB)
        certificate = decode(Certificate, block.certificate, limit_bytes=64 * KIB) if block.certificate else None
        fork = self.fork
        if fork is not None and fork.state_root is not None and tip == fork.height:
            # Its state is changed, its certificate is of the fork before, and views begin anew.
            return Anchor(header.digest(), View(0), header.height, header.time_ms, fork.state_root, None, None)
        return Anchor.of(header, certificate)

    def store_finalized(self, committed: CommittedBlock) -> None:
        """A final block with everything that becomes true with it, in one batch; durable on return."""
        block, extra = committed.block, Batch()
        store_changes(extra, committed.changes, committed.after)
        self.forget_transactions(extra, (receipt.id for receipt in committed.receipts))
        heads = decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads
        extra.extend(transaction_rows(block.header.height, committed.receipts, heads))
        for head in heads:
            self.forget_candidates(extra, head.slot)
        self.forget_finality(extra, block.header)
        is_last = is_boundary(block.header.height, self.genesis.chain.epoch_heights)
        if is_last:
            extra.put(own_key("roster", pack_u64(block.header.epoch)), encode(committed.roster))
        certificate = encode(block.certificate) if block.certificate is not None else b""
        self.ledger.append(FinalizedBlock(block.header.height, encode(block.header), block.body, certificate), extra)
        if is_last and block.certificate is not None:
            self._take_checkpoint(LightBlock(block.header, block.certificate, committed.roster), committed.after)

    def _take_checkpoint(self, block: LightBlock, state: State) -> None:
        """Where there is no room for one, there is none: nobody was promised any."""
        try:
            take_checkpoint(self.disk, block, state)
        except OSError as error:
            log.warning("no checkpoint was taken", height=block.header.height, why=str(error))

    def find_light_block(self, height: Height) -> LightBlock | None:
        """A certified block with the roster of its epoch: of those at boundaries, and of the newest ones."""
        header, certificate = self.ledger.find_header(height), self.ledger.find_certificate(height)
        roster = self.index.get(own_key("roster", pack_u64(epoch_of(height, self.genesis.chain.epoch_heights))))
        if header is None or not certificate or roster is None:
            return None
        return LightBlock(
            decode(Header, header, limit_bytes=4 * KIB),
            decode(Certificate, certificate, limit_bytes=64 * KIB),
            decode(Roster, roster, limit_bytes=FRAME_BYTES_MAX),
        )

    def adopt_checkpoint(self, row: FetchRow, block: FinalizedBlock) -> None:
        """Begin anew after the block of a checkpoint, whose state is here; durable on return.

        Whatever was said about blocks above the old tip is forgotten: they are final, or never will be.
        """
        extra = Batch()
        for light in (*row.way, row.block):
            header, certificate = encode(light.header), encode(light.certificate)
            if light.roster is not None and is_boundary(light.header.height, self.genesis.chain.epoch_heights):
                extra.put(block_key(HEADER, light.header.height), header)
                extra.put(block_key(CERTIFICATE, light.header.height), certificate)
                extra.put(own_key("roster", pack_u64(light.header.epoch)), encode(light.roster))
        self.forget_open_finality(extra)
        if self.pending is not None and row.block.header.chain == self.pending.chain:
            put_fork(extra, self.pending.signed, row.block.header.state_root)
            if self.vote_records or self.vote_state in REFUSALS:
                self.miss_votes(extra, self.pending.chain.fork)
        is_doubted = self._may_have_voted(row)
        if is_doubted:
            extra.put(_doubted_key(self.chain.fork), b"1")
        end_fetch(self.index, extra)
        self.ledger.begin_at(block, extra, self.genesis.chain.epoch_heights)
        if is_doubted and self.votes is not None:
            self.votes.close()
            self.votes, self.vote_state = None, VoteJournalState.MISSING

    def _may_have_voted(self, row: FetchRow) -> bool:
        """Whether this node was a member before it had a block: on another disk, whose vote journal is lost (chain.md S6)."""
        if self.ledger.tip() is not None or self.vote_records or self.vote_state is not VoteJournalState.CLEAN:
            return False
        begun = self.index.get(state_key(bytes([ROSTERS.chain]) + ROSTERS.prefix + number(row.block.header.epoch + 1)))
        rosters = (
            row.block.roster,
            None if begun is None else decode(Roster, begun, limit_bytes=STATE_ENTRY_BYTES_MAX),
        )
        return any(roster is not None and roster.find_index(self.peer) is not None for roster in rosters)

    def restored_finality(self) -> Restored:
        """Blocks and certificates above the tip."""
        blocks, certificates = [], []
        for key, value in _scan(self.index, own_key("open")):
            if key[len(own_key("open")) + 16]:
                certificates.append(decode(Certificate, value, limit_bytes=64 * KIB))
            else:
                blocks.append(decode(StoredBlock, value, limit_bytes=FRAME_BYTES_MAX))
        return Restored(tuple(blocks), tuple(certificates), self._boundaries())

    def _boundaries(self) -> tuple[Certificate, ...]:
        """The finalizations of the last epochs' boundary blocks."""
        heights = self.genesis.chain.epoch_heights
        epoch = epoch_of((self.ledger.tip() or 0) + 1, heights)
        found = []
        for past in range(max(0, epoch - EPOCHS_REMEMBERED_MAX), epoch):
            if self.fork is not None and boundary_of(past, heights) <= self.fork.height:
                continue  # of the fork before: to those on this one it proves nothing
            certificate = self.ledger.find_certificate(boundary_of(past, heights))
            if certificate:
                found.append(decode(Certificate, certificate, limit_bytes=64 * KIB))
        return tuple(found)

    def store_finality(self, blocks: Iterable[StoredBlock], certificates: Iterable[Certificate]) -> None:
        """Keep unfinalized blocks and certificates across a restart; durable on return."""
        batch = Batch()
        for block in blocks:
            header = block.proposal.header
            key = own_key("open", pack_u64(header.epoch) + pack_u64(header.view) + b"\x00" + header.digest())
            batch.put(key, encode(block))
        for certificate in certificates:
            name = pack_u64(certificate.epoch) + pack_u64(certificate.view) + b"\x01" + bytes([certificate.kind])
            batch.put(own_key("open", name + certificate.block), encode(certificate))
        if batch:
            self.index.write(batch)

    def replace_votes(self, records: Sequence[bytes]) -> None:
        """Begin the vote journal anew with these records: the old file or the new after a crash. The old one is kept."""
        if self.votes is not None:
            self.votes.close()
        self.votes = self.disk.create_journal(votes_file(self.chain.fork), records)

    def miss_votes(self, batch: Batch, fork: int) -> None:
        """Add to ``batch`` that this node may have voted on a fork of which it has no journal: it reads as missing."""
        batch.put(_voted_key(fork), b"1")

    def forget_finality(self, batch: Batch, final: Header) -> None:
        """Add to ``batch`` the removal of what ``store_finality`` kept and a final block has overtaken."""
        prefix = own_key("open")
        at_boundary = final.height == boundary_of(final.epoch, self.genesis.chain.epoch_heights)
        overtaken = (final.epoch, 2**64 if at_boundary else final.view)
        for key, _ in _scan(self.index, prefix):
            at = len(prefix)
            if (unpack_u64(key[at : at + 8]), unpack_u64(key[at + 8 : at + 16])) <= overtaken:
                batch.delete(key)

    def forget_open_finality(self, batch: Batch) -> None:
        """Add to ``batch`` the removal of all that ``store_finality`` kept."""
        for key, _ in _scan(self.index, own_key("open")):
            batch.delete(key)

    def candidates(self) -> tuple[Delta, ...]:
        """Deltas that others gave to this node, and aggregates that it made, which may still be merged."""
        return tuple(
            decode(DeltaRow, value, limit_bytes=DELTA_ROW_BYTES_MAX).delta()
            for _, value in _scan(self.index, own_key("delta"))
        )

    def store_candidates(self, batch: Batch, deltas: Iterable[Delta]) -> None:
        """Add rows for deltas to ``batch``."""
        for delta in deltas:
            batch.put(_delta_key(delta), encode(DeltaRow.of(delta)))

    def find_aggregate(self, tile: TileId, base: Version) -> Delta | None:
        """The aggregate that this node made of a tile's deltas on ``base``: it says one thing about them for ever."""
        wanted = own_key("delta", tile.encode() + b"\x00" + pack_u64(base) + self.peer + _AGGREGATE)
        value = self.index.get(wanted)
        return None if value is None else decode(DeltaRow, value, limit_bytes=DELTA_ROW_BYTES_MAX).delta()

    def forget_candidates(self, batch: Batch, slot: Slot) -> None:
        """Add to ``batch`` the removal of deltas too old to be merged after ``slot``."""
        for key, value in _scan(self.index, own_key("delta", slot.tile.encode() + b"\x00")):
            if decode(DeltaRow, value, limit_bytes=DELTA_ROW_BYTES_MAX).base < slot.version - 1:
                batch.delete(key)

    def learner_record(self) -> LearnerRecord:
        """The learner's journal entry; an empty one before its first round."""
        value = self.index.get(own_key("learner"))
        if value is None:
            return LearnerRecord(Round(0), "", (), 0)
        return decode(LearnerRecord, value, limit_bytes=FRAME_BYTES_MAX)

    def store_learner(self, record: LearnerRecord) -> None:
        """Write the learner's journal entry; durable on return."""
        batch = Batch()
        batch.put(own_key("learner"), encode(record))
        self.index.write(batch)

    def own_transactions(self) -> list[bytes]:
        """Transactions that this node took from its user and that were in no block when the process ended."""
        return [value for _, value in _scan(self.index, own_key("pool"))]

    def store_transaction(self, name: Digest, data: bytes) -> None:
        """Keep a transaction until a block has it; durable on return."""
        batch = Batch()
        batch.put(own_key("pool", name), data)
        self.index.write(batch)

    def forget_transactions(self, batch: Batch, names: Iterable[Digest]) -> None:
        """Add to ``batch`` the removal of transactions that are in a block, or never will be."""
        for name in names:
            batch.delete(own_key("pool", name))

    def known_peers(self) -> tuple[str, ...]:
        """Addresses of peers that this node was connected to."""
        value = self.index.get(own_key("peers"))
        return () if value is None else decode(KnownPeers, value, limit_bytes=FRAME_BYTES_MAX).addresses

    def store_known_peers(self, addresses: Iterable[str]) -> None:
        """Keep them; not synced, because older ones do as well."""
        batch = Batch()
        batch.put(own_key("peers"), encode(KnownPeers(tuple(addresses))))
        self.index.write(batch, durable=False)

    def sequence_reserved(self) -> int:
        """Envelope numbers below this may have been used."""
        value = self.index.get(own_key("sequence"))
        return 0 if value is None else unpack_u64(value)

    def reserve_sequences(self, until: int) -> None:
        """Reserve envelope numbers; durable on return."""
        reserve_sequences(self.index, until)


def reserve_sequences(index: KeyValue, until: int) -> None:
    """Envelope numbers below this may have been used; durable on return."""
    batch = Batch()
    batch.put(own_key("sequence"), pack_u64(until))
    index.write(batch)


def open_ground(settings: Settings, ask_passphrase: AskPassphrase | None = None) -> Ground:
    """Open a data directory; ``ask_passphrase`` is for encrypted keys.

    Raises ``Rejected``, ``OSError`` and its kin, each with a sentence and the remedy.
    """
    places = settings.places
    if not places.root.is_dir():
        raise Rejected(
            Reason.BAD_DATA_DIRECTORY, f"there is no {places.root}; make it with `nocknode init --new` or `init --join`"
        )
    with contextlib.ExitStack() as opened:
        disk = DirectoryDisk(places)
        opened.callback(disk.close)
        expected = NetworkId(parse_hex32(settings.network.id, "network.id")) if settings.network.id else None
        genesis = read_genesis(places.genesis, expected)
        keys = load_keys(places.keys, ask_passphrase)
        ground = stand_on(disk, settings, keys, genesis, Clock().monotonic_ms)
        opened.pop_all()
    return ground


def stand_on(
    disk: Disk, settings: Settings, keys: NodeKeys, genesis: Genesis, monotonic_ms: Callable[[], int] = lambda: 0
) -> Ground:
    """The ground on an opened disk: version 0 of every tile is drawn at the first start. Raises ``OSError`` and its kin.

    ``monotonic_ms``: how long a tile takes to load; by default no time.
    """
    index = disk.index
    blobs = BlobStore(disk.files, index)
    tiles = TileStore(disk.files, index, UpdateRebuild(genesis, blobs.read), monotonic_ms)
    work = TileWork(genesis, tiles)
    roots = _genesis_roots(index, work)
    fork = find_fork(index, genesis)
    pending = find_pending(disk.files, settings.recovery.adopt, genesis, fork)
    votes, vote_records, vote_state = _open_votes(disk, index, 0 if fork is None else fork.chain.fork)
    journal = disk.open_journal(PROPOSALS_FILE)
    proposed = tuple(decode(Head, record, limit_bytes=BODY_BYTES_MAX) for record in journal.records)
    return Ground(
        settings=settings,
        disk=disk,
        keys=keys,
        genesis=genesis,
        genesis_bytes=encode(genesis),
        network=genesis.network_id(),
        index=index,
        blobs=blobs,
        tiles=tiles,
        cells=CellStore(disk.files, index),
        work=work,
        ledger=Ledger(index),
        votes=votes,
        vote_records=vote_records,
        vote_state=vote_state,
        proposals=journal.journal or disk.create_journal(PROPOSALS_FILE, journal.records),
        proposed=proposed,
        genesis_roots=roots,
        fork=fork,
        pending=pending,
    )


def _genesis_roots(index: KeyValue, work: TileWork) -> dict[TileId, Digest]:
    """The root of every tile's version 0, drawn at the first start and remembered."""
    prefix = own_key("genesis")
    known = {TileId(key[len(prefix) :].decode()): Digest(value) for key, value in _scan(index, prefix)}
    roots = work.ensure_genesis(known)
    if roots != known:
        batch = Batch()
        for tile, root in roots.items():
            batch.put(prefix + tile.encode(), root)
        index.write(batch)
    return roots


def votes_file(fork: int) -> str:
    """The vote journal of a fork: each has its own, and none is ever thrown away."""
    return VOTES_FILE if fork == 0 else f"votes-{fork}.journal"


def _doubted_key(fork: int) -> bytes:
    """The row that says: who has this key was a member before this directory had a block."""
    return own_key("doubted", pack_u64(fork))


def _voted_key(fork: int) -> bytes:
    return own_key("voted", pack_u64(fork) if fork else b"")


def _open_votes(
    journals: Journals, index: KeyValue, fork: int = 0
) -> tuple[Journal | None, tuple[bytes, ...], VoteJournalState]:
    """The vote journal (chain.md S6). A directory that has voted and lost its journal never gets a new one by itself.

    The row that says so comes after the journal, and comes again where a crash or a new database lost it. Neither does one that
    began with a state in which its key was a member already: until it has said so in a journal of its own.
    """
    name = votes_file(fork)
    opened = journals.open_journal(name)
    if index.get(_voted_key(fork)) is None:
        if opened.state is JournalState.MISSING:
            opened = OpenedJournal(JournalState.CLEAN, (), journals.create_journal(name))
        batch = Batch()
        batch.put(_voted_key(fork), b"1")
        index.write(batch)
    if not opened.records and opened.journal is not None and index.get(_doubted_key(fork)) is not None:
        opened.journal.close()
        opened = OpenedJournal(JournalState.MISSING, (), None)
    return opened.journal, opened.records, _VOTE_STATES[opened.state]


_VOTE_STATES = {
    JournalState.CLEAN: VoteJournalState.CLEAN,
    JournalState.TORN_TAIL: VoteJournalState.TORN,
    JournalState.MISSING: VoteJournalState.MISSING,
    JournalState.DAMAGED: VoteJournalState.DAMAGED,
}


def _delta_key(delta: Delta) -> bytes:
    name = delta.tile.encode() + b"\x00" + pack_u64(delta.base) + delta.learner
    return own_key("delta", name + (_AGGREGATE if delta.contributors else b""))
