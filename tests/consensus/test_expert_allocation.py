"""Who holds which experts: two who know the same plan the same, and what is carried out is not undone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.expert_allocation import (
    COPIES,
    OFF_PERCENT,
    Demand,
    Holder,
    Plan,
    count_slices,
    plan_allocation,
)
from protocol.experts import ExpertSlice, slices_of
from protocol.ids import PeerId
from protocol.limits import MIB

SIZE = MIB
CALL_BYTES = 2048  # a width of 256 in float32, there and back


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def alike(count: int, room: int = 1000, domains: int = 2) -> list[Holder]:
    """Peers of one kind."""
    return [Holder(peer(n), f"region-{n % domains}", room * SIZE, tier=3, speed=100) for n in range(count)]


def called(*calls: int, size: int = SIZE, call_bytes: int = CALL_BYTES) -> list[Demand]:
    return [Demand(f"layer0.expert{n}", size, each, call_bytes) for n, each in enumerate(calls)]


def carried_out(holders: list[Holder], plan: Plan, *, drop: bool = False) -> list[Holder]:
    """The same peers when all did what the plan says; with ``drop`` also let go of what is surplus."""
    dropped = plan.surplus if drop else {}
    return [replace(each, held=plan.held(each.peer) - set(dropped.get(each.peer, ()))) for each in holders]


def off_percent(holders: list[Holder], plan: Plan) -> int:
    """How far the one is off its share of calls that is farthest off."""
    calls = {each.peer: 0 for each in holders}
    for copies in plan.copies.values():
        for copy in copies:
            calls[copy.peer] += copy.calls
    total, speed = sum(calls.values()), sum(each.speed for each in holders)
    return max(abs(100 * calls[each.peer] * speed // (total * each.speed) - 100) for each in holders)


@st.composite
def views(draw: st.DrawFn) -> tuple[list[Holder], list[Demand]]:
    demands = [
        Demand(
            f"layer{n % 2}.expert{n}",
            draw(st.integers(1, 4)) * SIZE,
            draw(st.one_of(st.just(0), st.integers(0, 10_000))),
            draw(st.sampled_from([1, CALL_BYTES])),
        )
        for n in range(draw(st.integers(1, 8)))
    ]
    names = [name for each in demands for count in (1, 2) for name in slices_of(each.expert, count)]
    holders = [
        Holder(
            peer(n),
            f"region-{draw(st.integers(0, 2))}",
            draw(st.integers(0, 12)) * SIZE,
            draw(st.integers(0, 9)),
            draw(st.integers(1, 300)),
            draw(st.frozensets(st.sampled_from(names), max_size=6)),
        )
        for n in range(draw(st.integers(0, 7)))
    ]
    return holders, demands


@given(views(), st.randoms(use_true_random=False))
def test_who_knows_the_same_plans_the_same(view, random):
    """In whatever order it was heard."""
    holders, demands = view
    plan = plan_allocation(holders, demands)
    random.shuffle(holders)
    random.shuffle(demands)
    assert plan_allocation(holders, demands) == plan


@given(views())
def test_a_plan_fits_into_every_room(view):
    """Nobody is to hold more than it has room for, nothing twice; moves are what is not held, and what goes is not kept."""
    holders, demands = view
    plan = plan_allocation(holders, demands)
    sizes = {
        name: -(-each.size_bytes // name.count)
        for each in demands
        for name in plan.copies
        if name.expert == each.expert
    }
    for holder in holders:
        mine = [name for name, copies in plan.copies.items() for copy in copies if copy.peer == holder.peer]
        assert len(set(mine)) == len(mine)
        assert sum(sizes[name] for name in mine) <= holder.room_bytes
        new = {move.slice for move in plan.moves if move.peer == holder.peer}
        assert new == set(mine) - holder.held
        assert not set(plan.evicted.get(holder.peer, ())) & set(mine)
        assert set(plan.surplus.get(holder.peer, ())) <= set(mine) & holder.held
    assert set(plan.homeless) == {name for name, copies in plan.copies.items() if not copies}


@given(views())
def test_a_plan_that_was_carried_out_is_the_plan(view):
    """Whoever plans again after everybody did its part finds nothing to move; also when all surplus was let go."""
    holders, demands = view
    first = plan_allocation(holders, demands)
    for drop in (False, True):
        again = plan_allocation(carried_out(holders, first, drop=drop), demands)
        assert again.moves == ()
        assert again.evicted == {}


@given(views())
def test_two_copies_stay_whatever_is_let_go(view):
    """What is surplus, all at once, leaves as many copies as are wanted, in two domains where they were."""
    holders, demands = view
    plan = plan_allocation(holders, demands)
    domains = {each.peer: each.domain for each in holders}
    for name, copies in plan.copies.items():
        left = [copy.peer for copy in copies if name not in plan.surplus.get(copy.peer, ())]
        assert len(left) >= min(COPIES, len(copies))
        apart = len({domains[copy.peer] for copy in copies})
        assert len({domains[each] for each in left}) >= min(2, apart)


def test_where_there_is_room_everything_is_held_twice_and_apart():
    """Two copies of each expert in two regions; of one that is called most, where that is far more, one more."""
    holders = alike(6, domains=3)
    plan = plan_allocation(holders, called(*[100] * 20))
    domains = {each.peer: each.domain for each in holders}
    for copies in plan.copies.values():
        assert len(copies) >= 2
        assert len({domains[copy.peer] for copy in copies}) >= 2
    hot = plan_allocation(holders, called(*[1] * 19, 1000, call_bytes=1))
    assert len(hot.copies[ExpertSlice("layer0.expert19")]) == 3
    assert sum(map(len, hot.copies.values())) == 2 * 20 + 1


def test_who_leaves_moves_only_its_own():
    """What others hold stays where it is, and what is gone is spread over many."""
    holders = alike(10)
    demands = called(*[0] * 40)
    plan = plan_allocation(holders, demands)
    here = carried_out(holders, plan)
    gone = here.pop(3)
    after = plan_allocation(here, demands)
    assert {move.slice for move in after.moves} == gone.held
    assert len(after.moves) == len(gone.held)
    assert len({move.peer for move in after.moves}) >= 3


def test_who_comes_draws_work():
    """A newcomer is given experts until it has its share, and nobody else is given any."""
    holders = alike(5)
    demands = called(*[5_000] * 30)
    here = [*carried_out(holders, plan_allocation(holders, demands)), *alike(6)[5:]]
    after = plan_allocation(here, demands)
    assert {move.peer for move in after.moves} == {peer(5)}
    assert off_percent(here, after) <= OFF_PERCENT
    assert len(after.moves) == 30 // 6  # fewer do not bring it a sixth of the calls


@pytest.mark.parametrize(
    ("speeds", "copies_least"), [([100] * 8, 5), ([50, 50, 50, 100, 100, 100, 200, 400], 3)], ids=["alike", "mixed"]
)
def test_copies_follow_the_calls(speeds: list[int], copies_least: int):
    """When the calls go to another expert, so do copies; everybody is near its share, and then nothing moves."""
    holders = [replace(each, speed=speed) for each, speed in zip(alike(8), speeds, strict=True)]
    for hot in (3, 11):
        demands = called(*[20_000 if n == hot else 500 for n in range(16)])
        plan = plan_allocation(holders, demands)
        holders = carried_out(holders, plan)
        assert off_percent(holders, plan) <= OFF_PERCENT
        assert plan_allocation(holders, demands).moves == ()
        assert len(plan.copies[ExpertSlice(f"layer0.expert{hot}")]) >= copies_least
    # Of what was hot copies stay as long as they are called; where nobody calls any more, two do.
    plan = plan_allocation(holders, called(*[0 if n == 3 else 500 for n in range(16)]))
    left = carried_out(holders, plan, drop=True)
    assert sum(ExpertSlice("layer0.expert3") in each.held for each in left) == COPIES


def test_no_move_that_does_not_pay():
    """Where a copy has more bytes than its calls would send in an hour, calls go on to where it is."""
    calls = [4_000] + [0] * 15
    paid = SIZE // (6 * CALL_BYTES)  # calls a period that send as many bytes in an hour as a copy has
    assert len(plan_allocation(alike(8), called(*calls)).copies[ExpertSlice("layer0.expert0")]) == 8
    few = [3 * paid] + [0] * 15
    assert (
        len(plan_allocation(alike(8), called(*few)).copies[ExpertSlice("layer0.expert0")]) == 3
    )  # as of every hot one
    assert len(plan_allocation(alike(8), called(*calls, call_bytes=1)).copies[ExpertSlice("layer0.expert0")]) == 3


def test_room_is_made_for_what_is_called():
    """In full rooms a copy that nobody calls goes, never one of the two that stay."""
    full = alike(4, room=10)
    demands = called(*[2_000] * 20)
    held = carried_out(full, plan_allocation(full, demands))
    assert all(len(each.held) == 10 for each in held)  # two copies each, and no room left
    hot = called(*[60_000 if n == 0 else 2_000 for n in range(20)])
    assert plan_allocation(held, hot).evicted == {}
    cold = {ExpertSlice("layer0.expert7")}
    spared = [replace(each, held=each.held | cold, room_bytes=len(each.held | cold) * SIZE) for each in held]
    plan = plan_allocation(spared, called(*[60_000 if n == 0 else 0 if n == 7 else 2_000 for n in range(20)]))
    assert sum(len(gone) for gone in plan.evicted.values()) >= 1
    assert {name for gone in plan.evicted.values() for name in gone} == cold
    assert len(plan.copies[ExpertSlice("layer0.expert7")]) >= COPIES


def test_an_expert_that_is_too_large_is_cut():
    """Into as few slices, of one size, as half of the peers have room for; each slice has two holders."""
    (large,) = called(1000, size=400 * MIB)
    assert count_slices(large, [500 * MIB] * 4) == 1
    assert count_slices(large, [120 * MIB] * 4) == 4
    assert count_slices(large, [500 * MIB, 500 * MIB, 120 * MIB, 500 * MIB]) == 1
    assert count_slices(large, []) == count_slices(large, [0]) == 1
    small = [replace(each, room_bytes=250 * MIB) for each in alike(6)]
    plan = plan_allocation(small, [large])
    assert [str(name) for name in plan.copies] == ["layer0.expert0#0/2", "layer0.expert0#1/2"]
    assert [len(copies) for copies in plan.copies.values()] == [2, 2]
    assert plan.homeless == ()


def test_what_nobody_has_room_for_is_said():
    """A network that is too small for the model holds what it can, one copy of each before two of any."""
    plan = plan_allocation(alike(2, room=3), called(*[10] * 8))
    assert len(plan.homeless) == 2
    assert all(len(copies) <= 1 for copies in plan.copies.values())


def test_who_knew_different_things_does_not_undo_what_was_done():
    """One did not know of a peer: each does its own part of its own plan; with one view, nothing that is there moves."""
    holders = alike(7)
    demands = called(*[3_000 * (n % 3) for n in range(24)])
    everything, without = plan_allocation(holders, demands), plan_allocation(holders[:-1], demands)
    mixed = [carried_out([each], everything if n % 2 else without)[0] for n, each in enumerate(holders)]
    plan = plan_allocation(mixed, demands)
    there = {(name, each.peer) for each in mixed for name in each.held}
    kept = {(name, copy.peer) for name, copies in plan.copies.items() for copy in copies}
    assert there <= kept
    assert plan_allocation(carried_out(mixed, plan), demands).moves == ()
