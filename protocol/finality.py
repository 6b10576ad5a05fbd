"""Votes, certificates, headers, proposals: what validators say to each other (chain.md 2.2).

A vote is one member's signed word; a certificate is the list of votes that makes a quorum; a proposal is a header with
everything that a voter needs to accept its ancestry. All travel on direct streams between members, each carrying its own
signatures, so that any of them can be relayed, stored and shown as evidence.

    vote text  = SHA-256("nock/vote/1", chain_id | fork_id | epoch | view | kind | block)
    block id   = digest("nock/block/1", header bytes)
    state root = that of the state after the body (protocol/state_proof.py); what it holds is not finality's business
"""

from __future__ import annotations

import enum
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message, encode
from protocol.digest import Domain, digest, number
from protocol.ids import (
    Digest,
    DigestField,
    EpochField,
    HeightField,
    MemberField,
    Natural,
    NetworkId,
    SignatureField,
    ViewField,
)
from protocol.limits import (
    HEADS_PER_BODY_MAX,
    HISTORY_SEGMENTS,
    NULLIFICATIONS_INLINE_MAX,
    ROSTER_MEMBERS_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTIONS_PER_BODY_MAX,
)
from protocol.roster import Head

NO_BLOCK = Digest(bytes(32))  # what a NULLIFY vote names, and the parent of the first block of an epoch without anchor
HEADER_VERSION = 1


class VoteKind(enum.IntEnum):
    """The three words of the protocol."""

    NOTARIZE = 1
    NULLIFY = 2
    FINALIZE = 3


class ChainId(Message, frozen=True):
    """What separates one chain's signatures from every other's: network and emergency fork."""

    chain: Annotated[bytes, Meta(min_length=4, max_length=4)]
    fork: Natural

    @classmethod
    def of(cls, network: NetworkId, fork: int = 0) -> ChainId:
        """The chain of a network: the first four bytes of its id."""
        return cls(bytes(network[:4]), fork)


def vote_text(chain: ChainId, epoch: int, view: int, kind: VoteKind, block: Digest) -> bytes:
    """The 32 bytes that a vote signs."""
    return digest(Domain.VOTE, chain.chain, number(chain.fork), number(epoch), number(view), bytes([kind]), block)


class Vote(Message, frozen=True, tag=1):
    """One member's word about one view."""

    epoch: EpochField
    view: ViewField
    kind: VoteKind
    block: DigestField
    signer: MemberField
    signature: SignatureField


class Certificate(Message, frozen=True, tag=2):
    """Votes of one kind for one block in one view by more than two thirds of the weight.

    ``signers`` is a bitmap, least significant bit of byte 0 first; ``signatures`` are in ascending order of signer.
    """

    kind: VoteKind
    epoch: EpochField
    view: ViewField
    block: DigestField
    signers: Annotated[bytes, Meta(max_length=(ROSTER_MEMBERS_MAX + 7) // 8)]
    signatures: Annotated[tuple[SignatureField, ...], Meta(max_length=ROSTER_MEMBERS_MAX)]


class Header(Message, frozen=True):
    """One block. Its id is the digest of its canonical bytes; ``state_root`` is the state after executing its body."""

    version: Natural
    chain: ChainId
    epoch: EpochField
    view: ViewField
    height: HeightField
    parent: DigestField
    parent_view: ViewField
    time_ms: Natural
    proposer: MemberField
    body_root: DigestField
    body_bytes: Natural
    state_root: DigestField
    roster: DigestField
    next_roster: DigestField
    beacon: DigestField
    evidence_root: DigestField

    def digest(self) -> Digest:
        """The block id."""
        return digest(Domain.BLOCK, encode(self))


class OnionCommitment(Message, frozen=True, tag=1):
    """A proposer's new hash onion, by its outermost layer."""

    layer: DigestField


class OnionReveal(Message, frozen=True, tag=2):
    """The next layer of a proposer's onion."""

    layer: DigestField


OnionWord = OnionCommitment | OnionReveal


class Body(Message, frozen=True):
    """What a block decides: heads, in ascending order of tile, at most one a tile; then transactions, as they were signed.

    ``word`` is the proposer's for the beacon; ``history`` the ends of the segments of the epoch's history, in one block of each
    epoch, and empty in the others (consensus/beacon.py).

    A head is the tile commit of its proposer: its signature says whose it is, its slot that it happens once, so it has no
    account's envelope around it and pays no fee.
    """

    heads: Annotated[tuple[Head, ...], Meta(max_length=HEADS_PER_BODY_MAX)]
    transactions: Annotated[
        tuple[Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)], ...], Meta(max_length=TRANSACTIONS_PER_BODY_MAX)
    ] = ()
    word: OnionCommitment | OnionReveal | None = None
    history: Annotated[tuple[DigestField, ...], Meta(max_length=HISTORY_SEGMENTS)] = ()


def body_root(body: bytes) -> Digest:
    """What a header commits to about its body."""
    return digest(Domain.BODY, body)


EMPTY_BODY = encode(Body(()))


class Proposal(Message, frozen=True, tag=3):
    """A header with its justification: the parent's certificate and every nullification between (H1, self-certifying)."""

    header: Header
    parent_certificate: Certificate | None
    nullifications: Annotated[tuple[Certificate, ...], Meta(max_length=NULLIFICATIONS_INLINE_MAX)]
    vote: Vote


class BodyMessage(Message, frozen=True, tag=4):
    """A body by its block: pushed by the leader after its proposal, or in answer to ``Want``."""

    block: DigestField
    body: bytes


class Status(Message, frozen=True, tag=5):
    """Where a member stands; peers answer by pushing the certificates it misses (R8)."""

    epoch: EpochField
    finalized_view: ViewField
    finalized_height: HeightField
    current_view: ViewField


class Want(Message, frozen=True, tag=6):
    """Ask for the proposal and body of blocks, by id."""

    blocks: Annotated[tuple[DigestField, ...], Meta(max_length=64)]


ValidatorMessage = Vote | Certificate | Proposal | BodyMessage | Status | Want


class ValidatorFrame(Message, frozen=True):
    """What travels on a stream between members: a message, and the fork on which its sender stands.

    A signed text holds its fork, but its bytes do not: without this number an honest word of the fork before an emergency
    recovery looks like a forgery.
    """

    fork: Natural
    message: ValidatorMessage


class FinalizedBlock(Message, frozen=True):
    """A block in answer to a sync request. ``certificate`` is None when a later block's certificate finalized it."""

    header: Header
    body: bytes
    certificate: Certificate | None
