"""Epochs, spoken by hand: how one ends, how the next one begins, and what of the one before still counts.

Three heights each. Actors 0 to 3 vote in epoch 0, actors 1 to 4 in epoch 1 with other weights, all five in epoch 2.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from consensus.finality.chain import check_chain
from consensus.finality.core import FinalityCore
from consensus.finality.early import MESSAGES_EARLY_MAX
from consensus.finality.epochs import epoch_of_child
from consensus.finality.events import (
    Anchor,
    BodyBuilt,
    BodyChecked,
    Effect,
    EpochOpened,
    Event,
    Evidence,
    EvidenceKind,
    FetchBlocks,
    Finalized,
    Halt,
    MessageReceived,
    NothingToBuild,
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
from consensus.finality.past import EPOCHS_REMEMBERED_MAX
from consensus.finality.schedule import Schedule
from consensus.finality.signer import VoteSigner
from consensus.finality.tally import build_certificate
from protocol.epochs import is_boundary
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
    GENESIS_ROOT,
    RULE,
    actor_of,
    genesis_anchor,
    make_keys,
    make_roster,
    peer_of,
    quick_verify,
)

HEIGHTS = 3
RULES = replace(RULE, epoch_heights=HEIGHTS)
KEYS = make_keys(6)
ROSTERS = (
    make_roster(KEYS, actors=range(4)),
    make_roster(KEYS, actors=range(1, 5), weights=(1, 1, 1, 2), epoch=1),
    *(make_roster(KEYS, actors=range(5), epoch=epoch) for epoch in range(2, 24)),
)
SCHEDULES = [Schedule(roster, RULES) for roster in ROSTERS]
START_MS = GENESIS_MS + 10_000
NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE


def leader(view: int, epoch: int = 0) -> int:
    """The actor that leads."""
    return actor_of(ROSTERS[epoch].members[SCHEDULES[epoch].leader(View(view))].node)


def vote(actor: int, view: int, kind: VoteKind, block: Digest = NO_BLOCK, epoch: int = 0) -> Vote:
    place = ROSTERS[epoch].find_index(peer_of(actor))
    text = vote_text(CHAIN, epoch, view, kind, block)
    return Vote(
        Epoch(epoch), View(view), kind, block, MemberIndex(99) if place is None else place, KEYS[actor].sign(text)
    )


def certificate(view: int, kind: VoteKind, block: Digest = NO_BLOCK, epoch: int = 0, actors: Any = None) -> Certificate:
    members = [actor_of(member.node) for member in ROSTERS[epoch].members]
    votes = [vote(actor, view, kind, block, epoch) for actor in (actors or members)]
    return build_certificate(votes, ROSTERS[epoch])


def header(view: int, parent: Header | None = None, epoch: int = 0, **changes: Any) -> Header:
    """An empty block; the first of its epoch when its parent is of another, or there is none."""
    first = parent is None or parent.epoch != epoch
    place = ROSTERS[epoch].find_index(peer_of(leader(view, epoch)))
    assert place is not None
    base = Header(
        version=1,
        chain=CHAIN,
        epoch=Epoch(epoch),
        view=View(view),
        height=Height(parent.height + 1 if parent else 1),
        parent=parent.digest() if parent else NO_BLOCK,
        parent_view=View(0) if first or parent is None else parent.view,
        time_ms=parent.time_ms + 1 if parent else START_MS,
        proposer=place,
        body_root=body_root(EMPTY_BODY),
        body_bytes=len(EMPTY_BODY),
        state_root=GENESIS_ROOT,
        roster=ROSTERS[epoch].digest(),
        next_roster=ROSTERS[epoch + 1].digest(),
        beacon=ROSTERS[epoch].beacon,
        evidence_root=Digest(bytes(32)),
    )
    return replace(base, **changes)


def proposal(of: Header, parent: Certificate | None = None, skipped: tuple[Certificate, ...] = ()) -> Proposal:
    epoch = of.epoch
    return Proposal(of, parent, skipped, vote(leader(of.view, epoch), of.view, NOTARIZE, of.digest(), epoch))


def again(of: Header, view: int, notarized: Certificate | None, *nullified: int, by: int | None = None) -> Proposal:
    """A block proposed again in a later view."""
    skipped = tuple(certificate(each, NULLIFY, epoch=of.epoch) for each in nullified)
    actor = leader(view, of.epoch) if by is None else by
    return Proposal(of, notarized, skipped, vote(actor, view, NOTARIZE, of.digest(), of.epoch))


class Bench:
    """A machine of actor ``me`` with an application that accepts everything, at once."""

    def __init__(self, me: int = 1, *, votes: bool = True, **options: Any) -> None:
        anchor = options.pop("anchor", genesis_anchor())
        epoch = epoch_of_child(anchor.height, RULES)
        self.signer = VoteSigner(KEYS[me], CHAIN, ROSTERS[epoch], options.pop("journal", ())) if votes else None
        self.core = FinalityCore(
            peer_of(me),
            ROSTERS[epoch],
            ROSTERS[epoch + 1],
            CHAIN,
            self.signer,
            RULES,
            anchor,
            verify=quick_verify,
            **options,
        )
        self.now_ms = START_MS
        self.all: list[Effect] = []
        self.tell(Started())

    def tell(self, *events: Event) -> list[Effect]:
        """Handle events and let the application answer; the effects in order."""
        effects: list[Effect] = []
        queue = list(events)
        while queue:
            got = self.core.handle(queue.pop(0), self.now_ms)
            effects += got
            checks = [effect for effect in got if isinstance(effect, RequestCheck)]
            queue += [BodyChecked(check.block, True, check.header.state_root) for check in checks]
        self.all += effects
        return effects

    def hear(self, *messages: Any, sender: int | None = 2) -> list[Effect]:
        peer = None if sender is None else peer_of(sender)
        return self.tell(*(MessageReceived(peer, message) for message in messages))

    def fire(self, kind: TimerKind) -> list[Effect]:
        numbers = self.core.statistics()
        if kind is TimerKind.REPAIR:
            return self.tell(TimerFired(Timer(kind, Epoch(0), View(0))))
        return self.tell(TimerFired(Timer(kind, numbers.epoch, numbers.view)))

    def open(self, epoch: int = 1) -> list[Effect]:
        return self.tell(EpochOpened(ROSTERS[epoch], ROSTERS[epoch + 1]))

    def final_through(self, *blocks: Header) -> list[Effect]:
        """Each block proposed by its leader and finalized by everybody."""
        effects = []
        for block in blocks:
            effects += self.hear(proposal(block), sender=leader(block.view, block.epoch))
            effects += self.hear(certificate(block.view, FINALIZE, block.digest(), block.epoch))
        return effects

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and view."""
        numbers = self.core.statistics()
        return numbers.epoch, numbers.view


FIRST = header(1)
SECOND = header(2, FIRST)
BOUNDARY = header(3, SECOND)
CHILD = header(1, BOUNDARY, epoch=1)
ENDS = certificate(3, FINALIZE, BOUNDARY.digest())  # what ends epoch 0
NOTARIZED = certificate(3, NOTARIZE, BOUNDARY.digest())


def of_kind(effects: list[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: list[Effect], kind: type) -> list[Any]:
    return [effect.message for effect in of_kind(effects, Send) if isinstance(effect.message, kind)]


def said(effects: list[Effect]) -> list[tuple[VoteKind, int, int]]:
    return [(each.kind, each.epoch, each.view) for each in sent(effects, Vote)]


def at_boundary(me: int = 1, view: int = 4, **options: Any) -> Bench:
    """A machine that holds the notarized boundary block, accepted but not final, and is in ``view``."""
    bench = Bench(me, **options)
    bench.final_through(FIRST, SECOND)
    bench.hear(proposal(BOUNDARY), sender=leader(3))
    bench.hear(NOTARIZED)
    bench.hear(*(certificate(each, NULLIFY) for each in range(4, view)))
    assert bench.place == (0, view)
    return bench


def at_start(me: int = 1, **options: Any) -> Bench:
    """A machine that has just opened epoch 1."""
    bench = Bench(me, **options)
    bench.final_through(FIRST, SECOND, BOUNDARY)
    bench.open()
    return bench


def follower(view: int, epoch: int = 0) -> int:
    """A member, in both of the first epochs, that does not lead this view."""
    return next(actor for actor in (1, 2, 3) if actor != leader(view, epoch))


# -- heights ----------------------------------------------------------------------------------------------------------


def test_heights_and_epochs():
    """Epoch e covers heights e*L+1 to (e+1)*L; genesis is the end of what was before."""
    assert [epoch_of_child(Height(height), RULES) for height in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [height for height in range(10) if is_boundary(Height(height), RULES.epoch_heights)] == [0, 3, 6, 9]


# -- the end of an epoch ----------------------------------------------------------------------------------------------


def test_boundary_block_ends_the_epoch_and_its_answer_begins_the_next():
    """After the boundary block is final nothing is said until the rosters come; then view 1, its timers, the new leader."""
    bench = Bench()
    effects = bench.final_through(FIRST, SECOND, BOUNDARY)
    assert of_kind(effects, Finalized)[-1].blocks[-1].header == BOUNDARY
    assert bench.hear(vote(2, 4, NULLIFY), certificate(5, NULLIFY)) == []
    assert bench.fire(TimerKind.VIEW) == []
    effects = bench.open()
    assert bench.place == (1, 1)
    timers = [each.timer for each in of_kind(effects, SetTimer)]
    assert {(timer.epoch, timer.view) for timer in timers} == {(1, 1)}
    assert TimerKind.VIEW in [timer.kind for timer in timers]
    assert bench.core.roster == ROSTERS[1]


def test_first_block_stands_on_the_boundary_at_view_zero():
    """Its header names the boundary block, view 0 and the new rosters; the finalization travels along for stragglers."""
    me = leader(1, epoch=1)
    bench = at_start(me)
    bench.now_ms += RULE.block_interval_ms_min
    [request] = of_kind(bench.fire(TimerKind.PROPOSE), RequestBuild)
    assert (request.epoch, request.view, request.parent, request.height) == (1, 1, BOUNDARY.digest(), 4)
    effects = bench.tell(BodyBuilt(Epoch(1), View(1), EMPTY_BODY, GENESIS_ROOT))
    [made] = sent(effects, Proposal)
    named = (made.header.parent, made.header.parent_view, made.header.roster, made.header.next_roster)
    assert named == (BOUNDARY.digest(), 0, ROSTERS[1].digest(), ROSTERS[2].digest())
    assert made.parent_certificate == ENDS
    voter = at_start(follower(1, epoch=1))
    assert said(voter.hear(made, sender=me)) == [(NOTARIZE, 1, 1)]


def test_answers_of_the_epoch_before_are_dropped():
    """A body that was asked for in a view of the old epoch is not taken for one of the same view in the new."""
    bench = at_start(leader(1, epoch=1))
    bench.now_ms += RULE.block_interval_ms_min
    assert of_kind(bench.fire(TimerKind.PROPOSE), RequestBuild)
    assert bench.tell(BodyBuilt(Epoch(0), View(1), b"old", GENESIS_ROOT), NothingToBuild(Epoch(0), View(1))) == []
    old = Timer(TimerKind.VIEW, Epoch(0), View(1))
    assert bench.tell(TimerFired(old)) == []


@pytest.mark.parametrize(
    ("roster", "following"),
    [
        (ROSTERS[0], ROSTERS[1]),
        (ROSTERS[2], ROSTERS[3]),
        (replace(ROSTERS[1], weights=(1, 1, 1, 1)), ROSTERS[2]),
        (ROSTERS[1], ROSTERS[1]),
        (ROSTERS[1], ROSTERS[3]),
    ],
)
def test_rosters_that_no_header_named_stop_the_node(roster, following):
    """An application that says another roster than the headers of the epoch before is a bug of ours."""
    bench = Bench()
    bench.final_through(FIRST, SECOND, BOUNDARY)
    with pytest.raises(InvariantBroken):
        bench.tell(EpochOpened(roster, following))


def test_an_epoch_is_not_opened_before_the_one_before_is_over():
    """Nor after it was opened."""
    with pytest.raises(InvariantBroken):
        Bench().open()
    with pytest.raises(InvariantBroken):
        at_start().open()


@pytest.mark.parametrize("height", [HEIGHTS + 1, 0, 2 * HEIGHTS])
def test_no_header_outside_the_epochs_heights_is_voted_for(height):
    """Above the boundary there is nothing in this epoch."""
    bench = at_boundary(follower(4))
    child = header(4, BOUNDARY, height=Height(height))
    effects = bench.hear(proposal(child, NOTARIZED), sender=leader(4))
    assert said(effects) == [(NULLIFY, 0, 4)]
    assert Score(peer_of(leader(4)), Reason.WRONG_ANCESTRY) in effects


# -- the boundary block proposed again --------------------------------------------------------------------------------


def view_led_by(actor: int, first: int = 4) -> int:
    return next(view for view in range(first, 60) if leader(view) == actor)


def test_leader_proposes_the_boundary_block_again():
    """After the interval, header unchanged, with its notarization and what was nullified since; stored before it leaves."""
    view = view_led_by(1)
    bench = at_boundary(1, view)
    bench.now_ms += RULE.block_interval_ms_min
    effects = bench.fire(TimerKind.PROPOSE)
    [made] = sent(effects, Proposal)
    assert made.header == BOUNDARY
    assert made.parent_certificate == NOTARIZED
    assert [each.view for each in made.nullifications] == list(range(4, view))
    assert (made.vote.view, made.vote.block, made.vote.kind) == (view, BOUNDARY.digest(), NOTARIZE)
    assert [type(effect) for effect in effects][:3] == [StoreBlocks, Persist, Send]
    assert not sent(effects, BodyMessage)
    assert bench.core.statistics().blocks_proposed_again == 1
    voter = at_boundary(follower(view), view)
    assert said(voter.hear(made, sender=1)) == [(NOTARIZE, 0, view)]


def test_leader_waits_for_the_finalization_that_is_on_its_way():
    """It comes within the interval as a rule, and nothing is proposed again."""
    view = view_led_by(1)
    bench = at_boundary(1, view)
    assert not sent(bench.all, Proposal)
    assert of_kind(bench.hear(ENDS), Finalized)
    bench.now_ms += RULE.block_interval_ms_min
    assert bench.fire(TimerKind.PROPOSE) == []


def test_boundary_block_is_final_in_the_view_in_which_it_was_proposed_again():
    """The certificate's view is later than the header's; the epoch is over, as if it had been the first view."""
    view = 6
    bench = at_boundary(follower(view), view)
    bench.hear(again(BOUNDARY, view, NOTARIZED, 4, 5), sender=leader(view))
    effects = bench.hear(certificate(view, NOTARIZE, BOUNDARY.digest()))
    assert (FINALIZE, 0, view) in said(effects)
    ends = certificate(view, FINALIZE, BOUNDARY.digest())
    [final] = of_kind(bench.hear(ends), Finalized)
    assert (final.blocks[-1].header, final.blocks[-1].certificate) == (BOUNDARY, ends)
    bench.open()
    assert bench.place == (1, 1)
    assert said(bench.hear(proposal(CHILD, ends), sender=leader(1, 1)))[:1] == [(NOTARIZE, 1, 1)]


def test_it_is_notarized_by_whoever_had_never_seen_it():
    """The re-proposal alone brings certificates, header and (asked for) body."""
    bench = Bench(follower(5))
    bench.final_through(FIRST, SECOND)
    effects = bench.hear(again(BOUNDARY, 5, NOTARIZED, 4), sender=leader(5))
    assert bench.place == (0, 5)
    assert (NOTARIZE, 0, 5) in said(effects)
    assert (FINALIZE, 0, 3) in said(effects), "its own view's notarization was news too"


def test_weak_notarization_is_refused():
    """A re-proposal is worth what its certificate is."""
    bench = Bench(follower(5))
    bench.final_through(FIRST, SECOND)
    weak = certificate(3, NOTARIZE, BOUNDARY.digest(), actors=(0, 1))
    effects = bench.hear(again(BOUNDARY, 5, weak, 4), sender=leader(5))
    assert Score(peer_of(leader(5)), Reason.NO_QUORUM) in effects
    assert bench.place == (0, 3)


def test_it_may_be_proposed_again_and_again():
    """The last notarization counts, in whichever view it was."""
    bench = at_boundary(follower(7), 5)
    bench.hear(certificate(5, NOTARIZE, BOUNDARY.digest()), certificate(6, NULLIFY))
    good = again(BOUNDARY, 7, certificate(5, NOTARIZE, BOUNDARY.digest()), 6)
    assert said(bench.hear(good, sender=leader(7))) == [(NOTARIZE, 0, 7)]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (again(BOUNDARY, 6, NOTARIZED, 4), Reason.WRONG_ANCESTRY),  # view 5 was stepped over
        (again(BOUNDARY, 6, None, 4, 5), Reason.WRONG_ANCESTRY),
        (again(BOUNDARY, 6, certificate(3, NULLIFY), 4, 5), Reason.WRONG_ANCESTRY),
        (
            again(BOUNDARY, 6, certificate(2, NOTARIZE, BOUNDARY.digest()), 3, 4, 5),
            Reason.WRONG_ANCESTRY,
        ),  # before its view
        (again(BOUNDARY, 6, certificate(3, NOTARIZE, SECOND.digest()), 4, 5), Reason.WRONG_ANCESTRY),
        (again(replace(BOUNDARY, time_ms=START_MS + 9), 6, NOTARIZED, 4, 5), Reason.WRONG_ANCESTRY),  # another block
        (again(SECOND, 6, certificate(2, NOTARIZE, SECOND.digest()), 3, 4, 5), Reason.MALFORMED),  # no boundary
    ],
)
def test_bad_re_proposals_are_refused(made, reason):
    """Each lacks something of what makes it safe, and costs its leader the view."""
    bench = at_boundary(follower(6), 5)
    bench.hear(certificate(5, NOTARIZE, Digest(b"x" * 32)))
    assert bench.place == (0, 6)
    effects = bench.hear(made, sender=leader(6))
    assert Score(peer_of(leader(6)), reason) in effects
    assert not [each for each in said(effects) if each[0] is NOTARIZE]


def test_only_the_views_leader_proposes_again():
    """Whoever proposed it first is nobody special later."""
    view = next(view for view in range(4, 40) if leader(view) != leader(3) and follower(view) != leader(3))
    bench = at_boundary(follower(view), view)
    made = again(BOUNDARY, view, NOTARIZED, *range(4, view), by=leader(3))
    assert bench.hear(made, sender=leader(3)) == [Score(peer_of(leader(3)), Reason.WRONG_LEADER)]


def test_boundary_block_changed_is_refused():
    """A new block of the same height in a later view needs a nullification of the view in which the first was notarized."""
    bench = at_boundary(follower(4))
    other = header(4, SECOND)
    effects = bench.hear(proposal(other), sender=leader(4))
    assert said(effects) == [(NULLIFY, 0, 4)]
    assert Score(peer_of(leader(4)), Reason.WRONG_ANCESTRY) in effects


def test_leader_that_proposes_again_and_anew_is_exposed():
    """Its two NOTARIZE of one view are E1 like any others."""
    bench = at_boundary(follower(4))
    bench.hear(again(BOUNDARY, 4, NOTARIZED), sender=leader(4))
    effects = bench.hear(proposal(header(4, SECOND)), sender=leader(4))
    assert [(each.kind, each.validator) for each in of_kind(effects, Evidence)] == [
        (EvidenceKind.E1, peer_of(leader(4)))
    ]


def test_re_proposal_of_a_block_whose_body_is_missing():
    """It is wanted already, as a certified block; the proposal that comes again is voted for when the body is here."""
    body = b"a body"
    heavy = header(3, SECOND, body_root=body_root(body), body_bytes=len(body))
    bench = Bench(follower(4))
    bench.final_through(FIRST, SECOND)
    bench.hear(proposal(heavy), sender=leader(3))
    notarized = certificate(3, NOTARIZE, heavy.digest())
    assert sent(bench.hear(notarized), Want) == [Want((heavy.digest(),))]
    assert not said(bench.hear(again(heavy, 4, notarized), sender=leader(4)))
    effects = bench.hear(BodyMessage(heavy.digest(), body), sender=2)
    assert {(NOTARIZE, 0, 4), (FINALIZE, 0, 3)} <= set(said(effects))


def test_lost_re_proposal_is_asked_for():
    """The leader's vote for a block that we know, in a view that it was not proposed in before us, says that we missed it."""
    view = 4
    bench = at_boundary(follower(view))
    effects = bench.hear(vote(leader(view), view, NOTARIZE, BOUNDARY.digest()), sender=leader(view))
    assert [each.to for each in of_kind(effects, Send)] == [(peer_of(leader(view)),)]
    assert sent(effects, Want) == [Want((BOUNDARY.digest(),))]


# -- members come and go ----------------------------------------------------------------------------------------------


def test_member_that_left_falls_silent():
    """It follows, and says nothing: neither votes nor its place."""
    bench = at_start(0)
    effects = bench.fire(TimerKind.VIEW) + bench.fire(TimerKind.RETRY)
    assert not of_kind(effects, Send)
    assert not of_kind(effects, Persist)
    final = certificate(1, FINALIZE, CHILD.digest(), epoch=1)
    bench.hear(proposal(CHILD, ENDS), sender=leader(1, 1))
    assert of_kind(bench.hear(final, sender=None), Finalized)


def test_newcomer_votes():
    """An observer of epoch 0 is a member of epoch 1, by its vote key, with the weight of epoch 1."""
    bench = Bench(4)
    bench.final_through(FIRST, SECOND)
    assert not of_kind(bench.all, Send)
    bench.final_through(BOUNDARY)
    blocks = [FinalizedBlock(each, EMPTY_BODY, None) for each in (FIRST, SECOND)] + [
        FinalizedBlock(BOUNDARY, EMPTY_BODY, ENDS)
    ]
    bench.tell(Synced(check_chain(blocks, ROSTERS[0], CHAIN, RULES, quick_verify)))
    bench.open()
    assert said(bench.hear(proposal(CHILD, ENDS), sender=leader(1, 1))) == [(NOTARIZE, 1, 1)]
    heavy = certificate(1, NOTARIZE, CHILD.digest(), epoch=1, actors=(1, 2, 4))
    assert bench.hear(heavy)
    assert bench.place == (1, 2)


def test_whoever_comes_in_is_told_of_the_boundary():
    """Members of the epoch before tell the newcomers, whom nobody has told anything so far."""
    bench = Bench(1)
    bench.final_through(FIRST, SECOND, BOUNDARY)
    told = [each for each in of_kind(bench.open(), Send) if each.to == (peer_of(4),)]
    assert [each.message for each in told] == [ENDS]


def test_member_under_another_vote_key_does_not_vote_and_says_why():
    """The roster is right: a key that it does not name for this node signs nothing, even if another member's it is."""
    signer = VoteSigner(KEYS[2], CHAIN, ROSTERS[0])
    core = FinalityCore(peer_of(1), ROSTERS[0], ROSTERS[1], CHAIN, signer, RULES, genesis_anchor(), verify=quick_verify)
    core.handle(Started(), START_MS)
    effects = core.handle(TimerFired(Timer(TimerKind.VIEW, Epoch(0), View(1))), START_MS)
    assert not of_kind(effects, Persist)
    assert core.statistics().refusal == "the roster has another vote key for this node"


def test_signer_of_another_epoch_stops_the_start():
    """It would sign for an epoch that is not open."""
    signer = VoteSigner(KEYS[1], CHAIN, ROSTERS[1])
    with pytest.raises(InvariantBroken):
        FinalityCore(peer_of(1), ROSTERS[0], ROSTERS[1], CHAIN, signer, RULES, genesis_anchor())


def test_votes_of_members_that_left_count_for_nothing():
    """Neither under their old place nor as themselves."""
    bench = at_start(1)
    text = vote_text(CHAIN, 1, 1, NULLIFY, NO_BLOCK)
    forged = Vote(Epoch(1), View(1), NULLIFY, NO_BLOCK, MemberIndex(0), KEYS[0].sign(text))
    assert Score(peer_of(0), Reason.BAD_SIGNATURE) in bench.hear(forged, sender=0)
    before = bench.core.statistics().votes_open
    stranger = replace(forged, signer=MemberIndex(9))
    assert Score(peer_of(0), Reason.NOT_A_MEMBER) in bench.hear(stranger, sender=0)
    assert bench.core.statistics().votes_open == before


def test_weights_are_the_new_epochs():
    """Three of four members are a quorum in epoch 0 and not always in epoch 1, where one has two fifths."""
    bench = at_start(1)
    light = certificate(1, NULLIFY, epoch=1, actors=(1, 2, 3))
    assert Score(peer_of(2), Reason.NO_QUORUM) in bench.hear(light)
    assert bench.place == (1, 1)


# -- across the boundary ----------------------------------------------------------------------------------------------


def test_proposal_of_the_next_epoch_ends_this_one():
    """It brings the finalization of the boundary; once the epoch is open it is voted for, though it came before."""
    bench = Bench(follower(1, epoch=1))
    bench.final_through(FIRST, SECOND)
    bench.hear(proposal(BOUNDARY), sender=leader(3))
    effects = bench.hear(proposal(CHILD, ENDS), sender=leader(1, epoch=1))
    assert of_kind(effects, Finalized)
    assert (NOTARIZE, 1, 1) in said(bench.open())


def test_early_messages_are_bounded_and_of_members_only():
    """Members of the next epoch are kept, a few messages each; strangers are not."""
    bench = Bench(1)
    bench.final_through(FIRST, SECOND)
    for view in range(1, 30):
        bench.hear(vote(4, view, NULLIFY, epoch=1), sender=4)
        bench.hear(vote(3, view, NULLIFY, epoch=1), sender=5)
    bench.final_through(BOUNDARY)
    bench.open()
    assert bench.core.statistics().votes_open == at_start(1).core.statistics().votes_open + MESSAGES_EARLY_MAX


def test_claims_of_later_epochs_cost_one_question_a_period():
    """However many there are: the sync protocol is asked once, with no target, and nobody is blamed."""
    bench = Bench(1)
    effects = []
    for number in range(20):
        effects += bench.hear(replace(certificate(5, FINALIZE, SECOND.digest()), epoch=Epoch(10**6 + number)))
        effects += bench.hear(replace(vote(2, 3, NULLIFY), epoch=Epoch(1)))
    assert [type(each) for each in effects] == [SetTimer]
    assert of_kind(bench.fire(TimerKind.REPAIR), FetchBlocks) == [FetchBlocks(Height(1), None)]
    assert not of_kind(bench.fire(TimerKind.REPAIR), FetchBlocks)
    assert bench.core.statistics().rejections == 0


def test_silence_too_is_a_reason_to_ask():
    """A view that outlives its timer may be one that everybody has left, with the epoch: then nobody answers Status."""
    bench = Bench(1)
    bench.fire(TimerKind.RETRY)
    assert not of_kind(bench.fire(TimerKind.REPAIR), FetchBlocks)
    bench.now_ms += RULE.idle_interval_ms + 3 * RULE.view_delta_ms + 1
    bench.fire(TimerKind.RETRY)
    assert of_kind(bench.fire(TimerKind.REPAIR), FetchBlocks) == [FetchBlocks(Height(1), None)]


def test_straggler_is_shown_the_way_out_of_its_epoch():
    """A Status of an older epoch is answered with the finalization of that epoch's boundary, also to a member that left."""
    bench = at_start(1)
    status = Status(Epoch(0), View(1), Height(1), View(2))
    for sender in (0, 2):
        [answer] = of_kind(bench.hear(status, sender=sender), Send)
        assert (answer.to, answer.message) == ((peer_of(sender),), ENDS)
    behind = Bench(0)
    behind.final_through(FIRST, SECOND)
    behind.hear(proposal(BOUNDARY), sender=leader(3))
    assert of_kind(behind.hear(ENDS), Finalized)


def test_answers_to_strangers_are_bounded():
    """Whoever is no member is answered a few times until the next retry."""
    bench = at_start(1)
    status = Status(Epoch(0), View(1), Height(1), View(2))
    assert len(of_kind(bench.hear(*[status] * 50, sender=5), Send)) == 2
    for stranger in range(10, 250):
        bench.hear(status, sender=stranger)
    assert len(of_kind(bench.hear(*[status] * 2, sender=251), Send)) == 0


def test_status_of_a_later_epoch_is_answered_with_ours():
    """So that its sender shows us the way out."""
    bench = Bench(1)
    [answer] = of_kind(bench.hear(Status(Epoch(1), View(0), Height(3), View(1)), sender=4), Send)
    assert answer.to == (peer_of(4),)
    assert answer.message.epoch == 0


def test_boundaries_are_kept_for_some_epochs_only():
    """The last sixteen; whoever is further behind uses the sync protocol."""
    bench, parent = Bench(1), None
    for epoch in range(EPOCHS_REMEMBERED_MAX + 2):
        blocks = []
        for view in range(1, HEIGHTS + 1):
            blocks.append(header(view, blocks[-1] if blocks else parent, epoch))
        parent = blocks[-1]
        run = [FinalizedBlock(each, EMPTY_BODY, None) for each in blocks]
        run[-1] = replace(run[-1], certificate=certificate(HEIGHTS, FINALIZE, parent.digest(), epoch))
        bench.tell(Synced(check_chain(run, ROSTERS[epoch], CHAIN, RULES, quick_verify)))
        bench.open(epoch + 1)
    answered = []
    for epoch in range(EPOCHS_REMEMBERED_MAX + 2):
        bench.fire(TimerKind.RETRY)
        if sent(bench.hear(Status(Epoch(epoch), View(0), Height(0), View(1)), sender=2), Certificate):
            answered.append(epoch)
    assert answered == list(range(2, EPOCHS_REMEMBERED_MAX + 2))


def test_late_votes_of_the_epoch_before_are_evidence():
    """A contradiction near the boundary is seen after it too, by the old roster's places and keys."""
    bench = at_start(1)
    effects = bench.hear(vote(0, 3, NULLIFY))
    assert [(each.kind, each.validator) for each in of_kind(effects, Evidence)] == [(EvidenceKind.E3, peer_of(0))]
    assert Score(peer_of(0), Reason.EQUIVOCATION) in effects
    assert not of_kind(bench.hear(vote(0, 3, NULLIFY)), Evidence)
    bad = replace(vote(2, 3, NULLIFY), signature=vote(3, 3, NULLIFY).signature)
    assert of_kind(bench.hear(bad, sender=3), Score) == [Score(peer_of(3), Reason.BAD_SIGNATURE)]


def test_another_boundary_block_halts():
    """A finalization of the epoch before of any other block; one of the boundary block in another view is fine."""
    bench = at_start(1)
    assert not of_kind(bench.hear(certificate(4, FINALIZE, BOUNDARY.digest())), Halt)
    assert of_kind(bench.hear(certificate(5, FINALIZE, header(5, SECOND).digest())), Halt)


def test_fork_at_a_boundary_is_seen_by_whoever_hears_the_other_sides_first_block():
    """Its proposal brings the finalization of the boundary block that it stands on."""
    bench = at_start(follower(1, epoch=1))
    other = header(4, SECOND)
    first = header(1, other, epoch=1)
    effects = bench.hear(proposal(first, certificate(4, FINALIZE, other.digest())), sender=leader(1, epoch=1))
    assert of_kind(effects, Halt)
    assert {each.validator for each in of_kind(effects, Evidence)} == set()
    bench = at_start(follower(1, epoch=1))
    other = replace(BOUNDARY, time_ms=START_MS + 77)
    first = header(1, other, epoch=1)
    effects = bench.hear(proposal(first, certificate(3, FINALIZE, other.digest())), sender=leader(1, epoch=1))
    assert len(of_kind(effects, Evidence)) == 4


def test_certificates_of_the_epoch_before_prove_nothing_in_this_one():
    """They neither move the view nor stand under a block, but for the boundary under the first."""
    bench = at_start(follower(1, epoch=1))
    bench.hear(certificate(1, NULLIFY), certificate(2, NOTARIZE, SECOND.digest()))
    assert bench.place == (1, 1)
    for wrong in (NOTARIZED, certificate(2, FINALIZE, SECOND.digest()), replace(ENDS, epoch=Epoch(7))):
        bench = at_start(follower(1, epoch=1))
        effects = bench.hear(proposal(CHILD, wrong), sender=leader(1, epoch=1))
        assert Score(peer_of(leader(1, epoch=1)), Reason.WRONG_ANCESTRY) in effects
        assert said(effects) == [(NULLIFY, 1, 1)]


@pytest.mark.parametrize("field", ["roster", "next_roster"])
def test_headers_name_both_rosters(field):
    """A block with another roster, or another next one, is refused."""
    bench = at_start(follower(1, epoch=1))
    effects = bench.hear(proposal(replace(CHILD, **{field: ROSTERS[0].digest()}), ENDS), sender=leader(1, epoch=1))
    assert Score(peer_of(leader(1, epoch=1)), Reason.MALFORMED) in effects


# -- restart ----------------------------------------------------------------------------------------------------------


def restored_of(effects: list[Effect]) -> tuple[list[bytes], Restored]:
    journal = [record for effect in of_kind(effects, Persist) for record in effect.records]
    stored = of_kind(effects, StoreBlocks)
    blocks = tuple(block for effect in stored for block in effect.blocks)
    certificates = tuple(each for effect in stored for each in effect.certificates)
    return journal, Restored(blocks, certificates)


def test_restart_right_before_the_boundary_is_final():
    """The block, its notarization and the view are back; proposed again, it is voted for and final."""
    before = at_boundary(follower(4))
    journal, restored = restored_of(before.all)
    bench = Bench(
        follower(4),
        journal=journal,
        restored=restored,
        anchor=Anchor.of(SECOND, certificate(2, FINALIZE, SECOND.digest())),
    )
    assert bench.place == (0, 4)
    assert (NOTARIZE, 0, 4) in said(bench.hear(again(BOUNDARY, 4, NOTARIZED), sender=leader(4)))
    assert of_kind(bench.hear(certificate(4, FINALIZE, BOUNDARY.digest())), Finalized)


def test_restart_on_the_boundary_is_in_the_next_epoch():
    """Between Finalized and the next epoch's first effect: nothing of the old epoch comes back but its finalization."""
    before = Bench(follower(1, epoch=1))
    before.final_through(FIRST, SECOND, BOUNDARY)
    journal, restored = restored_of(before.all)
    bench = Bench(follower(1, epoch=1), journal=journal, restored=restored, anchor=Anchor.of(BOUNDARY, ENDS))
    assert bench.place == (1, 1)
    assert bench.core.statistics().certificates_open == bench.core.statistics().blocks_open == 0
    assert said(bench.hear(proposal(CHILD, ENDS), sender=leader(1, epoch=1))) == [(NOTARIZE, 1, 1)]
    assert sent(bench.hear(Status(Epoch(0), View(1), Height(1), View(2)), sender=0), Certificate) == [ENDS]


def test_restart_after_the_boundary_remembers_its_votes():
    """What was said in the first views of the new epoch binds, and the shell brings the last boundary back."""
    me = follower(1, epoch=1)
    before = at_start(me)
    before.hear(proposal(CHILD, ENDS), sender=leader(1, epoch=1))
    journal, restored = restored_of(before.all)
    bench = Bench(me, journal=journal, restored=restored, anchor=Anchor.of(BOUNDARY, ENDS))
    assert not said(bench.hear(proposal(replace(CHILD, time_ms=START_MS + 99), ENDS), sender=leader(1, epoch=1)))
    final = certificate(1, FINALIZE, CHILD.digest(), epoch=1)
    later = Bench(
        me,
        journal=journal,
        restored=Restored(restored.blocks, restored.certificates, (ENDS,)),
        anchor=Anchor.of(CHILD, final),
    )
    assert later.place == (1, 2)
    assert sent(later.hear(Status(Epoch(0), View(1), Height(1), View(2)), sender=0), Certificate) == [ENDS]


def test_a_roster_of_another_epoch_than_the_anchors_child_stops_the_start():
    """The shell that restores the old roster on a boundary has a bug; so has one whose roster is not the headers'."""
    for anchor, roster, following in (
        (Anchor.of(BOUNDARY, ENDS), ROSTERS[0], ROSTERS[1]),
        (Anchor.of(FIRST, None), ROSTERS[1], ROSTERS[2]),
        (Anchor.of(BOUNDARY, ENDS), replace(ROSTERS[1], weights=(9, 9, 9, 9)), ROSTERS[2]),
        (Anchor.of(FIRST, None), ROSTERS[0], replace(ROSTERS[1], weights=(9, 9, 9, 9))),
    ):
        with pytest.raises(InvariantBroken):
            FinalityCore(peer_of(1), roster, following, CHAIN, None, RULES, anchor, verify=quick_verify)


# -- the sync protocol ------------------------------------------------------------------------------------------------


def chain_to(*headers: Header, ends: Certificate) -> list[FinalizedBlock]:
    blocks = [FinalizedBlock(each, EMPTY_BODY, None) for each in headers]
    return [*blocks[:-1], replace(blocks[-1], certificate=ends)]


def test_chain_may_end_with_a_boundary_that_was_proposed_again():
    """Its certificate is of a later view than its header; for no other block is that allowed."""
    late = certificate(9, FINALIZE, BOUNDARY.digest())
    assert check_chain(chain_to(FIRST, SECOND, BOUNDARY, ends=late), ROSTERS[0], CHAIN, RULES, quick_verify)
    for headers, ends in (
        ((FIRST, SECOND), certificate(9, FINALIZE, SECOND.digest())),
        ((FIRST, SECOND, BOUNDARY), certificate(2, FINALIZE, BOUNDARY.digest())),
    ):
        with pytest.raises(Rejected, match="another block's"):
            check_chain(chain_to(*headers, ends=ends), ROSTERS[0], CHAIN, RULES, quick_verify)


def test_chain_of_another_epoch_is_nobodys_fault():
    """It answers what we asked before we crossed the boundary; a run across a boundary is refused the same way."""
    final = certificate(1, FINALIZE, CHILD.digest(), epoch=1)
    for headers, roster in (((BOUNDARY, CHILD), ROSTERS[1]), ((CHILD,), ROSTERS[0])):
        with pytest.raises(Rejected) as caught:
            check_chain(chain_to(*headers, ends=final), roster, CHAIN, RULES, quick_verify)
        assert caught.value.reason is Reason.WRONG_EPOCH


def test_synced_blocks_of_the_epoch_before_change_nothing():
    """An answer that was checked just before the boundary and arrives just after it."""
    bench = at_start(1)
    assert bench.tell(Synced(tuple(chain_to(FIRST, SECOND, BOUNDARY, ends=ENDS)))) == []
