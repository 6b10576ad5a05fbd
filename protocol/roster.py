"""The two inputs that learning takes from the chain: who counts, and what was decided.

Rounds, election and merging consume ``Roster`` and ``Decided`` and never ask where they come from (learning.md 2): stakes and
epochs change the values, not the shapes.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, NamedTuple

from msgspec import Meta
from msgspec.structs import replace

from protocol.codec import Message, encode
from protocol.digest import Domain, digest
from protocol.ids import (
    AccountField,
    AccountId,
    Digest,
    DigestField,
    EpochField,
    Height,
    MemberIndex,
    Natural,
    PeerField,
    PeerId,
    SignatureField,
    TileField,
    TileId,
    Version,
    VersionField,
    VoteKey,
    VoteKeyField,
)
from protocol.keys import KeyPair, verify
from protocol.limits import CONTRIBUTORS_PER_AGGREGATE_MAX, DELTAS_PER_SLOT_MAX, ROSTER_MEMBERS_MAX
from protocol.rejection import Reason, Rejected


class MemberCard(Message, frozen=True):
    """One member's three keys, each signing the other two, so that nobody registers a key that is not theirs."""

    node: PeerField
    vote: VoteKeyField
    account: AccountField
    node_signature: SignatureField
    vote_signature: SignatureField
    account_signature: SignatureField

    @classmethod
    def bind(cls, node: KeyPair, vote: KeyPair, account: KeyPair) -> MemberCard:
        """The card of three key pairs held together once, at creation."""
        text = _binding(node.public, vote.public, account.public)
        return cls(
            node=PeerId(node.public),
            vote=VoteKey(vote.public),
            account=AccountId(account.public),
            node_signature=node.sign(text),
            vote_signature=vote.sign(text),
            account_signature=account.sign(text),
        )


def _binding(node: bytes, vote: bytes, account: bytes) -> bytes:
    return digest(Domain.BINDING, node, vote, account)


def check_member_card(card: MemberCard) -> MemberCard:
    """Check the three bindings and that the keys differ; raises ``Rejected(BAD_SIGNATURE)``."""
    text = _binding(card.node, card.vote, card.account)
    signatures = (
        (card.node, card.node_signature),
        (card.vote, card.vote_signature),
        (card.account, card.account_signature),
    )
    if len({bytes(key) for key, _ in signatures}) != 3:
        raise Rejected(Reason.BAD_SIGNATURE, "a member's three keys must differ")
    for key, signature in signatures:
        if not verify(key, text, signature):
            raise Rejected(Reason.BAD_SIGNATURE, f"key {key[:4].hex()} did not sign its binding")
    return card


class Member(Message, frozen=True):
    """One member as the rules see it."""

    node: PeerField
    vote: VoteKeyField


class Roster(Message, frozen=True):
    """Who votes and owns in one epoch. Members are in ascending order of node key; ``weights`` run beside them."""

    epoch: EpochField
    members: Annotated[tuple[Member, ...], Meta(max_length=ROSTER_MEMBERS_MAX)]
    weights: Annotated[tuple[Natural, ...], Meta(max_length=ROSTER_MEMBERS_MAX)]
    beacon: DigestField

    @property
    def weight_total(self) -> int:
        return sum(self.weights)

    def find_index(self, peer: PeerId) -> MemberIndex | None:
        """The position of a peer among the members, if it is one."""
        for index, member in enumerate(self.members):
            if member.node == peer:
                return MemberIndex(index)
        return None

    def is_quorum(self, weight: int) -> bool:
        """Whether ``weight`` is strictly more than two thirds; exactly two thirds is not (chain.md 2.2)."""
        return 3 * weight > 2 * self.weight_total

    def quorum_members(self) -> int:
        """How many members make a quorum at the least: the heaviest ones."""
        heaviest = sorted(self.weights, reverse=True)
        return next(count for count in range(len(heaviest) + 1) if self.is_quorum(sum(heaviest[:count])))

    def weight_of(self, nodes: Container[PeerId]) -> int:
        """What those of the members that are among ``nodes`` weigh together."""
        pairs = zip(self.members, self.weights, strict=True)
        return sum(weight for member, weight in pairs if member.node in nodes)

    def digest(self) -> Digest:
        """What headers commit to."""
        return digest(Domain.ROSTER, encode(self))


def check_roster(roster: Roster) -> Roster:
    """Check the form of a roster that came from outside; raises ``Rejected(MALFORMED)``.

    Nobody may be counted twice: members ascend by node key, and no two share a vote key.
    """
    nodes = [member.node for member in roster.members]
    if not nodes or nodes != sorted(set(nodes)):
        raise Rejected(Reason.MALFORMED, "the roster is not in ascending order of distinct node keys")
    if len({member.vote for member in roster.members}) != len(nodes):
        raise Rejected(Reason.MALFORMED, "two members share a vote key")
    if len(roster.weights) != len(nodes):
        raise Rejected(Reason.MALFORMED, "as many weights as members")
    return roster


class Slot(NamedTuple):
    """What is decided: one version of one tile."""

    tile: TileId
    version: Version

    def __str__(self) -> str:
        return f"{self.tile}@{self.version}"


class DeltaRef(Message, frozen=True):
    """One delta that went into a head. ``weight`` is what the merge gave it: tokens, capped by the learning rule.

    An aggregate is a delta that its ``learner``, the aggregator of a region, made of others: ``contributors`` names them in
    ascending order. They count with it, and never again. A delta that came directly names nobody.
    """

    delta: DigestField
    learner: PeerField
    base: VersionField
    weight: Natural
    contributors: Annotated[tuple[DigestField, ...], Meta(max_length=CONTRIBUTORS_PER_AGGREGATE_MAX)] = ()

    def counted(self) -> tuple[Digest, ...]:
        """Every delta that counts by this reference: its own name, and its contributors'."""
        return (self.delta, *self.contributors)

    @property
    def learners(self) -> int:
        """How many learners' deltas it stands for."""
        return len(self.contributors) or 1


class Head(Message, frozen=True):
    """A proposed (and, once finalized, the decided) next version of one tile.

    ``epoch`` is the one in whose order for the tile the proposer has the place ``attempt``: in the next one others own it.
    ``update`` is the digest of the merged pseudo-gradient's bytes, ``root`` the tile root after applying it to the parent.
    ``deltas`` are in ascending order of (learner, base). The signature is the proposer's node key over everything before it.
    """

    tile: TileField
    version: VersionField
    epoch: EpochField
    attempt: Natural
    round: Natural
    parent_root: DigestField
    root: DigestField
    update: DigestField
    update_bytes: Natural
    deltas: Annotated[tuple[DeltaRef, ...], Meta(max_length=DELTAS_PER_SLOT_MAX)]
    proposer: PeerField
    signature: SignatureField

    @property
    def slot(self) -> Slot:
        return Slot(self.tile, self.version)

    @property
    def tokens(self) -> int:
        return sum(reference.weight for reference in self.deltas)

    @property
    def learners(self) -> int:
        """How many learners' deltas went in, those inside aggregates too."""
        return sum(reference.learners for reference in self.deltas)

    def counted(self) -> tuple[Digest, ...]:
        """Every delta that counts by this head, and never again: what it lists, and what is inside the aggregates."""
        return tuple(name for reference in self.deltas for name in reference.counted())

    def digest(self) -> Digest:
        return digest(Domain.HEAD, encode(self))


_SIGNATURE_TAIL_BYTES = 66  # msgpack of 64 bytes: 0xc4 0x40 and the bytes


def sign_head(unsigned: Head, key: KeyPair) -> Head:
    """The same head with the proposer's signature."""
    return replace(unsigned, signature=key.sign(_head_text(unsigned)))


def _head_text(head: Head) -> bytes:
    return digest(Domain.HEAD, encode(head)[:-_SIGNATURE_TAIL_BYTES])


def check_head_signature(head: Head) -> None:
    """Raises ``Rejected(BAD_SIGNATURE)`` unless the proposer signed this head."""
    if not verify(head.proposer, _head_text(head), head.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"head of {head.slot}")


class Decided(NamedTuple):
    """A finalized head: the slot's for ever."""

    slot: Slot
    head: Head
    height: Height
