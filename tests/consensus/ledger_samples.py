"""A small ledger: six accounts, two validators at genesis, three tiles, and short rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from msgspec.structs import replace

from consensus.beacon import due_history
from consensus.history import walk_segments
from consensus.signers import signer_bitmap
from consensus.state import ROSTERS, TILES, TREASURY, VALIDATORS, State, Validator, genesis_state
from consensus.transition import BlockContext, apply_block
from protocol.availability import (
    REPLICATION,
    AvailabilityCertificate,
    AvailabilityClaim,
    Subject,
    TileSnapshot,
    kept_until,
)
from protocol.codec import encode
from protocol.digest import blob_digest, number
from protocol.epochs import epoch_of, is_boundary
from protocol.erasure import blob_root
from protocol.finality import NO_BLOCK, Vote, VoteKind, vote_text
from protocol.genesis import LedgerRule
from protocol.ids import AccountId, Digest, Epoch, Height, MemberIndex, PeerId, TileId, View, VoteKey
from protocol.keys import KeyPair
from protocol.limits import HISTORY_SEGMENTS
from protocol.roster import Member, MemberCard, Roster
from protocol.transactions import (
    AvailabilityRecord,
    DatasetRecord,
    MetaVersion,
    ParameterRecord,
    Payload,
    RecordKind,
    SemVer,
    SignedTransaction,
    check_transaction,
    find_work,
    sign_transaction,
)
from simnet.finality.audit import Held, count_money
from tests.consensus.genesis import TICKS, genesis_roots
from tests.consensus.samples import CHAIN, ROSTER, RULES

KEYS = [KeyPair(bytes([3, index]) * 16) for index in range(6)]
ACCOUNT_IDS = [AccountId(key.public) for key in KEYS]
NODES = [KeyPair(bytes([4, index]) * 16) for index in range(6)]
VOTES = [KeyPair(bytes([5, index]) * 16) for index in range(6)]
CARDS = [MemberCard.bind(*keys) for keys in zip(NODES, VOTES, KEYS, strict=True)]
PROPOSER = ACCOUNT_IDS[5]
BALANCE = 10**9
EPOCH_HEIGHTS = 50
STAKE = 10**6
RULE = LedgerRule(
    fee_nano_per_byte=1,
    stake_nano_min=1_000,
    unbonding_ms=2_100,
    unbonding_heights=21,
    evidence_ms=2_000,
    evidence_heights=20,
    correlation_ms=700,
    parameter_work_bits=4,
    dataset_work_bits=5,
    meta_author=ACCOUNT_IDS[0],
)
FIRST_VERSION = MetaVersion(NO_BLOCK, SemVer(1, 0, 0), 0, blob_digest(b"configuration"), 1_024)
# Those who vote in the first two epochs: the members whom the samples of heads have, with keys whose signatures are real.
VOTERS = replace(
    ROSTER,
    members=tuple(Member(member.node, VoteKey(key.public)) for member, key in zip(ROSTER.members, VOTES, strict=False)),
)
GENESIS = genesis_state(
    balances=[(account, BALANCE) for account in ACCOUNT_IDS],
    validators=[(CARDS[0], STAKE), (CARDS[1], 3 * STAKE)],
    tiles=genesis_roots().items(),
    first_version=FIRST_VERSION,
    created_ms=0,
    rosters=(VOTERS, replace(VOTERS, epoch=Epoch(1))),
)


def context(height: int = 1, **changes: Any) -> BlockContext:
    """The block at a height: one every 100 ms, an epoch every 50."""
    values: dict[str, Any] = {
        "chain": CHAIN,
        "epoch": epoch_of(height, EPOCH_HEIGHTS),
        "height": Height(height),
        "time_ms": 100 * height,
        "proposer": PROPOSER,
        "proposer_node": node_of(5),
        "rule": RULE,
        "heads": RULES,
        "epoch_heights": EPOCH_HEIGHTS,
    }
    return BlockContext(**values | changes)


def history_for(state: State, here: BlockContext) -> tuple[Digest, ...]:
    """What the block after a state says of history: nothing, but at a boundary at which it is due."""
    start = due_history(state)
    if start is None or not is_boundary(here.height, here.epoch_heights):
        return ()
    return walk_segments(start, TICKS, HISTORY_SEGMENTS)


def sign(sender: int, nonce: int, payload: Payload, fee_nano: int = 10_000) -> SignedTransaction:
    """A signed transaction that went over the wire."""
    return check_transaction(encode(sign_transaction(KEYS[sender], CHAIN, nonce, fee_nano, payload)), CHAIN)


def apply_all(state: State, *payloads: tuple[int, Payload], height: int = 1) -> tuple[State, tuple[Any, ...]]:
    """A block of (sender, payload), with the nonces that the senders have; and the refusals."""
    nonces = {sender: state.account(ACCOUNT_IDS[sender]).nonce for sender, _ in payloads}
    transactions = []
    for sender, payload in payloads:
        transactions.append(sign(sender, nonces[sender], payload))
        nonces[sender] += 1
    after, receipts = apply_block(state, (), transactions, context(height), None, history_for(state, context(height)))
    return after, tuple(receipt.refusal for receipt in receipts)


def node_of(index: int) -> PeerId:
    return CARDS[index].node


def validator(state: State, index: int) -> Validator:
    return state.get(VALIDATORS, node_of(index))


def balance(state: State, index: int) -> int:
    return state.account(ACCOUNT_IDS[index]).balance_nano


def vote(index: int, kind: VoteKind, block: bytes, *, view: int = 3, epoch: int = 0) -> Vote:
    """A validator's signed word; NULLIFY names no block."""
    named = NO_BLOCK if kind is VoteKind.NULLIFY else blob_digest(block)
    text = vote_text(CHAIN, epoch, view, kind, named)
    return Vote(Epoch(epoch), View(view), kind, named, MemberIndex(index), VOTES[index].sign(text))


def parameters(sender: int, name: str, *parents: bytes, salt: bytes = b"", **changes: Any) -> ParameterRecord:
    """A record of an expert of layer 4 with its work done; it depends on the first version where no parent is named."""
    depends_on = tuple(sorted(parents)) or (FIRST_VERSION.version_id(),)
    root = blob_digest(salt)
    record = replace(ParameterRecord(RecordKind.EXPERT, name, 4, depends_on, root, 4_096, 0), **changes)
    work = find_work(record.record_id(ACCOUNT_IDS[sender]), RULE.parameter_work_bits, 0, 10_000)
    assert work is not None
    return replace(record, work=work)


def snapshot_of(state: State, tile: TileId) -> TileSnapshot:
    """A tile as it is."""
    entry = state.get(TILES, tile.encode())
    return TileSnapshot(tile, entry.version, entry.root)


def available(
    state: State,
    subject: Subject,
    *,
    epoch: int = 0,
    size_bytes: int = 4_096,
    tiles_root: Digest | None = None,
    signers: Collection[int] | None = None,
    **changes: Any,
) -> AvailabilityRecord:
    """That every member of an epoch's roster, or these ones, keep a subject, with ``changes`` to the claim that they sign."""
    replication = REPLICATION[type(subject)]
    tiles_root = tiles_root or blob_digest(subject.digest())
    claim = AvailabilityClaim(
        blob=blob_root(replication.geometry, size_bytes, tiles_root),
        tables=blob_digest(tiles_root),
        geometry=replication.geometry,
        subject=subject.digest(),
        epoch=Epoch(epoch),
        kept_until=kept_until(epoch),
    )
    roster = state.get(ROSTERS, number(epoch))
    return AvailabilityRecord(subject, size_bytes, tiles_root, certify(roster, replace(claim, **changes), signers))


def certify(
    roster: Roster, claim: AvailabilityClaim, signers: Collection[int] | None = None
) -> AvailabilityCertificate:
    """The certificate that these members sign; all of them where none are named."""
    keys = {key.public: key for key in VOTES}
    chosen = [MemberIndex(at) for at in sorted(signers if signers is not None else range(len(roster.members)))]
    signatures = tuple(keys[roster.members[at].vote].sign(claim.text(CHAIN)) for at in chosen)
    return AvailabilityCertificate(claim, signer_bitmap(chosen, len(roster.members)), signatures)


def dataset(sender: int, name: str = "text") -> DatasetRecord:
    """A data set's record with its work done."""
    record = DatasetRecord(name, SemVer(1, 0, 0), "CC-BY-4.0", blob_digest(name.encode()), 1, 100, 0)
    work = find_work(record.record_id(ACCOUNT_IDS[sender]), RULE.dataset_work_bits, 0, 10_000)
    assert work is not None
    return replace(record, work=work)


def check_money(state: State) -> None:
    """The totals are what the entries hold, and nothing was made or lost."""
    held, supply = count_money(state), state.supply
    assert held == Held(supply.balances_nano, supply.staked_nano, supply.unbonding_nano)
    assert sum(held) + supply.burned_nano == GENESIS.supply.minted_nano


def treasury(state: State) -> int:
    return state.account(TREASURY).balance_nano


def raw_entries(states: Iterable[State]) -> list[list[tuple[bytes, Any]]]:
    """Every entry of every tree, for comparing states value by value."""
    return [[item for tree in state.trees for item in tree.items()] for state in states]
