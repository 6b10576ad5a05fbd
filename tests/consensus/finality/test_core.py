"""One machine, spoken to by hand: what it answers, in which order, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from consensus.finality.chain import check_chain
from consensus.finality.core import FinalityCore
from consensus.finality.events import (
    Anchor,
    BodyBuilt,
    BodyChecked,
    Effect,
    Event,
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
    Synced,
    Timer,
    TimerFired,
    TimerKind,
)
from consensus.finality.schedule import Schedule
from consensus.finality.signer import JournalState, VoteSigner
from consensus.finality.tally import build_certificate
from protocol.digest import Domain, digest
from protocol.finality import (
    EMPTY_BODY,
    NO_BLOCK,
    BodyMessage,
    Certificate,
    FinalizedBlock,
    Header,
    Proposal,
    Status,
    Vote,
    VoteKind,
    Want,
    body_root,
    vote_text,
)
from protocol.ids import Digest, Epoch, Height, MemberIndex, View
from protocol.rejection import InvariantBroken, Reason, Rejected
from simnet.finality.genesis import (
    CHAIN,
    GENESIS_MS,
    RULE,
    genesis_anchor,
    make_keys,
    make_roster,
    peer_of,
    quick_verify,
)

KEYS = make_keys(4)
ROSTER = make_roster(KEYS)
NEXT = make_roster(KEYS, epoch=1)
STRANGER = peer_of(200)
SCHEDULE = Schedule(ROSTER, RULE)
LEADERS = {view: SCHEDULE.leader(View(view)) for view in range(1, 40)}
BODY = b"a body"
GENESIS_ROOT = digest(Domain.STATE, b"genesis")  # of the application of these tests, whose state is a hash
START_MS = GENESIS_MS + 10_000
NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE


FOLLOWER = MemberIndex(next(member for member in range(4) if member not in (LEADERS[1], LEADERS[2])))


def execute(parent_root: Digest, body: bytes) -> Digest:
    """An application whose state is the hash of every body that is not empty."""
    return parent_root if body == EMPTY_BODY else digest(Domain.STATE, parent_root, body)


def vote(signer: int, view: int, kind: VoteKind, block: Digest = NO_BLOCK) -> Vote:
    text = vote_text(CHAIN, 0, view, kind, block)
    return Vote(Epoch(0), View(view), kind, block, MemberIndex(signer), KEYS[signer].sign(text))


def certificate(view: int, kind: VoteKind, block: Digest = NO_BLOCK, signers=(0, 1, 2, 3)) -> Certificate:
    return build_certificate([vote(signer, view, kind, block) for signer in signers], ROSTER)


def header(view: int, parent: Header | None = None, body: bytes = BODY, **changes: Any) -> Header:
    base = Header(
        version=1,
        chain=CHAIN,
        epoch=Epoch(0),
        view=View(view),
        height=Height(parent.height + 1 if parent else 1),
        parent=parent.digest() if parent else NO_BLOCK,
        parent_view=parent.view if parent else View(0),
        time_ms=parent.time_ms + 1 if parent else START_MS,
        proposer=LEADERS[view],
        body_root=body_root(body),
        body_bytes=len(body),
        state_root=execute(parent.state_root if parent else GENESIS_ROOT, body),
        roster=ROSTER.digest(),
        next_roster=NEXT.digest(),
        beacon=ROSTER.beacon,
        evidence_root=Digest(bytes(32)),
    )
    return replace(base, **changes)


def proposal(of: Header, parent: Certificate | None = None, skipped: tuple[Certificate, ...] = ()) -> Proposal:
    return Proposal(of, parent, skipped, vote(of.proposer, of.view, NOTARIZE, of.digest()))


class Bench:
    """A machine on the bench, with a clock that moves when told and every effect kept."""

    def __init__(self, me: int | None = FOLLOWER, *, votes: bool = True, **options: Any) -> None:
        peer = STRANGER if me is None else peer_of(me)
        journal = options.pop("journal", ())
        state = options.pop("state", JournalState.CLEAN)
        signer = VoteSigner(KEYS[me], CHAIN, ROSTER, journal, state) if me is not None and votes else None
        anchor = options.pop("anchor", genesis_anchor())
        self.core = FinalityCore(peer, ROSTER, NEXT, CHAIN, signer, RULE, anchor, verify=quick_verify, **options)
        self.now_ms = START_MS
        self.all: list[Effect] = []
        self.tell(Started())

    def tell(self, *events: Event) -> list[Effect]:
        effects = [effect for event in events for effect in self.core.handle(event, self.now_ms)]
        self.all += effects
        return effects

    def hear(self, *messages: Any, sender: int | None = 0) -> list[Effect]:
        peer = None if sender is None else peer_of(sender)
        return self.tell(*(MessageReceived(peer, message) for message in messages))

    def fire(self, kind: TimerKind, view: int | None = None) -> list[Effect]:
        return self.tell(TimerFired(Timer(kind, Epoch(0), self.core.statistics().view if view is None else View(view))))

    def accept(self, of: Header) -> list[Effect]:
        return self.tell(BodyChecked(of.digest(), True, of.state_root))

    def take(self, of: Header, parent: Certificate | None = None, skipped=(), body: bytes = BODY) -> list[Effect]:
        """A good proposal with its body, accepted by the application."""
        effects = self.hear(proposal(of, parent, skipped), sender=of.proposer)
        effects += self.hear(BodyMessage(of.digest(), body), sender=of.proposer)
        return effects + self.accept(of)


def of_kind(effects: list[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: list[Effect], kind: type) -> list[Any]:
    return [effect.message for effect in of_kind(effects, Send) if isinstance(effect.message, kind)]


def said(effects: list[Effect]) -> list[tuple[VoteKind, int]]:
    return [(each.kind, each.view) for each in sent(effects, Vote)]


# -- the good case ----------------------------------------------------------------------------------------------------


def test_good_proposal_is_checked_then_notarized():
    """The application is asked with the body; its yes is stored, journalled and sent, in this order."""
    bench, block = Bench(), header(1)
    assert not of_kind(bench.hear(proposal(block), sender=block.proposer), RequestCheck)
    effects = bench.hear(BodyMessage(block.digest(), BODY), sender=block.proposer)
    assert of_kind(effects, RequestCheck) == [RequestCheck(block.digest(), block, BODY)]
    effects = bench.accept(block)
    kinds = [type(effect) for effect in effects]
    assert kinds[:3] == [StoreBlocks, Persist, Send]
    assert said(effects) == [(NOTARIZE, 1)]


def test_body_may_overtake_its_proposal():
    """Messages come in any order."""
    bench, block = Bench(), header(1)
    bench.hear(BodyMessage(block.digest(), BODY), sender=block.proposer)
    assert of_kind(bench.hear(proposal(block), sender=block.proposer), RequestCheck)


def test_empty_body_does_not_travel():
    """Everybody knows the empty body."""
    bench, block = Bench(), header(1, body=EMPTY_BODY)
    assert of_kind(bench.hear(proposal(block), sender=block.proposer), RequestCheck)


def test_notarization_leads_to_finalize_and_the_next_view():
    """On a quorum of NOTARIZE: the certificate is stored and broadcast once, FINALIZE is said, the view grows."""
    bench, block = Bench(), header(1)
    bench.take(block)
    others = [member for member in range(4) if member != FOLLOWER]
    effects = bench.hear(*(vote(member, 1, NOTARIZE, block.digest()) for member in others[:2]))
    effects += bench.hear(vote(others[2], 1, NOTARIZE, block.digest()))
    assert len(sent(effects, Certificate)) == 1
    assert (FINALIZE, 1) in said(effects)
    assert bench.core.statistics().view == 2
    effects = bench.hear(*(vote(member, 1, FINALIZE, block.digest()) for member in others))
    [final] = of_kind(effects, Finalized)
    assert [each.header for each in final.blocks] == [block]
    assert final.blocks[-1].certificate.kind is FINALIZE
    assert bench.core.anchor.block == block.digest()


def test_finalization_takes_the_ancestors_along():
    """A finalized block finalizes what it stands on, in ascending heights, each once, with one certificate at the end."""
    bench, first = Bench(), header(1)
    second = header(2, first)
    bench.take(first)
    bench.hear(certificate(1, NOTARIZE, first.digest()))
    bench.take(second, certificate(1, NOTARIZE, first.digest()))
    effects = bench.hear(certificate(2, FINALIZE, second.digest()))
    [final] = of_kind(effects, Finalized)
    assert [each.header.height for each in final.blocks] == [1, 2]
    assert [each.certificate is None for each in final.blocks] == [True, False]
    assert not of_kind(bench.hear(certificate(1, FINALIZE, first.digest())), Finalized)


# -- leading ----------------------------------------------------------------------------------------------------------


def test_leader_proposes_at_once_what_the_application_built():
    """A body is checked like anybody's, then proposed: stored and journalled before the proposal and the body leave."""
    bench = Bench(LEADERS[1])
    [request] = of_kind(bench.all, RequestBuild)
    assert (request.view, request.parent, request.height, request.parent_header) == (1, NO_BLOCK, 1, None)
    [check] = of_kind(bench.tell(BodyBuilt(Epoch(0), View(1), BODY, execute(GENESIS_ROOT, BODY))), RequestCheck)
    effects = bench.tell(BodyChecked(check.block, True, check.header.state_root))
    assert [type(effect) for effect in effects][:4] == [StoreBlocks, Persist, Send, Send]
    assert sent(effects, Proposal)[0].header == check.header
    assert sent(effects, BodyMessage) == [BodyMessage(check.block, BODY)]


def test_idle_leader_waits_then_proposes_the_empty_body():
    """With nothing to propose a leader waits the idle interval, then takes an empty body; a nudge asks again at once."""
    parent_ms = START_MS - RULE.block_interval_ms_min
    bench = Bench(LEADERS[1], anchor=Anchor.genesis(GENESIS_ROOT, parent_ms))
    [timer] = of_kind(bench.tell(NothingToBuild(Epoch(0), View(1))), SetTimer)
    assert timer == SetTimer(Timer(TimerKind.IDLE, Epoch(0), View(1)), parent_ms + RULE.idle_interval_ms)
    assert of_kind(bench.tell(Nudge()), RequestBuild)
    bench.tell(NothingToBuild(Epoch(0), View(1)))
    bench.now_ms = timer.at_ms
    [request] = of_kind(bench.fire(TimerKind.IDLE), RequestBuild)
    assert (request.even_empty, request.time_ms) == (True, bench.now_ms)
    [check] = of_kind(bench.tell(BodyBuilt(Epoch(0), View(1), EMPTY_BODY, GENESIS_ROOT)), RequestCheck)
    assert (check.body, check.header.time_ms) == (EMPTY_BODY, request.time_ms)


def test_after_a_silent_leader_nobody_waits_once_more():
    """The parent is older than the idle interval already: the next leader proposes what there is, and asks once."""
    bench = Bench(LEADERS[1], anchor=Anchor.genesis(GENESIS_ROOT, START_MS - RULE.idle_interval_ms))
    [request] = of_kind(bench.tell(NothingToBuild(Epoch(0), View(1))), RequestBuild)
    assert request.even_empty
    assert not of_kind(bench.tell(NothingToBuild(Epoch(0), View(1))), RequestBuild)


def test_a_leader_whose_application_was_not_ready_even_then_asks_again_when_it_is():
    """An epoch's last block waits for its history (consensus/execution.py): a nudge says that it is there, in the same view."""
    bench = Bench(LEADERS[1], anchor=Anchor.genesis(GENESIS_ROOT, START_MS - RULE.idle_interval_ms))
    bench.tell(NothingToBuild(Epoch(0), View(1)))
    bench.tell(NothingToBuild(Epoch(0), View(1)))
    for _ in range(2):  # a nudge for another reason changes nothing
        assert of_kind(bench.tell(Nudge()), RequestBuild)
        [closing] = of_kind(bench.tell(NothingToBuild(Epoch(0), View(1))), RequestBuild)
        assert closing.even_empty
        assert not of_kind(bench.tell(NothingToBuild(Epoch(0), View(1))), RequestBuild)
    assert of_kind(bench.tell(Nudge()), RequestBuild)
    assert of_kind(bench.tell(BodyBuilt(Epoch(0), View(1), EMPTY_BODY, GENESIS_ROOT)), RequestCheck)


def test_a_finalization_shortens_the_view_that_it_finds():
    """Dead leaders before and after one good block: the second costs no more than the first."""
    member = next(index for index in range(4) if index not in (LEADERS[2], LEADERS[3]))
    bench = Bench(member)
    block = header(2, body=EMPTY_BODY, state_root=GENESIS_ROOT)
    this_view = Timer(TimerKind.VIEW, Epoch(0), View(3))

    def timeouts(effects: list[Any]) -> list[int]:
        return [set_.at_ms - START_MS for set_ in of_kind(effects, SetTimer) if set_.timer == this_view]

    effects = bench.hear(certificate(1, NULLIFY), proposal(block, None, (certificate(1, NULLIFY),)))
    [check] = of_kind(effects, RequestCheck)
    bench.tell(BodyChecked(check.block, True, block.state_root))
    effects = bench.hear(certificate(2, NOTARIZE, block.digest()))
    assert timeouts(effects) == [RULE.idle_interval_ms + 3 * (3 * RULE.view_delta_ms // 2)]
    bench.now_ms += 100
    effects = bench.hear(certificate(2, FINALIZE, block.digest()))
    assert timeouts(effects) == [RULE.idle_interval_ms + 3 * RULE.view_delta_ms]


def test_nobody_waits_twice_for_an_idle_leader():
    """A view after one that a dead leader cost is as long as a block takes: the idle interval ran out in the first."""
    bench = Bench(next(index for index in range(4) if index not in (LEADERS[1], LEADERS[2], LEADERS[3])))
    for view, delta_ms in ((2, 3 * RULE.view_delta_ms // 2), (3, 9 * RULE.view_delta_ms // 4)):
        bench.now_ms += RULE.idle_interval_ms
        effects = bench.hear(certificate(view - 1, NULLIFY))
        [patience] = [
            set_.at_ms - bench.now_ms
            for set_ in of_kind(effects, SetTimer)
            if set_.timer == Timer(TimerKind.VIEW, Epoch(0), View(view))
        ]
        assert patience == RULE.block_interval_ms_min + 3 * delta_ms


def test_leader_keeps_the_block_interval():
    """A block follows its parent no sooner than the interval."""
    late = Anchor.genesis(GENESIS_ROOT, START_MS - 100)
    bench = Bench(LEADERS[1], anchor=late)
    assert not of_kind(bench.all, RequestBuild)
    at_ms = START_MS - 100 + RULE.block_interval_ms_min
    assert SetTimer(Timer(TimerKind.PROPOSE, Epoch(0), View(1)), at_ms) in bench.all
    bench.now_ms = at_ms
    assert of_kind(bench.fire(TimerKind.PROPOSE), RequestBuild)


def test_leader_without_its_parent_gives_up_after_delta():
    """A leader that cannot have the parent's body nullifies its view; the others follow at once (honest fast skip)."""
    view = next(v for v in range(2, 40) if LEADERS[v] != LEADERS[v - 1])
    parent = header(view - 1)
    bench = Bench(LEADERS[view])
    bench.hear(*(certificate(skipped, NULLIFY) for skipped in range(1, view - 1)))
    effects = bench.hear(certificate(view - 1, NOTARIZE, parent.digest()))
    assert sent(effects, Want) == [Want((parent.digest(),))]
    assert SetTimer(Timer(TimerKind.SKIP, Epoch(0), View(view)), START_MS + bench.core.statistics().delta_ms) in effects
    assert said(bench.fire(TimerKind.SKIP)) == [(NULLIFY, view)]
    follower = Bench(next(member for member in range(4) if member != LEADERS[view]))
    follower.hear(certificate(view - 1, NOTARIZE, parent.digest()))
    assert said(follower.hear(vote(LEADERS[view], view, NULLIFY)))[0] == (NULLIFY, view)


def test_body_of_an_earlier_view_is_not_proposed():
    """An answer of the application that comes too late is dropped."""
    bench = Bench(LEADERS[1])
    bench.hear(certificate(1, NULLIFY))
    assert bench.tell(BodyBuilt(Epoch(0), View(1), BODY, execute(GENESIS_ROOT, BODY))) == []


# -- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, Reason.MALFORMED),
        ({"roster": NO_BLOCK}, Reason.MALFORMED),
        ({"beacon": NO_BLOCK}, Reason.MALFORMED),
        ({"evidence_root": Digest(b"e" * 32)}, Reason.MALFORMED),
        ({"body_bytes": 2**30}, Reason.TOO_LARGE),
        ({"time_ms": START_MS + 5_001}, Reason.CLOCK_OFF),
        ({"parent": Digest(b"p" * 32)}, Reason.WRONG_ANCESTRY),
        ({"height": Height(2)}, Reason.WRONG_ANCESTRY),
        ({"time_ms": GENESIS_MS}, Reason.WRONG_ANCESTRY),
    ],
)
def test_bad_header_is_nullified_at_once(changes, reason):
    """A proposal that breaks a rule costs its leader the view, and its score."""
    bench, block = Bench(), replace(header(1), **changes)
    effects = bench.hear(proposal(block), BodyMessage(block.digest(), BODY), sender=block.proposer)
    assert said(effects) == [(NULLIFY, 1)]
    assert Score(peer_of(block.proposer), reason) in effects


@pytest.mark.parametrize(("late_ms", "vote_cast"), [(1, NOTARIZE), (2, NULLIFY)])
def test_leader_is_not_to_blame_for_its_parents_time(late_ms, vote_cast):
    """A block right after a certified parent is good, however far ahead of our clock; a millisecond more is CLOCK_OFF."""
    bench, first = Bench(), replace(header(1), time_ms=START_MS + 5_500)
    second = replace(header(2, first), time_ms=first.time_ms + late_ms)
    effects = bench.hear(proposal(second, certificate(1, NOTARIZE, first.digest())), sender=second.proposer)
    effects += bench.hear(BodyMessage(second.digest(), BODY), sender=second.proposer)
    assert not said(effects), "its parent is not here yet"
    effects = bench.take(first)
    if vote_cast is NOTARIZE:
        effects += bench.accept(second)
    assert (vote_cast, 2) in said(effects)
    assert (Score(peer_of(second.proposer), Reason.CLOCK_OFF) in effects) is (vote_cast is NULLIFY)


def test_block_from_the_future_is_taken_once_a_quorum_took_it():
    """A proposal that was too far ahead of our clock is asked for, checked and finalized once it is certified."""
    bench, first = Bench(), replace(header(1), time_ms=START_MS + 5_500)
    effects = bench.hear(proposal(first), BodyMessage(first.digest(), BODY), sender=first.proposer)
    assert said(effects) == [(NULLIFY, 1)]
    effects = bench.hear(certificate(1, NOTARIZE, first.digest()))
    assert sent(effects, Want) == [Want((first.digest(),))]
    assert of_kind(bench.hear(proposal(first), BodyMessage(first.digest(), BODY), sender=0), RequestCheck)
    bench.accept(first)
    assert of_kind(bench.hear(certificate(1, FINALIZE, first.digest())), Finalized)


def test_bad_body_and_bad_state_are_nullified():
    """The application's no, or another state root than the header's, is a NULLIFY."""
    for answer, reason in [
        (BodyChecked(header(1).digest(), False, None, Reason.WRONG_ROOT), Reason.WRONG_ROOT),
        (BodyChecked(header(1).digest(), True, NO_BLOCK), Reason.WRONG_STATE),
    ]:
        bench, block = Bench(), header(1)
        bench.hear(proposal(block), BodyMessage(block.digest(), BODY), sender=block.proposer)
        effects = bench.tell(answer)
        assert said(effects) == [(NULLIFY, 1)]
        assert Score(peer_of(block.proposer), reason) in effects


def test_unavailable_is_asked_again():
    """What the application cannot check yet is neither voted for nor against, and asked again."""
    for again in (Nudge(), TimerFired(Timer(TimerKind.REPAIR, Epoch(0), View(0)))):
        bench, block = Bench(), header(1)
        bench.hear(proposal(block), BodyMessage(block.digest(), BODY), sender=block.proposer)
        assert said(bench.tell(BodyChecked(block.digest(), None))) == []
        assert of_kind(bench.tell(again), RequestCheck)


def test_skipping_a_view_without_nullification_is_refused():
    """The step on which safety rests: each view between parent and block is nullified, by certificates."""
    first = header(1)
    notarized = certificate(1, NOTARIZE, first.digest())
    follower = next(member for member in range(4) if member not in (LEADERS[1], LEADERS[3]))
    block = header(3, first)
    for skipped, votes in [((), [(NULLIFY, 3)]), ((certificate(2, NULLIFY),), [(NOTARIZE, 3)])]:
        bench = Bench(follower)
        bench.take(first)
        bench.hear(notarized, certificate(2, NOTARIZE, Digest(b"x" * 32)))
        assert said(bench.take(block, notarized, skipped)) == votes


def test_proposal_brings_a_straggler_into_its_view():
    """The certificates inside a proposal are enough to vote for it (H1)."""
    first = header(1)
    follower = next(member for member in range(4) if member not in (LEADERS[1], LEADERS[3]))
    bench = Bench(follower)
    bench.hear(proposal(first), BodyMessage(first.digest(), BODY), sender=first.proposer)
    bench.accept(first)
    block = header(3, first)
    votes = said(bench.take(block, certificate(1, NOTARIZE, first.digest()), (certificate(2, NULLIFY),)))
    assert votes == [(FINALIZE, 1), (NOTARIZE, 3)]


@pytest.mark.parametrize(
    ("attached", "reason"),
    [
        (certificate(1, NULLIFY, signers=(0, 1)), Reason.NO_QUORUM),
        (certificate(7, NULLIFY), Reason.WRONG_ANCESTRY),
        (certificate(1, NOTARIZE, Digest(b"x" * 32)), Reason.WRONG_ANCESTRY),
    ],
)
def test_bad_certificates_in_a_proposal_are_refused(attached, reason):
    """Weak or unrelated certificates make a proposal invalid."""
    block = header(3)
    bench = Bench(next(member for member in range(4) if member != LEADERS[3]))
    effects = bench.hear(proposal(block, None, (attached,)), sender=block.proposer)
    assert Score(peer_of(block.proposer), reason) in effects
    assert bench.core.statistics().view == 1


def test_relayed_rubbish_costs_the_relay_not_the_leader():
    """A good header with bad certificates around it proves nothing against the leader when somebody else sends it."""
    block = header(2)
    bench = Bench(next(member for member in range(4) if member != LEADERS[2]))
    bench.hear(certificate(1, NULLIFY))
    relay = next(member for member in range(4) if member != LEADERS[2])
    effects = bench.hear(proposal(block, certificate(1, NOTARIZE, Digest(b"x" * 32))), sender=relay)
    assert of_kind(effects, Score) == [Score(peer_of(relay), Reason.WRONG_ANCESTRY)]
    assert said(effects) == []
    assert said(bench.take(block, None, (certificate(1, NULLIFY),))) == [(NOTARIZE, 2)]


def test_only_the_leader_proposes():
    """A proposal by anybody else is dropped, whoever signed it."""
    other = next(member for member in range(4) if member != LEADERS[1])
    effects = Bench().hear(proposal(header(1, proposer=MemberIndex(other))), sender=other)
    assert effects == [Score(peer_of(other), Reason.WRONG_LEADER)]


def test_second_proposal_is_evidence_and_not_voted_for():
    """A leader that proposes twice is exposed; the first proposal counts."""
    bench, one, two = Bench(), header(1), header(1, time_ms=START_MS + 1)
    assert said(bench.take(one)) == [(NOTARIZE, 1)]
    effects = bench.hear(proposal(two), sender=two.proposer)
    assert Score(peer_of(two.proposer), Reason.EQUIVOCATION) in effects
    assert said(effects) == []


def test_votes_from_afar_blame_nobody():
    """A straggler hears honest votes of far views: it drops them and says nothing."""
    bench = Bench()
    assert bench.hear(vote(0, 66, NULLIFY), vote(1, 10**6, NULLIFY)) == []
    assert bench.core.statistics().votes_far == 2
    assert bench.core.statistics().votes_open == 0


@pytest.mark.parametrize(
    "message",
    [
        replace(vote(0, 1, NULLIFY), signature=vote(1, 1, NULLIFY).signature),
        replace(vote(0, 1, NULLIFY), signer=MemberIndex(77)),
        certificate(1, NULLIFY, signers=(0, 2)),
        replace(certificate(1, NULLIFY), signers=b"\xff"),
        BodyMessage(header(1).digest(), b"another"),
    ],
)
def test_hostile_messages_cost_score_and_nothing_else(message):
    """Forged votes, strangers, weak certificates and wrong bodies change nothing."""
    bench, block = Bench(), header(1)
    bench.hear(proposal(block), sender=block.proposer)
    before = bench.core.statistics()
    effects = bench.hear(message, sender=3)
    assert [type(effect) for effect in effects] == [Score]
    after = bench.core.statistics()
    assert (after.view, after.votes_open, after.blocks_open) == (before.view, before.votes_open, before.blocks_open)


def test_early_bodies_are_bounded():
    """Bodies of unknown blocks are kept one a sender, and nothing else is done."""
    bench = Bench()
    for number in range(100):
        assert bench.hear(BodyMessage(Digest(bytes([number]) * 32), b"x" * 1000), sender=number % 4) == []


# -- timeouts, repetition, repair -------------------------------------------------------------------------------------


def test_timeout_nullifies_and_quorum_of_nullify_leaves_the_view():
    """R7 and R5."""
    bench = Bench()
    assert SetTimer(Timer(TimerKind.VIEW, Epoch(0), View(1)), START_MS + RULE.idle_interval_ms + 3_000) in bench.all
    assert said(bench.fire(TimerKind.VIEW)) == [(NULLIFY, 1)]
    others = [member for member in range(4) if member != FOLLOWER]
    effects = bench.hear(*(vote(member, 1, NULLIFY) for member in others[:2]))
    assert [each.kind for each in sent(effects, Certificate)] == [NULLIFY]
    assert bench.core.statistics().view == 2
    assert bench.core.statistics().views_nullified == 1


def test_timers_of_left_views_say_nothing():
    """A timer that fires after its view was left changes nothing."""
    bench = Bench()
    bench.hear(certificate(1, NULLIFY))
    for kind in TimerKind:
        if kind is not TimerKind.REPAIR:
            assert bench.fire(kind, view=1) == []


def test_timeouts_grow_while_nothing_is_finalized_and_shrink_after():
    """Delta grows by half with each stalled view and is back at its first value after a finalization."""
    bench = Bench()
    deltas = []
    for view in range(1, 8):
        bench.hear(certificate(view, NULLIFY))
        deltas.append(bench.core.statistics().delta_ms)
    assert deltas == [1_500, 2_250, 3_375, 5_062, 7_593, 8_000, 8_000]
    block = header(8)
    bench.take(block, None, tuple(certificate(view, NULLIFY) for view in range(1, 8)))
    bench.hear(certificate(8, NOTARIZE, block.digest()), certificate(8, FINALIZE, block.digest()))
    bench.hear(certificate(9, NULLIFY))
    assert bench.core.statistics().delta_ms == 1_500


def test_retry_says_everything_again():
    """R8: own votes of the view, the certificate that led into it, and where we stand, to everybody."""
    bench = Bench()
    bench.hear(certificate(1, NULLIFY))
    bench.fire(TimerKind.VIEW)
    effects = bench.fire(TimerKind.RETRY)
    assert said(effects) == [(NULLIFY, 2)]
    assert [each.view for each in sent(effects, Certificate)] == [1]
    assert sent(effects, Status) == [Status(Epoch(0), View(0), Height(0), View(2))]
    assert [each.timer.kind for each in of_kind(effects, SetTimer)] == [TimerKind.RETRY]


def test_quiet_retry_is_one_small_message():
    """Whoever is up to date and has said nothing asks one member in turn."""
    bench = Bench()
    targets = []
    for _ in range(8):
        sends = of_kind(bench.fire(TimerKind.RETRY), Send)
        assert len(sends) <= 1
        targets += [each.to for each in sends]
    assert set(targets) == {(peer_of(member),) for member in range(4) if member != FOLLOWER}


def test_status_names_the_first_hole_and_is_answered_with_what_is_missing():
    """A member with a hole in its certificates is pushed exactly from there."""
    ahead, behind = Bench(), Bench()
    ahead.hear(*(certificate(view, NULLIFY) for view in range(1, 6)))
    behind.hear(certificate(1, NULLIFY), certificate(4, NULLIFY))
    behind.fire(TimerKind.VIEW)
    [status] = sent(behind.fire(TimerKind.RETRY), Status)
    assert status.current_view == 2
    effects = ahead.hear(status, sender=1)
    assert {each.to for each in of_kind(effects, Send)} == {(peer_of(1),)}
    pushed = sent(effects, Certificate)
    assert {each.view for each in pushed} == {2, 3, 4, 5}
    behind.hear(*pushed)
    assert behind.core.statistics().view == 6


def test_status_answers_are_bounded():
    """64 certificates an answer, and a budget for each member until the next retry."""
    bench = Bench()
    bench.hear(*(certificate(view, NULLIFY) for view in range(1, 120)))
    status = Status(Epoch(0), View(0), Height(0), View(1))
    counts = [len(of_kind(bench.hear(status, sender=1), Send)) for _ in range(4)]
    assert counts == [64, 64, 0, 0]
    assert len(of_kind(bench.hear(status, sender=2), Send)) == 64


def test_want_is_answered_with_proposal_and_body():
    """Whoever lacks a block gets it as it was proposed, also some time after it was finalized."""
    bench, block = Bench(), header(1)
    bench.take(block)
    bench.hear(certificate(1, FINALIZE, block.digest()))
    effects = bench.hear(Want((block.digest(), NO_BLOCK)), sender=2)
    assert sent(effects, Proposal) == [proposal(block)]
    assert sent(effects, BodyMessage) == [BodyMessage(block.digest(), BODY)]


def test_certified_block_is_fetched_and_then_finalized():
    """A finalization of a block that never came: it is asked for, again after a while, and final when it is here."""
    bench, block = Bench(), header(1)
    effects = bench.hear(certificate(1, FINALIZE, block.digest()))
    assert sent(effects, Want) == [Want((block.digest(),))]
    again = bench.tell(TimerFired(Timer(TimerKind.REPAIR, Epoch(0), View(0))))
    assert sent(again, Want) == [Want((block.digest(),))]
    assert of_kind(again, FetchBlocks) == [FetchBlocks(Height(1), certificate(1, FINALIZE, block.digest()))]
    effects = bench.hear(proposal(block), BodyMessage(block.digest(), BODY), sender=2)
    assert of_kind(effects, Finalized)


def chain_of(length: int) -> list[FinalizedBlock]:
    headers: list[Header] = []
    for view in range(1, length + 1):
        headers.append(header(view, headers[-1] if headers else None))
    blocks = [FinalizedBlock(each, BODY, None) for each in headers]
    final = certificate(length, FINALIZE, headers[-1].digest())
    return [*blocks[:-1], FinalizedBlock(headers[-1], BODY, final)]


def test_observer_follows_by_certificates_alone():
    """Who is not a member votes never, sends nothing, and fetches what a certificate names."""
    bench, blocks = Bench(None), chain_of(20)
    target = blocks[-1].certificate
    effects = bench.hear(target, sender=None)
    assert of_kind(effects, FetchBlocks) == [FetchBlocks(Height(1), target)]
    effects = bench.tell(Synced(check_chain(blocks, ROSTER, CHAIN, RULE, quick_verify)))
    assert [each.header.height for each in of_kind(effects, Finalized)[0].blocks] == list(range(1, 21))
    assert bench.core.anchor.height == 20
    assert not of_kind(bench.all, Send)
    assert not of_kind(bench.all, Persist)


def test_synced_blocks_that_are_known_are_skipped():
    """Heights that are final already are not finalized again."""
    bench, blocks = Bench(None), chain_of(6)
    shorter = [*blocks[:2], replace(blocks[2], certificate=certificate(3, FINALIZE, blocks[2].header.digest()))]
    bench.tell(Synced(tuple(shorter)))
    effects = bench.tell(Synced(tuple(blocks)), Synced(tuple(blocks)))
    assert [[each.header.height for each in final.blocks] for final in of_kind(effects, Finalized)] == [[4, 5, 6]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda blocks: [],
        lambda blocks: blocks[:-1],
        lambda blocks: [blocks[0], *blocks[2:]],
        lambda blocks: [replace(blocks[0], body=b"other"), *blocks[1:]],
        lambda blocks: [*blocks[:-1], replace(blocks[-1], certificate=certificate(3, NOTARIZE, NO_BLOCK))],
        lambda blocks: [
            *blocks[:-1],
            replace(blocks[-1], certificate=certificate(3, FINALIZE, blocks[-1].header.digest(), signers=(0, 1))),
        ],
    ],
)
def test_bad_answers_of_sync_are_rejected(spoil):
    """Links, bodies and the last certificate are checked before blocks become ``Synced``."""
    with pytest.raises(Rejected):
        check_chain(spoil(chain_of(3)), ROSTER, CHAIN, RULE, quick_verify)


def test_conflicting_finalization_halts():
    """Two final blocks that do not extend each other: evidence against more than a third, and the machine stops."""
    bench, one, two = Bench(), header(1), header(2)
    bench.take(one)
    bench.hear(certificate(1, FINALIZE, one.digest()))
    effects = bench.hear(certificate(1, FINALIZE, two.digest()))
    assert of_kind(effects, Halt)
    assert bench.core.statistics().evidence == 4
    assert bench.hear(certificate(9, NULLIFY)) == []
    assert bench.core.statistics().halted


def test_nullification_of_a_final_view_is_evidence():
    """It comes late and changes nothing, but its signers contradicted themselves."""
    bench, block = Bench(), header(1)
    bench.take(block)
    bench.hear(certificate(1, FINALIZE, block.digest()))
    bench.hear(certificate(1, NULLIFY, signers=(0, 1, 2)))
    assert bench.core.statistics().evidence == 3
    assert bench.core.statistics().halted is None


# -- restart ----------------------------------------------------------------------------------------------------------


def restart(bench: Bench, effects: list[Effect], **options: Any) -> Bench:
    """A new machine from what the effects had put on disk."""
    journal = [record for effect in of_kind(effects, Persist) for record in effect.records]
    stored = of_kind(effects, StoreBlocks)
    blocks = tuple(block for effect in stored for block in effect.blocks)
    certificates = tuple(each for effect in stored for each in effect.certificates)
    return Bench(journal=journal, restored=Restored(blocks, certificates), **options)


def test_restart_continues_where_it_stopped():
    """View, certificates and blocks are back; what was voted for is not contradicted, and said again at the retry."""
    bench, block = Bench(), header(1)
    bench.take(block)
    bench.hear(certificate(1, NOTARIZE, block.digest()))
    again = restart(bench, bench.all)
    assert again.core.statistics().view == 2
    assert of_kind(again.all, RequestCheck) == [RequestCheck(block.digest(), block, BODY)]
    assert (FINALIZE, 1) in said(again.fire(TimerKind.RETRY))
    assert of_kind(again.hear(certificate(1, FINALIZE, block.digest())), Finalized)


def test_crash_between_persist_and_send():
    """A vote that was journalled and never sent is not contradicted after the restart; it is sent at the retry."""
    bench, block = Bench(), header(1)
    bench.take(block)
    cut = next(index for index, effect in enumerate(bench.all) if isinstance(effect, Persist)) + 1
    again = restart(bench, bench.all[:cut])
    other = header(1, time_ms=START_MS + 1)
    assert said(again.take(other)) == []
    assert said(again.fire(TimerKind.RETRY)) == [(NOTARIZE, 1)]
    assert sent(again.all, Vote)[-1].block == block.digest()


def test_torn_journal_sits_out_one_view():
    """After a torn record the current view is only given up, also after the next start; the next one is voted in."""
    bench = Bench(state=JournalState.TORN)
    [caution] = of_kind(bench.all, Persist)
    again = Bench(journal=caution.records)  # and dies: the journal looks whole now
    assert said(again.take(header(1))) == []
    assert said(bench.take(header(1))) == []
    assert said(bench.fire(TimerKind.VIEW)) == [(NULLIFY, 1)]
    bench.hear(certificate(1, NULLIFY))
    assert said(bench.take(header(2), None, (certificate(1, NULLIFY),))) == [(NOTARIZE, 2)]


def test_lost_journal_follows_without_voting():
    """A member with an unknown past finalizes what others agree on, says why it does not vote, and signs nothing."""
    bench, block = Bench(state=JournalState.MISSING), header(1)
    bench.take(block)
    bench.fire(TimerKind.VIEW)
    effects = bench.hear(certificate(1, FINALIZE, block.digest()))
    assert of_kind(effects, Finalized)
    assert not of_kind(bench.all, Persist)
    assert bench.core.statistics().refusal


def test_started_comes_first():
    """The shell that forgets it has a bug."""
    core = FinalityCore(STRANGER, ROSTER, NEXT, CHAIN, None, RULE, genesis_anchor())
    with pytest.raises(InvariantBroken):
        core.handle(Nudge(), START_MS)
