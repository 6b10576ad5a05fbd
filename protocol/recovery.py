"""Emergency recovery: what operators say when a chain cannot go on by itself (chain.md 2.11).

    proposal   "this is the last final block that I have, and why I ask": one file of each operator
    recovery   the block to go on from, who votes from there, the new fork id: one file, made of proposals
    signed     the same with the signatures of more than two thirds of those who remain

    proposal text = digest("nock/recovery-proposal/1", chain | fork | height | block | reason)         vote key
    recovery text = digest("nock/recovery/1", recovery)                                                 vote key

The new fork id is in every text that is signed from then on (``ChainId``), so nothing that was signed before counts after, and
nobody has to forget what it signed. The rules are in ``consensus/recovery.py``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.codec import Message, decode, encode
from protocol.digest import Domain, digest, number
from protocol.finality import ChainId, Header
from protocol.ids import Digest, PeerField, SignatureField
from protocol.light_client import LightBlock
from protocol.limits import (
    RECOVERY_BYTES_MAX,
    RECOVERY_PROPOSAL_BYTES_MAX,
    RECOVERY_REASON_BYTES_MAX,
    ROSTER_MEMBERS_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster
from protocol.transactions import EvidenceReport

_ReasonField = Annotated[str, Meta(min_length=1, max_length=RECOVERY_REASON_BYTES_MAX, pattern=r"^[ -~]+\Z")]


class RecoveryProposal(Message, frozen=True):
    """An operator's word: its last final block, certified, with the roster of its epoch.

    ``following`` is the roster of the next epoch, where the block is the last of its own: those vote about what comes next.
    """

    block: LightBlock
    following: Roster | None
    reason: _ReasonField
    signer: PeerField  # the node; its vote key signs
    signature: SignatureField


def proposal_text(header: Header, reason: str) -> Digest:
    """The 32 bytes that a proposal signs. The header names both rosters."""
    chain = header.chain
    parts = (chain.chain, number(chain.fork), number(header.height), header.digest(), reason.encode("ascii"))
    return digest(Domain.RECOVERY_PROPOSAL, *parts)


class Recovery(Message, frozen=True):
    """``remaining`` are node keys of members of the roster that votes about the block after ``anchor``, ascending.

    They vote from there on, with the weights that they have; the others of that roster leave. Whoever ``evidence`` convicts is
    slashed for it, and does not remain.
    """

    fork: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    anchor: LightBlock
    following: Roster | None
    remaining: Annotated[tuple[PeerField, ...], Meta(min_length=1, max_length=ROSTER_MEMBERS_MAX)]
    evidence: Annotated[tuple[EvidenceReport, ...], Meta(max_length=ROSTER_MEMBERS_MAX)]
    reason: _ReasonField

    @property
    def chain(self) -> ChainId:
        """What is signed with after the anchor."""
        return ChainId(self.anchor.header.chain.chain, self.fork)

    def digest(self) -> Digest:
        """What its signers sign, and what an operator writes into the configuration."""
        return digest(Domain.RECOVERY, encode(self))


class SignedRecovery(Message, frozen=True):
    """``signers`` is a bitmap over ``remaining``, as a certificate's over its roster; signatures by vote keys, ascending."""

    recovery: Recovery
    signers: Annotated[bytes, Meta(max_length=(ROSTER_MEMBERS_MAX + 7) // 8)]
    signatures: Annotated[tuple[SignatureField, ...], Meta(max_length=ROSTER_MEMBERS_MAX)]


def check_reason(reason: str) -> str:
    """A reason that its writer may give; raises ``Rejected(BAD_ARGUMENT)``."""
    if not 1 <= len(reason) <= RECOVERY_REASON_BYTES_MAX or not (reason.isascii() and reason.isprintable()):
        raise Rejected(
            Reason.BAD_ARGUMENT, f"a reason has 1 to {RECOVERY_REASON_BYTES_MAX} printable characters of ASCII"
        )
    return reason


def decode_proposal(data: bytes | bytearray | memoryview) -> RecoveryProposal:
    """Raises ``Rejected`` (TOO_LARGE, MALFORMED, NOT_CANONICAL). Nothing in it is checked yet."""
    return decode(RecoveryProposal, data, limit_bytes=RECOVERY_PROPOSAL_BYTES_MAX)


def decode_recovery(data: bytes | bytearray | memoryview) -> SignedRecovery:
    """Raises ``Rejected`` (TOO_LARGE, MALFORMED, NOT_CANONICAL). Nothing in it is checked yet."""
    return decode(SignedRecovery, data, limit_bytes=RECOVERY_BYTES_MAX)
