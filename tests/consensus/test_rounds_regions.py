"""Regions in the machine of rounds: who gathers, what goes where, when, and what is left when somebody is silent or lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus import events as e
from consensus.election import aggregator_order
from consensus.regions import LABELS_MAX, PASSED_OVER_ROUNDS, SERVED_DIRECTLY, Regions
from consensus.rounds import ASK, GATHER, STRANGERS_GATHERED_MAX, RoundMachine
from consensus.state import tile_heads
from protocol.digest import blob_digest
from protocol.ids import PeerId, Round, Version
from protocol.learning import Contributor
from protocol.limits import CONTRIBUTORS_PER_AGGREGATE_MAX
from protocol.rejection import Reason
from protocol.roster import Slot
from tests.consensus.genesis import ROUND_MS, TILES, WEIGHT_MAX, learning_rule
from tests.consensus.samples import (
    BLOCK_RULES,
    GENESIS,
    ROSTER,
    RULES,
    STRANGERS,
    TILE,
    extend,
    make_head,
    member,
    merge_of,
    refer,
)
from tests.consensus.test_rounds import all_heads, decide, learn, make_delta, of, share

ORDER = [member(index) for index in RULES.order(TILE)]
OWNER, STANDBY = ORDER[:2]
MEMBERS = [card.node for card in ROSTER.members]
NEIGHBOURS = STRANGERS[-4:]  # in the west, and quiet: with them it is large enough to gather, also when one leaves
WEST = [*ORDER[2:], *NEIGHBOURS]  # the owner and the standby are in the east
AGGREGATOR = aggregator_order(ROSTER.beacon, "west", TILE, WEST, MEMBERS)[0]
LEARNER = next(peer for peer in ORDER[2:] if peer != AGGREGATOR)


def region_of(peer: PeerId) -> str:
    return "east" if peer in (OWNER, STANDBY) else "west"


def started(
    me: PeerId, *, more: Iterable[PeerId] = (), neighbours: Iterable[PeerId] = NEIGHBOURS
) -> tuple[RoundMachine, list]:
    """A machine that knows where everybody is, and the effects of its start."""
    machine = RoundMachine(me, RULES, learning_rule(), tile_heads(GENESIS, TILES), learns=True, region=region_of(me))
    for peer in [*ORDER, *neighbours, *more]:
        if peer != me:
            machine.handle(e.PeerConnected(peer), 0)
            machine.handle(e.RegionTold(peer, region_of(peer)), 0)
    return machine, machine.start(0)


def sent(effects: list, delta: e.Delta) -> list[PeerId]:
    """To whom a delta is given."""
    return [effect.owner for effect in of(e.DeliverDeltas, effects) if delta.digest in effect.deltas]


def gather(aggregator: PeerId, *deltas: e.Delta, base: int = 0) -> e.Delta:
    """An aggregate as its maker signs it."""
    contributors = tuple(sorted((Contributor(d.learner, d.digest, d.tokens) for d in deltas), key=lambda c: c.learner))
    name = blob_digest(aggregator + b"".join(each.delta for each in contributors))
    tokens = sum(each.weight for each in contributors)
    return e.Delta(TILE, Version(base), Round(base), aggregator, name, tokens, contributors)


# -- labels -------------------------------------------------------------------------------------------------------------


def test_near_far_and_unknown():
    """Far are only those who say another region; without labels nobody is near or far."""
    regions = Regions(OWNER, "east")
    regions.tell(STANDBY, "east")
    regions.tell(LEARNER, "west")
    regions.tell(AGGREGATOR, "")
    assert [regions.is_near(peer) for peer in (OWNER, STANDBY, LEARNER, AGGREGATOR)] == [True, True, False, False]
    assert [regions.is_far(peer) for peer in (OWNER, STANDBY, LEARNER, AGGREGATOR)] == [False, False, True, False]
    nowhere = Regions(OWNER, "")
    nowhere.tell(LEARNER, "west")
    assert not any(nowhere.is_near(peer) or nowhere.is_far(peer) for peer in ORDER)
    assert nowhere.is_together(LEARNER, LEARNER)
    assert not nowhere.is_together(OWNER, STANDBY)


def test_labels_are_bounded():
    """The oldest go; a peer that says it again is young."""
    regions = Regions(OWNER, "east")
    peers = [PeerId(number.to_bytes(32, "big")) for number in range(LABELS_MAX + 1)]
    for peer in [*peers[:-1], peers[0], peers[-1]]:
        regions.tell(peer, "east")
    assert [regions.is_near(peer) for peer in peers[:2]] == [True, False]


def test_an_aggregator_is_the_same_for_all_who_know_the_same():
    """Members before strangers, each tile and region for itself, and one that leaves moves only its own tiles."""
    peers = [*STRANGERS[:20], *MEMBERS]
    order = aggregator_order(ROSTER.beacon, "west", TILE, peers, MEMBERS)
    assert order == aggregator_order(ROSTER.beacon, "west", TILE, reversed(peers), MEMBERS)
    assert set(order[:4]) == set(MEMBERS)
    assert [peer for peer in order if peer != order[0]] == aggregator_order(
        ROSTER.beacon, "west", TILE, [peer for peer in peers if peer != order[0]], MEMBERS
    )
    firsts = {aggregator_order(ROSTER.beacon, region, TILE, STRANGERS, ())[0] for region in ("a", "b", "c", "d")}
    assert len(firsts) > 1


# -- an update's way ----------------------------------------------------------------------------------------------------

CROWD = STRANGERS[:60]


def sources_of(me: PeerId, proposer: PeerId, known: Iterable[PeerId], proposer_region: str = "east") -> list[PeerId]:
    """Whom one of the west asks who knows these."""
    regions = Regions(me, "west")
    for peer in known:
        regions.tell(peer, "west")
    regions.tell(proposer, proposer_region)
    return regions.find_sources(ROSTER.beacon, TILE, proposer, known)


def test_an_update_comes_into_a_region_once_and_nobody_gives_it_to_many():
    """One asks the proposer far away; the others are not more than some steps behind, each served by a neighbour."""
    asked = {me: sources_of(me, OWNER, CROWD) for me in CROWD}
    (first,) = [me for me, sources in asked.items() if not sources]
    steps = {first: 0}
    for me in aggregator_order(ROSTER.beacon, "west", TILE, CROWD, ())[1:]:
        steps[me] = 1 + steps[asked[me][0]]
        assert len(set(asked[me])) == min(2, len(steps) - 1)
    served = Counter(sources[0] for sources in asked.values() if sources)
    assert max(served.values()) <= 12
    assert max(steps.values()) <= 12


@given(st.lists(st.sets(st.sampled_from(CROWD), max_size=12), min_size=len(CROWD), max_size=len(CROWD)))
def test_nobody_waits_for_one_that_waits_for_it(knows: list[set[PeerId]]):
    """Whoever knows whom: everybody asks those before itself in one order."""
    order = aggregator_order(ROSTER.beacon, "west", TILE, CROWD, ())
    for me, known in zip(CROWD, knows, strict=True):
        for source in sources_of(me, OWNER, sorted(known)):
            assert order.index(source) < order.index(me)


@pytest.mark.parametrize(("crowd", "direct"), [(3, 3), (5, SERVED_DIRECTLY), (60, SERVED_DIRECTLY)])
def test_a_proposer_serves_some_of_its_own_region(crowd, direct):
    """And these the others: fifty at once are too many for a thin line."""
    asked = [sources_of(me, OWNER, CROWD[:crowd], "west") for me in CROWD[:crowd]]
    assert sum(not sources for sources in asked) == direct
    assert all(OWNER not in sources for sources in asked)


def test_a_proposer_that_says_no_region_is_asked_itself():
    """As everybody is where there are no regions."""
    assert sources_of(CROWD[0], OWNER, CROWD, "") == []
    assert Regions(OWNER, "").find_sources(ROSTER.beacon, TILE, STANDBY, CROWD) == []


# -- a learner ----------------------------------------------------------------------------------------------------------


def test_a_learner_gives_its_delta_to_its_aggregator_and_to_nobody_else():
    """Once it is there, nothing more is sent: not when a standby acts either."""
    machine, effects = started(LEARNER)
    mine = make_delta(LEARNER)
    assert sent(learn(machine, effects), mine) == [AGGREGATOR]
    machine.handle(e.DeltasDelivered(AGGREGATOR, (mine.digest,), ()), 200)
    (ask,) = [a for a in of(e.AskCarried, machine.handle(e.RoundTimer(), share(ASK))) if mine.digest in a.deltas]
    assert ask.aggregator == AGGREGATOR
    later = machine.handle(e.CarriedTold(AGGREGATOR, (mine.digest,), ()), share(ASK) + 50)
    for now in range(ROUND_MS, 3 * ROUND_MS, 500):
        later += machine.handle(e.RoundTimer(), now)
        if of(e.Stalled, later):
            break
        assert not sent(later, mine)


def test_an_owner_nearby_gets_the_delta_directly():
    """Between two of one region a stop would only cost time; the standby of the east gives to its owner."""
    machine, effects = started(STANDBY)
    assert sent(learn(machine, effects), make_delta(STANDBY)) == [OWNER]


def test_without_labels_everything_goes_directly():
    """An owner that says no region, or a learner that has none: as before there were regions."""
    machine = RoundMachine(LEARNER, RULES, learning_rule(), tile_heads(GENESIS, TILES), learns=True)
    for peer in ORDER:
        if peer != LEARNER:
            machine.handle(e.PeerConnected(peer), 0)
            machine.handle(e.RegionTold(peer, region_of(peer)), 0)
    assert sent(learn(machine, machine.start(0)), make_delta(LEARNER)) == [OWNER]


@pytest.mark.parametrize(("neighbours", "taker"), [(2, OWNER), (3, AGGREGATOR)])
def test_a_region_of_four_gives_its_deltas_directly_and_one_of_five_gathers(neighbours, taker):
    """Of four, two that lie say as much as the others: the owner's rule sees one voice each only if they come one by one."""
    machine, effects = started(LEARNER, neighbours=NEIGHBOURS[:neighbours])
    assert sent(learn(machine, effects), make_delta(LEARNER)) == [taker]


def test_an_aggregator_need_not_be_a_neighbour():
    """Whoever said that it takes part is there: a region whose peers know each other's word agrees on one, in a crowd too."""
    machine = RoundMachine(LEARNER, RULES, learning_rule(), tile_heads(GENESIS, TILES), learns=True, region="west")
    for peer in [*ORDER, *NEIGHBOURS]:
        machine.handle(e.RegionTold(peer, region_of(peer)), 0)
    for peer in (OWNER, NEIGHBOURS[0]):
        machine.handle(e.PeerConnected(peer), 0)
    effects = machine.start(0)
    for peer in WEST:
        machine.handle(e.RoundAnnounced(peer, Round(0)), 10)
    assert sent(learn(machine, effects), make_delta(LEARNER)) == [AGGREGATOR]


def test_an_aggregator_waits_for_who_will_connect_to_deliver():
    """A learner that announced itself for this round and is no neighbour is expected until 0.8 rounds."""
    far_off = NEIGHBOURS[0]
    machine, effects = started(AGGREGATOR, neighbours=NEIGHBOURS[1:])
    machine.handle(e.RegionTold(far_off, "west"), 0)
    machine.handle(e.RoundAnnounced(far_off, Round(0)), 10)
    effects = learn(machine, effects, tiles=[TILE])
    members = tuple(make_delta(peer) for peer in WEST if peer in MEMBERS and peer != AGGREGATOR)
    effects += machine.handle(e.DeltasArrived(members), 300)
    assert not of(e.StartAggregation, effects)
    assert of(e.StartAggregation, machine.handle(e.DeltasArrived((make_delta(far_off),)), 400))


@pytest.mark.parametrize("answer", ["refused", "silent", "gone"])
def test_an_aggregator_that_does_not_take_it_is_replaced(answer):
    """The next one is asked: here the learner itself, who has nobody's but its own, so that the owner gets it in time."""
    machine, effects = started(LEARNER)
    mine = make_delta(LEARNER)
    learn(machine, effects)
    event = {
        "refused": e.DeltasDelivered(AGGREGATOR, (), ((mine.digest, "busy"),)),
        "silent": e.DeliveryFailed(AGGREGATOR, (mine.digest,)),
        "gone": e.PeerLost(AGGREGATOR),
    }[answer]
    assert not sent(machine.handle(event, 200), mine)
    assert sent(machine.handle(e.RoundTimer(), share(GATHER)), mine) == [OWNER]


def test_what_no_owner_has_goes_directly_before_the_deadline():
    """The aggregator took the delta and did nothing with it: told so, or told nothing, the learner goes to the owner."""
    machine, effects = started(LEARNER)
    mine = make_delta(LEARNER)
    learn(machine, effects)
    machine.handle(e.DeltasDelivered(AGGREGATOR, (mine.digest,), ()), 200)
    machine.handle(e.RoundTimer(), share(ASK))
    assert sent(machine.handle(e.CarriedTold(AGGREGATOR, (), (mine.digest,)), share(ASK) + 10), mine) == [OWNER]


def test_a_learner_that_is_late_goes_directly():
    """After 0.8 rounds the aggregator has closed."""
    machine, effects = started(LEARNER)
    assert sent(learn(machine, effects, now=share(GATHER)), make_delta(LEARNER)) == [OWNER]


@pytest.mark.parametrize(("took", "waits"), [(700, True), (900, False)])
def test_a_stranger_that_would_be_late_waits_for_the_next_opening(took, waits):
    """One that is in time from an opening does not begin in the middle of a round, late for ever; a slower one does."""
    machine, effects = started(NEIGHBOURS[0])  # it came in the middle of a round, which closes while it learns
    heads = all_heads()
    decide(machine, *heads, now=share(300))
    begun = learn(machine, effects, now=share(took))
    assert [start.round for start in of(e.StartLearning, begun)] == ([] if waits else [1])
    state = GENESIS
    for head in heads:
        state = extend(state, head)
    opening = decide(machine, *all_heads(state), now=share(1_000))
    assert [start.round for start in of(e.StartLearning, opening)] == ([2] if waits else [])


def test_an_aggregator_that_leaves_with_a_delta_costs_one_delivery():
    """It was told to be carried, but a standby will need it too: the learner gives it to the owners itself."""
    machine, effects = started(LEARNER)
    mine = make_delta(LEARNER)
    learn(machine, effects)
    machine.handle(e.DeltasDelivered(AGGREGATOR, (mine.digest,), ()), 200)
    assert sent(machine.handle(e.PeerLost(AGGREGATOR), share(ASK)), mine) == [OWNER]


def test_an_aggregator_with_which_a_delta_was_lost_is_passed_over():
    """It said that an owner had it, and no head did: for some rounds others gather for us."""
    machine, effects = started(LEARNER)
    learn(machine, effects, tiles=[TILE])
    machine.handle(e.DeltasDelivered(AGGREGATOR, (make_delta(LEARNER).digest,), ()), 200)
    state = GENESIS
    for _ in range(2):
        head = make_head(state)
        effects = decide(machine, head, now=300)
        state = extend(state, head)
    assert machine.statistics().outstanding_deltas == 0
    args = (ROSTER.beacon, TILE, WEST, MEMBERS, ())
    assert machine.regions.find_aggregator(*args, 1) == LEARNER
    assert machine.regions.find_aggregator(*args, 1 + PASSED_OVER_ROUNDS) == AGGREGATOR


def rules_in_which(is_owner: Iterable[PeerId], *, aggregator_is_not: PeerId | None = None):
    """The next epoch's, with a beacon that gives the tile to one of these, and other aggregators."""
    for number in range(1_000):
        roster = replace(ROSTER, epoch=1, beacon=blob_digest(bytes([number % 256, number // 256])))
        rules = BLOCK_RULES.head_rules(roster)
        aggregator = aggregator_order(roster.beacon, "west", TILE, WEST, MEMBERS)[0]
        if member(rules.order(TILE)[0]) in is_owner and aggregator != aggregator_is_not:
            return rules
    raise AssertionError


def test_an_epoch_that_ends_within_a_round_leaves_its_aggregators():
    """Half of a region would give its deltas to another, and both would wait for the rest."""
    machine, effects = started(LEARNER)
    machine.open_epoch(rules_in_which([OWNER, STANDBY], aggregator_is_not=AGGREGATOR), 50)
    assert sent(learn(machine, effects), make_delta(LEARNER)) == [AGGREGATOR]


@pytest.mark.parametrize(("is_taken", "count"), [(True, 0), (False, 1)])
def test_what_an_owner_left_out_is_offered_to_nobody_far_away(is_taken, count):
    """The next epoch's owner is in another region: it gets what came too late for the old one, not what that one had."""
    machine, effects = started(STANDBY)
    mine = make_delta(STANDBY)
    assert sent(learn(machine, effects, tiles=[TILE]), mine) == [OWNER]
    answer = ((mine.digest,), ()) if is_taken else ((), ((mine.digest, "busy"),))
    machine.handle(e.DeltasDelivered(OWNER, *answer), 200)
    decide(machine, make_head(deltas=[refer(OWNER, 0)]), now=300)
    assert len(sent(machine.open_epoch(rules_in_which(WEST), 400), mine)) == count


def test_a_delta_inside_a_decided_aggregate_is_merged():
    """Its fate is sealed as if the head had listed it itself; nothing goes back to the residual."""
    machine, effects = started(LEARNER)
    learn(machine, effects, tiles=[TILE])
    mine = make_delta(LEARNER)
    whole = merge_of(AGGREGATOR, 0, refer(LEARNER, 0), refer(AGGREGATOR, 0))
    decide(machine, make_head(deltas=[whole]))
    assert (machine._merged_own, machine._lost_own) == ([mine.digest], [])


# -- an aggregator ------------------------------------------------------------------------------------------------------


def test_an_aggregator_merges_its_region_when_all_of_it_is_there():
    """It waits for its region alone; the aggregate goes to the owner, and its own delta does not go beside it."""
    machine, effects = started(AGGREGATOR)
    mine, other = make_delta(AGGREGATOR), make_delta(LEARNER)
    effects = learn(machine, effects)
    assert not sent(effects, mine)
    assert not [start for start in of(e.StartAggregation, effects) if start.tile == TILE]
    (start,) = of(e.StartAggregation, machine.handle(e.DeltasArrived((other,)), 300))
    assert (start.tile, start.base) == (TILE, 0)
    assert {each.delta for each in start.contributors} == {mine.digest, other.digest}
    made = gather(AGGREGATOR, mine, other)
    assert not machine.is_carried(other.digest)
    assert sent(machine.handle(e.AggregationsDone((made,)), 400), made) == [OWNER]
    assert not machine.is_carried(other.digest)
    machine.handle(e.DeltasDelivered(OWNER, (made.digest,), ()), 500)
    assert machine.is_carried(other.digest)
    assert machine.is_carried(mine.digest)
    assert not machine.is_carried(made.digest)
    for now in range(500, ROUND_MS, 500):
        assert not sent(machine.handle(e.RoundTimer(), now), mine)


def test_an_aggregator_closes_at_its_time_with_what_it_has():
    """Whoever is late costs the region no more than the wait."""
    stranger = STRANGERS[0]
    machine, effects = started(AGGREGATOR, more=[stranger])
    machine.handle(e.RoundAnnounced(stranger, Round(0)), 10)
    learn(machine, effects)
    machine.handle(e.DeltasArrived((make_delta(LEARNER),)), 300)
    assert not of(e.StartAggregation, machine.handle(e.RoundTimer(), share(GATHER) - 1))
    (start,) = of(e.StartAggregation, machine.handle(e.RoundTimer(), share(GATHER)))
    assert len(start.contributors) == 2


def test_an_aggregator_alone_sends_its_own_delta_and_no_aggregate():
    """There is nothing to gather: its delta goes as every delta went before."""
    machine, effects = started(AGGREGATOR)
    learn(machine, effects)
    effects = machine.handle(e.RoundTimer(), share(GATHER))
    assert not of(e.StartAggregation, effects)
    assert sent(effects, make_delta(AGGREGATOR)) == [OWNER]


def test_nobody_gathers_for_an_owner_nearby():
    """The owner and the standby of the east take what they are given as owners do."""
    for me in (OWNER, STANDBY):
        machine, effects = started(me)
        effects = learn(machine, effects, tiles=[TILE])
        effects += machine.handle(e.DeltasArrived(tuple(make_delta(peer) for peer in ORDER if peer != me)), 300)
        assert not of(e.StartAggregation, effects + machine.handle(e.RoundTimer(), share(ASK)))


@pytest.mark.parametrize(("neighbours", "count"), [(2, 0), (3, 1)])
def test_a_region_of_four_is_not_gathered_by_its_standby_either(neighbours, count):
    """An owner far away is silent, and its standby nearby is given what everybody has: it sends that owner no aggregate."""
    machine = RoundMachine(STANDBY, RULES, learning_rule(), tile_heads(GENESIS, TILES), learns=True, region="west")
    for peer in [OWNER, LEARNER, *NEIGHBOURS[:neighbours]]:
        machine.handle(e.PeerConnected(peer), 0)
        machine.handle(e.RegionTold(peer, "east" if peer == OWNER else "west"), 0)
    effects = learn(machine, machine.start(0), tiles=[TILE])
    effects += machine.handle(e.DeltasArrived((make_delta(LEARNER),)), 300)
    effects += machine.handle(e.RoundTimer(), share(GATHER))
    assert len(of(e.StartAggregation, effects)) == count


def test_an_aggregation_that_failed_is_tried_again_without_what_is_unusable():
    """Not at once; and a delta that does not decode takes no part any more."""
    machine, effects = started(AGGREGATOR)
    learn(machine, effects)
    third = make_delta(STRANGERS[0])
    machine.handle(e.RegionTold(STRANGERS[0], "west"), 0)
    machine.handle(e.DeltasArrived((third,)), 250)
    (start,) = of(e.StartAggregation, machine.handle(e.DeltasArrived((make_delta(LEARNER),)), 300))
    assert len(start.contributors) == 3
    effects = machine.handle(e.AggregationsDone((), ((TILE, Version(0)),), (third.digest,)), 400)
    assert not of(e.StartAggregation, effects)
    (again,) = of(e.StartAggregation, machine.handle(e.RoundTimer(), 400 + share(200)))
    assert third.digest not in {each.delta for each in again.contributors}


def test_an_aggregate_takes_64_and_the_rest_is_told_to_go():
    """It waits for no more than fit. Who comes then is refused, and finds another; who was left out asks, and hears so."""
    machine, effects = started(AGGREGATOR)
    learn(machine, effects)
    many = [make_delta(peer) for peer in STRANGERS[:70]]
    for each in many:
        machine.handle(e.RegionTold(each.learner, "west"), 0)
    places = CONTRIBUTORS_PER_AGGREGATE_MAX - 1  # beside its own
    assert not of(e.StartAggregation, machine.handle(e.DeltasArrived(tuple(many[: places - 1])), 300))
    assert machine.find_refusal(many[places]) is None
    (start,) = of(e.StartAggregation, machine.handle(e.DeltasArrived(tuple(many[places - 1 :])), 400))
    assert machine.find_refusal(make_delta(NEIGHBOURS[0])) is Reason.BUSY
    assert len(start.contributors) == CONTRIBUTORS_PER_AGGREGATE_MAX
    learners = [each.learner for each in start.contributors]
    assert learners == sorted(learners)


def test_an_owner_has_places_for_more_of_its_own_region_than_fit_into_an_aggregate():
    """It draws among them: the first to come would have all the places for strangers otherwise."""
    machine, _ = started(OWNER)
    near = STRANGERS[: CONTRIBUTORS_PER_AGGREGATE_MAX + 1]
    for peer in near:
        machine.handle(e.RegionTold(peer, "east"), 0)
        assert machine.find_refusal(make_delta(peer)) is None
        machine.handle(e.DeltasArrived((make_delta(peer),)), 10)


def test_after_a_restart_an_aggregate_is_the_same_and_is_given_again():
    """It comes from the disk with the deltas; no other is made, and it goes to the owner."""
    machine, _ = started(AGGREGATOR)
    mine, other = make_delta(AGGREGATOR), make_delta(LEARNER)
    made = gather(AGGREGATOR, mine, other)
    effects = machine.handle(e.DeltasArrived((mine, other, make_delta(STRANGERS[0]), made)), 300)
    effects += machine.handle(e.RoundTimer(), share(GATHER))
    assert sent(effects, made) == [OWNER]
    assert not of(e.StartAggregation, effects)


def test_an_aggregate_that_could_not_be_delivered_is_delivered_again():
    """The timer is set for it: nobody else may say anything until then."""
    machine, effects = started(AGGREGATOR)
    mine, other = make_delta(AGGREGATOR), make_delta(LEARNER)
    learn(machine, effects)
    machine.handle(e.DeltasArrived((other,)), 300)
    made = gather(AGGREGATOR, mine, other)
    machine.handle(e.AggregationsDone((made,)), 400)
    (timer,) = of(e.SetRoundTimer, machine.handle(e.DeliveryFailed(OWNER, (made.digest,)), 500))
    assert sent(machine.handle(e.RoundTimer(), timer.at_ms), made) == [OWNER]


def test_a_stranger_may_gather_but_takes_no_deltas_from_far_away():
    """Only owners take anybody's; an aggregate it takes from nobody."""
    stranger = STRANGERS[0]
    machine, _ = started(stranger)
    assert machine.find_refusal(make_delta(LEARNER)) is None
    assert machine.find_refusal(make_delta(OWNER)) is Reason.WRONG_OWNER
    assert machine.find_refusal(gather(LEARNER, make_delta(LEARNER))) is Reason.WRONG_OWNER


def test_what_an_aggregator_keeps_of_strangers_is_bounded():
    """Near ones have many places, and do not take those of the far ones."""
    machine, _ = started(LEARNER)
    near = [PeerId(number.to_bytes(32, "big")) for number in range(STRANGERS_GATHERED_MAX + 1)]
    for peer in near:
        machine.handle(e.RegionTold(peer, "west"), 0)
        delta = make_delta(peer)
        refusal = machine.find_refusal(delta)
        if refusal is None:
            machine.handle(e.DeltasArrived((delta,)), 10)
    assert refusal is Reason.BUSY
    assert machine.find_refusal(make_delta(STRANGERS[0])) is None


# -- an owner -----------------------------------------------------------------------------------------------------------


def merges(effects: list) -> list[e.StartMerge]:
    return [start for start in of(e.StartMerge, effects) if start.slot == Slot(TILE, Version(1))]


def test_an_owner_waits_no_longer_for_those_inside_an_aggregate():
    """Two directly and two in one: all have delivered, and all count once."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    machine.handle(e.DeltasArrived((make_delta(STANDBY),)), 200)
    whole = gather(AGGREGATOR, make_delta(AGGREGATOR), make_delta(LEARNER))
    (merge,) = merges(machine.handle(e.DeltasArrived((whole,)), 300))
    counted = [name for reference in merge.deltas for name in reference.counted()]
    assert len(merge.deltas) == 3
    assert sorted(counted) == sorted([whole.digest, *(make_delta(peer).digest for peer in ORDER)])
    weights = {reference.learner: reference.weight for reference in merge.deltas}
    assert weights[AGGREGATOR] == 200


def test_an_owner_counts_a_delta_once_that_came_two_ways():
    """Directly first and in an aggregate later, or the other way round: the same choice."""
    whole = gather(AGGREGATOR, make_delta(AGGREGATOR), make_delta(LEARNER))
    for arrived in ((whole, make_delta(LEARNER)), (make_delta(LEARNER), whole)):
        machine, effects = started(OWNER)
        learn(machine, effects)
        for delta in arrived:
            machine.handle(e.DeltasArrived((delta,)), 200)
        (merge,) = merges(machine.handle(e.RoundTimer(), ROUND_MS))
        assert {reference.delta for reference in merge.deltas} == {whole.digest, make_delta(OWNER).digest}


def test_an_aggregator_speaks_for_its_own_region_only():
    """It says that it holds the standby's delta, who is elsewhere: the owner waits for the standby all the same."""
    machine, effects = started(OWNER)
    learn(machine, effects)
    whole = gather(AGGREGATOR, make_delta(AGGREGATOR), make_delta(LEARNER), make_delta(STANDBY, salt=b"invented"))
    assert not merges(machine.handle(e.DeltasArrived((whole,)), 300))
    assert merges(machine.handle(e.DeltasArrived((make_delta(STANDBY),)), 400))


def test_a_second_aggregate_of_one_aggregator_is_a_lie():
    """Beside an aggregate its aggregator's own delta is none."""
    machine, _ = started(OWNER)
    machine.handle(e.DeltasArrived((gather(AGGREGATOR, make_delta(LEARNER)),)), 100)
    assert machine.find_refusal(make_delta(AGGREGATOR)) is None
    other = gather(AGGREGATOR, make_delta(AGGREGATOR))
    assert machine.find_refusal(other) is Reason.SECOND_DELTA
    (blamed,) = of(e.Blamed, machine.handle(e.DeltasArrived((other,)), 110))
    assert (blamed.peer, blamed.reason) == (AGGREGATOR, Reason.SECOND_DELTA)


def test_hostile_aggregates_are_refused():
    """Too heavy, of a wrong base, or with something inside that the tile's head counts already."""
    machine, _ = started(OWNER)
    heavy = gather(AGGREGATOR, make_delta(LEARNER))
    heavy = e.Delta(
        *(heavy.tile, heavy.base, heavy.round, heavy.learner, heavy.digest, WEIGHT_MAX + 1),
        (replace(heavy.contributors[0], weight=WEIGHT_MAX + 1),),
    )
    assert machine.find_refusal(heavy) is Reason.BAD_DELTA
    assert machine.find_refusal(gather(AGGREGATOR, make_delta(LEARNER), base=2)) is Reason.STALE_BASE
    decide(machine, make_head(deltas=[refer(LEARNER, 0)]))
    assert machine.find_refusal(gather(AGGREGATOR, make_delta(LEARNER))) is Reason.ALREADY_COUNTED


def test_a_stranger_inside_an_aggregate_is_waited_for_in_the_next_rounds():
    """It contributed, whoever brought it."""
    stranger = STRANGERS[0]
    machine, _ = started(OWNER, more=[stranger])
    whole = gather(AGGREGATOR, make_delta(stranger), make_delta(LEARNER))
    machine.handle(e.DeltasArrived((whole,)), 100)
    reference = merge_of(AGGREGATOR, 0, refer(stranger, 0), refer(LEARNER, 0))
    head = make_head(deltas=[replace(reference, delta=whole.digest)])
    heads = [make_head(GENESIS, tile, [refer(member(0), 0, salt=tile.encode())]) for tile in TILES[1:]]
    decide(machine, head, *heads)
    machine.handle(e.RoundAnnounced(stranger, Round(1)), 110)
    assert stranger in machine._expected()
