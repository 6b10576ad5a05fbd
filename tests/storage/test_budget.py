"""What goes first, what never goes, and the sentence when nothing may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.erasure import ReplicationClass
from storage.budget import RETENTION, Held, KeepRule, Kind, StorageFull, plan_room, removable

RULE = KeepRule(first_challenged=10, datasets_in_use=frozenset({"corpus"}), tile_versions_kept=2, updates_kept=3)

things = st.lists(
    st.builds(
        Held,
        st.sampled_from(Kind),
        st.text("abc", min_size=1, max_size=3),
        st.sampled_from(["trunk/0", "corpus", "other"]),
        st.integers(0, 20),
        st.integers(1, 1000),
        st.booleans(),
    ),
    unique_by=lambda held: (held.kind, held.name, held.group),
    max_size=20,
)


def held(kind: Kind, age: int, group: str = "trunk/0", pinned: bool = False, size_bytes: int = 100) -> Held:
    return Held(kind, f"{kind.name} {group} {age}", group, age, size_bytes, pinned)


def test_the_order_in_which_things_go():
    """Deltas out of the window, then old updates, then old tile versions, then foreign data; the oldest first."""
    everything = [
        *[held(Kind.DATASET_SHARD, 1, group) for group in ("corpus", "other")],
        *[held(Kind.TILE_VERSION, version) for version in (7, 8, 9, 6)],
        *[held(Kind.TILE_VERSION, 1, "trunk/1")],
        *[held(Kind.UPDATE, version) for version in range(4, 9)],
        *[held(Kind.DELTA, round_number) for round_number in (9, 10, 8)],
        held(Kind.DELTA, 1, pinned=True),
    ]
    assert [(thing.kind, thing.group, thing.age) for thing in removable(everything, RULE)] == [
        (Kind.DELTA, "trunk/0", 8),
        (Kind.DELTA, "trunk/0", 9),
        (Kind.UPDATE, "trunk/0", 4),
        (Kind.UPDATE, "trunk/0", 5),
        (Kind.TILE_VERSION, "trunk/0", 6),
        (Kind.TILE_VERSION, "trunk/0", 7),
        (Kind.DATASET_SHARD, "other", 1),
    ]


def test_kinds_go_in_the_order_of_their_classes():
    """What can be made again before history, history before snapshots, and last what nothing here gives back."""
    classes = list(ReplicationClass)  # the most important first
    order = [classes.index(RETENTION[kind]) for kind in sorted(Kind)]
    assert order == sorted(order, reverse=True)
    assert set(order) == {0, 1, 2, 3}


def test_a_copy_goes_before_anything_that_is_the_only_one():
    """That of the newest version stays: learning maps it each round."""
    things = [held(Kind.TILE_COPY, version) for version in (7, 8)] + [held(Kind.DELTA, 1), held(Kind.UPDATE, 1)]
    assert [(thing.kind, thing.age) for thing in removable(things, RULE)] == [(Kind.TILE_COPY, 7), (Kind.DELTA, 1)]


def test_a_disk_that_others_fill_is_full_before_the_allowance():
    """What is left on it counts, and the sentence tells the remedy that helps."""
    old = [held(Kind.DELTA, 1, size_bytes=300)]
    common = {"used_bytes": 1000, "needed_bytes": 500, "bytes_max": 9000}
    assert plan_room(old, RULE, free_bytes=500, **common) == ()
    assert plan_room(old, RULE, free_bytes=200, **common) == tuple(old)
    with pytest.raises(StorageFull) as caught:
        plan_room(old, RULE, free_bytes=199, **common)
    assert str(caught.value) == (
        "Storage is full: 700 bytes are used and must stay, 500 more are needed, and the disk has 499 left: "
        "make room on it, or move the data directory to a larger one."
    )
    with pytest.raises(StorageFull, match="storage_bytes_max allows 1,400: raise"):
        plan_room([], RULE, free_bytes=400, **{**common, "bytes_max": 1400})


def test_nothing_goes_while_there_is_room():
    """Room that is there is used before anything is dropped, to the last byte."""
    old = [held(Kind.DELTA, 1)]
    assert plan_room(old, RULE, used_bytes=100, needed_bytes=900, bytes_max=1000) == ()
    assert plan_room(old, RULE, used_bytes=100, needed_bytes=901, bytes_max=1000) == tuple(old)


def test_full():
    """When what must stay leaves no room, the sentence says how much is used, the limit and the key to raise."""
    kept = [held(Kind.DELTA, 1, size_bytes=200), held(Kind.DELTA, 10, size_bytes=5000)]
    with pytest.raises(StorageFull) as caught:
        plan_room(kept, RULE, used_bytes=5200, needed_bytes=1500, bytes_max=6000)
    assert str(caught.value) == (
        "Storage is full: 5,000 bytes are used and must stay, 1,500 more are needed, and storage_bytes_max allows 6,000: "
        "raise storage_bytes_max in the config, or hold fewer tiles."
    )
    assert (caught.value.used_bytes, caught.value.needed_bytes, caught.value.bytes_max) == (5000, 1500, 6000)


@given(things, st.integers(0, 3000), st.integers(0, 12_000))
def test_a_plan_makes_room_or_says_why_not(everything, needed_bytes, bytes_max):
    """A plan frees enough, no longer than it must be, and never takes what must stay."""
    used_bytes = sum(thing.size_bytes for thing in everything)
    free_bytes = sum(thing.size_bytes for thing in removable(everything, RULE))
    if used_bytes - free_bytes + needed_bytes > bytes_max:
        with pytest.raises(StorageFull) as caught:
            plan_room(everything, RULE, used_bytes=used_bytes, needed_bytes=needed_bytes, bytes_max=bytes_max)
        assert caught.value.used_bytes == used_bytes - free_bytes
        return
    plan = plan_room(everything, RULE, used_bytes=used_bytes, needed_bytes=needed_bytes, bytes_max=bytes_max)
    freed = sum(thing.size_bytes for thing in plan)
    assert used_bytes - freed + needed_bytes <= bytes_max
    assert not plan or used_bytes - freed + plan[-1].size_bytes + needed_bytes > bytes_max
    left = [thing for thing in everything if thing not in plan]
    assert not any(thing.pinned for thing in plan)
    for kind, kept in ((Kind.UPDATE, 3), (Kind.TILE_VERSION, 2)):
        for group in {thing.group for thing in everything}:
            members = [thing for thing in everything if (thing.kind, thing.group) == (kind, group)]
            stay = [thing for thing in left if (thing.kind, thing.group) == (kind, group)]
            assert len(stay) >= min(kept, len(members))
