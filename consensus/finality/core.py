"""The finality machine: Simplex with self-certifying proposals (chain.md 2.2 to 2.10), pure and sans-io.

Theory
------
Time is cut into views, each with one leader and room for one block. A member moves from view v to v + 1 only on a
certificate (votes of more than two thirds of the weight) for view v or later:

    leader      proposes a block; the proposal carries its parent's certificate and a nullification of every view between
    everybody   NOTARIZE it if it is good, NULLIFY the view if it is not, or if nothing came in time
    NOTARIZE x quorum = notarization  -> FINALIZE the block (unless NULLIFY was said), enter v + 1
    NULLIFY  x quorum = nullification -> enter v + 1
    FINALIZE x quorum = finalization  -> the block and all its ancestors are final

Two quorums share an honest member, and an honest member never signs two NOTARIZE in a view, nor NULLIFY and FINALIZE.
Hence one notarized block a view (L1), and no nullification of a view whose block was finalized (L2). A voter checks that
every view between a block and its parent is nullified, so a block notarized after view v, where b was finalized, cannot
step over v: by induction it extends b. No clock or delivery assumption is used. (Benjamin Chan and Rafael Pass,
"Simplex Consensus", 2023; two hardenings of ours, H1 and H2, are in chain.md 2.1.)

Invariants
----------
* The view only grows; it is left only by a certificate (R1). A vote is cast in the current view only, FINALIZE excepted.
* A block is voted for after the application accepted it on the state of its parent, which was accepted before it (S5).
* Everything of a view at or below the finalized one is gone, but for the last few final blocks, kept for stragglers.
* ``Finalized`` goes up by one height at a time; a certificate for a block off the final chain halts the node.

Liveness under loss rests on R8 alone: whoever is not up to date says everything again and where it stands, and others
push what it lacks. ``Status.current_view`` is the first view above the finalized one for which the sender holds no
certificate: without holes that is the view it is in, and with holes it names the first one.

Where this differs from chain.md: a NULLIFY by the leader of the current view is answered by NULLIFY at once (nobody else
will propose, and an idle view is long); a finalization is accepted where a notarization of the parent is (it implies
one); nullifications that do not fit into a proposal are taken from what the voter holds; a block right after its parent is
never too far ahead of a clock. One epoch; evidence is reported,
not slashed.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, assert_never

from consensus.finality.events import (
    Anchor,
    BodyBuilt,
    BodyChecked,
    Effect,
    EpochOpened,
    Event,
    Evidence,
    FetchBlocks,
    Finalized,
    Halt,
    MessageReceived,
    NothingToBuild,
    Nudge,
    Persist,
    RequestBuild,
    RequestCheck,
    Restored,
    Score,
    Send,
    SetTimer,
    Started,
    StoreBlocks,
    StoredBlock,
    Synced,
    Timer,
    TimerFired,
    TimerKind,
)
from consensus.finality.schedule import Schedule
from consensus.finality.signer import ExecutedBlock, JournalState, SignedVote, VoteSigner
from consensus.finality.tally import (
    Added,
    CheckedCertificate,
    Outcome,
    Tally,
    Verify,
    check_certificate,
    check_vote,
    signers_of,
)
from protocol.finality import (
    EMPTY_BODY,
    HEADER_VERSION,
    BodyMessage,
    Certificate,
    ChainId,
    FinalizedBlock,
    Header,
    Proposal,
    Status,
    ValidatorMessage,
    Vote,
    VoteKind,
    Want,
    body_root,
)
from protocol.genesis import ChainRule
from protocol.ids import Digest, Height, MemberIndex, View
from protocol.keys import verify as verify_signature
from protocol.limits import (
    BODY_BYTES_MAX,
    CERTIFICATES_PER_STATUS_MAX,
    CLOCK_SLACK_MS,
    KIB,
    NULLIFICATIONS_INLINE_MAX,
    VIEWS_AHEAD_MAX,
)
from protocol.rejection import Blame, Reason, Rejected, check_invariant
from protocol.roster import Roster

NO_EVIDENCE = Digest(bytes(32))  # evidence_root of every block while evidence is only reported

VIEWS_BEHIND_MAX = 64  # late votes and unproven proposals are kept this far back: as far as votes ahead
NULLIFICATION_BYTES_INLINE_MAX = 256 * KIB  # chain.md 2.5
FINAL_BLOCKS_KEPT = 16  # answers to Want by stragglers; 8 MiB of bodies at most. Beyond it the sync protocol serves
HEIGHTS_BY_WANT_MAX = 8  # a longer gap goes to the sync protocol, which fetches many blocks in one answer (a guess)
BLOCKS_PER_WANT_MAX = 8  # 4 MiB of bodies at most: one answer must not become an amplifier
BODIES_EARLY_MAX = 8  # bodies that overtook their proposal, one a sender: 4 MiB
VOTES_REPEATED_MAX = 64  # R8: own votes said again, the newest; as many as views are open to others
FINAL_VIEWS_KEPT = VIEWS_BEHIND_MAX  # which block each of the last final views has: a conflicting certificate is seen
ALLOWANCE_MAX = 128  # certificates (1 each) and blocks (8 each) pushed to one member in two Delta
_EMPTY_ROOT = body_root(EMPTY_BODY)
_NOTHING = Restored()


class _Check(enum.Enum):
    """How far a block's body came with the application."""

    NEW = "new"
    RUNNING = "running"
    DEFERRED = "deferred"  # the application lacks something; asked again at the next retry or nudge
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(slots=True)
class _Entry:
    """One open block: what we have of it and what the application says."""

    header: Header
    proposal: Proposal | None  # None: our own draft, not signed before the application has accepted it like any other
    body: bytes | None
    check: _Check = _Check.NEW


class _Parent(NamedTuple):
    """What a child needs to know of its parent."""

    block: Digest
    view: View
    height: Height
    time_ms: int
    state_root: Digest
    header: Header | None


class _Lead(enum.Enum):
    """What we do as leader of the current view."""

    WAITING = "waiting"  # for a parent, or for the block interval
    BUILDING = "building"  # the application was asked
    IDLE = "idle"  # the application has nothing; at the IDLE timer it is asked again
    CLOSING = "closing"  # the application was asked for whatever it has, an empty body too
    DONE = "done"  # proposed, or gave up, or not the leader


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the machine says about itself, for metrics and people."""

    view: View
    finalized_view: View
    finalized_height: Height
    leader: MemberIndex
    delta_ms: int
    blocks_open: int  # unfinalized blocks held
    certificates_open: int  # above the finalized view
    votes_open: int  # in the tallies
    blocks_wanted: int
    blocks_finalized: int  # since the start of this process
    views_nullified: int  # left by a nullification since the start of this process
    votes_cast: int
    votes_far: int  # dropped: too far ahead or behind to be counted
    rejections: int
    evidence: int
    refusal: str | None  # why this member never votes
    halted: str | None


class FinalityCore:
    """One member (or observer) of the protocol. ``handle`` is the only door."""

    def __init__(
        self,
        roster: Roster,
        chain: ChainId,
        signer: VoteSigner | None,
        me: MemberIndex | None,
        rule: ChainRule,
        anchor: Anchor,
        *,
        restored: Restored = _NOTHING,
        verify: Verify = verify_signature,
    ) -> None:
        """``signer`` None: never votes. ``me`` None: not a member, sends nothing. ``anchor``: the last finalized block.

        ``restored`` is what ``StoreBlocks`` had kept; whatever the anchor has overtaken is dropped.
        """
        check_invariant(signer is None or signer.member == me, "the signer signs for this member")
        self._roster, self._roster_digest = roster, roster.digest()
        self._chain, self._signer, self._me, self._rule = chain, signer, me, rule
        self._schedule = Schedule(roster, rule)
        self._tally = Tally(roster, chain, verify)
        self._verify = verify
        self._final = anchor

        self._view = View(0)  # the current view; 0 until Started
        self._entered_ms = 0
        self._delta_ms = self._schedule.delta_ms(0)
        self._certificates: dict[View, dict[VoteKind, CheckedCertificate]] = {}  # of views above the finalized one
        self._entries: dict[Digest, _Entry] = {}  # open blocks
        self._recent: OrderedDict[Digest, _Entry] = OrderedDict()  # the last final ones
        self._final_blocks: OrderedDict[View, Digest] = OrderedDict({anchor.view: anchor.block})
        self._early: OrderedDict[MemberIndex, BodyMessage] = OrderedDict()  # bodies that came before their proposal
        self._wants: dict[Digest, int] = {}  # certified blocks that we lack -> times asked
        self._proposal: Digest | None = None  # the first valid proposal of the current view
        self._lead = _Lead.DONE
        self._lead_parent: _Parent | None = None
        self._lead_time_ms = 0  # of the block that was asked for
        self._lead_timers: set[TimerKind] = set()  # set in this view; asked only "is it in"
        self._allowance = [ALLOWANCE_MAX] * len(roster.members)  # left to push to each member until the next retry
        self._status_turn = 0  # whom a quiet member asks next
        self._fetching = False  # whether FetchBlocks was said since the last repair
        self._repairing = False  # whether a REPAIR timer runs

        self._now_ms = 0
        self._effects: list[Effect] = []
        self._dirty = False
        self._halted: str | None = None
        self._counts = dict.fromkeys(("finalized", "nullified", "cast", "far", "rejections", "evidence"), 0)
        self._steps = (  # what may have become possible after any event, in this order, until nothing changes
            self._finalize_certified,
            self._request_checks,
            self._vote_for_proposal,
            self._vote_to_finalize,
            self._try_propose,
        )
        self._restore(restored)

    # -- the door -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take one event; perform the effects in order. ``now_ms``: wall clock, which may step."""
        self._now_ms = now_ms
        self._effects = []
        if self._halted is not None:
            return []
        check_invariant(self._view > 0 or isinstance(event, Started), "Started is the first event")
        match event:
            case Started():
                self._start()
            case MessageReceived(sender, message):
                self._on_message(sender, message)
            case TimerFired(timer):
                self._on_timer(timer)
            case BodyBuilt(view, body, state_root):
                if view == self._view and self._lead in (_Lead.BUILDING, _Lead.CLOSING):
                    self._make_proposal(body, state_root)
            case NothingToBuild(view):
                if view == self._view and self._lead is _Lead.BUILDING:
                    self._wait_idle()
                elif view == self._view and self._lead is _Lead.CLOSING:
                    self._lead = _Lead.DONE
            case BodyChecked():
                self._on_checked(event)
            case Nudge():
                self._on_nudge()
            case Synced(blocks):
                self._on_synced(blocks)
            case EpochOpened():
                pass
            case _:
                assert_never(event)
        while self._dirty:
            self._dirty = False
            for step in self._steps:
                if self._halted is None:
                    step()
        self._plan_repair()
        return self._effects

    @property
    def anchor(self) -> Anchor:
        """The last finalized block."""
        return self._final

    def statistics(self) -> Statistics:
        """Numbers for metrics; cheap enough for every second."""
        return Statistics(
            view=self._view,
            finalized_view=self._final.view,
            finalized_height=self._final.height,
            leader=self._schedule.leader(self._view),
            delta_ms=self._delta_ms,
            blocks_open=len(self._entries),
            certificates_open=sum(len(held) for held in self._certificates.values()),
            votes_open=self._tally.vote_count,
            blocks_wanted=len(self._wants),
            blocks_finalized=self._counts["finalized"],
            views_nullified=self._counts["nullified"],
            votes_cast=self._counts["cast"],
            votes_far=self._counts["far"],
            rejections=self._counts["rejections"],
            evidence=self._counts["evidence"],
            refusal=self._signer.refusal if self._signer else None,
            halted=self._halted,
        )

    # -- start and views (R1) -----------------------------------------------------------------------------------------

    def _restore(self, restored: Restored) -> None:
        for certificate in restored.certificates:
            names = (certificate.view, certificate.block) == (self._final.view, self._final.block)
            if names and self._final.certificate is None:
                self._final = replace(self._final, certificate=certificate)
            if certificate.view > self._final.view:
                self._certificates.setdefault(certificate.view, {})[certificate.kind] = CheckedCertificate(certificate)
        for stored in restored.blocks:
            header = stored.proposal.header
            if header.view > self._final.view:
                self._entries[header.digest()] = _Entry(header, stored.proposal, stored.body)
        if self._signer is not None:
            self._signer.abstain_through(self._final.view)
            if self._signer.journal is JournalState.TORN:
                self._signer.only_nullify_through(View(self._highest_certified() + 1))

    def _highest_certified(self) -> View:
        return max(self._certificates, default=self._final.view)

    def _start(self) -> None:
        self._enter(View(self._highest_certified() + 1))
        for vote in self._signer.votes() if self._signer else ():
            self._count(vote)

    def _enter(self, view: View) -> None:
        if view <= self._view:
            return
        if VoteKind.NULLIFY in self._certificates.get(self._view, {}):
            self._counts["nullified"] += 1
        self._view = view
        self._entered_ms = self._now_ms
        self._proposal = None
        self._lead = _Lead.WAITING if self._may_propose() else _Lead.DONE
        self._lead_parent = None
        self._lead_timers.clear()
        self._allowance = [ALLOWANCE_MAX] * len(self._roster.members)
        self._tally.keep(View(view - VIEWS_BEHIND_MAX), View(view + VIEWS_AHEAD_MAX))
        self._drop_unproven(below=View(view - VIEWS_BEHIND_MAX))
        self._delta_ms = self._schedule.delta_ms(self._stalled_views())
        if self._signer is not None:
            self._set_timer(TimerKind.VIEW, self._now_ms + self._schedule.view_timeout_ms(self._delta_ms))
        self._set_timer(TimerKind.RETRY, self._now_ms + self._schedule.retry_ms(self._delta_ms))
        self._dirty = True

    def _stalled_views(self) -> int:
        """Views left without finalization; the last one does not count while its finalization may be on its way."""
        finalized = (view for view, held in self._certificates.items() if VoteKind.FINALIZE in held)
        last = View(self._view - 1)
        in_flight = VoteKind.NOTARIZE in self._certificates.get(last, {})
        return max(0, last - max(finalized, default=self._final.view) - in_flight)

    def _drop_unproven(self, below: View) -> None:
        """Forget old proposals that never got a certificate."""
        proven = {block for _, block in self._certified()}
        self._entries = {
            block: entry for block, entry in self._entries.items() if entry.header.view >= below or block in proven
        }

    # -- messages -----------------------------------------------------------------------------------------------------

    def _on_message(self, sender: MemberIndex | None, message: ValidatorMessage) -> None:
        try:
            match message:
                case Vote():
                    self._on_vote(message)
                case Certificate():
                    self._on_certificate(message)
                case Proposal():
                    self._on_proposal(sender, message)
                case BodyMessage():
                    self._on_body(sender, message)
                case Status():
                    self._on_status(sender, message)
                case Want():
                    self._on_want(sender, message)
                case _:
                    assert_never(message)
        except Rejected as rejection:
            self._counts["rejections"] += 1
            if sender is not None and rejection.reason.blame is not Blame.NOBODY:
                self._effects.append(Score(sender, rejection.reason))

    def _on_vote(self, vote: Vote) -> None:
        if vote.epoch != self._roster.epoch or not self._is_open(vote.view):
            self._counts["far"] += 1
            return
        if vote.signer >= len(self._roster.members):
            raise Rejected(Reason.NOT_A_MEMBER, f"signer {vote.signer}")
        added = self._tally.add(vote)
        self._act_on(vote, added)
        by_leader = vote.view == self._view and vote.signer == self._schedule.leader(vote.view)
        unknown = vote.kind is VoteKind.NOTARIZE and vote.block not in self._entries
        if added.outcome is Outcome.NEW and by_leader and unknown:
            self._send(vote.signer, Want((vote.block,)))  # the leader repeats itself: its proposal was lost

    def _is_open(self, view: View) -> bool:
        """Whether votes of this view are counted; those of finalized views may still be evidence.

        An honest member that lags hears votes from afar: nobody is blamed for them.
        """
        return view > 0 and self._view - VIEWS_BEHIND_MAX <= view <= self._view + VIEWS_AHEAD_MAX

    def _count(self, vote: Vote) -> None:
        """Count a vote that is ours, or whose signature was checked."""
        if self._is_open(vote.view):
            self._act_on(vote, self._tally.count(vote))

    def _act_on(self, vote: Vote, added: Added) -> None:
        if added.evidence is not None:
            self._report(added.evidence)
        if added.certificate is not None:
            self._install(added.certificate)
        by_leader = vote.view == self._view and vote.signer == self._schedule.leader(vote.view)
        if added.outcome is Outcome.NEW and by_leader and vote.kind is VoteKind.NULLIFY:
            self._nullify()  # the leader gives up: nobody else will propose in this view

    def _report(self, evidence: Evidence) -> None:
        self._counts["evidence"] += 1
        self._effects += [evidence, Score(evidence.first.signer, Reason.EQUIVOCATION)]

    # -- certificates (R4, R5, R6, R9) --------------------------------------------------------------------------------

    def _on_certificate(self, certificate: Certificate) -> None:
        if certificate.epoch != self._roster.epoch:
            return
        if certificate.view <= self._final.view:
            self._on_late_certificate(certificate)
            return
        held = self._certificates.get(certificate.view, {}).get(certificate.kind)
        if held is None:
            self._install(self._tally.check(certificate))
        elif held.block != certificate.block:
            self._expose(held, self._tally.check(certificate))

    def _on_late_certificate(self, certificate: Certificate) -> None:
        """For a view that is final: old news, or proof that more than a third of the weight is faulty."""
        if not self._is_open(certificate.view) or self._tally.is_certified(certificate):
            return
        for evidence in self._tally.absorb(self._tally.check(certificate)):
            self._report(evidence)
        known = certificate.view >= next(iter(self._final_blocks))
        if certificate.kind is VoteKind.FINALIZE and known:
            final = self._final_blocks.get(certificate.view)
            if final != certificate.block:
                self._halt(f"another block was finalized in view {certificate.view}")

    def _install(self, certificate: CheckedCertificate, *, announce: bool = True) -> None:
        """Store a certificate, broadcast it once if it is news, and leave its view."""
        if certificate.view <= self._final.view:
            return
        held = self._certificates.setdefault(certificate.view, {})
        if certificate.kind in held:
            return
        held[certificate.kind] = certificate
        if self._is_open(certificate.view):
            for evidence in self._tally.absorb(certificate):
                self._report(evidence)
        self._effects.append(StoreBlocks(certificates=(certificate.plain,)))
        if announce and (certificate.view >= self._view or certificate.kind is VoteKind.FINALIZE):
            self._send(None, certificate.plain)
        self._enter(View(certificate.view + 1))
        self._dirty = True

    def _expose(self, held: CheckedCertificate, other: CheckedCertificate) -> None:
        """Two certificates of one kind and view for two blocks: more than a third of the weight equivocated."""
        for certificate in (held, other):
            for evidence in self._tally.absorb(certificate):
                self._report(evidence)
        if held.kind is VoteKind.FINALIZE:
            self._halt(f"two blocks were finalized in view {held.view}")

    def _halt(self, sentence: str) -> None:
        self._halted = sentence
        self._effects.append(Halt(sentence))

    def _certified(self) -> Iterator[tuple[CheckedCertificate, Digest]]:
        """Notarized or finalized open blocks in ascending order of view, one for each view."""
        for view in sorted(self._certificates):
            held = self._certificates[view]
            certificate = held.get(VoteKind.FINALIZE) or held.get(VoteKind.NOTARIZE)
            if certificate is not None:
                yield certificate, certificate.block

    # -- proposals and bodies (R3) ------------------------------------------------------------------------------------

    def _on_proposal(self, sender: MemberIndex | None, proposal: Proposal) -> None:
        header, vote = proposal.header, proposal.vote
        if header.chain != self._chain:
            raise Rejected(Reason.WRONG_CHAIN, "proposal of another chain or fork")
        if header.epoch != self._roster.epoch or header.view <= self._final.view:
            return
        block = header.digest()
        if block in self._entries:
            return
        says = (vote.epoch, vote.view, vote.kind, vote.block, vote.signer)
        if says != (header.epoch, header.view, VoteKind.NOTARIZE, block, header.proposer):
            raise Rejected(Reason.MALFORMED, "a proposal carries its proposer's NOTARIZE of it")
        if header.proposer != self._schedule.leader(header.view):
            raise Rejected(Reason.WRONG_LEADER, f"member {header.proposer} in view {header.view}")
        wanted = block in self._wants
        if not wanted and header.view < self._view:
            self._on_vote(vote)
            return
        check_vote(vote, self._roster, self._chain, self._verify)
        if not wanted:
            try:
                self._check_proposal(proposal)
            except Rejected:
                if sender == header.proposer and header.view == self._view:
                    self._nullify()  # R3: invalid, at once. Relayed by others it proves nothing against the leader
                raise
            finally:
                self._count(vote)
            if header.view != self._view or self._proposal is not None:
                return
            self._proposal = block
        self._admit(block, _Entry(header, proposal, None))

    def _check_proposal(self, proposal: Proposal) -> None:
        """Take the certificates that came along, which may bring us to its view, then check ancestry and header.

        Time and height are checked when the parent is here; the body when it is.
        """
        header, parent = proposal.header, proposal.parent_certificate
        if parent is not None:
            if parent.kind is VoteKind.NULLIFY or (parent.view, parent.block) != (header.parent_view, header.parent):
                raise Rejected(Reason.WRONG_ANCESTRY, "the certificate is not the parent's")
            self._take(parent)
        for certificate in proposal.nullifications:
            if certificate.kind is not VoteKind.NULLIFY or not header.parent_view < certificate.view < header.view:
                raise Rejected(Reason.WRONG_ANCESTRY, "a certificate that nullifies no view between parent and block")
            self._take(certificate)
        if header.view != self._view:
            return
        self._check_parent(header)
        self._check_skips(header)
        self._check_header(header)

    def _take(self, certificate: Certificate) -> None:
        """A certificate that came inside a proposal: everybody has it, so it is not broadcast."""
        if certificate.view > self._final.view and certificate.kind not in self._certificates.get(certificate.view, {}):
            self._install(self._tally.check(certificate), announce=False)

    def _check_parent(self, header: Header) -> None:
        if (header.parent_view, header.parent) == (self._final.view, self._final.block):
            return
        held = self._certificates.get(header.parent_view, {})
        certified = (held.get(VoteKind.NOTARIZE), held.get(VoteKind.FINALIZE))
        if not any(certificate is not None and certificate.block == header.parent for certificate in certified):
            raise Rejected(Reason.WRONG_ANCESTRY, "the parent has no certificate")

    def _check_skips(self, header: Header) -> None:
        """Every view between parent and block must be nullified: the step on which safety rests (chain.md 2.10)."""
        for view in range(header.parent_view + 1, header.view):
            if VoteKind.NULLIFY not in self._certificates.get(View(view), {}):
                raise Rejected(Reason.WRONG_ANCESTRY, f"view {view} was skipped without a nullification")

    def _check_header(self, header: Header) -> None:
        fixed = (header.version, header.roster, header.next_roster, header.beacon, header.evidence_root)
        if fixed != (HEADER_VERSION, self._roster_digest, self._roster_digest, self._roster.beacon, NO_EVIDENCE):
            raise Rejected(Reason.MALFORMED, "header fields that this epoch fixes")
        if header.body_bytes > BODY_BYTES_MAX:
            raise Rejected(Reason.TOO_LARGE, f"body of {header.body_bytes} bytes")
        if header.body_root == _EMPTY_ROOT and header.body_bytes != len(EMPTY_BODY):
            raise Rejected(Reason.WRONG_BODY, "the empty body has one length")

    def _admit(self, block: Digest, entry: _Entry) -> None:
        self._entries[block] = entry
        self._dirty = True
        if entry.header.body_root == _EMPTY_ROOT:
            self._take_body(block, entry, EMPTY_BODY)
        for sender, message in list(self._early.items()):
            if message.block == block:
                del self._early[sender]
                self._take_body(block, entry, message.body)
        if entry.body is None and block == self._proposal:
            self._set_timer(TimerKind.BODY, self._now_ms + self._delta_ms // 2)

    def _take_body(self, block: Digest, entry: _Entry, body: bytes) -> bool:
        if len(body) != entry.header.body_bytes or body_root(body) != entry.header.body_root:
            return False
        entry.body = body
        self._wants.pop(block, None)
        self._dirty = True
        return True

    def _on_body(self, sender: MemberIndex | None, message: BodyMessage) -> None:
        entry = self._entries.get(message.block)
        if entry is not None:
            if entry.body is None and not self._take_body(message.block, entry, message.body):
                raise Rejected(Reason.WRONG_DIGEST, "body of another block")
        elif sender is not None and message.block not in self._recent and len(message.body) <= BODY_BYTES_MAX:
            self._early[sender] = message
            self._early.move_to_end(sender)
            if len(self._early) > BODIES_EARLY_MAX:
                self._early.popitem(last=False)

    def _find_parent(self, header: Header) -> _Parent | None:
        """The parent, if the application knows its state: it is the last final block, or was accepted."""
        if header.parent == self._final.block:
            return self._final_parent()
        entry = self._entries.get(header.parent)
        return _as_parent(header.parent, entry.header) if entry and entry.check is _Check.ACCEPTED else None

    def _final_parent(self) -> _Parent:
        final = self._final
        return _Parent(final.block, final.view, final.height, final.time_ms, final.state_root, final.header)

    def _request_checks(self) -> None:
        """Ask the application about every block that may be voted for, parents first; ask members for what is missing."""
        if self._signer is None:
            return
        for certificate, block in self._certified():
            entry = self._entries.get(block)
            if entry is None or entry.body is None:
                self._want(block, certificate.plain)
            else:
                self._request_check(block, entry)
        if self._proposal is not None:
            entry = self._entries[self._proposal]
            if entry.body is not None:
                self._request_check(self._proposal, entry)

    def _request_check(self, block: Digest, entry: _Entry) -> None:
        if entry.check is not _Check.NEW or entry.body is None:
            return
        header = entry.header
        parent = self._find_parent(header)
        if parent is None:
            return
        if header.height != parent.height + 1 or header.time_ms <= parent.time_ms or header.parent_view != parent.view:
            self._refuse(block, entry, Reason.WRONG_ANCESTRY)
            return
        if block == self._proposal and header.time_ms > max(self._now_ms + CLOCK_SLACK_MS, parent.time_ms + 1):
            # A leader must be later than its parent, whose time a quorum found good: for that it is not to blame.
            self._put_off(block, header)
            return
        entry.check = _Check.RUNNING
        self._effects.append(RequestCheck(block, header, entry.body))

    def _put_off(self, block: Digest, header: Header) -> None:
        """Too far ahead of our clock: give the view up, and forget the block. If a quorum takes it, it comes back."""
        del self._entries[block]
        self._proposal = None
        if header.proposer != self._me:
            self._effects.append(Score(header.proposer, Reason.CLOCK_OFF))
        self._nullify()

    def _on_checked(self, event: BodyChecked) -> None:
        entry = self._entries.get(event.block)
        if entry is None or entry.check is not _Check.RUNNING:
            return
        if event.accepted is None:
            entry.check = _Check.DEFERRED
        elif not event.accepted:
            self._refuse(event.block, entry, event.reason or Reason.WRONG_BODY)
        elif event.state_root != entry.header.state_root:
            self._refuse(event.block, entry, Reason.WRONG_STATE)
        else:
            self._accept(event.block, entry)

    def _accept(self, block: Digest, entry: _Entry) -> None:
        entry.check = _Check.ACCEPTED
        self._dirty = True
        if entry.proposal is None:
            self._publish(block, entry)
        else:
            self._store(entry.proposal, entry)

    def _store(self, proposal: Proposal, entry: _Entry) -> None:
        check_invariant(entry.body is not None, "only a block with its body is accepted")
        self._effects.append(StoreBlocks(blocks=(StoredBlock(proposal, entry.body or b""),)))

    def _refuse(self, block: Digest, entry: _Entry, reason: Reason) -> None:
        entry.check = _Check.REFUSED
        if entry.header.proposer != self._me:
            self._effects.append(Score(entry.header.proposer, reason))
        if block == self._proposal:
            self._nullify()

    # -- voting -------------------------------------------------------------------------------------------------------

    def _vote_for_proposal(self) -> None:
        """R3: NOTARIZE the current view's proposal once it is accepted."""
        block = self._proposal
        if block is not None and self._signer is not None and self._entries[block].check is _Check.ACCEPTED:
            self._cast(self._signer.notarize(self._view, ExecutedBlock(block)))

    def _vote_to_finalize(self) -> None:
        """R4: FINALIZE whatever is notarized and accepted, also after its view was left."""
        if self._signer is None:
            return
        for view in sorted(self._certificates):
            notarization = self._certificates.get(view, {}).get(VoteKind.NOTARIZE)
            entry = self._entries.get(notarization.block) if notarization else None
            if notarization and entry and entry.check is _Check.ACCEPTED:
                self._cast(self._signer.finalize(notarization, ExecutedBlock(notarization.block)))

    def _nullify(self) -> None:
        if self._signer is not None:
            self._cast(self._signer.nullify(self._view))

    def _cast(self, signed: SignedVote | None, carrier: Sequence[ValidatorMessage] = ()) -> None:
        """Journal, then send (S6), then count. ``carrier``: the messages that bring the vote, if not itself alone."""
        if signed is None:
            return
        self._counts["cast"] += 1
        self._effects.append(Persist((signed.record,)))
        for message in carrier or (signed.vote,):
            self._send(None, message)
        self._count(signed.vote)

    # -- finalization (R6) --------------------------------------------------------------------------------------------

    def _finalize_certified(self) -> None:
        """Finalize the highest block with a finalization whose ancestors are all here."""
        for view in sorted(self._certificates, reverse=True):
            if self._halted is not None:
                return
            certificate = self._certificates[view].get(VoteKind.FINALIZE)
            path = self._path_to(certificate) if certificate is not None else None
            if certificate is not None and path:
                self._finish(path, certificate)
                return

    def _path_to(self, target: CheckedCertificate) -> list[_Entry] | None:
        """The blocks from the first unfinalized one to ``target``'s, or None when one is missing (it is asked for)."""
        path: list[_Entry] = []
        block = target.block
        while block != self._final.block:
            entry = self._entries.get(block)
            if entry is not None and entry.header.height <= self._final.height:
                self._halt(f"the block finalized in view {target.view} does not extend height {self._final.height}")
                return None
            if entry is None or entry.body is None:
                lowest = path[-1].header.height - 1 if path else None
                if self._me is None or (lowest is not None and lowest - self._final.height > HEIGHTS_BY_WANT_MAX):
                    self._fetch(target.plain)
                else:
                    self._want(block, target.plain)
                return None
            path.append(entry)
            block = entry.header.parent
        path.reverse()
        return path

    def _finish(self, path: list[_Entry], certificate: CheckedCertificate) -> None:
        blocks = [FinalizedBlock(entry.header, entry.body or b"", None) for entry in path]
        blocks[-1] = FinalizedBlock(path[-1].header, path[-1].body or b"", certificate.plain)
        for entry in path:
            self._recent[entry.header.digest()] = entry
        while len(self._recent) > FINAL_BLOCKS_KEPT:
            self._recent.popitem(last=False)
        self._advance(blocks)

    def _advance(self, blocks: Sequence[FinalizedBlock]) -> None:
        """Move the finalized block up and drop what it overtook."""
        for index, block in enumerate(blocks):
            check_invariant(
                block.header.height == self._final.height + 1 + index, "finalized heights go up by one, each once"
            )
        self._effects.append(Finalized(tuple(blocks)))
        self._counts["finalized"] += len(blocks)
        for block in blocks:
            self._final_blocks[block.header.view] = block.header.digest()
        while len(self._final_blocks) > FINAL_VIEWS_KEPT:
            self._final_blocks.popitem(last=False)
        self._final = Anchor.of(blocks[-1].header, blocks[-1].certificate)
        view = self._final.view
        self._certificates = {at: held for at, held in self._certificates.items() if at > view}
        self._entries = {
            block: entry
            for block, entry in self._entries.items()
            if entry.header.view > view and entry.header.height > self._final.height
        }
        if self._proposal not in self._entries:
            self._proposal = None
        self._wants.clear()  # what is still missing is asked for again
        if self._signer is not None:
            self._signer.abstain_through(view)
        self._enter(View(view + 1))
        self._dirty = True

    def _on_synced(self, blocks: tuple[FinalizedBlock, ...]) -> None:
        news = [block for block in blocks if block.header.height > self._final.height]
        if not news or news[0].header.height != self._final.height + 1:
            return
        if news[0].header.parent != self._final.block:
            self._halt(f"synced blocks do not extend height {self._final.height}")
            return
        certificate = news[-1].certificate
        check_invariant(certificate is not None, "synced blocks end with a certificate")
        self._advance(news)

    def _fetch(self, target: Certificate) -> None:
        if not self._fetching:
            self._fetching = True
            self._effects.append(FetchBlocks(Height(self._final.height + 1), target))

    # -- proposing (R2) -----------------------------------------------------------------------------------------------

    def _may_propose(self) -> bool:
        return self._signer is not None and self._schedule.leader(self._view) == self._me

    def _try_propose(self) -> None:
        if self._lead is not _Lead.WAITING:
            return
        parent = self._choose_parent()
        if parent is None:
            if TimerKind.SKIP not in self._lead_timers:
                self._lead_timers.add(TimerKind.SKIP)
                self._set_timer(TimerKind.SKIP, self._entered_ms + self._delta_ms)
                self._send(None, self._status())  # a hole in the certificates is filled by whoever can
            return
        # Our own clock bounds the wait: a parent from the future must not cost us the view.
        interval_ms = self._rule.block_interval_ms_min
        at_ms = min(parent.time_ms + interval_ms, self._entered_ms + interval_ms)
        if self._now_ms < at_ms:
            if TimerKind.PROPOSE not in self._lead_timers:
                self._lead_timers.add(TimerKind.PROPOSE)
                self._set_timer(TimerKind.PROPOSE, at_ms)
            return
        self._request_build(parent)

    def _request_build(self, parent: _Parent, *, even_empty: bool = False) -> None:
        if self._me is None:
            return
        self._lead = _Lead.CLOSING if even_empty else _Lead.BUILDING
        self._lead_parent = parent
        self._lead_time_ms = max(self._now_ms, parent.time_ms + 1)
        height = Height(parent.height + 1)
        self._effects.append(
            RequestBuild(
                self._view, parent.block, height, parent.header, self._lead_time_ms, self._me, even_empty=even_empty
            )
        )

    def _choose_parent(self) -> _Parent | None:
        """Walk down from the last view to the first block that we accepted, over nullified views only.

        A notarized block whose body we lack is stepped over if its view is nullified too; without that it is waited for.
        """
        for number in range(self._view - 1, self._final.view, -1):
            held = self._certificates.get(View(number), {})
            certificate = held.get(VoteKind.FINALIZE) or held.get(VoteKind.NOTARIZE)
            entry = self._entries.get(certificate.block) if certificate else None
            if certificate and entry and entry.check is _Check.ACCEPTED:
                return _as_parent(certificate.block, entry.header)
            if VoteKind.NULLIFY not in held or VoteKind.FINALIZE in held:
                return None
        return self._final_parent()

    def _wait_idle(self) -> None:
        """Empty blocks follow each other at the idle interval; a view that a silent leader cost was wait enough."""
        self._lead = _Lead.IDLE
        since_ms = self._entered_ms if self._lead_parent is None else min(self._entered_ms, self._lead_parent.time_ms)
        at_ms = since_ms + self._rule.idle_interval_ms
        if self._now_ms >= at_ms:
            self._propose_empty()
        else:
            self._set_timer(TimerKind.IDLE, at_ms)

    def _propose_empty(self) -> None:
        """Also an empty block is the application's: time alone changes a state."""
        check_invariant(self._lead_parent is not None, "whoever waits idle has chosen a parent")
        if self._lead_parent is not None:
            self._request_build(self._lead_parent, even_empty=True)

    def _on_nudge(self) -> None:
        self._check_again()
        if self._lead is _Lead.IDLE and self._lead_parent is not None:
            self._request_build(self._lead_parent)

    def _make_proposal(self, body: bytes, state_root: Digest) -> None:
        parent = self._lead_parent
        self._lead = _Lead.DONE
        if parent is None or self._me is None:
            return
        check_invariant(len(body) <= BODY_BYTES_MAX, "the application builds bodies within their bound")
        header = Header(
            version=HEADER_VERSION,
            chain=self._chain,
            epoch=self._roster.epoch,
            view=self._view,
            height=Height(parent.height + 1),
            parent=parent.block,
            parent_view=parent.view,
            time_ms=self._lead_time_ms,
            proposer=self._me,
            body_root=body_root(body),
            body_bytes=len(body),
            state_root=state_root,
            roster=self._roster_digest,
            next_roster=self._roster_digest,
            beacon=self._roster.beacon,
            evidence_root=NO_EVIDENCE,
        )
        self._proposal = header.digest()
        self._entries[self._proposal] = _Entry(header, None, body)
        self._dirty = True

    def _publish(self, block: Digest, entry: _Entry) -> None:
        """Sign our draft and broadcast it, if its view is still the current one."""
        if self._proposal != block or self._signer is None:
            return
        signed = self._signer.notarize(self._view, ExecutedBlock(block))
        if signed is None:
            return
        header = entry.header
        held = self._certificates.get(header.parent_view, {})
        parent = held.get(VoteKind.NOTARIZE) or held.get(VoteKind.FINALIZE)
        certificate = parent.plain if parent is not None and parent.block == header.parent else None
        if header.parent == self._final.block:
            certificate = self._final.certificate
        skipped = self._nullifications(header.parent_view, header.view)
        entry.proposal = Proposal(header, certificate, skipped, signed.vote)
        self._store(entry.proposal, entry)
        self._cast(signed, _messages_of(entry.proposal, entry.body))

    def _nullifications(self, above: View, below: View) -> tuple[Certificate, ...]:
        """Those that fit, the newest first: they are the least likely to be known already."""
        found: list[Certificate] = []
        size = 0
        for number in range(below - 1, max(above, self._final.view), -1):
            nullification = self._certificates.get(View(number), {}).get(VoteKind.NULLIFY)
            if nullification is None:
                continue
            certificate = nullification.plain
            size += 80 + len(certificate.signers) + 66 * len(certificate.signatures)
            if size > NULLIFICATION_BYTES_INLINE_MAX or len(found) == NULLIFICATIONS_INLINE_MAX:
                break
            found.append(certificate)
        return tuple(reversed(found))

    # -- timers, repetition and repair (R7, R8) -----------------------------------------------------------------------

    def _on_timer(self, timer: Timer) -> None:
        if timer.kind is TimerKind.REPAIR:
            self._repair()
        if timer.view != self._view:
            return
        match timer.kind:
            case TimerKind.VIEW:
                self._lead = _Lead.DONE
                self._nullify()
            case TimerKind.RETRY:
                self._retry()
            case TimerKind.PROPOSE:
                self._dirty = True
            case TimerKind.IDLE:
                if self._lead is _Lead.IDLE:
                    self._propose_empty()
            case TimerKind.SKIP:
                if self._lead is _Lead.WAITING and self._choose_parent() is None:
                    self._lead = _Lead.DONE
                    self._nullify()
            case TimerKind.BODY:
                self._want_body()
            case TimerKind.REPAIR:
                pass  # of no view
            case _:
                assert_never(timer.kind)

    def _want_body(self) -> None:
        if self._proposal is not None and self._entries[self._proposal].body is None:
            self._send(self._schedule.leader(self._view), Want((self._proposal,)))

    def _retry(self) -> None:
        self._set_timer(TimerKind.RETRY, self._now_ms + self._schedule.retry_ms(self._delta_ms))
        self._allowance = [ALLOWANCE_MAX] * len(self._roster.members)
        self._want_body()
        self._speak_again()

    def _plan_repair(self) -> None:
        """Keep a timer running while something is missing. Views may pass quickly without us: it belongs to none."""
        missing = self._wants or self._fetching or any(e.check is _Check.DEFERRED for e in self._entries.values())
        if missing and not self._repairing:
            self._repairing = True
            at_ms = self._now_ms + self._schedule.delta_ms(0)
            self._effects.append(SetTimer(Timer(TimerKind.REPAIR, View(0)), at_ms))

    def _repair(self) -> None:
        """What we asked for did not come: ask others, and the sync protocol for finalized blocks."""
        self._repairing = self._fetching = False
        self._check_again()
        for block, asked in sorted(self._wants.items()):
            self._ask(block, asked, range(len(self._roster.members)))
        targets = [held[VoteKind.FINALIZE] for held in self._certificates.values() if VoteKind.FINALIZE in held]
        if targets:
            self._fetch(max(targets, key=lambda target: target.view).plain)

    def _check_again(self) -> None:
        for entry in self._entries.values():
            if entry.check is _Check.DEFERRED:
                entry.check = _Check.NEW
                self._dirty = True

    def _speak_again(self) -> None:
        """R8. Whoever is up to date and has said nothing in this view asks one member in turn: an idle network is cheap."""
        if self._me is None:
            return
        votes = self._signer.votes() if self._signer else []
        votes = [vote for vote in votes if vote.view == self._view or vote.kind is VoteKind.FINALIZE]
        if self._final.view == self._view - 1 and not votes:
            self._status_turn = (self._status_turn + 1) % len(self._roster.members)
            self._send(MemberIndex(self._status_turn), self._status())
            return
        for vote in votes[-VOTES_REPEATED_MAX:]:
            self._send(None, vote)
        best = self._best_certificate()
        if best is not None:
            self._send(None, best)
        self._send(None, self._status())

    def _best_certificate(self) -> Certificate | None:
        """The one that brought us into this view."""
        held = self._certificates.get(View(self._view - 1), {})
        for kind in (VoteKind.FINALIZE, VoteKind.NOTARIZE, VoteKind.NULLIFY):
            if kind in held:
                return held[kind].plain
        return self._final.certificate

    def _status(self) -> Status:
        hole = self._final.view + 1
        while View(hole) in self._certificates:
            hole += 1
        return Status(self._roster.epoch, self._final.view, self._final.height, View(hole))

    def _on_status(self, sender: MemberIndex | None, status: Status) -> None:
        """Push what the sender lacks; if it is ahead of us, say where we stand, so that it pushes."""
        if sender is None or status.epoch != self._roster.epoch:
            return
        pushed: list[Certificate] = []
        if status.finalized_view < self._final.view and self._final.certificate is not None:
            pushed.append(self._final.certificate)
        if status.current_view < self._view:
            best = self._best_certificate()
            if best is not None and best not in pushed:
                pushed.append(best)
        for view in sorted(view for view in self._certificates if view >= status.current_view):
            pushed += [certificate.plain for _, certificate in sorted(self._certificates[view].items())]
            if len(pushed) >= CERTIFICATES_PER_STATUS_MAX:
                break
        for certificate in pushed[:CERTIFICATES_PER_STATUS_MAX]:
            if self._spend(sender, 1):
                self._send(sender, certificate)
        ours = self._status()
        ahead = status.finalized_view > ours.finalized_view or status.current_view > ours.current_view
        if ahead and self._spend(sender, 8):
            self._send(sender, ours)

    def _on_want(self, sender: MemberIndex | None, want: Want) -> None:
        if sender is None:
            return
        for block in want.blocks[:BLOCKS_PER_WANT_MAX]:
            entry = self._entries.get(block) or self._recent.get(block)
            if entry is not None and entry.proposal is not None and self._spend(sender, 8):
                for message in _messages_of(entry.proposal, entry.body):
                    self._send(sender, message)

    def _spend(self, member: MemberIndex, cost: int) -> bool:
        """Whether ``member`` may still be sent something that it asked for; refilled at every retry."""
        if member >= len(self._allowance) or self._allowance[member] < cost:
            return False
        self._allowance[member] -= cost
        return True

    def _want(self, block: Digest, certificate: Certificate) -> None:
        """Ask a signer of the certificate for a block; again at every retry, each time somebody else."""
        if block not in self._wants:
            self._wants[block] = 0
            self._ask(block, 0, signers_of(certificate))

    def _ask(self, block: Digest, asked: int, members: Iterable[int]) -> None:
        others = [MemberIndex(member) for member in members if member != self._me]
        self._wants[block] = asked + 1
        if others:
            self._send(others[(asked + (self._me or 0)) % len(others)], Want((block,)))

    # -- effects ------------------------------------------------------------------------------------------------------

    def _send(self, to: MemberIndex | None, message: ValidatorMessage) -> None:
        if self._me is not None and to != self._me:
            self._effects.append(Send(to, message))

    def _set_timer(self, kind: TimerKind, at_ms: int) -> None:
        self._effects.append(SetTimer(Timer(kind, self._view), at_ms))


def _as_parent(block: Digest, header: Header) -> _Parent:
    return _Parent(block, header.view, header.height, header.time_ms, header.state_root, header)


def _messages_of(proposal: Proposal, body: bytes | None) -> list[ValidatorMessage]:
    """A block as it travels: its body behind it, unless that is the empty one."""
    if body is None or body == EMPTY_BODY:
        return [proposal]
    return [proposal, BodyMessage(proposal.vote.block, body)]


def check_chain(
    blocks: Sequence[FinalizedBlock], roster: Roster, chain: ChainId, verify: Verify = verify_signature
) -> tuple[FinalizedBlock, ...]:
    """Check an answer of the sync protocol before it becomes ``Synced``: links, bodies, and the last certificate.

    Raises ``Rejected`` (WRONG_ANCESTRY, WRONG_CHAIN, WRONG_DIGEST, or as ``check_certificate``); whoever sent it is to
    blame. Whether it continues our own chain is for the machine to see.
    """
    if not blocks:
        raise Rejected(Reason.WRONG_ANCESTRY, "no blocks")
    for block in blocks:
        if block.header.chain != chain or block.header.epoch != roster.epoch:
            raise Rejected(Reason.WRONG_CHAIN, f"height {block.header.height}")
        if len(block.body) != block.header.body_bytes or body_root(block.body) != block.header.body_root:
            raise Rejected(Reason.WRONG_DIGEST, f"body of height {block.header.height}")
    for block, child in pairwise(blocks):
        if child.header.parent != block.header.digest() or child.header.height != block.header.height + 1:
            raise Rejected(Reason.WRONG_ANCESTRY, f"height {child.header.height} does not continue the one below")
    last = blocks[-1]
    if last.certificate is None or last.certificate.kind is not VoteKind.FINALIZE:
        raise Rejected(Reason.NO_QUORUM, "the last block has no finalization")
    if (last.certificate.view, last.certificate.block) != (last.header.view, last.header.digest()):
        raise Rejected(Reason.WRONG_ANCESTRY, "the certificate is another block's")
    check_certificate(last.certificate, roster, chain, verify)
    return tuple(blocks)
