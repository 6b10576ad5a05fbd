"""Votes of each view, the certificates that they make, and the contradictions among them (chain.md 2.2, 2.8).

One vote is kept for each (view, kind, member): the first. One that contradicts a vote that is kept is evidence, and counts
for nothing. Memory: at most three votes a member and view; the owner closes views.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consensus.finality.events import Evidence, EvidenceKind
from consensus.signers import Verify, check_signers, signer_bitmap, signers_in
from protocol.finality import NO_BLOCK, Certificate, ChainId, Vote, VoteKind, vote_text
from protocol.ids import Digest, MemberIndex, View
from protocol.keys import verify as verify_signature
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster

CERTIFICATES_REMEMBERED_MAX = 512  # 4.35 kB each with a hundred members: 2 MB. Covers repeats of R8 (a guess)


@dataclass(frozen=True, slots=True)
class CheckedCertificate:
    """A certificate whose quorum and every signature were verified; ``plain`` is what travels."""

    plain: Certificate

    @property
    def kind(self) -> VoteKind:
        return self.plain.kind

    @property
    def view(self) -> View:
        return self.plain.view

    @property
    def block(self) -> Digest:
        return self.plain.block


class Outcome(enum.Enum):
    """What a vote did to the tally."""

    NEW = "new"
    DUPLICATE = "duplicate"
    QUORUM = "quorum"  # this vote made the quorum: said once for each (view, kind, block)
    EQUIVOCATION = "equivocation"


@dataclass(frozen=True, slots=True)
class Added:
    """``certificate`` comes with QUORUM, ``evidence`` with EQUIVOCATION."""

    outcome: Outcome
    certificate: CheckedCertificate | None = None
    evidence: Evidence | None = None


_NEW, _DUPLICATE = Added(Outcome.NEW), Added(Outcome.DUPLICATE)

# Two kinds of vote by one member in one view: what they are evidence of when they name different blocks. NULLIFY names
# no block, so it differs from every FINALIZE; NOTARIZE then NULLIFY is what every honest voter does at a timeout.
_CONTRADICTIONS = {
    (VoteKind.NOTARIZE, VoteKind.NOTARIZE): EvidenceKind.E1,
    (VoteKind.FINALIZE, VoteKind.FINALIZE): EvidenceKind.E2,
    (VoteKind.NULLIFY, VoteKind.FINALIZE): EvidenceKind.E3,
    (VoteKind.NOTARIZE, VoteKind.FINALIZE): EvidenceKind.E4,
}


def find_contradiction(one: Vote, other: Vote) -> EvidenceKind | None:
    """How the two votes contradict each other, if they do; the caller has verified both signatures."""
    if (one.signer, one.epoch, one.view) != (other.signer, other.epoch, other.view) or one.block == other.block:
        return None
    first, second = sorted((one.kind, other.kind))
    return _CONTRADICTIONS.get((first, second))


def check_vote(vote: Vote, roster: Roster, chain: ChainId, verify: Verify = verify_signature) -> Vote:
    """Raises ``Rejected`` (WRONG_EPOCH, NOT_A_MEMBER, MALFORMED, BAD_SIGNATURE), the cheap reasons first."""
    if vote.epoch != roster.epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"epoch {vote.epoch}")
    if vote.signer >= len(roster.members):
        raise Rejected(Reason.NOT_A_MEMBER, f"signer {vote.signer}")
    if (vote.kind is VoteKind.NULLIFY) != (vote.block == NO_BLOCK):
        raise Rejected(Reason.MALFORMED, "NULLIFY, and only NULLIFY, names no block")
    text = vote_text(chain, vote.epoch, vote.view, vote.kind, vote.block)
    if not verify(roster.members[vote.signer].vote, text, vote.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"vote of {vote.signer} in view {vote.view}")
    return vote


def build_certificate(votes: Iterable[Vote], roster: Roster) -> Certificate:
    """The certificate of verified votes of one (epoch, view, kind, block); at least one vote."""
    ordered = sorted(votes, key=lambda vote: vote.signer)
    bitmap = signer_bitmap((vote.signer for vote in ordered), len(roster.members))
    model = ordered[0]
    signatures = tuple(vote.signature for vote in ordered)
    return Certificate(model.kind, model.epoch, model.view, model.block, bitmap, signatures)


def signers_of(certificate: Certificate) -> list[MemberIndex]:
    """The members whose bits are set, ascending."""
    return signers_in(certificate.signers)


def votes_of(certificate: Certificate) -> list[Vote]:
    """The votes inside a certificate whose form was checked."""
    kind, epoch, view, block = certificate.kind, certificate.epoch, certificate.view, certificate.block
    pairs = zip(signers_of(certificate), certificate.signatures, strict=True)
    return [Vote(epoch, view, kind, block, signer, signature) for signer, signature in pairs]


def check_certificate(
    certificate: Certificate,
    roster: Roster,
    chain: ChainId,
    verify: Verify = verify_signature,
    is_verified: Callable[[Vote], bool] = lambda vote: False,
) -> CheckedCertificate:
    """Check form, quorum and signatures; ``is_verified`` names votes whose signature need not be checked again.

    Raises ``Rejected``: WRONG_EPOCH, MALFORMED (bitmap of another length, stray bits, another number of signatures),
    NO_QUORUM, BAD_SIGNATURE. No signature is checked before the form and the weight hold.
    """
    if certificate.epoch != roster.epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"epoch {certificate.epoch}")
    check_signers(certificate.signers, certificate.signatures, roster)
    for vote in votes_of(certificate):
        if not is_verified(vote):
            check_vote(vote, roster, chain, verify)
    return CheckedCertificate(certificate)


class _ViewVotes:
    """The votes of one view."""

    __slots__ = ("accused", "by_member", "certified")

    def __init__(self) -> None:
        self.by_member: dict[MemberIndex, dict[VoteKind, Vote]] = {}
        self.certified: set[tuple[VoteKind, Digest]] = set()  # asked only "is it in"; never iterated
        self.accused: set[tuple[MemberIndex, EvidenceKind]] = set()


class Tally:
    """Votes and verified certificates of the open views of one epoch."""

    def __init__(self, roster: Roster, chain: ChainId, verify: Verify = verify_signature) -> None:
        self._roster = roster
        self._chain = chain
        self._verify = verify
        self._views: dict[View, _ViewVotes] = {}
        self._verified: OrderedDict[Certificate, None] = OrderedDict()

    def add(self, vote: Vote) -> Added:
        """Count a vote by anyone. Raises as ``check_vote``; nothing is verified that is already held."""
        return _DUPLICATE if self.holds(vote) else self.count(check_vote(vote, self._roster, self._chain, self._verify))

    def count(self, vote: Vote) -> Added:
        """Count a vote whose signature was checked, or that is our own."""
        votes = self._views.setdefault(vote.view, _ViewVotes())
        said = votes.by_member.setdefault(vote.signer, {})
        for other in said.values():
            kind = find_contradiction(other, vote)
            if kind is not None:
                if (vote.signer, kind) in votes.accused:
                    return _DUPLICATE
                votes.accused.add((vote.signer, kind))
                first, second = sorted((other, vote), key=lambda each: each.kind)
                validator = self._roster.members[vote.signer].node
                return Added(Outcome.EQUIVOCATION, evidence=Evidence(kind, validator, first, second))
        if vote.kind in said:
            return _DUPLICATE
        said[vote.kind] = vote
        if (vote.kind, vote.block) in votes.certified:
            return _NEW
        agreeing = self._agreeing(vote)
        if not self._roster.is_quorum(sum(self._roster.weights[each.signer] for each in agreeing)):
            return _NEW
        votes.certified.add((vote.kind, vote.block))
        return Added(Outcome.QUORUM, certificate=self._remember(build_certificate(agreeing, self._roster)))

    def check(self, certificate: Certificate) -> CheckedCertificate:
        """As ``check_certificate``, without repeating what was verified before."""
        if certificate in self._verified:
            self._verified.move_to_end(certificate)
            return CheckedCertificate(certificate)
        check_certificate(certificate, self._roster, self._chain, self._verify, self.holds)
        return self._remember(certificate)

    def absorb(self, certificate: CheckedCertificate) -> list[Evidence]:
        """Count the votes inside a certificate: whoever signed something else in that view is exposed."""
        votes = self._views.setdefault(certificate.view, _ViewVotes())
        votes.certified.add((certificate.kind, certificate.block))
        added = [self.count(vote) for vote in votes_of(certificate.plain)]
        return [each.evidence for each in added if each.evidence is not None]

    def holds(self, vote: Vote) -> bool:
        """Whether exactly this vote, signature included, was counted."""
        votes = self._views.get(vote.view)
        return votes is not None and votes.by_member.get(vote.signer, {}).get(vote.kind) == vote

    def is_certified(self, certificate: Certificate) -> bool:
        """Whether a certificate of this kind for this block was made or absorbed."""
        votes = self._views.get(certificate.view)
        return votes is not None and (certificate.kind, certificate.block) in votes.certified

    def keep(self, lowest: View, highest: View) -> None:
        """Close every view outside the range."""
        for view in [view for view in self._views if not lowest <= view <= highest]:
            del self._views[view]

    @property
    def vote_count(self) -> int:
        return sum(len(said) for votes in self._views.values() for said in votes.by_member.values())

    def _agreeing(self, vote: Vote) -> list[Vote]:
        members = self._views[vote.view].by_member.values()
        same = (said[vote.kind] for said in members if vote.kind in said)
        return [each for each in same if each.block == vote.block]

    def _remember(self, certificate: Certificate) -> CheckedCertificate:
        self._verified[certificate] = None
        if len(self._verified) > CERTIFICATES_REMEMBERED_MAX:
            self._verified.popitem(last=False)
        return CheckedCertificate(certificate)
