"""How calls are divided among the holders of copies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.call_shares import Shares

WORK_MAX = 10**9


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[int], list[list[int]], list[int]]:
    """Works, holders, speeds."""
    speeds = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=8))
    experts = draw(st.integers(1, 10))
    some = st.lists(st.integers(0, len(speeds) - 1), unique=True, max_size=len(speeds))
    works = draw(st.lists(st.integers(0, WORK_MAX), min_size=experts, max_size=experts))
    return works, draw(st.lists(some, min_size=experts, max_size=experts)), speeds


@given(worlds())
def test_all_work_of_whatever_is_held_is_done_once(world):
    """The parts of an expert add up to its work, none is below nothing, and loads are the sums of parts."""
    works, holders, speeds = world
    shares = Shares(works, holders, speeds)
    loads = [0] * len(speeds)
    for work, having, parts in zip(works, holders, shares.parts, strict=True):
        assert sum(parts) == (work if having else 0)
        for holder, part in zip(having, parts, strict=True):
            assert part >= 0
            loads[holder] += part
    assert shares.loads == loads


@given(worlds())
def test_nobody_works_while_another_holder_of_the_same_has_less_to_do(world):
    """Whoever has a part of an expert's work is at the level of its least busy holder, but for what nobody feels."""
    works, holders, speeds = world
    shares = Shares(works, holders, speeds)
    felt = sum(works) // 50 + 2 * len(works) + 2  # of all work; the last units are nobody's matter
    for having, parts in zip(holders, shares.parts, strict=True):
        for holder, part in zip(having, parts, strict=True):
            for other in having:
                level = (shares.loads[other] + felt) * speeds[holder]
                assert part == 0 or shares.loads[holder] * speeds[other] <= level + felt * speeds[other]


@given(worlds(), st.data())
def test_one_more_copy_divides_as_if_it_had_always_been_there(world, data):
    """The loads of a division that was changed are those of one that was made anew, but for what nobody feels."""
    works, holders, speeds = world
    places = [
        (expert, holder)
        for expert, having in enumerate(holders)
        for holder in range(len(speeds))
        if having and holder not in having
    ]
    if not places:
        return
    expert, holder = data.draw(st.sampled_from(places))
    before = Shares(works, holders, speeds)
    loads = list(before.loads)
    after = before.with_copy(expert, holder)
    anew = Shares(works, [[*each, holder] if at == expert else each for at, each in enumerate(holders)], speeds)
    assert before.loads == loads
    felt = sum(works) // 25 + 2 * len(works) + 2
    assert all(abs(one - other) <= felt for one, other in zip(after.loads, anew.loads, strict=True))


def test_work_goes_by_speed():
    """Three holders of one expert do what their speeds say; one that has much of another's work is left out."""
    assert Shares([600], [[0, 1, 2]], [1, 2, 3]).parts == [[100, 200, 300]]
    assert Shares([600, 60], [[0], [0, 1]], [1, 1]).parts == [[600], [0, 60]]
