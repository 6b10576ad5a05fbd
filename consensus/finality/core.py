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

Epochs
------
Who votes changes between two epochs only, each a run of heights with views of its own from 1 on; the last height is the
epoch's boundary. Nothing is built on a boundary block before it is final: the leader of a later view that would build on it
proposes the same block again, header unchanged, with its notarization in place of the parent's:

    view    10               11                12
            b notarized  ->  nullified     ->  b again: certificate NOTARIZE(10, b), nullification of 11, the leader's vote
            FINALIZE lost                      NOTARIZE(12, b) x quorum -> FINALIZE(12, b) x quorum -> the epoch is over

So the view of a proposal is that of its vote, and ``header.view`` is earlier only here. In the induction above a block of a
later view then equals or extends what is final. With the boundary block final the machine stops until ``EpochOpened`` brings
the next two rosters, of which the headers of the epoch before have named the first. Certificates are checked by the roster of
their own epoch, so a straggler is led out of each epoch by the finalization of its boundary and by nothing else; claims of
epochs that are still to come are at most a reason to ask the sync protocol, once in a while.

Invariants
----------
* The epoch only grows, and in it the view; a view is left only by a certificate (R1). A vote is cast in the current view only,
  FINALIZE excepted; none while an epoch is over and the next one not open.
* A block is voted for after the application accepted it on the state of its parent, which was accepted before it (S5).
* Everything of a view at or below the finalized one is gone, but for the last few final blocks, kept for stragglers, and the
  votes of the epoch before, kept as evidence.
* ``Finalized`` goes up by one height at a time; a certificate for a block off the final chain halts the node.

Liveness under loss rests on R8 alone: whoever is not up to date says everything again and where it stands, and others
push what it lacks. ``Status.current_view`` is the first view above the finalized one for which the sender holds no
certificate: without holes that is the view it is in, and with holes it names the first one.

Where this differs from chain.md: a NULLIFY by the leader of the current view is answered by NULLIFY at once (nobody else
will propose, and an idle view is long); a finalization is accepted where a notarization of the parent is (it implies
one); nullifications that do not fit into a proposal are taken from what the voter holds; a block right after its parent is
never too far ahead of a clock; a boundary block may have a body. Evidence is reported, not slashed: that is the ledger's.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import assert_never

from consensus.finality.answers import Allowances, best_certificate, certificates_lacked, is_ahead, where_we_stand
from consensus.finality.early import EarlyBodies, EarlyMessages
from consensus.finality.epochs import Term, epoch_of_child
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
from consensus.finality.past import Boundaries, ClosedEpoch, conflicts
from consensus.finality.signer import ExecutedBlock, JournalState, SignedVote, VoteSigner
from consensus.finality.statistics import Statistics
from consensus.finality.tally import Added, CheckedCertificate, Outcome, Tally, check_vote, signers_of
from consensus.finality.tree import EMPTY_ROOT, Check, Entry, Parent, Path, Tree
from consensus.signers import Verify
from protocol.epochs import is_boundary
from protocol.finality import (
    EMPTY_BODY,
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
)
from protocol.genesis import ChainRule
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, View
from protocol.keys import verify as verify_signature
from protocol.limits import BODY_BYTES_MAX, CLOCK_SLACK_MS, VIEWS_AHEAD_MAX
from protocol.rejection import Blame, Reason, Rejected, check_invariant
from protocol.roster import Roster

VIEWS_BEHIND_MAX = 64  # late votes and unproven proposals are kept this far back: as far as votes ahead
FINAL_BLOCKS_KEPT = 16  # answers to Want by stragglers; 8 MiB of bodies at most. Beyond it the sync protocol serves
HEIGHTS_BY_WANT_MAX = 8  # a longer gap goes to the sync protocol, which fetches many blocks in one answer (a guess)
BLOCKS_PER_WANT_MAX = 8  # 4 MiB of bodies at most: one answer must not become an amplifier
VOTES_REPEATED_MAX = 64  # R8: own votes said again, the newest; as many as views are open to others
FINAL_VIEWS_KEPT = VIEWS_BEHIND_MAX  # which block each of the last final views has: a conflicting certificate is seen
_NOTHING = Restored()
_REPAIR = Timer(TimerKind.REPAIR, Epoch(0), View(0))


class _Lead(enum.Enum):
    """What we do as leader of the current view."""

    WAITING = "waiting"  # for a parent, or for the block interval
    BUILDING = "building"  # the application was asked
    IDLE = "idle"  # the application has nothing; at the IDLE timer it is asked again
    CLOSING = "closing"  # the application was asked for whatever it has, an empty body too
    DONE = "done"  # proposed, or gave up, or not the leader


class FinalityCore:
    """One member (or observer) of the protocol. ``handle`` is the only door."""

    def __init__(
        self,
        peer: PeerId,
        roster: Roster,
        next_roster: Roster,
        chain: ChainId,
        signer: VoteSigner | None,
        rule: ChainRule,
        anchor: Anchor,
        *,
        restored: Restored = _NOTHING,
        verify: Verify = verify_signature,
    ) -> None:
        """``peer``: this node; in epochs of which it is no member it sends nothing. ``signer`` None: never votes.

        ``anchor``: the last finalized block. ``roster`` is of the epoch of the block above it, so that of the next epoch when
        the anchor is a boundary block, and ``next_roster`` is of the one after. ``restored`` is what ``StoreBlocks`` had kept;
        whatever the anchor has overtaken is dropped.
        """
        check_invariant(
            epoch_of_child(anchor.height, rule) == roster.epoch, "the roster is of the block after the anchor"
        )
        self._peer, self._chain, self._signer, self._rule, self._verify = peer, chain, signer, rule, verify
        self._past: ClosedEpoch | None = None
        self._boundaries = Boundaries(restored.boundaries)
        self._recent: OrderedDict[Digest, Entry] = OrderedDict()  # the last final ones
        self._early_bodies = EarlyBodies()
        self._early_messages = EarlyMessages()
        self._status_turn = 0  # whom a quiet member asks next
        self._fetching = False  # whether FetchBlocks was said since the last repair
        self._behind = False  # whether others may be in a later epoch: somebody said so, or nobody says anything
        self._repairing = False  # whether a REPAIR timer runs
        self._caution: bytes | None = None  # what the journal must hold before we vote: a record was torn

        self._now_ms = 0
        self._effects: list[Effect] = []
        self._dirty = False
        self._halted: str | None = None
        self._counts = dict.fromkeys(
            ("finalized", "again", "nullified", "cast", "seen", "far", "rejections", "evidence"), 0
        )
        self._steps = (  # what may have become possible after any event, in this order, until nothing changes
            self._finalize_certified,
            self._request_checks,
            self._vote_for_proposal,
            self._vote_to_finalize,
            self._try_propose,
        )
        self._begin(Term.of(roster, next_roster, peer, rule), anchor)
        self._restore(restored)

    def _begin(self, term: Term, anchor: Anchor) -> None:
        """Everything that belongs to one epoch, as it is before anything has happened in it but ``anchor``."""
        if anchor.header is not None:
            named = (anchor.header.roster, anchor.header.next_roster)
            ours = (term.roster_digest, term.next_digest)
            same = named == ours if anchor.header.epoch == term.epoch else named[1] == ours[0]
            check_invariant(same, "the roster is the one that the headers name")
        if is_boundary(anchor.height, self._rule.epoch_heights):
            anchor = replace(anchor, view=View(0))
            if anchor.certificate is not None:
                self._boundaries.add(anchor.certificate)
        self._term, self._over = term, False
        self._tree = self._make_tree(term, anchor)
        self._certificates = self._tree.certificates  # of views above the finalized one
        signer = self._signer
        check_invariant(signer is None or signer.epoch == term.epoch, "the signer is in the epoch that is open")
        self._voter = signer if signer is not None and term.me is not None and signer.member == term.me else None
        self._tally = self._make_tally(term.roster)
        self._view = View(0)  # the current view; 0 until Started
        self._entered_ms = 0
        self._advanced_ms = 0  # when a view was last left with a block: the idle interval runs since then
        self._delta_ms = term.schedule.delta_ms(0)
        self._final_blocks: OrderedDict[View, Digest] = OrderedDict({anchor.view: anchor.block})
        self._wants: dict[Digest, int] = {}  # certified blocks that we lack -> times asked
        self._proposal: Digest | None = None  # the first valid proposal of the current view
        self._lead = _Lead.DONE
        self._lead_time_ms = 0  # of the block that was asked for
        self._lead_parent: Parent | None = None
        self._lead_timers: set[TimerKind] = set()  # set in this view; asked only "is it in"
        self._allowances = Allowances(term)
        self._behind = False

    def _make_tree(self, term: Term, final: Anchor) -> Tree:
        return Tree(term, final)

    def _make_tally(self, roster: Roster) -> Tally:
        return Tally(roster, self._chain, self._verify)

    # -- the door -----------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take one event; perform the effects in order. ``now_ms``: wall clock, which may step."""
        self._now_ms = now_ms
        self._effects = []
        if self._halted is not None:
            return []
        opens = isinstance(event, EpochOpened)
        check_invariant(not opens or self._over, "an epoch is opened when the one before is over")
        if self._over and not opens:
            return []
        check_invariant(self._view > 0 or opens or isinstance(event, Started), "Started is the first event")
        match event:
            case Started():
                self._start()
            case MessageReceived(sender, message):
                self._on_message(sender, message)
            case TimerFired(timer):
                self._on_timer(timer)
            case BodyBuilt(epoch, view, body, state_root):
                if self._is_building(epoch, view):
                    self._make_proposal(body, state_root)
            case NothingToBuild(epoch, view):
                if self._is_building(epoch, view):
                    self._wait_idle()
            case BodyChecked():
                self._on_checked(event)
            case Nudge():
                self._on_nudge()
            case Synced(blocks):
                self._on_synced(blocks)
            case EpochOpened(roster, next_roster):
                self._open_epoch(roster, next_roster)
            case _:
                assert_never(event)
        while self._dirty and not self._is_stopped():
            self._dirty = False
            for step in self._steps:
                if not self._is_stopped():
                    step()
        self._plan_repair()
        return self._effects

    def _is_stopped(self) -> bool:
        return self._over or self._halted is not None

    @property
    def anchor(self) -> Anchor:
        """The last finalized block."""
        return self._tree.final

    @property
    def roster(self) -> Roster:
        """Of the current epoch: what an answer of the sync protocol is checked by."""
        return self._term.roster

    def statistics(self) -> Statistics:
        """Numbers for metrics; cheap enough for every second."""
        return Statistics(
            epoch=self._term.epoch,
            view=self._view,
            finalized_view=self._tree.final.view,
            finalized_height=self._tree.final.height,
            leader=self._term.schedule.leader(self._view),
            delta_ms=self._delta_ms,
            blocks_open=len(self._tree.entries),
            certificates_open=len(self._certificates),
            votes_open=self._tally.vote_count + (self._past.vote_count if self._past else 0),
            blocks_wanted=len(self._wants),
            blocks_finalized=self._counts["finalized"],
            blocks_proposed_again=self._counts["again"],
            views_nullified=self._counts["nullified"],
            votes_cast=self._counts["cast"],
            votes_seen=self._counts["seen"],
            votes_far=self._counts["far"],
            rejections=self._counts["rejections"],
            evidence=self._counts["evidence"],
            refusal=self._find_refusal(),
            halted=self._halted,
        )

    def _find_refusal(self) -> str | None:
        if self._signer is None or self._term.me is None:
            return None
        return self._signer.refusal if self._voter else "the roster has another vote key for this node"

    # -- start, epochs and views (R1) ---------------------------------------------------------------------------------

    def _restore(self, restored: Restored) -> None:
        for certificate in restored.certificates:
            if certificate.epoch != self._term.epoch:
                continue
            names = (certificate.view, certificate.block) == (self._tree.final.view, self._tree.final.block)
            if names and self._tree.final.certificate is None:
                self._tree.final = replace(self._tree.final, certificate=certificate)
            if certificate.view > self._tree.final.view:
                self._certificates.add(CheckedCertificate(certificate))
        for stored in restored.blocks:
            header = stored.proposal.header
            if header.epoch == self._term.epoch and header.view > self._tree.final.view:
                self._tree.entries[header.digest()] = Entry(header, stored.proposal, stored.body)
        if self._signer is not None:
            self._signer.abstain_through(self._tree.final.view)
            if self._signer.journal is JournalState.TORN:
                view = View(self._certificates.highest(self._tree.final.view) + 1)
                self._caution = self._signer.only_nullify_through(view)

    def _start(self) -> None:
        if self._caution is not None:
            self._effects.append(Persist((self._caution,)))
        self._enter(View(self._certificates.highest(self._tree.final.view) + 1))
        for vote in self._voter.votes() if self._voter else ():
            self._count(vote)

    def _close_epoch(self) -> None:
        """The boundary block is final: nothing more is said in this epoch, nor done before the next one is open."""
        self._over = True
        self._wants.clear()
        self._proposal = None
        self._lead = _Lead.DONE

    def _open_epoch(self, roster: Roster, next_roster: Roster) -> None:
        before, term = self._term, Term.of(roster, next_roster, self._peer, self._rule)
        check_invariant(term.epoch == before.epoch + 1, "epochs follow each other")
        open_ = range(max(1, self._view - VIEWS_BEHIND_MAX), self._view + VIEWS_AHEAD_MAX + 1)
        self._past = ClosedEpoch(before, self._tally, self._final_blocks, self._tree.final.block, open_)
        if self._signer is not None:
            self._signer.open_epoch(roster)
        self._begin(term, self._tree.final)
        self._repairing = self._fetching = False  # what fired or was answered while nothing was open is lost
        self._enter(View(1))
        certificate = self._tree.final.certificate
        if before.me is not None and certificate is not None:  # nobody else tells them of the epoch that they vote in
            self._tell(before.newcomers, certificate)
        for sender, message in self._early_messages.take():
            self._on_message(sender, message)

    def _enter(self, view: View) -> None:
        if view <= self._view:
            return
        if self._certificates.find(self._view, VoteKind.NULLIFY) is not None:
            self._counts["nullified"] += 1
        else:
            self._advanced_ms = self._now_ms
        self._view = view
        self._entered_ms = self._now_ms
        self._proposal = None
        self._lead = _Lead.WAITING if self._may_propose() else _Lead.DONE
        self._lead_parent = None
        self._lead_timers.clear()
        self._allowances.refill()
        self._tally.keep(View(view - VIEWS_BEHIND_MAX), View(view + VIEWS_AHEAD_MAX))
        self._tree.drop_unproven(below=View(view - VIEWS_BEHIND_MAX))
        schedule = self._term.schedule
        self._delta_ms = schedule.delta_ms(self._stalled_views())
        if self._voter is not None:
            self._set_timer(TimerKind.VIEW, self._now_ms + self._view_timeout_ms())
        self._set_timer(TimerKind.RETRY, self._now_ms + schedule.retry_ms(self._delta_ms))
        self._dirty = True

    def _view_timeout_ms(self) -> int:
        return self._term.schedule.view_timeout_ms(self._delta_ms, self._entered_ms - self._advanced_ms)

    def _stalled_views(self) -> int:
        """Views left without finalization; the last one does not count while its finalization may be on its way."""
        finalized = max((each.view for each in self._certificates.finalizations()), default=self._tree.final.view)
        last = View(self._view - 1)
        in_flight = self._certificates.find(last, VoteKind.NOTARIZE) is not None
        return max(0, last - finalized - in_flight)

    # -- messages -----------------------------------------------------------------------------------------------------

    def _on_message(self, sender: PeerId | None, message: ValidatorMessage) -> None:
        try:
            epoch = _epoch_of(message)
            if epoch is None or epoch == self._term.epoch:
                self._on_current(sender, message)
            elif epoch > self._term.epoch:
                self._on_later(sender, message, epoch)
            else:
                self._on_earlier(sender, message, epoch)
        except Rejected as rejection:
            self._counts["rejections"] += 1
            if sender is not None and rejection.reason.blame is not Blame.NOBODY:
                self._effects.append(Score(sender, rejection.reason))

    def _on_current(self, sender: PeerId | None, message: ValidatorMessage) -> None:
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

    def _on_later(self, sender: PeerId | None, message: ValidatorMessage, epoch: Epoch) -> None:
        """Nothing of a later epoch can be checked yet, and its members know the way out of ours: Status asks them for it."""
        self._behind = True
        self._counts["far"] += isinstance(message, Vote)
        if isinstance(message, Status):
            if sender is not None and self._allowances.spend(sender, 1):
                self._tell((sender,), where_we_stand(self._tree))
            return
        if epoch != self._term.epoch + 1 or not isinstance(message, Vote | Certificate | Proposal):
            return
        if sender in self._term.next_members and sender is not None:
            self._early_messages.keep(sender, message)
        parent = message.parent_certificate if isinstance(message, Proposal) else None
        if parent is not None and parent.epoch == self._term.epoch:
            self._on_certificate(parent)

    def _on_earlier(self, sender: PeerId | None, message: ValidatorMessage, epoch: Epoch) -> None:
        """Stragglers are shown the way out of their epoch; late votes of the epoch before may be evidence."""
        if isinstance(message, Status):
            boundary = self._boundaries.find(epoch)
            if sender is not None and boundary is not None and self._allowances.spend(sender, 1):
                self._tell((sender,), boundary)
            return
        past = self._past
        if past is None or epoch != past.term.epoch:
            self._counts["far"] += isinstance(message, Vote)
        elif isinstance(message, Certificate):
            self._look_back_at(message)
        elif isinstance(message, Vote | Proposal):
            for evidence in past.add_vote(message.vote if isinstance(message, Proposal) else message):
                self._report(evidence)

    def _look_back_at(self, certificate: Certificate) -> None:
        """A late certificate may be evidence, or finalize another block than the boundary that we stand on."""
        past = self._past
        if past is None or certificate.epoch != past.term.epoch:
            return
        for evidence in past.add_certificate(certificate):
            self._report(evidence)
        if past.contradicts(certificate):
            self._halt(f"another block was finalized in view {certificate.view} of epoch {certificate.epoch}")

    def _on_vote(self, vote: Vote) -> None:
        if not self._is_open(vote.view):
            self._counts["far"] += 1
            return
        if vote.signer >= len(self._term.roster.members):
            raise Rejected(Reason.NOT_A_MEMBER, f"signer {vote.signer}")
        added = self._tally.add(vote)
        self._counts["seen"] += 1
        self._act_on(vote, added)
        if added.outcome is Outcome.NEW and self._lacks_proposal_of(vote):
            self._send(vote.signer, Want((vote.block,)))  # the leader repeats itself: its proposal was lost

    def _lacks_proposal_of(self, vote: Vote) -> bool:
        if vote.kind is not VoteKind.NOTARIZE or not self._is_leaders(vote):
            return False
        entry = self._tree.entries.get(vote.block)
        return entry is None or (self._proposal is None and entry.header.view < vote.view)

    def _is_leaders(self, vote: Vote) -> bool:
        """Whether a vote is of the current view, by its leader."""
        return vote.view == self._view and vote.signer == self._term.schedule.leader(vote.view)

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
        if added.outcome is Outcome.NEW and vote.kind is VoteKind.NULLIFY and self._is_leaders(vote):
            self._nullify()  # the leader gives up: nobody else will propose in this view

    def _report(self, evidence: Evidence) -> None:
        self._counts["evidence"] += 1
        self._effects += [evidence, Score(evidence.validator, Reason.EQUIVOCATION)]

    # -- certificates (R4, R5, R6, R9) --------------------------------------------------------------------------------

    def _on_certificate(self, certificate: Certificate) -> None:
        if certificate.view <= self._tree.final.view:
            self._on_late_certificate(certificate)
            return
        held = self._certificates.find(certificate.view, certificate.kind)
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
        if certificate.kind is VoteKind.FINALIZE and conflicts(certificate, self._final_blocks, None):
            self._halt(f"another block was finalized in view {certificate.view}")

    def _install(self, certificate: CheckedCertificate, *, announce: bool = True) -> None:
        """Store a certificate, broadcast it once if it is news, and leave its view."""
        if certificate.view <= self._tree.final.view or not self._certificates.add(certificate):
            return
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

    # -- proposals and bodies (R3) ------------------------------------------------------------------------------------

    def _on_proposal(self, sender: PeerId | None, proposal: Proposal) -> None:
        """A new block, or the epoch's boundary block proposed again in a later view than its own."""
        header, vote, view = proposal.header, proposal.vote, proposal.vote.view
        if header.chain != self._chain:
            raise Rejected(Reason.WRONG_CHAIN, "proposal of another chain or fork")
        block = header.digest()
        again = self._tree.is_again(proposal)
        if (vote.epoch, vote.kind, vote.block) != (header.epoch, VoteKind.NOTARIZE, block):
            raise Rejected(Reason.MALFORMED, "a proposal carries its leader's NOTARIZE of it")
        if not again and (vote.view, vote.signer) != (header.view, header.proposer):
            raise Rejected(Reason.MALFORMED, "only a boundary block is proposed again")
        if view <= self._tree.final.view or (block in self._tree.entries and not again):
            return
        if vote.signer != self._term.schedule.leader(view):
            raise Rejected(Reason.WRONG_LEADER, f"member {vote.signer} in view {view}")
        wanted = block in self._wants
        if not wanted and view < self._view:
            self._on_vote(vote)
            return
        check_vote(vote, self._term.roster, self._chain, self._verify)
        if wanted and block not in self._tree.entries:  # a quorum has found it good
            self._admit(block, Entry(header, proposal, None))
        if wanted and (not again or view < self._view):
            return
        try:
            self._check_proposal(proposal)
        except Rejected:
            if sender == self._term.peer(vote.signer) and view == self._view:
                self._nullify()  # R3: invalid, at once. Relayed by others it proves nothing against the leader
            raise
        finally:
            self._count(vote)
        if view != self._view or self._proposal is not None:
            return
        self._proposal = block
        self._dirty = True
        if block not in self._tree.entries:
            self._admit(block, Entry(header, proposal, None))

    def _check_proposal(self, proposal: Proposal) -> None:
        """Take the certificates that came along, which may bring us to its view; there, check what it stands on."""
        view, parent = proposal.vote.view, proposal.parent_certificate
        if parent is not None and parent.epoch != self._term.epoch:
            self._look_back_at(parent)  # should it be another boundary block's, the chain has forked there
        ground = self._tree.find_ground(proposal)
        if parent is not None and parent.epoch == self._term.epoch:
            self._take(parent)
        for certificate in proposal.nullifications:
            self._tree.check_nullification(certificate, ground, view)
            self._take(certificate)
        if view == self._view:
            self._tree.check(proposal.header, ground, view)

    def _take(self, certificate: Certificate) -> None:
        """A certificate that came inside a proposal: everybody has it, so it is not broadcast."""
        known = self._certificates.find(certificate.view, certificate.kind) is not None
        if certificate.view > self._tree.final.view and not known:
            self._install(self._tally.check(certificate), announce=False)

    def _admit(self, block: Digest, entry: Entry) -> None:
        self._tree.entries[block] = entry
        self._dirty = True
        if entry.header.body_root == EMPTY_ROOT:
            self._take_body(block, entry, EMPTY_BODY)
        for body in self._early_bodies.take(block):
            self._take_body(block, entry, body)
        if entry.body is None and block == self._proposal:
            self._set_timer(TimerKind.BODY, self._now_ms + self._delta_ms // 2)

    def _take_body(self, block: Digest, entry: Entry, body: bytes) -> bool:
        if not entry.take_body(body):
            return False
        self._wants.pop(block, None)
        self._dirty = True
        return True

    def _on_body(self, sender: PeerId | None, message: BodyMessage) -> None:
        entry = self._tree.entries.get(message.block)
        if entry is not None:
            if entry.body is None and not self._take_body(message.block, entry, message.body):
                raise Rejected(Reason.WRONG_DIGEST, "body of another block")
            return
        fits = message.block not in self._recent and len(message.body) <= BODY_BYTES_MAX
        if fits and sender is not None and (sender in self._term.places or sender in self._term.next_members):
            self._early_bodies.keep(sender, message)

    def _request_checks(self) -> None:
        """Ask the application about every block that may be voted for, parents first; ask members for what is missing."""
        if self._voter is None:
            return
        for certificate in self._certificates.blocks():
            entry = self._tree.entries.get(certificate.block)
            if entry is None or entry.body is None:
                self._want(certificate.block, certificate.plain)
            else:
                self._request_check(certificate.block, entry)
        if self._proposal is not None:
            entry = self._tree.entries[self._proposal]
            if entry.body is not None:
                self._request_check(self._proposal, entry)

    def _request_check(self, block: Digest, entry: Entry) -> None:
        if entry.check is not Check.NEW or entry.body is None:
            return
        header = entry.header
        parent = self._tree.find_parent(header)
        if parent is None:
            return
        if not self._tree.follows(header, parent):
            self._refuse(block, entry, Reason.WRONG_ANCESTRY)
            return
        new = block == self._proposal and header.view == self._view
        if new and header.time_ms > max(self._now_ms + CLOCK_SLACK_MS, parent.time_ms + 1):
            # A leader must be later than its parent, whose time a quorum found good: for that it is not to blame.
            self._put_off(block, header)
            return
        entry.check = Check.RUNNING
        self._effects.append(RequestCheck(block, header, entry.body))

    def _put_off(self, block: Digest, header: Header) -> None:
        """Too far ahead of our clock: give the view up, and forget the block. If a quorum takes it, it comes back."""
        del self._tree.entries[block]
        self._proposal = None
        self._blame(header.proposer, Reason.CLOCK_OFF)
        self._nullify()

    def _on_checked(self, event: BodyChecked) -> None:
        entry = self._tree.entries.get(event.block)
        if entry is None or entry.check is not Check.RUNNING:
            return
        if event.accepted is None:
            entry.check = Check.DEFERRED
        elif not event.accepted:
            self._refuse(event.block, entry, event.reason or Reason.WRONG_BODY)
        elif event.state_root != entry.header.state_root:
            self._refuse(event.block, entry, Reason.WRONG_STATE)
        else:
            self._accept(event.block, entry)

    def _accept(self, block: Digest, entry: Entry) -> None:
        entry.check = Check.ACCEPTED
        self._dirty = True
        if entry.proposal is None:
            self._publish(block, entry)
        else:
            self._store(entry.proposal, entry)

    def _store(self, proposal: Proposal, entry: Entry) -> None:
        check_invariant(entry.body is not None, "only a block with its body is accepted")
        self._effects.append(StoreBlocks(blocks=(StoredBlock(proposal, entry.body or b""),)))

    def _refuse(self, block: Digest, entry: Entry, reason: Reason) -> None:
        entry.check = Check.REFUSED
        self._blame(entry.header.proposer, reason)
        if block == self._proposal:
            self._nullify()

    def _blame(self, member: MemberIndex, reason: Reason) -> None:
        if member != self._term.me and member < len(self._term.roster.members):
            self._effects.append(Score(self._term.peer(member), reason))

    # -- voting -------------------------------------------------------------------------------------------------------

    def _vote_for_proposal(self) -> None:
        """R3: NOTARIZE the current view's proposal once it is accepted."""
        block = self._proposal
        if block is not None and self._voter is not None and self._tree.entries[block].check is Check.ACCEPTED:
            self._cast(self._voter.notarize(self._view, ExecutedBlock(block)))

    def _vote_to_finalize(self) -> None:
        """R4: FINALIZE whatever is notarized and accepted, also after its view was left."""
        if self._voter is None:
            return
        for view in self._certificates.views():
            notarization = self._certificates.find(view, VoteKind.NOTARIZE)
            entry = self._tree.entries.get(notarization.block) if notarization else None
            if notarization and entry and entry.check is Check.ACCEPTED:
                self._cast(self._voter.finalize(notarization, ExecutedBlock(notarization.block)))

    def _nullify(self) -> None:
        if self._voter is not None:
            self._cast(self._voter.nullify(self._view))

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
        """Finalize the highest block with a finalization whose ancestors are all here; ask for what is missing."""
        for certificate in reversed(self._certificates.finalizations()):
            path = self._tree.path_to(certificate)
            if path.conflict:
                height = self._tree.final.height
                self._halt(f"the block finalized in view {certificate.view} does not extend height {height}")
                return
            if path.missing is not None:
                self._get_missing(path, certificate)
            elif path.blocks:
                self._finish(path.blocks, certificate)
                return

    def _get_missing(self, path: Path, target: CheckedCertificate) -> None:
        """Few blocks are asked for one by one; many, or by an observer, of the sync protocol."""
        lowest = path.blocks[-1].header.height - 1 if path.blocks else None
        far = lowest is not None and lowest - self._tree.final.height > HEIGHTS_BY_WANT_MAX
        if self._me is None or far:
            self._fetch(target.plain)
        elif path.missing is not None:
            self._want(path.missing, target.plain)

    def _finish(self, path: list[Entry], certificate: CheckedCertificate) -> None:
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
                block.header.height == self._tree.final.height + 1 + index, "finalized heights go up by one, each once"
            )
        last = blocks[-1]
        check_invariant(last.header.height <= self._term.boundary, "an epoch ends with its boundary block")
        self._effects.append(Finalized(tuple(blocks)))
        self._counts["finalized"] += len(blocks)
        for block in blocks:
            self._final_blocks[block.header.view] = block.header.digest()
        while len(self._final_blocks) > FINAL_VIEWS_KEPT:
            self._final_blocks.popitem(last=False)
        self._tree.advance(Anchor.of(last.header, last.certificate))
        view = self._tree.final.view
        if self._proposal not in self._tree.entries:
            self._proposal = None
        self._wants.clear()  # what is still missing is asked for again
        if self._signer is not None:
            self._signer.abstain_through(view)
        if last.header.height == self._term.boundary:
            self._close_epoch()
            return
        self._enter(View(view + 1))
        self._shorten_view()
        self._dirty = True

    def _shorten_view(self) -> None:
        """Views before this one had stretched its timer, and are final now: it need be no longer than the first."""
        schedule = self._term.schedule
        delta_ms = schedule.delta_ms(self._stalled_views())
        if delta_ms < self._delta_ms:
            self._delta_ms = delta_ms
            if self._voter is not None:
                self._set_timer(TimerKind.VIEW, max(self._now_ms, self._entered_ms + self._view_timeout_ms()))

    def _on_synced(self, blocks: tuple[FinalizedBlock, ...]) -> None:
        news = [block for block in blocks if block.header.height > self._tree.final.height]
        if not news or news[0].header.height != self._tree.final.height + 1 or news[0].header.epoch != self._term.epoch:
            return
        if news[0].header.parent != self._tree.final.block:
            self._halt(f"synced blocks do not extend height {self._tree.final.height}")
            return
        certificate = news[-1].certificate
        check_invariant(certificate is not None, "synced blocks end with a certificate")
        self._advance(news)

    def _fetch(self, target: Certificate | None) -> None:
        if not self._fetching:
            self._fetching = True
            self._effects.append(FetchBlocks(Height(self._tree.final.height + 1), target))

    # -- proposing (R2) -----------------------------------------------------------------------------------------------

    @property
    def _me(self) -> MemberIndex | None:
        return self._term.me

    def _may_propose(self) -> bool:
        return self._voter is not None and self._term.schedule.leader(self._view) == self._me

    def _is_building(self, epoch: Epoch, view: View) -> bool:
        return (epoch, view) == (self._term.epoch, self._view) and self._lead in (_Lead.BUILDING, _Lead.CLOSING)

    def _try_propose(self) -> None:
        if self._lead is not _Lead.WAITING:
            return
        parent = self._tree.choose_parent(self._view)
        if parent is None:
            if TimerKind.SKIP not in self._lead_timers:
                self._lead_timers.add(TimerKind.SKIP)
                self._set_timer(TimerKind.SKIP, self._entered_ms + self._delta_ms)
                self._send(None, where_we_stand(self._tree))  # a hole in the certificates is filled by whoever can
            return
        # Our own clock bounds the wait: a parent from the future must not cost us the view. A boundary block is proposed again
        # only if its finalization, which is on its way now, has not come within the interval.
        interval_ms = self._rule.block_interval_ms_min
        again = parent.height == self._term.boundary
        at_ms = self._entered_ms + interval_ms
        if not again:
            at_ms = min(parent.time_ms + interval_ms, at_ms)
        if self._now_ms < at_ms:
            if TimerKind.PROPOSE not in self._lead_timers:
                self._lead_timers.add(TimerKind.PROPOSE)
                self._set_timer(TimerKind.PROPOSE, at_ms)
            return
        if again:
            self._propose_again(parent)
        else:
            self._request_build(parent)

    def _request_build(self, parent: Parent, *, even_empty: bool = False) -> None:
        if self._me is None:
            return
        self._lead = _Lead.CLOSING if even_empty else _Lead.BUILDING
        self._lead_parent = parent
        self._lead_time_ms = max(self._now_ms, parent.time_ms + 1)
        height = Height(parent.height + 1)
        self._effects.append(
            RequestBuild(
                epoch=self._term.epoch,
                view=self._view,
                parent=parent.block,
                height=height,
                parent_header=parent.header,
                time_ms=self._lead_time_ms,
                proposer=self._me,
                even_empty=even_empty,
            )
        )

    def _wait_idle(self) -> None:
        """Empty blocks follow each other at the idle interval; a view that a silent leader cost was wait enough."""
        closing = self._lead is _Lead.CLOSING
        self._lead = _Lead.IDLE
        if closing:  # it was asked for whatever it has: only a nudge says that this is more now
            return
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
        header = self._tree.draft(parent, self._chain, self._view, self._me, self._lead_time_ms, body, state_root)
        self._proposal = header.digest()
        self._tree.entries[self._proposal] = Entry(header, None, body)
        self._dirty = True

    def _publish(self, block: Digest, entry: Entry) -> None:
        """Sign our draft and broadcast it, if its view is still the current one."""
        if self._proposal != block or self._voter is None:
            return
        signed = self._voter.notarize(self._view, ExecutedBlock(block))
        if signed is None:
            return
        header = entry.header
        skipped = self._certificates.nullifications(header.parent_view, header.view)
        entry.proposal = Proposal(header, self._tree.find_certificate(header), skipped, signed.vote)
        self._store(entry.proposal, entry)
        self._cast(signed, _messages_of(entry.proposal, entry.body))

    def _propose_again(self, parent: Parent) -> None:
        """Propose the boundary block as it is. Its body does not go along: a quorum has it."""
        self._lead = _Lead.DONE
        if self._voter is None or parent.certificate is None:
            return
        signed = self._voter.notarize(self._view, ExecutedBlock(parent.block))
        if signed is None:
            return
        entry = self._tree.entries[parent.block]
        skipped = self._certificates.nullifications(parent.certificate.view, self._view)
        entry.proposal = Proposal(entry.header, parent.certificate, skipped, signed.vote)
        self._proposal = parent.block
        self._counts["again"] += 1
        self._store(entry.proposal, entry)
        self._cast(signed, (entry.proposal,))

    # -- timers, repetition and repair (R7, R8) -----------------------------------------------------------------------

    def _on_timer(self, timer: Timer) -> None:
        if timer.kind is TimerKind.REPAIR:
            self._repair()
        if (timer.epoch, timer.view) != (self._term.epoch, self._view):
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
                if self._lead is _Lead.WAITING and self._tree.choose_parent(self._view) is None:
                    self._lead = _Lead.DONE
                    self._nullify()
            case TimerKind.BODY:
                self._want_body()
            case TimerKind.REPAIR:
                pass  # of no view
            case _:
                assert_never(timer.kind)

    def _want_body(self) -> None:
        if self._proposal is not None and self._tree.entries[self._proposal].body is None:
            self._send(self._term.schedule.leader(self._view), Want((self._proposal,)))

    def _retry(self) -> None:
        self._set_timer(TimerKind.RETRY, self._now_ms + self._term.schedule.retry_ms(self._delta_ms))
        if self._now_ms - self._entered_ms > self._view_timeout_ms():
            self._behind = True  # others may have left this view, and this epoch, long ago
        self._allowances.refill()
        self._want_body()
        self._speak_again()

    def _plan_repair(self) -> None:
        """Keep a timer running while something is missing. Views may pass quickly without us: it belongs to none."""
        deferred = any(entry.check is Check.DEFERRED for entry in self._tree.entries.values())
        missing = self._wants or self._fetching or self._behind or deferred
        if missing and not self._repairing:
            self._repairing = True
            self._effects.append(SetTimer(_REPAIR, self._now_ms + self._term.schedule.delta_ms(0)))

    def _repair(self) -> None:
        """What we asked for did not come: ask others, and the sync protocol for finalized blocks."""
        behind = self._behind
        self._repairing = self._fetching = self._behind = False
        self._check_again()
        for block, asked in sorted(self._wants.items()):
            self._ask(block, asked, range(len(self._term.roster.members)))
        targets = self._certificates.finalizations()
        if targets:
            self._fetch(targets[-1].plain)
        elif behind:
            self._fetch(None)

    def _check_again(self) -> None:
        for entry in self._tree.entries.values():
            if entry.check is Check.DEFERRED:
                entry.check = Check.NEW
                self._dirty = True

    def _speak_again(self) -> None:
        """R8. Whoever is up to date and has said nothing in this view asks one member in turn: an idle network is cheap."""
        if self._me is None:
            return
        votes = self._voter.votes() if self._voter else []
        votes = [vote for vote in votes if vote.view == self._view or vote.kind is VoteKind.FINALIZE]
        if self._tree.final.view == self._view - 1 and not votes:
            self._status_turn = (self._status_turn + 1) % len(self._term.roster.members)
            self._send(MemberIndex(self._status_turn), where_we_stand(self._tree))
            return
        for vote in votes[-VOTES_REPEATED_MAX:]:
            self._send(None, vote)
        best = best_certificate(self._tree, self._view)
        if best is not None:
            self._send(None, best)
        self._send(None, where_we_stand(self._tree))

    def _on_status(self, sender: PeerId | None, status: Status) -> None:
        """Push what the sender lacks; if it is ahead of us, say where we stand, so that it pushes."""
        if sender is None or sender not in self._term.places:
            return
        for certificate in certificates_lacked(status, self._tree, self._view):
            if self._allowances.spend(sender, 1):
                self._tell((sender,), certificate)
        ours = where_we_stand(self._tree)
        if is_ahead(status, ours) and self._allowances.spend(sender, 8):
            self._tell((sender,), ours)

    def _on_want(self, sender: PeerId | None, want: Want) -> None:
        if sender is None or sender not in self._term.places:
            return
        for block in want.blocks[:BLOCKS_PER_WANT_MAX]:
            entry = self._tree.entries.get(block) or self._recent.get(block)
            if entry is not None and entry.proposal is not None and self._allowances.spend(sender, 8):
                for message in _messages_of(entry.proposal, entry.body):
                    self._tell((sender,), message)

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
        """To one member, or to all others when ``to`` is None."""
        if to is None:
            self._tell(self._term.others, message)
        elif to != self._me:
            self._tell((self._term.peer(to),), message)

    def _tell(self, peers: tuple[PeerId, ...], message: ValidatorMessage) -> None:
        """A member speaks, to members as a rule; nobody else does."""
        if self._me is not None and peers:
            self._effects.append(Send(peers, message))

    def _set_timer(self, kind: TimerKind, at_ms: int) -> None:
        self._effects.append(SetTimer(Timer(kind, self._term.epoch, self._view), at_ms))


def _epoch_of(message: ValidatorMessage) -> Epoch | None:
    """The epoch that a message is about; None for what names blocks alone."""
    match message:
        case Vote() | Certificate() | Status():
            return message.epoch
        case Proposal():
            return message.header.epoch
        case BodyMessage() | Want():
            return None
        case _:
            assert_never(message)


def _messages_of(proposal: Proposal, body: bytes | None) -> list[ValidatorMessage]:
    """A block as it travels: its body behind it, unless that is the empty one."""
    if body is None or body == EMPTY_BODY:
        return [proposal]
    return [proposal, BodyMessage(proposal.vote.block, body)]
