"""Votes and certificates of availability: more than two thirds of a roster keep their cells of a blob (chain.md 3.4).

    claim   -> each member stores and checks its cells -> vote      AvailabilityTally -> certificate -> a transaction
               checked votes of one claim by > 2/3 of the weight

Votes contradict nothing: a member may keep one blob under two tables' roots, and a longer time than it said before. Which of
two certificates of one blob root counts is the record's to decide, by being first (protocol/availability.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.signers import Verify, check_signers, signer_bitmap
from protocol.availability import AvailabilityCertificate, AvailabilityClaim, AvailabilityVote, check_claim
from protocol.finality import ChainId
from protocol.ids import MemberIndex, Signature
from protocol.keys import verify as verify_signature
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster


@dataclass(frozen=True, slots=True)
class CheckedAvailability:
    """A certificate whose claim, quorum and signatures were verified; ``plain`` is what travels."""

    plain: AvailabilityCertificate

    @property
    def claim(self) -> AvailabilityClaim:
        return self.plain.claim


def check_availability_vote(
    vote: AvailabilityVote, roster: Roster, chain: ChainId, verify: Verify = verify_signature
) -> AvailabilityVote:
    """Raises ``Rejected`` (WRONG_EPOCH, NOT_A_MEMBER, as ``check_claim``, BAD_SIGNATURE), the cheap reasons first."""
    if vote.claim.epoch != roster.epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"epoch {vote.claim.epoch}")
    if vote.signer >= len(roster.members):
        raise Rejected(Reason.NOT_A_MEMBER, f"signer {vote.signer}")
    check_claim(vote.claim)
    if not verify(roster.members[vote.signer].vote, vote.claim.text(chain), vote.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"vote of {vote.signer} for a blob")
    return vote


def check_availability_certificate(
    certificate: AvailabilityCertificate, roster: Roster, chain: ChainId, verify: Verify = verify_signature
) -> CheckedAvailability:
    """Check claim, form, quorum and signatures, in this order: no signature is checked before the rest holds.

    Raises ``Rejected``: WRONG_EPOCH, as ``check_claim`` and ``check_signers``, BAD_SIGNATURE.
    """
    claim = certificate.claim
    if claim.epoch != roster.epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"epoch {claim.epoch}")
    check_claim(claim)
    signers = check_signers(certificate.signers, certificate.signatures, roster)
    text = claim.text(chain)
    for signer, signature in zip(signers, certificate.signatures, strict=True):
        if not verify(roster.members[signer].vote, text, signature):
            raise Rejected(Reason.BAD_SIGNATURE, f"vote of {signer} for a blob")
    return CheckedAvailability(certificate)


class AvailabilityTally:
    """The votes for one claim: one signature of each member."""

    def __init__(
        self, claim: AvailabilityClaim, roster: Roster, chain: ChainId, verify: Verify = verify_signature
    ) -> None:
        """Raises ``Rejected`` as ``check_claim``."""
        self._claim = check_claim(claim)
        self._roster = roster
        self._chain = chain
        self._verify = verify
        self._signatures: dict[MemberIndex, Signature] = {}

    def add(self, vote: AvailabilityVote) -> CheckedAvailability | None:
        """Count a vote; the certificate when this one makes the quorum, once. Others later make a wider one: ``certificate``.

        Raises ``Rejected``: WRONG_DIGEST for another claim, and as ``check_availability_vote``.
        """
        if vote.claim != self._claim:
            raise Rejected(Reason.WRONG_DIGEST, "a vote for another claim")
        if self._signatures.get(vote.signer) == vote.signature:
            return None
        check_availability_vote(vote, self._roster, self._chain, self._verify)
        was_quorum = self.is_quorum
        self._signatures.setdefault(vote.signer, vote.signature)
        return self.certificate() if self.is_quorum and not was_quorum else None

    @property
    def is_quorum(self) -> bool:
        return self._roster.is_quorum(sum(self._roster.weights[signer] for signer in self._signatures))

    @property
    def missing(self) -> list[MemberIndex]:
        """Members whose vote has not come, ascending: whom to ask again."""
        return [MemberIndex(at) for at in range(len(self._roster.members)) if MemberIndex(at) not in self._signatures]

    def certificate(self) -> CheckedAvailability | None:
        """All votes that have come; None while they are no quorum."""
        if not self.is_quorum:
            return None
        signers = sorted(self._signatures)
        signatures = tuple(self._signatures[signer] for signer in signers)
        bitmap = signer_bitmap(signers, len(self._roster.members))
        return CheckedAvailability(AvailabilityCertificate(self._claim, bitmap, signatures))
