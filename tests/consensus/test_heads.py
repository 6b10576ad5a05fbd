"""The rule for one head: what it refuses, and that it refuses in one way only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.state import PROGRESS, State, tile_head
from protocol.finality import Body
from protocol.ids import PeerId, Signature, TileId
from protocol.limits import DELTAS_PER_SLOT_MAX, TILE_BYTES_MAX, UNREGISTERED_DELTAS_PER_SLOT_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Head
from tests.consensus.genesis import BLOCK_RULES, TILES, WEIGHT_MAX, make_keys, make_roster
from tests.consensus.samples import (
    GENESIS,
    RULES,
    STRANGERS,
    TILE,
    after_block,
    extend,
    make_head,
    member,
    merge_of,
    refer,
    tile_at,
)
from tests.strategies import values

FIRST = make_head()
STATE = extend(GENESIS, FIRST)  # one tile at version 1, two at 0
MEMBERS = [member(index) for index in range(4)]


def check_head(state: State, head: Head) -> None:
    RULES.check_successor(tile_head(state, head.tile), state.get(PROGRESS).newest_round, head)


def refusal(head: Head, state: State = STATE) -> Reason:
    with pytest.raises(Rejected) as caught:
        check_head(state, head)
    return caught.value.reason


def test_a_good_head_is_accepted_and_moves_its_tile():
    """Version, root and head of the tile change, and the state root with them; the other tiles stay."""
    head = make_head(STATE)
    after = extend(STATE, head)
    assert (tile_at(after, TILE).version, tile_at(after, TILE).root, tile_at(after, TILE).head) == (2, head.root, head)
    assert after.root() != STATE.root()
    assert all(tile_at(after, tile) == tile_at(STATE, tile) for tile in TILES[1:])
    assert after.get(PROGRESS).newest_round == 1
    assert GENESIS.get(PROGRESS).newest_round == -1


@pytest.mark.parametrize(
    ("reason", "head"),
    [
        (Reason.UNKNOWN_TILE, replace(FIRST, tile=TileId("nothing/0"))),
        (Reason.SLOT_DECIDED, FIRST),
        (Reason.WRONG_PARENT, make_head(STATE, version=3)),
        (Reason.WRONG_PARENT, make_head(STATE, parent_root=tile_at(GENESIS, TILE).root)),
        (Reason.WRONG_PARENT, make_head(STATE, round=0)),
        (Reason.WRONG_PARENT, make_head(STATE, round=2)),
    ],
    ids=["unknown", "decided", "gap", "other parent", "same round", "round ahead of all"],
)
def test_h1_a_version_follows_its_parent_by_one(reason, head):
    """H1: refused are unknown tiles, decided slots, gaps, other parents, rounds not after the parent's or far ahead."""
    assert refusal(head) is reason


def test_h1_a_round_may_be_one_after_the_newest_of_any_tile():
    """A tile that lagged may take the round that follows the newest decided one, and none beyond."""
    lagging = TILES[1]
    check_head(STATE, make_head(STATE, lagging, round=1))
    assert refusal(make_head(STATE, lagging, round=2)) is Reason.WRONG_PARENT


@pytest.mark.parametrize(
    ("reason", "deltas"),
    [
        (Reason.WRONG_BODY, []),
        (Reason.WRONG_BODY, sorted((refer(s, 1) for s in STRANGERS[:65]), key=lambda r: r.learner)),
        (Reason.NOT_CANONICAL, [refer(MEMBERS[1], 1), refer(MEMBERS[0], 1)]),
        (Reason.NOT_CANONICAL, [refer(MEMBERS[0], 1), refer(MEMBERS[0], 1)]),
        (Reason.NOT_CANONICAL, [refer(MEMBERS[0], 1), refer(MEMBERS[0], 1, salt=b"2")]),
        (Reason.STALE_BASE, [refer(MEMBERS[0], 2)]),
        (Reason.ALREADY_COUNTED, [refer(MEMBERS[0], 0)]),
        (Reason.WRONG_BODY, [refer(MEMBERS[0], 1, weight=0)]),
        (Reason.WRONG_BODY, [refer(MEMBERS[0], 1, weight=WEIGHT_MAX + 1)]),
        (Reason.WRONG_BODY, sorted((refer(s, 1) for s in STRANGERS[:9]), key=lambda r: r.learner)),
    ],
    ids=["none", "65", "order", "twice", "two of one", "base ahead", "counted", "no weight", "weight", "strangers"],
)
def test_h2_a_delta_counts_once_and_in_bounds(reason, deltas):
    """H2: refused are lists that are empty, too long, out of order, repeated, stale, counted before or over-weighted."""
    assert refusal(make_head(STATE, deltas=deltas)) is reason


def test_h2_the_grandparent_is_the_oldest_base():
    """At version 3 a base of 1 is taken and a base of 0 is refused."""
    state = extend(STATE, make_head(STATE))
    check_head(state, make_head(state, deltas=[refer(MEMBERS[1], 1)]))
    assert refusal(make_head(state, deltas=[refer(MEMBERS[1], 0)]), state) is Reason.STALE_BASE


def test_h2_one_delta_under_two_learners_counts_once():
    """The digest is what counts: another learner's name on it does not make it new."""
    one = refer(MEMBERS[0], 1)
    assert refusal(make_head(STATE, deltas=[one, replace(one, learner=MEMBERS[1])])) is Reason.ALREADY_COUNTED


@pytest.mark.parametrize("attempt", [1, 4, 10**9])
def test_h3_the_proposer_has_the_place_that_its_attempt_says(attempt):
    """H3: the primary may not speak as a standby, and there is no attempt beyond the order."""
    assert refusal(replace(make_head(STATE), attempt=attempt)) is Reason.WRONG_OWNER


def test_every_member_may_propose_at_its_own_attempt():
    """All four places of the order are good ones."""
    for attempt in range(4):
        check_head(STATE, make_head(STATE, attempt=attempt))


@pytest.mark.parametrize("size", [0, 2 * TILE_BYTES_MAX + 1])
def test_an_update_has_a_size_in_bounds(size):
    """Neither empty nor larger than two tiles."""
    assert refusal(make_head(STATE, update_bytes=size)) is Reason.BAD_DELTA


def test_only_the_proposer_signs():
    """A changed head, another's signature and none are refused."""
    good = make_head(STATE)
    assert refusal(replace(good, root=FIRST.root)) is Reason.BAD_SIGNATURE
    assert refusal(replace(good, signature=FIRST.signature)) is Reason.BAD_SIGNATURE
    assert refusal(replace(good, signature=Signature(bytes(64)))) is Reason.BAD_SIGNATURE


def test_a_body_lists_each_tile_once_in_order():
    """Two heads of one tile, or tiles out of order, spoil the whole body; one bad head does too."""
    one, two = make_head(STATE, TILES[1]), make_head(STATE, TILES[2])
    for heads in [(two, one), (one, one)]:
        with pytest.raises(Rejected) as caught:
            after_block(STATE, heads)
        assert caught.value.reason is Reason.WRONG_BODY
    with pytest.raises(Rejected):
        after_block(STATE, (FIRST, one))
    assert tile_at(after_block(STATE, (one, two)), TILES[2]).version == 1


def test_the_state_root_covers_the_head():
    """Two heads that differ only in their proposer give two state roots."""
    assert extend(GENESIS, make_head(attempt=0)).root() != extend(GENESIS, make_head(attempt=1)).root()


@given(values(Body))
def test_any_body_is_applied_or_rejected(body):
    """Nothing but ``Rejected`` comes out, whatever decodes."""
    try:
        after_block(STATE, body.heads)
    except Rejected:
        return


@given(st.data())
def test_a_good_head_with_any_field_changed_is_applied_or_rejected(data):
    """Near misses reach deeper into the rule than noise does."""
    field = data.draw(st.sampled_from(Head.__struct_fields__))
    other = data.draw(values(Head))
    head = replace(make_head(STATE), **{field: getattr(other, field)})
    try:
        after_block(STATE, (head,))
    except Rejected:
        return
    assert head == make_head(STATE)


@given(st.integers(0, 2**32))
def test_no_history_counts_a_delta_twice(seed):
    """Owners that offer any deltas, late and repeated ones too: whatever the rule lets through, each counts once."""
    random_ = random.Random(seed)
    state, counted = GENESIS, set()
    for _ in range(12):
        version = tile_at(state, TILE).version + 1
        offered = {
            (learner, base): refer(learner, base)
            for learner in MEMBERS[:3]
            for base in range(max(0, version - 3), version + 1)
            if random_.random() < 0.5
        }
        head = make_head(state, deltas=[offered[key] for key in sorted(offered)])
        try:
            state = extend(state, head)
        except Rejected:
            continue
        names = {reference.delta for reference in head.deltas}
        assert not names & counted
        assert all(version - 2 <= reference.base < version for reference in head.deltas)
        counted |= names


@given(st.permutations(range(30)))
def test_selection_does_not_depend_on_the_order_of_arrival(order):
    """The same candidates give the same choice."""
    candidates = [refer(STRANGERS[index], 0) for index in range(26)] + [refer(each, 0) for each in MEMBERS]
    chosen = RULES.select_deltas(TILE, 1, [candidates[index] for index in order])
    assert chosen == RULES.select_deltas(TILE, 1, candidates)


def test_selection_keeps_the_limits_and_passes_the_rule():
    """Strangers share eight places, the members have theirs, and the rule takes what was chosen."""
    candidates = [refer(each, 0) for each in [*STRANGERS, *MEMBERS]]
    chosen = RULES.select_deltas(TILE, 1, candidates)
    assert len(chosen) == UNREGISTERED_DELTAS_PER_SLOT_MAX + 4
    assert {reference.learner for reference in chosen} >= set(MEMBERS)
    check_head(GENESIS, make_head(GENESIS, deltas=chosen))


def test_selection_takes_64_at_most():
    """Of more deltas than a slot takes, the luckiest are chosen, and another version draws others."""
    keys = make_keys(40)
    rules = BLOCK_RULES.head_rules(make_roster(keys, RULES.roster.beacon))
    candidates = [refer(PeerId(key.public), base) for key in keys for base in (0, 1)]
    chosen = rules.select_deltas(TILE, 2, candidates)
    assert len(chosen) == DELTAS_PER_SLOT_MAX < len(candidates)
    strangers = [refer(each, 0) for each in STRANGERS]
    assert len({RULES.select_deltas(TILE, version, strangers) for version in range(1, 9)}) > 1


# -- aggregates ---------------------------------------------------------------------------------------------------------

ONE, TWO, THREE, FOUR = (refer(each, 1) for each in MEMBERS)
MANY = [refer(each, 1, weight=WEIGHT_MAX) for each in STRANGERS]


def test_an_aggregate_is_a_delta_of_many():
    """It weighs what its contributors do, up to eight of the heaviest, and stands beside a delta that came directly."""
    whole = merge_of(MEMBERS[0], 1, ONE, TWO, THREE)
    check_head(STATE, make_head(STATE, deltas=[whole, FOUR]))
    heavy = replace(merge_of(MEMBERS[0], 1, *MANY[:20]), weight=8 * WEIGHT_MAX)
    head = make_head(STATE, deltas=[heavy, FOUR])
    check_head(STATE, head)
    assert (head.learners, head.tokens) == (21, 8 * WEIGHT_MAX + FOUR.weight)
    assert set(head.counted()) == {heavy.delta, FOUR.delta, *heavy.contributors}


@pytest.mark.parametrize(
    ("reason", "deltas"),
    [
        (Reason.ALREADY_COUNTED, [merge_of(MEMBERS[0], 1, ONE, TWO), TWO]),
        (Reason.ALREADY_COUNTED, [merge_of(MEMBERS[0], 1, ONE, TWO), merge_of(MEMBERS[1], 1, TWO, THREE)]),
        (Reason.ALREADY_COUNTED, [merge_of(MEMBERS[1], 1, refer(MEMBERS[0], 0), TWO)]),
        (Reason.NOT_CANONICAL, [replace(whole := merge_of(MEMBERS[0], 1, ONE, TWO), contributors=(ONE.delta,) * 2)]),
        (Reason.NOT_CANONICAL, [replace(whole, contributors=whole.contributors[::-1])]),
        (Reason.ALREADY_COUNTED, [replace(ONE, contributors=(ONE.delta,))]),
        (Reason.NOT_CANONICAL, [ONE, merge_of(MEMBERS[0], 1, TWO, THREE)]),
        (Reason.STALE_BASE, [merge_of(MEMBERS[0], 2, ONE, TWO)]),
        (Reason.WRONG_BODY, [replace(whole, weight=2 * WEIGHT_MAX + 1)]),
        (Reason.WRONG_BODY, [replace(merge_of(MEMBERS[0], 1, *MANY[:20]), weight=8 * WEIGHT_MAX + 1)]),
        (
            Reason.WRONG_BODY,
            [
                replace(merge_of(STRANGERS[40 + part], 1, *MANY[10 * part :][:10]), weight=5 * WEIGHT_MAX)
                for part in range(2)
            ],
        ),
        (Reason.WRONG_BODY, [merge_of(STRANGERS[40 + n], 1, refer(STRANGERS[n], 1)) for n in range(9)]),
    ],
    ids=[
        "direct too",
        "in two",
        "counted before",
        "contributor twice",
        "unsorted",
        "itself",
        "own delta beside it",
        "base ahead",
        "heavier than its own",
        "heavier than eight",
        "strangers heavier than eight",
        "strangers' places",
    ],
)
def test_h2_holds_inside_aggregates(reason, deltas):
    """H2: what is inside counts as what came directly does, once, and nobody gains weight by gathering."""
    assert refusal(make_head(STATE, deltas=deltas)) is reason


def test_h2_a_head_names_so_many_contributors_and_no_more():
    """Eight full aggregates are taken; nine are not."""
    parts = [[refer(learner, 1, salt=bytes([n])) for learner in STRANGERS[:64]] for n in range(9)]
    keys = sorted((learner, base) for learner in [*MEMBERS, STRANGERS[0]] for base in (0, 1))
    whole = [replace(merge_of(*key, *part), weight=1) for key, part in zip(keys, parts, strict=False)]
    check_head(STATE, make_head(STATE, deltas=whole[:8]))
    assert refusal(make_head(STATE, deltas=whole)) is Reason.WRONG_BODY


def test_h2_what_an_aggregate_held_counts_no_more_in_the_next_version():
    """Neither directly, nor inside another aggregate, nor the aggregate itself."""
    whole = merge_of(MEMBERS[0], 1, ONE, TWO)
    state = extend(STATE, make_head(STATE, deltas=[whole]))
    for again in (ONE, merge_of(MEMBERS[2], 1, TWO, THREE), merge_of(MEMBERS[2], 1, whole, THREE)):
        assert refusal(make_head(state, deltas=[again]), state) is Reason.ALREADY_COUNTED
    check_head(state, make_head(state, deltas=[THREE]))


def test_selection_takes_an_aggregate_before_what_is_in_it():
    """Its contributors' direct deltas are dropped, and of two that share one the luckier stays, whatever came first."""
    first, second = merge_of(MEMBERS[0], 1, ONE, TWO), merge_of(MEMBERS[1], 1, TWO, THREE)
    chosen = RULES.select_deltas(TILE, 2, [ONE, TWO, THREE, FOUR, first, second])
    assert chosen == RULES.select_deltas(TILE, 2, [second, first, FOUR, THREE, TWO, ONE])
    assert sum(bool(reference.contributors) for reference in chosen) == 1
    check_head(STATE, make_head(STATE, deltas=chosen))
    left = {ONE.delta, TWO.delta, THREE.delta, FOUR.delta} - {n for reference in chosen for n in reference.counted()}
    assert left <= {ONE.delta}  # the aggregator of the chosen one has no second place in the list


def test_selection_divides_what_strangers_may_weigh():
    """One stranger's aggregate may weigh eight deltas; two weigh four each; the members' weight is theirs."""
    whole = [replace(merge_of(STRANGERS[40 + n], 1, *MANY[20 * n :][:20]), weight=20 * WEIGHT_MAX) for n in range(2)]
    for count in (1, 2):
        chosen = RULES.select_deltas(TILE, 2, [*whole[:count], replace(ONE, weight=WEIGHT_MAX)])
        weights = {reference.learner: reference.weight for reference in chosen}
        assert [weights[each.learner] for each in whole[:count]] == [8 * WEIGHT_MAX // count] * count
        assert weights[ONE.learner] == WEIGHT_MAX
        check_head(STATE, make_head(STATE, deltas=chosen))


@given(st.integers(0, 2**32))
def test_whatever_selection_chooses_passes_the_rule(seed):
    """Candidates that overlap, repeat and weigh too much: the choice is a good head's list, in any order of arrival."""
    random_ = random.Random(seed)
    people = [*MEMBERS, *STRANGERS]
    direct = [refer(each, random_.choice((0, 1)), salt=b"s", weight=WEIGHT_MAX) for each in people]
    offered = random_.sample(direct, 40)
    for _ in range(random_.randrange(14)):
        parts = random_.sample(direct, random_.randrange(1, 60))
        whole = merge_of(random_.choice(people), random_.choice((0, 1)), *parts)
        offered.append(replace(whole, weight=random_.choice((1, 8, 60)) * WEIGHT_MAX))
    chosen = RULES.select_deltas(TILE, 2, offered)
    check_head(STATE, make_head(STATE, deltas=chosen))
    random_.shuffle(offered)
    assert RULES.select_deltas(TILE, 2, offered) == chosen
