"""What stands above the last final block of an epoch, and what may be built on it: the questions that safety rests on.

    final --- notarized --- notarized --- proposal          open blocks, each with its body and what the application says
                  |                                         certificates by view
                  +-- nullified, nullified -- proposal

R2 asks what to build on (``choose_parent``), R3 whether a proposal stands on what it says (``find_ground``, ``check``), R6 for
the way from the final block up to a finalized one (``path_to``). It sends nothing, signs nothing and verifies no signature.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from consensus.finality.certificates import Certificates
from consensus.finality.epochs import Term
from consensus.finality.events import Anchor
from consensus.finality.tally import CheckedCertificate
from protocol.finality import EMPTY_BODY, HEADER_VERSION, Certificate, ChainId, Header, Proposal, VoteKind, body_root
from protocol.ids import Digest, Height, MemberIndex, View
from protocol.limits import BODY_BYTES_MAX
from protocol.rejection import Reason, Rejected

NO_EVIDENCE = Digest(bytes(32))  # evidence_root of every block while evidence is only reported
EMPTY_ROOT = body_root(EMPTY_BODY)


class Check(enum.Enum):
    """How far a block's body came with the application."""

    NEW = "new"
    RUNNING = "running"
    DEFERRED = "deferred"  # the application lacks something; asked again at the next retry or nudge
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(slots=True)
class Entry:
    """One open block: what we have of it and what the application says."""

    header: Header
    proposal: Proposal | None  # None: our own draft, not signed before the application has accepted it like any other
    body: bytes | None
    check: Check = Check.NEW

    def take_body(self, body: bytes) -> bool:
        """Whether the body is this block's; it is kept then."""
        if len(body) != self.header.body_bytes or body_root(body) != self.header.body_root:
            return False
        self.body = body
        return True


class Parent(NamedTuple):
    """What a child needs to know of its parent, or whoever proposes it again of a boundary block."""

    block: Digest
    view: View
    height: Height
    time_ms: int
    state_root: Digest
    header: Header | None
    certificate: Certificate | None = None  # by which it was chosen; its view may be later than the header's

    @classmethod
    def of(cls, block: Digest, header: Header, certificate: Certificate | None = None) -> Parent:
        return cls(block, header.view, header.height, header.time_ms, header.state_root, header, certificate)


class Ground(NamedTuple):
    """What a proposal stands on: the parent, or for a block that is proposed again its last notarization."""

    view: View
    block: Digest


class Path(NamedTuple):
    """The way up from the final block: all ``blocks`` of it, or what is in the way, seen from above."""

    blocks: list[Entry]
    missing: Digest | None = None  # a block that we do not have, or not whole; ``blocks`` are those above it
    conflict: bool = False  # it leads past the final block, or comes from beyond the boundary


@dataclass(slots=True)
class Tree:
    """One epoch's open blocks and certificates."""

    term: Term
    final: Anchor
    certificates: Certificates = field(default_factory=Certificates)
    entries: dict[Digest, Entry] = field(default_factory=dict)

    def accepted(self, block: Digest) -> Entry | None:
        """An open block that the application has accepted."""
        entry = self.entries.get(block)
        return entry if entry is not None and entry.check is Check.ACCEPTED else None

    # -- R2: what to build on -----------------------------------------------------------------------------------------

    def choose_parent(self, view: View) -> Parent | None:
        """Walk down from the view before to the first block that we accepted, over nullified views only.

        A notarized block whose body we lack is stepped over if its view is nullified too; without that it is waited for.
        """
        for number in range(view - 1, self.final.view, -1):
            certificate = self.certificates.find_block(View(number))
            entry = self.accepted(certificate.block) if certificate else None
            if certificate and entry:
                return Parent.of(certificate.block, entry.header, certificate.plain)
            nullified = self.certificates.find(View(number), VoteKind.NULLIFY) is not None
            if not nullified or self.certificates.find(View(number), VoteKind.FINALIZE) is not None:
                return None
        return self._final_parent()

    def find_parent(self, header: Header) -> Parent | None:
        """The parent, if the application knows its state: it is the last final block, or was accepted."""
        if header.parent == self.final.block:
            return self._final_parent()
        entry = self.accepted(header.parent)
        return Parent.of(header.parent, entry.header) if entry else None

    def _final_parent(self) -> Parent:
        final = self.final
        return Parent(final.block, final.view, final.height, final.time_ms, final.state_root, final.header)

    def find_certificate(self, header: Header) -> Certificate | None:
        """What a block's proposal shows for its parent."""
        if header.parent == self.final.block:
            return self.final.certificate
        held = self.certificates.find(header.parent_view, VoteKind.NOTARIZE)
        held = held or self.certificates.find(header.parent_view, VoteKind.FINALIZE)
        return held.plain if held is not None and held.block == header.parent else None

    def draft(
        self,
        parent: Parent,
        chain: ChainId,
        view: View,
        proposer: MemberIndex,
        time_ms: int,
        body: bytes,
        state_root: Digest,
    ) -> Header:
        """The header of a new block on ``parent``; ``state_root`` is the state after ``body``. ``check`` finds it good."""
        return Header(
            version=HEADER_VERSION,
            chain=chain,
            epoch=self.term.epoch,
            view=view,
            height=Height(parent.height + 1),
            parent=parent.block,
            parent_view=parent.view,
            time_ms=time_ms,
            proposer=proposer,
            body_root=body_root(body),
            body_bytes=len(body),
            state_root=state_root,
            roster=self.term.roster_digest,
            next_roster=self.term.next_digest,
            beacon=self.term.roster.beacon,
            evidence_root=NO_EVIDENCE,
        )

    # -- R3: what a proposal stands on --------------------------------------------------------------------------------

    def is_again(self, proposal: Proposal) -> bool:
        """Whether a proposal is of the epoch's boundary block in a later view than its own."""
        return proposal.header.height == self.term.boundary and proposal.vote.view > proposal.header.view

    def find_ground(self, proposal: Proposal) -> Ground:
        """What a proposal says that it stands on; raises ``Rejected`` when its certificates are not of that."""
        header, certificate = proposal.header, proposal.parent_certificate
        ground = Ground(header.parent_view, header.parent)
        if self.is_again(proposal):
            if certificate is None or not header.view <= certificate.view < proposal.vote.view:
                raise Rejected(Reason.WRONG_ANCESTRY, "a block that is proposed again comes with its notarization")
            ground = Ground(certificate.view, proposal.vote.block)
        if certificate is not None and not self._fits(certificate, ground):
            raise Rejected(Reason.WRONG_ANCESTRY, "the certificate is not the parent's")
        return ground

    def _fits(self, certificate: Certificate, ground: Ground) -> bool:
        if certificate.epoch != self.term.epoch:  # the first block of an epoch stands on the boundary of the one before
            names = (certificate.epoch, certificate.kind, certificate.block)
            return names == (self.term.epoch - 1, VoteKind.FINALIZE, ground.block) and ground.view == 0
        return certificate.kind is not VoteKind.NULLIFY and (certificate.view, certificate.block) == ground

    def check_nullification(self, certificate: Certificate, ground: Ground, view: View) -> None:
        """Raises ``Rejected`` unless it is of a view between a proposal's ground and its own."""
        names = (certificate.kind, certificate.epoch)
        if names != (VoteKind.NULLIFY, self.term.epoch) or not ground.view < certificate.view < view:
            raise Rejected(Reason.WRONG_ANCESTRY, "a certificate that nullifies no view between parent and block")

    def check(self, header: Header, ground: Ground, view: View) -> None:
        """Check ancestry and header of a proposal in ``view`` by the certificates that are held; raises ``Rejected``.

        Time and height are checked when the parent is here, the body when it is.
        """
        self.check_ground(ground)
        self.check_skips(ground.view, view)
        self.check_header(header)

    def check_ground(self, ground: Ground) -> None:
        if ground == (self.final.view, self.final.block):
            return
        held = [self.certificates.find(ground.view, kind) for kind in (VoteKind.NOTARIZE, VoteKind.FINALIZE)]
        if not any(certificate is not None and certificate.block == ground.block for certificate in held):
            raise Rejected(Reason.WRONG_ANCESTRY, "the parent has no certificate")

    def check_skips(self, above: View, below: View) -> None:
        """Every view between parent and block must be nullified: the step on which safety rests (chain.md 2.10)."""
        for view in range(above + 1, below):
            if self.certificates.find(View(view), VoteKind.NULLIFY) is None:
                raise Rejected(Reason.WRONG_ANCESTRY, f"view {view} was skipped without a nullification")

    def check_header(self, header: Header) -> None:
        term = self.term
        fixed = (header.version, header.roster, header.next_roster, header.beacon, header.evidence_root)
        if fixed != (HEADER_VERSION, term.roster_digest, term.next_digest, term.roster.beacon, NO_EVIDENCE):
            raise Rejected(Reason.MALFORMED, "header fields that this epoch fixes")
        if not term.first <= header.height <= term.boundary:
            raise Rejected(Reason.WRONG_ANCESTRY, f"height {header.height} is not of epoch {term.epoch}")
        if header.body_bytes > BODY_BYTES_MAX:
            raise Rejected(Reason.TOO_LARGE, f"body of {header.body_bytes} bytes")
        if header.body_root == EMPTY_ROOT and header.body_bytes != len(EMPTY_BODY):
            raise Rejected(Reason.WRONG_BODY, "the empty body has one length")

    def follows(self, header: Header, parent: Parent) -> bool:
        """Whether a block may come right after its parent, now that this is here."""
        next_to = header.height == parent.height + 1 and header.parent_view == parent.view
        return next_to and header.time_ms > parent.time_ms and header.height <= self.term.boundary

    # -- R6: the way up -----------------------------------------------------------------------------------------------

    def path_to(self, target: CheckedCertificate) -> Path:
        """The blocks from the first unfinalized one to ``target``'s, ascending; or what is in the way."""
        path: list[Entry] = []
        block = target.block
        while block != self.final.block:
            entry = self.entries.get(block)
            if entry is not None and not self.final.height < entry.header.height <= self.term.boundary:
                return Path(path, conflict=True)
            if entry is None or entry.body is None:
                return Path(path, missing=block)
            path.append(entry)
            block = entry.header.parent
        path.reverse()
        return Path(path)

    def advance(self, final: Anchor) -> None:
        """Move the final block up, and forget what it overtook."""
        self.final = final
        self.certificates.drop_through(final.view)
        self.entries = {
            block: entry
            for block, entry in self.entries.items()
            if entry.header.view > final.view and entry.header.height > final.height
        }

    def drop_unproven(self, below: View) -> None:
        """Forget old proposals that never got a certificate."""
        proven = {certificate.block for certificate in self.certificates.blocks()}
        self.entries = {
            block: entry for block, entry in self.entries.items() if entry.header.view >= below or block in proven
        }
