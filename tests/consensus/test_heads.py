"""The rule for one head: what it refuses, and that it refuses in one way only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.state import PROGRESS, State, tile_head
from protocol.finality import Body
from protocol.ids import Signature, TileId
from protocol.limits import DELTAS_PER_SLOT_MAX, TILE_BYTES_MAX, UNREGISTERED_DELTAS_PER_SLOT_MAX
from protocol.rejection import Reason, Rejected
from protocol.roster import Head
from tests.consensus.genesis import TILES, WEIGHT_MAX
from tests.consensus.samples import (
    GENESIS,
    RULES,
    STRANGERS,
    TILE,
    after_block,
    extend,
    make_head,
    member,
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
    candidates = [refer(each, base, salt=bytes([n])) for each in MEMBERS for base in (0, 1) for n in range(12)]
    chosen = RULES.select_deltas(TILE, 2, candidates)
    assert len(chosen) == DELTAS_PER_SLOT_MAX < len(candidates)
    strangers = [refer(each, 0) for each in STRANGERS]
    assert len({RULES.select_deltas(TILE, version, strangers) for version in range(1, 9)}) > 1
