"""The only code that touches the vote key: six rules, each about what was signed before (chain.md 2.4).

    S1  at most one NOTARIZE a view                   S4  no NOTARIZE(v) after NULLIFY(v)
    S2  never both NULLIFY(v) and FINALIZE(v)         S5  only blocks whose body was executed and is durable
    S3  FINALIZE(v, b) only with b's notarization     S6  the record is on disk before the vote leaves
        in hand, and no NOTARIZE(v) of another block

S3 and S5 are held by the types of the arguments; S6 by the caller, who persists ``record`` before it sends ``vote``.
Safety needs nothing else: a node that obeys these rules can be wrong about everything but its own past. Views count from 1 in
each epoch, and a vote's text names the epoch: the rules hold for each (epoch, view) by itself.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, NewType

from consensus.finality.tally import CheckedCertificate
from protocol.codec import Message, decode, encode
from protocol.finality import NO_BLOCK, ChainId, Vote, VoteKind, vote_text
from protocol.ids import Digest, Epoch, EpochField, MemberIndex, View, ViewField
from protocol.keys import KeyPair
from protocol.rejection import check_invariant
from protocol.roster import Roster

ExecutedBlock = NewType("ExecutedBlock", Digest)  # its body was validated, executed and is durable (S5)
RECORD_BYTES_MAX = 256  # a record is about 150 bytes


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
EPOCHS_REFUSED = 2  # S6: with an unknown past nothing is signed in the epoch that the ledger is in, nor in the next


class VoteRecord(Message, frozen=True):
    """One journal record. Nothing was or will be signed again up to ``floor`` in ``epoch``, or in any epoch before it.

    Up to ``cautious`` only NULLIFY will be: a record was lost there.
    """

    chain: ChainId
    epoch: EpochField
    floor: ViewField
    cautious: ViewField
    vote: Vote | None


class SignedVote(NamedTuple):
    """Persist ``record``, then send ``vote``."""

    record: bytes
    vote: Vote


class VoteSigner:
    """Signs with one key, in the epochs in which it is a member's. Each method returns None when a rule forbids the vote.

    All that it remembers is of one epoch, the floor's: epochs are opened in ascending order, each once, and below the floor
    nothing is ever signed.
    """

    def __init__(
        self,
        key: KeyPair,
        chain: ChainId,
        roster: Roster,
        records: Sequence[bytes] = (),
        journal: JournalState = JournalState.CLEAN,
    ) -> None:
        """``records`` as persisted, oldest first; ``roster`` of the epoch that the ledger is in.

        With a MISSING or DAMAGED journal it never signs. A shell that begins a new journal with what ``compacted`` then gives
        has one that says from which epoch on. Raises ``Rejected`` when a record is bad.
        """
        self.journal = journal
        self.member: MemberIndex | None = None  # in the epoch that is open; None: the key is not a member's
        self._key, self._chain = key, chain
        self._epoch = Epoch(-1)  # that is open
        self._floor = (Epoch(0), View(0))
        self._cautious_through = View(0)
        self._said: dict[View, dict[VoteKind, Vote]] = {}  # in the floor's epoch, above the floor
        for data in records:
            self._remember(decode(VoteRecord, data, limit_bytes=RECORD_BYTES_MAX))
        if journal in REFUSALS:
            self._raise_floor(Epoch(roster.epoch + EPOCHS_REFUSED), View(0))
        self.open_epoch(roster)

    @property
    def epoch(self) -> Epoch:
        """The one that is open."""
        return self._epoch

    @property
    def refusal(self) -> str | None:
        """Why nothing is signed in this epoch even by a member, for people."""
        if self._floor[0] > self._epoch and self.journal not in REFUSALS:
            return f"the vote journal forbids every vote before epoch {self._floor[0]}"
        return REFUSALS.get(self.journal)

    def open_epoch(self, roster: Roster) -> None:
        """Go on to the epoch of ``roster``; what was signed in earlier ones is forgotten, since they are never opened again."""
        check_invariant(roster.epoch > self._epoch, "an epoch is never opened again")
        voters = [bytes(member.vote) for member in roster.members]
        self.member = MemberIndex(voters.index(self._key.public)) if self._key.public in voters else None
        self._epoch = roster.epoch
        self._raise_floor(roster.epoch, View(0))

    def notarize(self, view: View, block: ExecutedBlock) -> SignedVote | None:
        return self._sign(view, VoteKind.NOTARIZE, block)

    def nullify(self, view: View) -> SignedVote | None:
        return self._sign(view, VoteKind.NULLIFY, NO_BLOCK)

    def finalize(self, notarization: CheckedCertificate, block: ExecutedBlock) -> SignedVote | None:
        proof = (notarization.kind, notarization.plain.epoch, notarization.block)
        if proof != (VoteKind.NOTARIZE, self._epoch, block):
            return None
        return self._sign(notarization.view, VoteKind.FINALIZE, block)

    def abstain_through(self, view: View) -> None:
        """Never sign again up to ``view``: it is finalized. Forgets what was said there."""
        self._raise_floor(self._epoch, view)

    def only_nullify_through(self, view: View) -> bytes:
        """After a torn journal, with ``view`` the one after the highest certificate: whatever the torn record was.

        It can have been a NOTARIZE or NULLIFY of ``view``, or a FINALIZE below it: NULLIFY of ``view`` contradicts none of
        them. A member that said nothing at all there could keep everybody in that view for ever. The record that is returned is
        persisted before anything else: the torn one is cut off, and at the next start nothing else tells of it.
        """
        self._cautious_through = max(self._cautious_through, view)
        return self._record(None)

    def votes(self) -> list[Vote]:
        """What was signed in this epoch above the floor, in ascending order of view and kind: to be said again (R8)."""
        return self._remembered() if self._floor[0] == self._epoch else []

    def compacted(self) -> tuple[bytes, ...]:
        """The shortest journal with the same memory."""
        votes: list[Vote | None] = [None, *self._remembered()]
        return tuple(map(self._record, votes))

    def _record(self, vote: Vote | None) -> bytes:
        return encode(VoteRecord(self._chain, *self._floor, self._cautious_through, vote))

    def _remembered(self) -> list[Vote]:
        return [self._said[view][kind] for view in sorted(self._said) for kind in sorted(self._said[view])]

    def _remember(self, record: VoteRecord) -> None:
        if record.chain != self._chain:
            return
        self._raise_floor(record.epoch, record.floor)
        if record.epoch == self._floor[0]:
            self._cautious_through = max(self._cautious_through, record.cautious)
        vote = record.vote
        if vote is not None and vote.epoch == self._floor[0] and vote.view > self._floor[1]:
            self._said.setdefault(vote.view, {})[vote.kind] = vote

    def _raise_floor(self, epoch: Epoch, view: View) -> None:
        if (epoch, view) <= self._floor:
            return
        if epoch != self._floor[0]:
            self._cautious_through = View(0)
        kept = self._said if epoch == self._floor[0] else {}
        self._said = {at: votes for at, votes in kept.items() if at > view}
        self._floor = (epoch, view)

    def _sign(self, view: View, kind: VoteKind, block: Digest) -> SignedVote | None:
        if self.member is None or self.journal in REFUSALS or self._floor[0] != self._epoch or view <= self._floor[1]:
            return None
        cautious = view <= self._cautious_through and kind is not VoteKind.NULLIFY
        if cautious or self._contradicts(view, kind, block):
            return None
        text = vote_text(self._chain, self._epoch, view, kind, block)
        vote = Vote(self._epoch, view, kind, block, self.member, self._key.sign(text))
        self._said.setdefault(view, {})[kind] = vote
        return SignedVote(self._record(vote), vote)

    def _contradicts(self, view: View, kind: VoteKind, block: Digest) -> bool:
        """Whether what was said in ``view`` forbids this: S1 to S4. Nothing is signed twice."""
        said = self._said.get(view, {})
        if kind in said:
            return True
        if kind is VoteKind.NULLIFY:
            return VoteKind.FINALIZE in said
        return VoteKind.NULLIFY in said or any(vote.block != block for vote in said.values())
