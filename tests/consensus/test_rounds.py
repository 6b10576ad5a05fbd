"""One round machine, event by event: what it starts, waits for, tries again, forgets and reports."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from consensus import events as e
from consensus.engine import Engine
from consensus.execution import Execution
from consensus.finality.core import FinalityCore
from consensus.finality.events import Anchor, Started
from consensus.rounds import (
    AGAIN,
    ANNOUNCERS_MAX,
    ROUNDS_STOOD,
    SILENCE,
    STANDBY_COLLECTS,
    STRANGERS_PER_TILE_MAX,
    UNHEARD,
    RoundMachine,
)
from consensus.state import State, tile_heads
from protocol.digest import blob_digest
from protocol.finality import NO_BLOCK
from protocol.ids import Epoch, Height, PeerId, Round, TileId, Version
from protocol.rejection import Reason
from protocol.roster import Decided, Head, Slot
from simnet.finality.genesis import quick_verify
from tests.consensus.genesis import BLOCK_RULES, CHAIN, CHAIN_RULE, ROUND_MS, TILES, learning_rule
from tests.consensus.samples import GENESIS, ROSTER, RULES, STRANGERS, TILE, extend, make_head, member, refer, tile_at

ORDER = [member(index) for index in RULES.order(TILE)]  # the primary of TILE and its standbys
OWNER, STANDBY = ORDER[0], ORDER[1]
LEARNER = ORDER[3]


def share(thousandths: int) -> int:
    return ROUND_MS * thousandths // 1000


def make_delta(learner: PeerId, base: int = 0, tile: TileId = TILE, salt: bytes = b"") -> e.Delta:
    """The same name as ``samples.refer`` gives on the same learner, base and salt; other tiles get a salt."""
    name = salt if tile == TILE else tile.encode() + salt
    return e.Delta(tile, Version(base), Round(base), learner, refer(learner, base, salt=name).delta, 100)


def make_machine(me: PeerId, state: State = GENESIS, *, connected: Iterable[PeerId] = ORDER, **more) -> RoundMachine:
    """A machine to which the others are connected; not started."""
    machine = RoundMachine(me, RULES, learning_rule(), tile_heads(state, TILES), **{"learns": True, **more})
    for peer in connected:
        if peer != me:
            machine.handle(e.PeerConnected(peer), 0)
    return machine


def started(me: PeerId, state: State = GENESIS, **more) -> tuple[RoundMachine, list]:
    machine = make_machine(me, state, **more)
    return machine, machine.start(0)


def of(kind: type, effects: Iterable[object]) -> list:
    return [effect for effect in effects if isinstance(effect, kind)]


def decide(machine: RoundMachine, *heads: Head, now: int = 100) -> list:
    """Heads become final and are applied."""
    effects = machine.decide([Decided(head.slot, head, Height(1)) for head in heads], now)
    return effects + machine.handle(e.TilesApplied(tuple(head.slot for head in heads)), now)


def all_heads(state: State = GENESIS, **more) -> list[Head]:
    """One good head for every tile."""
    heads = []
    for tile in TILES:
        salt = b"" if tile == TILE else tile.encode()
        heads.append(make_head(state, tile, [refer(member(0), tile_at(state, tile).version, salt=salt)], **more))
    return heads


def learn(machine: RoundMachine, effects: list, *, now: int = 100, tiles: Iterable[TileId] = TILES) -> list:
    """The learner finishes what it was asked for."""
    (start,) = of(e.StartLearning, effects)
    deltas = tuple(
        make_delta(machine._me, base, tile)
        for tile, base in start.bases
        if tile in tiles and tile not in start.withheld
    )
    return machine.handle(e.LearnDone(start.round, deltas), now)


# -- a round ------------------------------------------------------------------------------------------------------------


def test_a_round_opens_learns_and_delivers_to_the_primaries():
    """Round 0: announced, learned from genesis; each delta goes to the owner of its tile and to nobody else."""
    machine, effects = started(LEARNER)
    assert [effect.round for effect in of(e.RoundOpened, effects) + of(e.Announce, effects)] == [0, 0]
    sent = of(e.DeliverDeltas, learn(machine, effects))
    by_owner = {effect.owner: len(effect.deltas) for effect in sent}
    assert all(owner in {member(RULES.order(tile)[0]) for tile in TILES} for owner in by_owner)


def test_an_owner_merges_when_all_whom_it_expects_have_delivered():
    """With three of four deltas it waits; with the fourth it merges all of them."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    others = [peer for peer in ORDER if peer != OWNER]
    for peer in others[:2]:
        assert not of(e.StartMerge, machine.handle(e.DeltasArrived((make_delta(peer),)), 200))
    (merge,) = [
        each
        for each in of(e.StartMerge, machine.handle(e.DeltasArrived((make_delta(others[2]),)), 200))
        if each.slot.tile == TILE
    ]
    assert (merge.slot, merge.attempt, len(merge.deltas)) == (Slot(TILE, 1), 0, 4)


def test_an_owner_waits_for_a_learner_that_left_no_longer():
    """When the last missing learner's connection is lost, the merge starts at once."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    others = [peer for peer in ORDER if peer != OWNER]
    machine.handle(e.DeltasArrived(tuple(make_delta(peer) for peer in others[:2])), 200)
    assert of(e.StartMerge, machine.handle(e.PeerLost(others[2]), 300))


def test_at_the_deadline_an_owner_merges_what_it_has():
    """The timer is set for the deadline, and there the merge starts with one delta."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    assert not of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS - 1))
    (merge,) = [m for m in of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS)) if m.slot.tile == TILE]
    assert [reference.learner for reference in merge.deltas] == [OWNER]


@pytest.mark.parametrize(
    ("age_ms", "deadline"),
    [
        (0, ROUND_MS),
        (ROUND_MS // 4, ROUND_MS - ROUND_MS // 4),
        (ROUND_MS, share(STANDBY_COLLECTS)),
        (ROUNDS_STOOD * ROUND_MS, share(STANDBY_COLLECTS)),
        (ROUNDS_STOOD * ROUND_MS + 1, ROUND_MS),
    ],
)
def test_who_comes_back_in_the_middle_of_a_round_has_the_rest_of_it(age_ms, deadline):
    """And at least what a standby has to collect; where nothing was decided for long, the round begins anew."""
    machine = make_machine(OWNER)
    learn(machine, machine.start(0, age_ms), now=1)
    assert not of(e.StartMerge, machine.handle(e.RoundTimer(), deadline - 1))
    assert TILE in [merge.slot.tile for merge in of(e.StartMerge, machine.handle(e.RoundTimer(), deadline))]


def test_a_late_announcement_is_not_waited_for():
    """A learner that announces itself in the last part of a round joins the next one; this one does not wait."""
    machine, _ = started(OWNER)
    decide(machine, *all_heads())
    machine.handle(e.RoundAnnounced(LEARNER, Round(1)), 100 + share(500))
    assert machine.statistics().expected_learners == 1  # we ourselves
    machine.handle(e.RoundAnnounced(ORDER[2], Round(1)), 100 + share(300))
    assert machine.statistics().expected_learners == 2
    machine.handle(e.RoundAnnounced(LEARNER, Round(2)), 100 + share(600))
    assert machine.statistics().expected_learners == 3


def test_a_stranger_is_waited_for_while_it_contributes():
    """Announcing costs nothing, so it slows nobody down: only merged deltas make an owner wait, for two rounds."""
    stranger = STRANGERS[0]
    machine, _ = started(OWNER, connected=[*ORDER, stranger])
    machine.handle(e.RoundAnnounced(stranger, Round(0)), 10)
    assert machine.statistics().expected_learners == 4
    state, counts = GENESIS, []
    for number in range(1, 5):
        heads = all_heads(state)
        if number == 1:
            heads[0] = make_head(state, deltas=[refer(stranger, 0)])
        decide(machine, *heads)
        state = extend(state, *heads)
        machine.handle(e.RoundAnnounced(stranger, Round(number)), 110)
        counts.append(machine.statistics().expected_learners)
    assert counts == [2, 2, 1, 1]


def test_a_round_is_over_when_every_tile_is_decided_and_applied():
    """Decided is not enough: the next round learns from files that are there."""
    machine, _ = started(OWNER)
    heads = all_heads()
    assert not of(e.RoundOpened, machine.decide([Decided(h.slot, h, Height(1)) for h in heads], 100))
    effects = machine.handle(e.TilesApplied(tuple(head.slot for head in heads)), 100)
    assert [effect.round for effect in of(e.RoundClosed, effects) + of(e.RoundOpened, effects)] == [0, 1]
    assert of(e.RoundClosed, effects)[0].lagging == ()


def test_a_head_of_a_later_round_moves_this_node_there():
    """Missing a round costs no wait: what was undecided is reported, and the later round opens."""
    machine, _ = started(OWNER)
    first = make_head()
    effects = decide(machine, first, make_head(extend(GENESIS, first), deltas=[refer(member(1), 1)]))
    assert [effect.round for effect in of(e.RoundOpened, effects)] == [1]
    (closed,) = of(e.RoundClosed, effects)
    assert {lagging.slot.tile for lagging in closed.lagging} == set(TILES[1:])


# -- taking over --------------------------------------------------------------------------------------------------------


def test_a_standby_acts_after_silence_and_not_before():
    """The primary is connected but silent: the standby's attempt opens 0.3 rounds after the deadline."""
    machine, effects = started(STANDBY)
    learn(machine, effects)
    opens = ROUND_MS + share(SILENCE)
    assert not [m for m in of(e.StartMerge, machine.handle(e.RoundTimer(), opens - 1)) if m.slot.tile == TILE]
    late = machine.handle(e.RoundTimer(), opens) + machine.handle(e.RoundTimer(), opens + ROUND_MS // 2)
    assert [m.attempt for m in of(e.StartMerge, late) if m.slot.tile == TILE] == [1]


def test_a_lost_primary_is_replaced_without_waiting_for_the_deadline():
    """0.3 rounds after its connection was lost, learners deliver to the standby."""
    machine, effects = started(LEARNER)
    learn(machine, effects)
    machine.handle(e.PeerLost(OWNER), 1_000)
    effects = machine.handle(e.RoundTimer(), 1_000 + share(SILENCE))
    name = make_delta(LEARNER).digest
    assert [effect.owner for effect in of(e.DeliverDeltas, effects) if name in effect.deltas] == [STANDBY]


def test_an_owner_that_has_nothing_to_merge_is_not_silent():
    """Where learning takes three rounds, standbys do not step in: the primary's time runs from the first delta on."""
    machine, effects = started(STANDBY)
    for now in range(0, 3 * ROUND_MS, 500):
        machine.handle(e.RoundTimer(), now)
    assert machine.acting_attempt(TILE, 3 * ROUND_MS) == 0
    learn(machine, effects, now=3 * ROUND_MS, tiles=[TILE])
    assert machine.acting_attempt(TILE, 3 * ROUND_MS + share(SILENCE) - 1) == 0
    late = machine.handle(e.RoundTimer(), 3 * ROUND_MS + share(SILENCE))
    late += machine.handle(e.RoundTimer(), 3 * ROUND_MS + 2 * share(SILENCE))
    assert [merge.attempt for merge in of(e.StartMerge, late) if merge.slot.tile == TILE] == [1]


def test_a_round_in_which_tiles_are_still_decided_is_not_given_up():
    """Patience runs from the last sign of life: a slow round closes when the rest has had its time too."""
    machine, effects = started(OWNER)
    learn(machine, effects, now=4 * ROUND_MS)
    effects = decide(machine, make_head(tile=TILES[1]), now=4 * ROUND_MS + 100)
    effects += machine.handle(e.RoundTimer(), 5 * ROUND_MS)
    assert not of(e.RoundClosed, effects)
    assert of(e.RoundClosed, machine.handle(e.RoundTimer(), 6 * ROUND_MS))


def test_a_standby_that_alone_lost_the_primary_waits_for_the_others():
    """Its own delta is not a round's: before the deadline it merges only what all whom it expects have delivered."""
    others = [peer for peer in ORDER if peer not in (OWNER, STANDBY)]
    for arrived in (others, others[:1]):
        machine, effects = started(STANDBY)
        learn(machine, effects, tiles=[TILE])
        machine.handle(e.PeerLost(OWNER), 100)
        effects = machine.handle(e.DeltasArrived(tuple(make_delta(peer) for peer in arrived)), ROUND_MS // 2)
        assert bool(of(e.StartMerge, effects)) == (arrived == others)
        late = machine.handle(e.RoundTimer(), ROUND_MS)
        assert bool(of(e.StartMerge, late)) == (arrived != others)


def test_a_verified_head_is_no_silence():
    """A standby that has verified the primary's head does not make another, however long finality takes."""
    machine, effects = started(STANDBY)
    learn(machine, effects, tiles=[TILE])
    machine.hear([make_head()])
    for now in range(0, 2 * ROUND_MS, 500):
        assert not of(e.StartMerge, machine.handle(e.RoundTimer(), now))
    lagging = next(each for each in machine._lagging() if each.slot.tile == TILE)
    assert lagging.reason == "its head is proposed, but not finalized"


def test_a_heard_head_of_another_slot_says_nothing():
    """Only the open slot's head stops a takeover."""
    machine, effects = started(STANDBY)
    learn(machine, effects, tiles=[TILE])
    machine.hear([make_head(extend(GENESIS, make_head()))])
    assert of(e.StartMerge, machine.handle(e.RoundTimer(), 2 * ROUND_MS))


def test_a_node_with_a_wrong_clock_does_not_propose():
    """It goes on when its clock is judged right again."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    machine.handle(e.ClockJudged(False, 9_000), 100)
    assert not of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS))
    assert of(e.StartMerge, machine.handle(e.ClockJudged(True, 0), ROUND_MS + 1))


# -- one value a slot ---------------------------------------------------------------------------------------------------


def merge_once(machine: RoundMachine, effects: list) -> list:
    """Run to the deadline and answer the merge of TILE."""
    learn(machine, effects)
    (request,) = [m for m in of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS)) if m.slot.tile == TILE]
    head = make_head(deltas=request.deltas)
    merged = e.Merged(request.slot, 0, request.parent_root, head.root, head.update, head.update_bytes, request.deltas)
    return machine.handle(e.MergesDone((merged,)), ROUND_MS + 10)


def test_a_proposed_slot_is_never_merged_again():
    """Nothing but the signed bytes is published again, whatever arrives later."""
    machine, effects = started(OWNER)
    (propose,) = of(e.Propose, merge_once(machine, effects))
    signed = replace(propose.heads[0], signature=make_head().signature)
    machine.remember_signed([signed])
    later = machine.handle(e.DeltasArrived((make_delta(LEARNER),)), ROUND_MS + 20)
    later += machine.handle(e.RoundTimer(), 3 * ROUND_MS)
    assert not [merge for merge in of(e.StartMerge, later) if merge.slot.tile == TILE]
    assert of(e.Republish, later)[0].heads == (signed,)


def test_a_head_that_nobody_decides_is_said_to_every_member():
    """First half of a silence after it was proposed, then once a silence, until its slot is decided."""
    machine, effects = started(OWNER)
    (propose,) = of(e.Propose, merge_once(machine, effects))
    machine.remember_signed([replace(propose.heads[0], signature=make_head().signature)])

    def said(now: int) -> list[bool]:
        return [again.is_direct for again in of(e.Republish, machine.handle(e.RoundTimer(), now))]

    first = ROUND_MS + 10 + share(UNHEARD)
    assert [said(first - 1), said(first), said(first + 1)] == [[], [True], []]
    assert [said(first + share(SILENCE) - 1), said(first + share(SILENCE))] == [[], [True]]
    decide(machine, make_head(), now=first + share(SILENCE))
    assert True not in said(first + 3 * share(SILENCE))


def test_a_restored_proposal_is_the_only_value():
    """After a restart the journaled head is published again to whoever connects, and no other is made."""
    head = make_head()
    machine, effects = started(OWNER, proposed=[head])
    late = learn(machine, effects) + machine.handle(e.RoundTimer(), 2 * ROUND_MS)
    assert not [merge for merge in of(e.StartMerge, late) if merge.slot.tile == TILE]
    assert of(e.Republish, machine.handle(e.PeerConnected(LEARNER), 2 * ROUND_MS))[0].heads == (head,)


def test_a_merge_of_a_slot_that_was_decided_meanwhile_is_dropped():
    """Another's head was final first: ours is never signed."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    (request,) = [m for m in of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS)) if m.slot.tile == TILE]
    decide(machine, make_head(attempt=1), now=ROUND_MS + 1)
    merged = e.Merged(request.slot, 0, request.parent_root, make_head().root, make_head().update, 1, request.deltas)
    assert not of(e.Propose, machine.handle(e.MergesDone((merged,)), ROUND_MS + 2))


def test_a_failed_merge_is_tried_again_after_a_while():
    """Not at once, or a lasting fault would be a busy loop; the timer is set for it."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    (request,) = [m for m in of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS)) if m.slot.tile == TILE]
    effects = machine.handle(e.MergesDone((), ((request.slot, "no room"),)), ROUND_MS)
    assert not of(e.StartMerge, effects)
    assert of(e.SetRoundTimer, effects)[0].at_ms == ROUND_MS + share(AGAIN)
    again = machine.handle(e.RoundTimer(), ROUND_MS + share(AGAIN))
    assert request.slot in {merge.slot for merge in of(e.StartMerge, again)}


def test_a_delta_that_does_not_decode_is_left_out():
    """The merge is tried again without it."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    bad = make_delta(LEARNER)
    machine.handle(e.DeltasArrived((bad,)), 200)
    (request,) = [m for m in of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS)) if m.slot.tile == TILE]
    machine.handle(e.MergesDone((), ((request.slot, "bad"),), (bad.digest,)), ROUND_MS)
    again = of(e.StartMerge, machine.handle(e.RoundTimer(), ROUND_MS + share(AGAIN)))
    (second,) = [merge for merge in again if merge.slot == request.slot]
    assert [reference.learner for reference in second.deltas] == [OWNER]


# -- deltas -------------------------------------------------------------------------------------------------------------


def test_a_delta_that_was_counted_is_not_taken_again():
    """It lay on the disk, or in the queue, when its slot was decided: a head that lists it again would be refused."""
    head = make_head(deltas=[refer(LEARNER, 0)])
    machine, _ = started(OWNER, extend(GENESIS, head))
    machine.handle(e.DeltasArrived((make_delta(LEARNER),)), 10)
    assert machine.statistics().candidate_deltas == 0
    assert machine.find_refusal(make_delta(LEARNER)) is Reason.ALREADY_COUNTED
    machine.handle(e.DeltasArrived((make_delta(ORDER[2]),)), 10)
    assert machine.statistics().candidate_deltas == 1


def test_the_fate_of_a_delta_is_told_again_until_it_is_journaled():
    """A learner that failed has not settled anything: the next start of learning tells it again."""
    machine, effects = started(LEARNER)
    learn(machine, effects, tiles=[TILE])
    heads = all_heads()
    mine = make_delta(LEARNER)
    heads[0] = make_head(deltas=[refer(LEARNER, 0)])
    (first,) = of(e.StartLearning, decide(machine, *heads))
    assert first.merged == (mine.digest,)
    machine.handle(e.LearnFailed(Round(1), "the worker died"), 200)
    state = extend(GENESIS, *heads)
    (second,) = of(e.StartLearning, decide(machine, *all_heads(state), now=300))
    assert second.merged == (mine.digest,)
    machine.handle(e.LearnDone(Round(2), ()), 400)
    (third,) = of(e.StartLearning, decide(machine, *all_heads(extend(state, *all_heads(state))), now=500))
    assert third.merged == ()


def test_a_delta_that_nobody_took_is_lost_when_its_grandchild_is_decided():
    """Until then it may still be taken; afterwards the learner takes it back, once."""
    machine, effects = started(LEARNER)
    learn(machine, effects, tiles=[TILE])
    first = all_heads()
    (start,) = of(e.StartLearning, decide(machine, *first))
    assert start.lost == ()
    machine.handle(e.LearnDone(Round(1), ()), 150)
    state = extend(GENESIS, *first)
    (start,) = of(e.StartLearning, decide(machine, *all_heads(state), now=200))
    assert start.lost == (make_delta(LEARNER).digest,)
    assert machine.statistics().outstanding_deltas == 0


def test_a_restart_knows_a_merged_delta_though_the_newest_head_does_not_list_it():
    """Two versions later the newest head alone would tell it lost: it would count twice."""
    first = make_head(deltas=[refer(LEARNER, 0)])
    state = extend(GENESIS, first)
    state = extend(state, make_head(state))
    mine = make_delta(LEARNER)
    _, effects = started(LEARNER, state, outstanding=[mine], counted=[mine.digest], learned_round=0)
    (start,) = of(e.StartLearning, effects)
    assert (start.merged, start.lost) == ((mine.digest,), ())
    _, effects = started(LEARNER, state, outstanding=[mine], learned_round=0)
    (start,) = of(e.StartLearning, effects)
    assert (start.merged, start.lost) == ((), (mine.digest,))


def test_a_tile_with_an_open_delta_on_its_version_is_withheld():
    """A learner says one thing about a version: what it learns meanwhile waits in its residual."""
    machine, effects = started(LEARNER)
    learn(machine, effects, tiles=[TILE])
    others = [head for head in all_heads() if head.tile != TILE]
    decide(machine, *others)
    effects = machine.handle(e.RoundTimer(), 5 * ROUND_MS)
    assert of(e.RoundClosed, effects)[0].lagging[0].slot == Slot(TILE, 1)
    (start,) = of(e.StartLearning, effects)  # at once, though no other event follows
    assert (start.round, start.withheld) == (1, (TILE,))


def test_a_failed_delivery_is_tried_again_within_the_round():
    """After a tenth of a round, though nothing else happens and the connection never broke."""
    machine, effects = started(LEARNER)
    mine = make_delta(LEARNER)
    learn(machine, effects, tiles=[TILE])
    effects = machine.handle(e.DeliveryFailed(OWNER, (mine.digest,)), 1_000)
    assert not of(e.DeliverDeltas, effects)
    assert of(e.SetRoundTimer, effects)[0].at_ms == 1_000 + share(AGAIN)
    (again,) = of(e.DeliverDeltas, machine.handle(e.RoundTimer(), 1_000 + share(AGAIN)))
    assert (again.owner, again.deltas) == (OWNER, (mine.digest,))
    machine.handle(e.DeltasDelivered(OWNER, (mine.digest,), ()), 2_000)
    assert not of(e.DeliverDeltas, machine.handle(e.RoundTimer(), 2_000 + share(AGAIN)))


def test_an_owner_that_connects_again_is_given_everything_again():
    """It may have died before it stored what it had taken."""
    machine, effects = started(LEARNER)
    mine = make_delta(LEARNER)
    learn(machine, effects, tiles=[TILE])
    machine.handle(e.DeltasDelivered(OWNER, (mine.digest,), ()), 500)
    machine.handle(e.PeerLost(OWNER), 600)
    (again,) = of(e.DeliverDeltas, machine.handle(e.PeerConnected(OWNER), 700))
    assert again.deltas == (mine.digest,)


def test_a_second_delta_of_a_learner_is_refused_and_blamed():
    """One delta for a tile and base: another is refused before it is stored, and blamed if it got in."""
    machine, _ = started(OWNER)
    machine.handle(e.DeltasArrived((make_delta(LEARNER),)), 10)
    second = make_delta(LEARNER, salt=b"2")
    assert machine.find_refusal(second) is Reason.SECOND_DELTA
    (blamed,) = of(e.Blamed, machine.handle(e.DeltasArrived((second,)), 20))
    assert (blamed.peer, blamed.reason) == (LEARNER, Reason.SECOND_DELTA)


def test_deltas_out_of_place_are_refused():
    """Unknown tiles, bases too old or too new, and whoever owns nothing."""
    state = extend(GENESIS, make_head())
    state = extend(state, make_head(state))
    machine, _ = started(OWNER, state)
    assert machine.find_refusal(make_delta(LEARNER, 0)) is Reason.STALE_BASE
    assert machine.find_refusal(make_delta(LEARNER, 4)) is Reason.STALE_BASE
    assert machine.find_refusal(make_delta(LEARNER, 2)) is None
    assert machine.find_refusal(make_delta(LEARNER, 2, TileId("nothing/0"))) is Reason.UNKNOWN_TILE
    observer, _ = started(STRANGERS[0], state)
    assert observer.find_refusal(make_delta(LEARNER, 2)) is Reason.WRONG_OWNER


# -- what strangers can fill --------------------------------------------------------------------------------------------


def test_strangers_cannot_fill_an_owners_memory():
    """Deltas of learners outside the roster are taken up to a few times their places; members always have theirs."""
    machine, _ = started(OWNER)
    for index in range(STRANGERS_PER_TILE_MAX + 8):
        delta = make_delta(STRANGERS[index])
        if machine.find_refusal(delta) is None:
            machine.handle(e.DeltasArrived((delta,)), 10)
    assert machine.statistics().candidate_deltas == STRANGERS_PER_TILE_MAX
    assert machine.find_refusal(make_delta(STRANGERS[79])) is Reason.BUSY
    assert machine.find_refusal(make_delta(STRANGERS[0])) is None
    assert machine.find_refusal(make_delta(LEARNER)) is None


def test_announcements_and_lost_peers_are_forgotten():
    """Anybody can announce: what is remembered is bounded, and old announcements go with their round."""
    machine, _ = started(OWNER)
    for index in range(ANNOUNCERS_MAX + 100):
        machine.handle(e.RoundAnnounced(PeerId(blob_digest(str(index).encode())), Round(0)), 10)
    machine.handle(e.PeerConnected(STRANGERS[0]), 20)
    machine.handle(e.PeerLost(STRANGERS[0]), 30)
    assert len(machine._announced) <= ANNOUNCERS_MAX
    assert STRANGERS[0] not in machine._lost_at
    state = extend(GENESIS, *all_heads())
    decide(machine, *all_heads())
    decide(machine, *all_heads(state))
    assert len(machine._announced) == 1


# -- ends and stalls ----------------------------------------------------------------------------------------------------


def test_nothing_decided_is_a_stall_with_a_reason_and_everything_is_tried_again():
    """Alone of four: the round stays open, the sentence counts who is reachable, learners are given another try."""
    machine, effects = started(OWNER, connected=[])
    learn(machine, effects)
    effects = machine.handle(e.RoundTimer(), 3 * ROUND_MS)
    (stalled,) = of(e.Stalled, effects)
    assert stalled.reason == "1 of 4 roster members are reachable, 3 are needed to decide anything"
    assert {lagging.slot.tile for lagging in of(e.Lagging, effects)} == set(TILES)
    assert not of(e.RoundClosed, effects)
    assert of(e.Announce, effects)
    assert of(e.Stalled, decide(machine, make_head(), now=4 * ROUND_MS)) == [e.Stalled(None)]


def test_a_lone_learner_that_failed_tries_again():
    """With nothing decided nobody else will learn the round: the retry starts it again."""
    machine, _ = started(OWNER)
    machine.handle(e.LearnFailed(Round(0), "the worker died"), 100)
    assert not of(e.StartLearning, machine.handle(e.RoundTimer(), ROUND_MS))
    (again,) = of(e.StartLearning, machine.handle(e.RoundTimer(), 3 * ROUND_MS))
    assert again.round == 0


def test_what_was_decided_in_part_closes_with_the_rest_lagging():
    """After the patience for all attempts the next round opens, and what we proposed is published again."""
    machine, effects = started(OWNER)
    (propose,) = of(e.Propose, merge_once(machine, effects))
    machine.remember_signed([replace(propose.heads[0], signature=make_head().signature)])
    decide(machine, *[head for head in all_heads() if head.tile != TILE], now=ROUND_MS + 20)
    effects = machine.handle(e.RoundTimer(), 3 * ROUND_MS)
    (closed,) = of(e.RoundClosed, effects)
    assert [(each.slot, each.reason) for each in closed.lagging] == [
        (Slot(TILE, 1), "its head is proposed, but not finalized")
    ]
    assert [effect.round for effect in of(e.RoundOpened, effects)] == [1]
    assert of(e.Republish, effects)


def test_after_the_last_round_nothing_opens_and_nothing_closes_twice():
    """Done, with the number of the last round, whatever others decide later."""
    machine, _ = started(OWNER, rounds_max=1)
    effects = decide(machine, *all_heads())
    assert [effect.round for effect in of(e.RoundClosed, effects)] == [0]
    state = extend(GENESIS, *all_heads())
    effects = decide(machine, *all_heads(state))
    assert not of(e.RoundClosed, effects) + of(e.RoundOpened, effects) + of(e.StartLearning, effects)
    numbers = machine.statistics()
    assert (numbers.done, numbers.round, numbers.rounds_closed) == (True, 0, 1)


def test_a_node_that_starts_after_the_last_round_is_done():
    """It opens nothing and announces nothing."""
    machine, effects = started(OWNER, extend(GENESIS, *all_heads()), rounds_max=1)
    assert machine.statistics().done
    assert not of(e.RoundOpened, effects) + of(e.Announce, effects) + of(e.StartLearning, effects)


def test_an_undecided_round_always_has_a_timer():
    """Whatever happened last, time alone goes on."""
    machine, effects = started(OWNER)
    at_ms = of(e.SetRoundTimer, effects)[-1].at_ms
    for _ in range(60):
        effects = machine.handle(e.RoundTimer(), at_ms)
        (timer,) = of(e.SetRoundTimer, effects)
        assert timer.at_ms > at_ms
        at_ms = timer.at_ms
    assert at_ms > 10 * ROUND_MS


def test_the_engine_tells_rounds_of_verified_heads():
    """A head by gossip, verified, ends the silence of its slot."""
    core = FinalityCore(
        STANDBY,
        ROSTER,
        replace(ROSTER, epoch=Epoch(1)),
        CHAIN,
        None,
        CHAIN_RULE,
        Anchor.genesis(GENESIS.root(), 0),
        verify=quick_verify,
    )
    engine = Engine(STANDBY, core, Execution(BLOCK_RULES, GENESIS, NO_BLOCK, Height(0)), make_machine(STANDBY))
    engine.handle(Started(), 0)
    head = make_head()
    (ask,) = of(e.VerifyHeads, engine.handle(e.HeadsSeen((head,), OWNER), 0))
    assert ask.heads == (head,)
    engine.handle(e.HeadsVerified(((head.digest(), None),)), 0)
    assert engine.rounds._why(TILE) == "its head is proposed, but not finalized"


# -- a new epoch --------------------------------------------------------------------------------------------------------


def test_an_owner_whom_an_epoch_makes_after_the_deadline_waits_for_what_is_delivered_again():
    """Everybody delivers anew when the owners change; merging its own delta at once would leave all others out."""
    machine, effects = started(OWNER, connected=ORDER)
    learn(machine, effects, tiles=[TILE])
    late = ROUND_MS + 1
    assert not of(e.StartMerge, machine.open_epoch(RULES, late - 2))  # just before the deadline: others are expected
    assert not of(e.StartMerge, machine.handle(e.RoundTimer(), late))
    (merge,) = [
        each
        for each in of(e.StartMerge, machine.handle(e.RoundTimer(), late + share(STANDBY_COLLECTS)))
        if each.slot.tile == TILE
    ]
    assert [reference.learner for reference in merge.deltas] == [OWNER]
