"""The state: what every account, validator, tile, record and version is after a block. An immutable value.

Five sub-chains, each a persistent tree (consensus/state_tree.py); a table is a prefix of keys in one of them:

    A     versions of the model                    C     accounts, validators, evidence
    B     parameter records, experts, tiles        D     data sets, and what is kept as cells
    META  where money is, epochs, what was slashed lately: what the rules themselves need

Money is double entry: whatever changes an account or a validator changes the totals beside it by the same amount, and
``check_conserved`` holds their sum against what was ever minted.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from consensus.heads import TileHead
from consensus.state_tree import ReadBucket, StateTree, StoredEntry
from protocol.availability import Subject
from protocol.codec import Message, decode, encode
from protocol.digest import Domain, blob_digest, digest, number
from protocol.erasure import CellIndexField, Geometry, LeafIndexField, TileIndexField
from protocol.finality import NO_BLOCK
from protocol.genesis import Genesis, genesis_roster
from protocol.ids import (
    AccountField,
    AccountId,
    Digest,
    DigestField,
    EpochField,
    Natural,
    PeerField,
    PeerId,
    TileId,
    Version,
    VersionField,
)
from protocol.limits import STATE_ENTRY_BYTES_MAX, SUPPLY_NANO_MAX, UNBONDINGS_PER_VALIDATOR_MAX, VALIDATORS_MAX
from protocol.rejection import InvariantBroken, Reason, Rejected, check_invariant
from protocol.roster import Head, MemberCard, Roster
from protocol.state_proof import StateProof, SubChain, combine_roots
from protocol.transactions import DatasetRecord, MetaVersion, Money, ParameterRecord, SemVer

# What fees leave for infrastructure, development and community waits here until there is a rule to spend it.
TREASURY = AccountId(digest(Domain.ACCOUNT, b"treasury"))

# -- entries ------------------------------------------------------------------------------------------------------------


class Account(Message, frozen=True):
    """``nonce`` is that of the account's next transaction."""

    balance_nano: Money = 0
    nonce: Natural = 0


class Unbonding(Message, frozen=True):
    """Stake on its way back: free when both the time and the height are reached, slashable until then."""

    amount_nano: Money
    release_ms: Natural
    release_height: Natural


class ValidatorStatus(enum.IntEnum):
    """Where a validator stands. Only ACTIVE ones may enter a roster."""

    ACTIVE = 1
    LEFT = 2
    EXPELLED = 3  # slashed: takes its remaining stake back, and registers anew when that is done


class Validator(Message, frozen=True):
    """One validator. Its entry is there as long as anything of it can be slashed."""

    card: MemberCard
    status: ValidatorStatus
    stake_nano: Money
    unbonding: Annotated[tuple[Unbonding, ...], Meta(max_length=UNBONDINGS_PER_VALIDATOR_MAX)] = ()
    registered_height: Natural = 0  # founders are there from the beginning
    jailed_until: Natural = 0  # the last epoch for whose roster it is not chosen; 0: it never was jailed

    @property
    def unbonding_nano(self) -> int:
        return sum(entry.amount_nano for entry in self.unbonding)

    @property
    def exposed_nano(self) -> int:
        """What can be slashed."""
        return self.stake_nano + self.unbonding_nano


class Reference(Message, frozen=True):
    """An index entry: the name of what is meant."""

    id: DigestField


class Count(Message, frozen=True):
    """How many entries an index has."""

    value: Natural


class ParameterEntry(Message, frozen=True):
    """A recorded parameter record. ``level`` is above that of everything that it depends on (``place_record``)."""

    author: AccountField
    record: ParameterRecord
    level: Natural
    height: Natural


class TileEntry(Message, frozen=True):
    """Where a tile stands; ``head`` is None at genesis."""

    version: VersionField
    root: DigestField
    head: Head | None


class MetaEntry(Message, frozen=True):
    """A recorded version of the model."""

    author: AccountField
    version: MetaVersion
    height: Natural


class DatasetStage(enum.IntEnum):
    """The life of a data set: only the first stage is reached today."""

    PENDING = 1


class DatasetEntry(Message, frozen=True):
    """A recorded data set."""

    creator: AccountField
    record: DatasetRecord
    stage: DatasetStage
    height: Natural


class KeptEntry(Message, frozen=True):
    """A blob that more than two thirds of a roster keep: the first that was recorded for its subject.

    ``epoch`` is the claim's, and ``beacon`` its roster's, by which cells are given to holders for as long as it is kept;
    ``height`` is the block's, ``kept_until`` the last epoch in which it is kept, None for ever.
    """

    blob: DigestField
    tables: DigestField
    geometry: Geometry
    size_bytes: Natural
    epoch: EpochField
    beacon: DigestField
    kept_until: EpochField | None
    subject: Subject
    author: AccountField
    height: Natural

    def is_over(self, epoch: int) -> bool:
        """Whether nobody need keep it any more in an epoch."""
        return self.kept_until is not None and self.kept_until < epoch


class CustodyQuestion(Message, frozen=True):
    """What a member of an epoch's roster must show: a leaf of the cell at ``position`` of the ring of a tile of a kept blob.

    ``answered_height`` is that of the block with the answer; None as long as there is none.
    """

    epoch: EpochField
    subject: DigestField
    tile: TileIndexField
    position: CellIndexField
    leaf: LeafIndexField
    answered_height: Natural | None = None


class EvidenceEntry(Message, frozen=True):
    """That a validator was punished for one view."""

    reporter: AccountField
    height: Natural


class Supply(Message, frozen=True):
    """Where all money is. ``fees_nano`` are those of the block under way: zero between blocks."""

    minted_nano: Money
    balances_nano: Money
    staked_nano: Money
    unbonding_nano: Money
    burned_nano: Money
    fees_nano: Money


class ValidatorIndex(Message, frozen=True):
    """The node keys of every validator, ascending."""

    nodes: Annotated[tuple[PeerField, ...], Meta(max_length=VALIDATORS_MAX)]


class Slashing(Message, frozen=True):
    """What one validator did and paid within the window in which offences count together.

    ``exposed_nano`` is what it had at stake when it was first found out.
    """

    validator: PeerField
    since_ms: Natural
    exposed_nano: Money
    offences: Natural
    paid_nano: Money


class SlashingLog(Message, frozen=True):
    """Recent slashings, oldest first, one a validator."""

    entries: Annotated[tuple[Slashing, ...], Meta(max_length=VALIDATORS_MAX)]


class OnionEntry(Message, frozen=True):
    """Where a member's hash onion stands: its innermost layer that is known. Both numbers are of reveal windows."""

    layer: DigestField
    committed_window: Natural
    revealed_window: Annotated[int, Meta(ge=-1, le=2**63 - 1)]


class BeaconMix(Message, frozen=True):
    """The reveals of the window under way, mixed."""

    value: DigestField


class HistoryEntry(Message, frozen=True):
    """The newest stretch of history: it starts with the reveals of a window. ``end`` is None until a block has told it."""

    epoch: Natural
    start: DigestField
    end: DigestField | None


class EpochMark(Message, frozen=True):
    """When an epoch began: evidence names epochs, and its age is in time and heights.

    ``boundary_root`` is the state's root after the last block of the epoch before, which is what a checkpoint holds; None at
    genesis.
    """

    height: Natural
    time_ms: Natural
    boundary_root: DigestField | None


class Progress(Message, frozen=True):
    """How far this chain is. ``newest_round`` is that of any decided head; -1 at genesis."""

    epoch: Natural
    oldest_epoch: Natural  # of which there is a mark
    newest_round: Annotated[int, Meta(ge=-1, le=2**63 - 1)]


# -- tables -------------------------------------------------------------------------------------------------------------

Value = TypeVar("Value", bound=Message)


@dataclass(frozen=True, slots=True)
class Table(Generic[Value]):
    """Entries of one type in one sub-chain; ``prefix`` is unique, so that no two tables share a key."""

    chain: SubChain
    prefix: bytes
    kind: type[Value]


META_VERSIONS = Table(SubChain.A, b"v", MetaEntry)  # version id
META_TIP = Table(SubChain.A, b"t", Reference)  # one entry
PARAMETERS = Table(SubChain.B, b"p", ParameterEntry)  # record id
EXPERT_COUNTS = Table(SubChain.B, b"c", Count)  # name: how many versions it has
EXPERT_VERSIONS = Table(SubChain.B, b"e", Reference)  # number, name: in the order in which they were recorded
TILES = Table(SubChain.B, b"t", TileEntry)  # tile id
ACCOUNTS = Table(SubChain.C, b"a", Account)  # account key
VALIDATORS = Table(SubChain.C, b"v", Validator)  # node key
VOTE_KEYS = Table(SubChain.C, b"k", Reference)  # vote key: the node whose it is
EVIDENCE = Table(SubChain.C, b"e", EvidenceEntry)  # epoch, view, node key
DATASETS = Table(SubChain.D, b"d", DatasetEntry)  # record id
KEPT = Table(SubChain.D, b"k", KeptEntry)  # digest of the subject
KEPT_SNAPSHOTS = Table(SubChain.D, b"s", Reference)  # blob: the subject as which it is kept longest
KEPT_COUNTS = Table(SubChain.D, b"c", Count)  # epoch: how many are kept until its end
KEPT_ENDS = Table(SubChain.D, b"e", Reference)  # epoch, number: the subjects of these
KEPT_OLDEST = Table(
    SubChain.D, b"o", Count
)  # one entry, from the first record on: the first epoch whose ends may be left
SUPPLY = Table(SubChain.META, b"s", Supply)  # one entry
VALIDATOR_INDEX = Table(SubChain.META, b"v", ValidatorIndex)  # one entry
SLASHING_LOG = Table(SubChain.META, b"l", SlashingLog)  # one entry
EPOCH_MARKS = Table(SubChain.META, b"e", EpochMark)  # epoch
ROSTERS = Table(SubChain.META, b"r", Roster)  # epoch: of the one under way, the one before and the next ones
CUSTODY_QUESTIONS = Table(SubChain.META, b"q", CustodyQuestion)  # node key: of the epoch under way
ONIONS = Table(SubChain.META, b"o", OnionEntry)  # node key
BEACON_MIX = Table(SubChain.META, b"b", BeaconMix)  # one entry
HISTORY = Table(SubChain.META, b"h", HistoryEntry)  # one entry, from the first cut on
PROGRESS = Table(SubChain.META, b"p", Progress)  # one entry

ALL_TABLES: tuple[Table[Any], ...] = (
    *(META_VERSIONS, META_TIP),
    *(PARAMETERS, EXPERT_COUNTS, EXPERT_VERSIONS, TILES),
    *(ACCOUNTS, VALIDATORS, VOTE_KEYS, EVIDENCE),
    *(DATASETS, KEPT, KEPT_SNAPSHOTS, KEPT_COUNTS, KEPT_ENDS, KEPT_OLDEST),
    *(SUPPLY, VALIDATOR_INDEX, SLASHING_LOG, EPOCH_MARKS, ROSTERS, CUSTODY_QUESTIONS),
    *(ONIONS, BEACON_MIX, HISTORY, PROGRESS),
)

ONLY = b""  # the key of a table with one entry


def evidence_key(epoch: int, view: int, validator: PeerId) -> bytes:
    """A validator is punished once for each view (chain.md 2.8)."""
    return number(epoch) + number(view) + validator


def expert_key(name: str, index: int) -> bytes:
    """The key of one version of one expert."""
    return number(index) + name.encode()


# -- the state ----------------------------------------------------------------------------------------------------------


class State(msgspec.Struct, frozen=True):
    """Everything that was decided. ``supply`` is that of the moment; its entry under META is as of the last ``sealed``."""

    trees: tuple[StateTree, ...]
    supply: Supply

    def find(self, table: Table[Value], key: bytes = ONLY) -> Value | None:
        """The entry of a key."""
        return cast("Value | None", self.trees[table.chain].find(table.prefix + key))

    def get(self, table: Table[Value], key: bytes = ONLY) -> Value:
        """The entry of a key that is always there."""
        entry = self.find(table, key)
        check_invariant(entry is not None, f"the state has no entry {key.hex()} of {table.kind.__name__}")
        return cast("Value", entry)

    def put(self, table: Table[Value], value: Value, key: bytes = ONLY) -> State:
        """The state with an entry. Accounts and validators hold money: they have methods of their own."""
        check_invariant(table.kind not in (Account, Validator), "money moves through put_account and put_validator")
        return self._with(table, self.trees[table.chain].put(table.prefix + key, value))

    def delete(self, table: Table[Value], key: bytes) -> State:
        """The state without an entry."""
        check_invariant(table.kind not in (Account, Validator), "money moves through put_account and put_validator")
        return self._with(table, self.trees[table.chain].delete(table.prefix + key))

    def account(self, account: AccountId) -> Account:
        """An account; one that nobody ever paid has nothing."""
        return self.find(ACCOUNTS, account) or _NEW_ACCOUNT

    def put_account(self, account: AccountId, before: Account, after: Account) -> State:
        """The state in which ``account``, which was ``before``, is ``after``; the totals follow."""
        moved = after.balance_nano - before.balance_nano
        tree = self.trees[SubChain.C].put(ACCOUNTS.prefix + account, after)
        return self._with(ACCOUNTS, tree, replace(self.supply, balances_nano=self.supply.balances_nano + moved))

    def add_balance(self, account: AccountId, amount_nano: int) -> State:
        """The state in which an account has more, or, when negative, less; it must have as much."""
        before = self.account(account)
        balance = before.balance_nano + amount_nano
        check_invariant(0 <= balance <= SUPPLY_NANO_MAX, "a balance is neither negative nor more than all money")
        return self.put_account(account, before, Account(balance, before.nonce))

    def put_validator(self, before: Validator | None, after: Validator) -> State:
        """The state in which a validator, which was ``before``, is ``after``; totals, index and vote key follow."""
        node = after.card.node
        stake, unbonding = (before.stake_nano, before.unbonding_nano) if before else (0, 0)
        supply = replace(
            self.supply,
            staked_nano=self.supply.staked_nano + after.stake_nano - stake,
            unbonding_nano=self.supply.unbonding_nano + after.unbonding_nano - unbonding,
        )
        state = self._with(VALIDATORS, self.trees[SubChain.C].put(VALIDATORS.prefix + node, after), supply)
        if before is None:
            nodes = state.get(VALIDATOR_INDEX).nodes
            check_invariant(node not in nodes, "a new validator is in no index")
            state = state.put(VALIDATOR_INDEX, ValidatorIndex(tuple(sorted((*nodes, node)))))
            state = state.put(VOTE_KEYS, Reference(Digest(node)), after.card.vote)
        return state

    def delete_validator(self, validator: Validator) -> State:
        """The state without a validator that has nothing left."""
        check_invariant(validator.exposed_nano == 0, "a validator that goes has no stake")
        node = validator.card.node
        state = self._with(VALIDATORS, self.trees[SubChain.C].delete(VALIDATORS.prefix + node))
        nodes = state.get(VALIDATOR_INDEX).nodes
        state = state.put(VALIDATOR_INDEX, ValidatorIndex(tuple(other for other in nodes if other != node)))
        return state.delete(VOTE_KEYS, validator.card.vote)

    def validators(self) -> Iterator[Validator]:
        """Every validator, in ascending order of node key."""
        return (self.get(VALIDATORS, node) for node in self.get(VALIDATOR_INDEX).nodes)

    def burn(self, amount_nano: int) -> State:
        """The state in which so much, already taken from somewhere, is gone for ever."""
        return State(self.trees, replace(self.supply, burned_nano=self.supply.burned_nano + amount_nano))

    def collect(self, fee_nano: int) -> State:
        """The state in which so much, already taken from somewhere, waits to be shared out at the end of the block."""
        return State(self.trees, replace(self.supply, fees_nano=self.supply.fees_nano + fee_nano))

    def sealed(self) -> State:
        """The state at the end of a block: the totals are checked and become a part of it."""
        check_invariant(self.supply.fees_nano == 0, "the fees of a block are shared out at its end")
        self.check_conserved()
        return self.put(SUPPLY, self.supply)

    def check_conserved(self) -> None:
        """No money appears or vanishes: raises ``InvariantBroken``."""
        at = self.supply
        held = at.balances_nano + at.staked_nano + at.unbonding_nano + at.fees_nano
        parts = (at.balances_nano, at.staked_nano, at.unbonding_nano, at.burned_nano, at.fees_nano)
        check_invariant(min(parts) >= 0, "no part of the supply is negative")
        check_invariant(held + at.burned_nano == at.minted_nano, "all money is where the totals say")
        check_invariant(at.minted_nano <= SUPPLY_NANO_MAX, "no more is minted than there may ever be")

    def sub_roots(self) -> tuple[Digest, ...]:
        """The roots of the five sub-chains, in the order of ``SubChain``."""
        return tuple(tree.root() for tree in self.trees)

    def root(self) -> Digest:
        """The state root."""
        return combine_roots(self.sub_roots())

    def prove(self, table: Table[Value], key: bytes = ONLY) -> StateProof:
        """The proof that an entry is as ``find`` says, for ``check_state_proof`` with the key ``table.prefix + key``."""
        tree = self.trees[table.chain]
        count, entries, shown = tree.show(table.prefix + key)
        return StateProof(count, entries, shown, tree.path(table.prefix + key), self.sub_roots())

    def _with(self, table: Table[Value], tree: StateTree, supply: Supply | None = None) -> State:
        at = table.chain
        return State((*self.trees[:at], tree, *self.trees[at + 1 :]), supply or self.supply)


_NEW_ACCOUNT = Account()


def genesis_state(
    balances: Iterable[tuple[AccountId, int]],
    validators: Iterable[tuple[MemberCard, int]],
    tiles: Iterable[tuple[TileId, Digest]],
    first_version: MetaVersion,
    created_ms: int,
    rosters: tuple[Roster, Roster],
) -> State:
    """The state before the first block: balances and stakes in nano are what is minted; cards were checked.

    ``created_ms`` is when epoch 0 began, on the clock of the headers; ``rosters`` vote in it and in the next one.

    ``first_version`` is what the first parameter records depend on. Its author is the treasury: nobody.
    """
    state = _NOTHING.put(PROGRESS, Progress(0, 0, -1)).put(EPOCH_MARKS, EpochMark(0, created_ms, None), number(0))
    state = state.put(VALIDATOR_INDEX, ValidatorIndex(())).put(SLASHING_LOG, SlashingLog(()))
    state = state.put(BEACON_MIX, BeaconMix(rosters[1].beacon))
    for roster in rosters:
        state = state.put(ROSTERS, roster, number(roster.epoch))
    for account, amount in balances:
        state = state.add_balance(account, amount)
    for card, stake in validators:
        state = state.put_validator(None, Validator(card, ValidatorStatus.ACTIVE, stake))
    for tile, root in tiles:
        state = state.put(TILES, TileEntry(Version(0), root, None), tile.encode())
    state = state.put(META_VERSIONS, MetaEntry(TREASURY, first_version, 0), first_version.version_id())
    state = state.put(META_TIP, Reference(first_version.version_id()))
    supply = replace(state.supply, minted_nano=state.supply.balances_nano + state.supply.staked_nano)
    return State(state.trees, supply).sealed()


def state_of_genesis(genesis: Genesis, tile_roots: Iterable[tuple[TileId, Digest]]) -> State:
    """The state that a genesis document describes; ``tile_roots`` are those of the weights that follow from its seed."""
    model = encode(genesis.model)
    return genesis_state(
        balances=[(founder.card.account, founder.balance_nano) for founder in genesis.founders],
        validators=[(founder.card, founder.stake_nano) for founder in genesis.founders],
        tiles=tile_roots,
        first_version=MetaVersion(NO_BLOCK, SemVer(0, 1, 0), 0, blob_digest(model), len(model)),
        created_ms=genesis.created_ms,
        rosters=(genesis_roster(genesis, 0), genesis_roster(genesis, 1)),
    )


# -- as rows ------------------------------------------------------------------------------------------------------------


def changes_between(before: State, after: State) -> Iterator[tuple[bytes, Message | None]]:
    """What a block changed, for a database: one byte for the sub-chain, the key; and the entry, None where it is gone."""
    for chain, (old, new) in enumerate(zip(before.trees, after.trees, strict=True)):
        for key, value in new.changes_since(old):
            yield bytes([chain]) + key, value


def all_rows(state: State) -> Iterator[tuple[bytes, Message | None]]:
    """Every entry, as ``changes_between`` gives what changed."""
    return changes_between(_NOTHING, state)


def load_state(rows: Iterable[tuple[bytes, bytes]]) -> State:
    """The state of rows that were written of it, in any order, all in memory. Raises ``Rejected`` where one is no entry.

    Whether all are there, its root tells.
    """
    entries: tuple[list[tuple[bytes, Message]], ...] = tuple([] for _ in SubChain)
    for key, value in rows:
        entries[key[0]].append((key[1:], decode_entry(key, value)))
    state = State(tuple(map(StateTree.of, entries)), _NOTHING.supply)
    return State(state.trees, state.get(SUPPLY))


StoredRow = tuple[bytes, bytes, tuple[Digest, Digest]]
"""An entry as a disk has it: key, canonical bytes, and (place, leaf)."""


def open_state(
    buckets: Iterable[tuple[bytes, Digest]],
    read: Callable[[bytes, Digest], Iterable[StoredRow]],
    root: Digest,
) -> State | None:
    """The state with this root, whose entries are read when they are looked at; None where the digests do not lead to it.

    ``buckets``: the name of each that has entries, sub-chain and two bytes, and its digest. ``read`` gives the entries of one
    in ascending order of place, and answers for it that they lead to the digest.
    """
    digests: tuple[dict[int, Digest], ...] = tuple({} for _ in SubChain)
    for name, bucket in buckets:
        digests[name[0]][int.from_bytes(name[1:], "big")] = bucket
    trees = tuple(StateTree.open(digests[chain], _reader(bytes([chain]), read)) for chain in SubChain)
    state = State(trees, _NOTHING.supply)
    return State(trees, state.get(SUPPLY)) if state.root() == root else None


def _reader(chain: bytes, read: Callable[[bytes, Digest], Iterable[StoredRow]]) -> ReadBucket:
    """What the tree of a sub-chain reads a bucket with."""

    def read_bucket(bucket: int, bucket_digest: Digest) -> list[StoredEntry]:
        rows = read(chain + bucket.to_bytes(2, "big"), bucket_digest)
        try:
            return [(key, decode_entry(chain + key, value), leaf) for key, value, leaf in rows]
        except Rejected as refusal:  # nobody's fault whose block is being executed
            raise InvariantBroken(f"what everybody agreed on is no entry of a state: {refusal}") from None

    return read_bucket


def decode_entry(key: bytes, value: bytes) -> Message:
    """The entry of a row; raises ``Rejected`` where it is none of any table."""
    table = _TABLES.get(key[:2])
    if table is None:
        raise Rejected(Reason.MALFORMED, f"no table has the key {key[:40].hex()}")
    entry: Message = decode(table.kind, value, limit_bytes=STATE_ENTRY_BYTES_MAX)
    return entry


_NOTHING = State(tuple(StateTree() for _ in SubChain), Supply(0, 0, 0, 0, 0, 0))
_TABLES = {bytes([table.chain]) + table.prefix: table for table in ALL_TABLES}


# -- the parameter DAG --------------------------------------------------------------------------------------------------


def find_level(state: State, name: Digest) -> int | None:
    """The level of a parameter record; a meta version stands below all of them, at 0."""
    entry = state.find(PARAMETERS, name)
    if entry is not None:
        return entry.level
    return None if state.find(META_VERSIONS, name) is None else 0


def place_record(levels: Iterable[int | None]) -> int:
    """The level of a record whose parents have these levels: one above the highest. Raises ``Rejected(UNKNOWN_PARENT)``.

    A record is placed only when all its parents are, so no record can ever come to depend on itself: the check for cycles
    costs one look at each parent. Records by (level, name) are a topological order that does not depend on when each came.
    """
    highest = 0
    for level in levels:
        if level is None:
            raise Rejected(Reason.UNKNOWN_PARENT)
        highest = max(highest, level)
    return highest + 1


def expert_versions(state: State, name: str) -> Iterator[ParameterEntry]:
    """Every recorded version of an expert, in the order in which they were recorded."""
    count = state.find(EXPERT_COUNTS, name.encode())
    for index in range(count.value if count else 0):
        yield state.get(PARAMETERS, state.get(EXPERT_VERSIONS, expert_key(name, index)).id)


def tile_heads(state: State, tiles: Iterable[TileId]) -> dict[TileId, TileHead]:
    """Where each of these tiles stands; unknown ones are left out."""
    found = ((tile, tile_head(state, tile)) for tile in tiles)
    return {tile: at for tile, at in found if at is not None}


def tile_head(state: State, tile: TileId) -> TileHead | None:
    """Where a tile stands, as the rule for heads sees it."""
    entry = state.find(TILES, tile.encode())
    return None if entry is None else TileHead(entry.version, entry.root, entry.head)
