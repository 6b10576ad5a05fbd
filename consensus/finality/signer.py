"""The only code that touches the vote key: six rules, each about what was signed before (chain.md 2.4).

    S1  at most one NOTARIZE a view                   S4  no NOTARIZE(v) after NULLIFY(v)
    S2  never both NULLIFY(v) and FINALIZE(v)         S5  only blocks whose body was executed and is durable
    S3  FINALIZE(v, b) only with b's notarization     S6  the record is on disk before the vote leaves
        in hand, and no NOTARIZE(v) of another block

S3 and S5 are held by the types of the arguments; S6 by the caller, who persists ``record`` before it sends ``vote``.
Safety needs nothing else: a node that obeys these rules can be wrong about everything but its own past.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, NewType

from consensus.finality.tally import CheckedCertificate
from protocol.codec import Message, decode, encode
from protocol.finality import NO_BLOCK, ChainId, Vote, VoteKind, vote_text
from protocol.ids import Digest, MemberIndex, View, ViewField
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster

ExecutedBlock = NewType("ExecutedBlock", Digest)  # its body was validated, executed and is durable (S5)
RECORD_BYTES_MAX = 256  # a record is about 145 bytes


class JournalState(enum.Enum):
    """What the shell found when it opened the vote journal. A fresh data directory is CLEAN, with no records."""

    CLEAN = "clean"
    TORN = "torn"  # the last record was cut short: it was never synced whole, so never sent; it has been cut off
    MISSING = "missing"  # the data directory has voted before, and its journal is gone
    DAMAGED = "damaged"  # a record before the last one does not check


REFUSALS = {
    JournalState.MISSING: "the vote journal is missing although this data directory has voted before",
    JournalState.DAMAGED: "the vote journal is damaged: what was signed before is not known",
}


class VoteRecord(Message, frozen=True):
    """One journal record. ``floor``: nothing was or will be signed again up to this view."""

    chain: ChainId
    floor: ViewField
    vote: Vote | None


class SignedVote(NamedTuple):
    """Persist ``record``, then send ``vote``."""

    record: bytes
    vote: Vote


class VoteSigner:
    """Signs for one member in one epoch. Each method returns None when a rule forbids the vote."""

    def __init__(
        self,
        key: KeyPair,
        chain: ChainId,
        roster: Roster,
        records: Sequence[bytes] = (),
        journal: JournalState = JournalState.CLEAN,
    ) -> None:
        """``records`` as persisted, oldest first. Raises ``Rejected`` when the key is not in the roster or a record is bad."""
        voters = [member.vote for member in roster.members]
        if key.public not in voters:
            raise Rejected(Reason.NOT_A_MEMBER, "the vote key is not in the roster")
        self.member = MemberIndex(voters.index(key.public))  # type: ignore[arg-type]  # a KeyPair's public half is bytes
        self.journal = journal
        self.refusal: str | None = REFUSALS.get(journal)  # why it never votes, for people
        self._key, self._chain, self._epoch = key, chain, roster.epoch
        self._floor = View(0)
        self._cautious_through = View(0)
        self._said: dict[View, dict[VoteKind, Vote]] = {}
        for data in records:
            record = decode(VoteRecord, data, limit_bytes=RECORD_BYTES_MAX)
            if record.chain == chain and record.vote is not None and record.vote.epoch == roster.epoch:
                self._said.setdefault(record.vote.view, {})[record.vote.kind] = record.vote
            if record.chain == chain:
                self.abstain_through(record.floor)

    def notarize(self, view: View, block: ExecutedBlock) -> SignedVote | None:
        return self._sign(view, VoteKind.NOTARIZE, block)

    def nullify(self, view: View) -> SignedVote | None:
        return self._sign(view, VoteKind.NULLIFY, NO_BLOCK)

    def finalize(self, notarization: CheckedCertificate, block: ExecutedBlock) -> SignedVote | None:
        if notarization.kind is not VoteKind.NOTARIZE or notarization.block != block:
            return None
        return self._sign(notarization.view, VoteKind.FINALIZE, block)

    def abstain_through(self, view: View) -> None:
        """Never sign again up to ``view``: it is finalized. Forgets what was said there."""
        if view > self._floor:
            self._floor = view
            self._said = {at: votes for at, votes in self._said.items() if at > view}

    def only_nullify_through(self, view: View) -> None:
        """After a torn journal, with ``view`` the one after the highest certificate: whatever the torn record was.

        It can have been a NOTARIZE or NULLIFY of ``view``, or a FINALIZE below it: NULLIFY of ``view`` contradicts none of
        them. A member that said nothing at all there could keep everybody in that view for ever.
        """
        self._cautious_through = max(self._cautious_through, view)

    def votes(self) -> list[Vote]:
        """What was signed above the floor, in ascending order of view and kind: to be said again (R8)."""
        return [self._said[view][kind] for view in sorted(self._said) for kind in sorted(self._said[view])]

    def compacted(self) -> tuple[bytes, ...]:
        """The shortest journal with the same memory."""
        votes: list[Vote | None] = [None, *self.votes()]
        return tuple(encode(VoteRecord(self._chain, self._floor, vote)) for vote in votes)

    def _sign(self, view: View, kind: VoteKind, block: Digest) -> SignedVote | None:
        cautious = view <= self._cautious_through and kind is not VoteKind.NULLIFY
        if self.refusal is not None or view <= self._floor or cautious or self._contradicts(view, kind, block):
            return None
        text = vote_text(self._chain, self._epoch, view, kind, block)
        vote = Vote(self._epoch, view, kind, block, self.member, self._key.sign(text))
        self._said.setdefault(view, {})[kind] = vote
        return SignedVote(encode(VoteRecord(self._chain, self._floor, vote)), vote)

    def _contradicts(self, view: View, kind: VoteKind, block: Digest) -> bool:
        """Whether what was said in ``view`` forbids this: S1 to S4. Nothing is signed twice."""
        said = self._said.get(view, {})
        if kind in said:
            return True
        if kind is VoteKind.NULLIFY:
            return VoteKind.FINALIZE in said
        return VoteKind.NULLIFY in said or any(vote.block != block for vote in said.values())
