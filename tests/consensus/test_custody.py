"""Custody: no cell without a holder, enough different cells in any third, and audits that ask everybody for everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.custody import (
    Audit,
    draw_audits,
    peer_cells,
    repair_order,
    ring_order,
    ring_parts,
    tile_ring,
)
from protocol.digest import blob_digest, number
from protocol.erasure import COLD, LIVE, CheckedManifest, Geometry, make_manifest
from protocol.ids import Digest, MemberIndex, PeerId
from protocol.limits import CELL_LEAF_BYTES, KIB
from tests.protocol.samples import roster
from tests.strategies import digests, peers

# Equal ones, whales, dust, and members that weigh nothing, in any order.
weights = st.lists(
    st.one_of(st.integers(0, 10), st.integers(0, 2**62), st.sampled_from([1, 85, 86, 256, 10**18])),
    min_size=1,
    max_size=100,
).filter(any)
BEACON = roster(1).beacon
cell_counts = st.one_of(st.just(256), st.just(20), st.integers(2, 256))


def manifest(size_bytes: int, geometry: Geometry = LIVE, salt: bytes = b"") -> CheckedManifest:
    tiles = geometry.tile_count(size_bytes)
    return make_manifest(geometry, size_bytes, tuple(blob_digest(salt + bytes([tile])) for tile in range(tiles)))


def union(parts: Sequence[range], members: Sequence[int]) -> set[int]:
    return {position for member in members for position in parts[member]}


# -- the ring ----------------------------------------------------------------------------------------------------------


@given(weights, cell_counts)
@settings(max_examples=300)
def test_every_position_has_a_holder_and_nobody_keeps_much_more_than_its_share(given: list[int], cells: int) -> None:
    """At most two more than its part of the line; who weighs nothing keeps nothing."""
    parts = ring_parts(given, cells)
    assert union(parts, range(len(given))) == set(range(cells))
    total = sum(given)
    for weight, part in zip(given, parts, strict=True):
        assert (len(part) == 0) is (weight == 0)
        assert cells * weight <= len(part) * total
        assert (len(part) - 2) * total < max(1, cells * weight)
        assert part == range(0) or 0 <= part[0] <= part[-1] < cells
    assert sum(map(len, parts)) < cells + len(given)


@given(weights, cell_counts, st.integers(0, 2**32))
@settings(max_examples=500)
def test_more_than_a_third_of_the_weight_keeps_more_than_a_third_of_the_cells(
    given: list[int], cells: int, seed: int
) -> None:
    """Any set in any order: the lightest, the heaviest, every second, neighbours, one drawn. 86 of 256: 22 more than 64."""
    random, total, members = Random(seed), sum(given), list(range(len(given)))
    parts = ring_parts(given, cells)
    light = sorted(members, key=lambda member: given[member])
    start = random.randrange(len(members))
    orders = (
        light,
        light[::-1],
        members[::2] + members[1::2],
        members[start:] + members[:start],
        random.sample(members, len(members)),
    )
    for order in orders:
        chosen: list[int] = []
        for member in order:
            chosen.append(member)
            if 3 * sum(given[each] for each in chosen) > total:
                break
        assert len(union(parts, chosen)) >= cells // 3 + 1
    assert 256 // 3 + 1 == 86 >= LIVE.data_cells + 22


@pytest.mark.parametrize(("members", "fewest", "most"), [(4, 64, 64), (10, 26, 27), (100, 3, 4)])
def test_equal_members_keep_what_the_specification_says(members: int, fewest: int, most: int) -> None:
    """64 cells each of four, 26 or 27 of ten, 3 or 4 of a hundred: 1.38 times the cells at most."""
    sizes = [len(part) for part in ring_parts([7] * members, 256)]
    assert (min(sizes), max(sizes)) == (fewest, most)
    assert sum(sizes) * 100 <= 138 * 256 + 100


def test_a_roster_without_weight_keeps_nothing() -> None:
    """Nobody asks it to."""
    with pytest.raises(ValueError, match="without weight"):
        ring_parts([0, 0], 256)


@given(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), st.integers(1, 3 * LIVE.tile_bytes))
@settings(max_examples=25)
def test_holders_and_cells_say_the_same(given: list[int], size_bytes: int) -> None:
    """Who keeps a cell, and what somebody keeps, are one relation."""
    blob = manifest(size_bytes)
    for tile in range(blob.tile_count):
        ring = tile_ring(roster(*given), blob, tile, BEACON)
        kept = [ring.cells_of(MemberIndex(member)) for member in range(4)]
        for cell in range(LIVE.cells):
            holders = ring.holders_of(cell)
            assert holders
            assert holders == tuple(member for member in range(4) if cell in kept[member])
            assert holders == ring.holders()[cell]
        with pytest.raises(ValueError, match="not in"):
            ring.holders_of(LIVE.cells)
    with pytest.raises(IndexError):
        tile_ring(roster(*given), blob, blob.tile_count, BEACON)


def test_the_order_follows_tile_and_beacon() -> None:
    """A permutation, another one for each: whose cells a tile needs is not the same in every tile and epoch."""
    root, other = blob_digest(b"root"), blob_digest(b"other")
    order = ring_order(other, root, 256)
    assert sorted(order) == list(range(256))
    assert order == ring_order(other, root, 256)
    assert len({order, ring_order(root, root, 256), ring_order(other, other, 256), tuple(range(256))}) == 4


# -- repair and hand-over ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), st.integers(0, 2**16))
@settings(max_examples=50)
def test_whoever_keeps_something_repairs_in_some_order(given: list[int], salt: int) -> None:
    """Each once; first who keeps cell 0; and who weighs nothing never."""
    blob = manifest(LIVE.tile_bytes, salt=number(salt))
    order = repair_order(roster(*given), blob, 0, BEACON)
    assert sorted(order) == [member for member in range(4) if given[member]]
    ring = tile_ring(roster(*given), blob, 0, BEACON)
    assert order[0] == ring.holders_of(0)[0]
    first_cells = [ring.cells_of(member)[0] for member in order]
    assert first_cells == sorted(first_cells)
    with pytest.raises(IndexError):
        repair_order(roster(*given), blob, 1, BEACON)


def test_everybody_is_the_first_to_repair_some_tiles() -> None:
    """Of two hundred about as many as its weight is of the whole."""
    blob = manifest(200 * LIVE.tile_bytes)
    weighted = roster(1, 1, 2, 4)
    first = Counter(repair_order(weighted, blob, tile, weighted.beacon)[0] for tile in range(200))
    assert 10 <= first[0] <= 40
    assert 10 <= first[1] <= 40
    assert 30 <= first[2] <= 70
    assert 75 <= first[3] <= 125


# -- peers -------------------------------------------------------------------------------------------------------------


@given(peers, digests, st.integers(2, 256), st.data())
def test_whoever_keeps_more_keeps_what_it_kept(peer: PeerId, root: bytes, cells: int, data: st.DataObject) -> None:
    """Different cells, and a longer list begins with the shorter one."""
    count = data.draw(st.integers(0, cells))
    kept = peer_cells(peer, Digest(root), cells, count)
    assert len(set(kept)) == count
    assert all(0 <= cell < cells for cell in kept)
    for shorter in (0, count // 2, count):
        assert peer_cells(peer, Digest(root), cells, shorter) == kept[:shorter]


def test_a_peer_keeps_other_cells_of_another_tile_and_another_peer_others() -> None:
    """A peer id that was searched for one tile is any peer id for the next."""
    roots, strangers = (
        [blob_digest(bytes([index])) for index in range(20)],
        [PeerId(bytes([i]) * 32) for i in range(20)],
    )
    assert len({peer_cells(strangers[0], root, 256, 8) for root in roots}) == 20
    assert len({peer_cells(peer, roots[0], 256, 8) for peer in strangers}) == 20


def test_nobody_keeps_more_cells_than_there_are() -> None:
    """Nor fewer than none."""
    for count in (-1, 21):
        with pytest.raises(ValueError, match="cells of 20"):
            peer_cells(PeerId(bytes(32)), Digest(bytes(32)), 20, count)


def test_twelve_peers_with_eight_cells_each_rebuild_every_tile() -> None:
    """As the specification measured: 300 tiles, and in none fewer than 64 different cells."""
    strangers = [PeerId(bytes([index]) * 32) for index in range(12)]
    fewest = 256
    for tile in range(300):
        root = blob_digest(bytes([tile % 256, tile // 256]))
        fewest = min(fewest, len({cell for peer in strangers for cell in peer_cells(peer, root, 256, 8)}))
    assert fewest >= 64


# -- audits ------------------------------------------------------------------------------------------------------------

BLOBS = [
    manifest(5 * COLD.tile_bytes + 1, COLD, b"a"),
    manifest(LIVE.tile_bytes + 3, LIVE, b"b"),
    manifest(1, LIVE, b"c"),
]
HOLDER = PeerId(bytes(32))


def by_peer(blob: CheckedManifest, tile: int) -> Sequence[int]:
    return peer_cells(HOLDER, blob.tile_root(tile), blob.geometry.cells, 3)


def audits(beacon: bytes = b"beacon", holder: PeerId = HOLDER, count: int = 20) -> list[Audit]:
    return draw_audits(blob_digest(beacon), holder, BLOBS, by_peer, count)


def test_audits_follow_beacon_and_holder_and_no_order() -> None:
    """The same for everybody; more of them begin with fewer."""
    assert audits() == draw_audits(blob_digest(b"beacon"), HOLDER, BLOBS[::-1], by_peer, 20)
    assert audits(count=7) == audits()[:7]
    assert audits() != audits(b"another")
    assert audits() != audits(holder=PeerId(b"\x01" * 32))


def test_audits_ask_only_for_what_a_holder_keeps_and_in_time_for_all_of_it() -> None:
    """Every tile about as often, every cell, and no leaf that a shorter cell does not have."""
    places: Counter[tuple[Digest, int]] = Counter()
    cells, leaves = set(), set()
    blobs = {blob.root: blob for blob in BLOBS}
    for audit in audits(count=9_000):
        blob = blobs[audit.blob]
        assert audit.cell in by_peer(blob, audit.tile)
        assert 0 <= audit.leaf < blob.cell_bytes(audit.tile) // CELL_LEAF_BYTES
        places[audit.blob, audit.tile] += 1
        cells.add((audit.blob, audit.tile, audit.cell))
        leaves.add(audit.leaf)
    assert len(places) == 9
    assert all(850 < times < 1_150 for times in places.values())
    assert len(cells) == 27
    assert len(leaves) > 900  # of 1,024 in a full cell
    assert BLOBS[2].cell_bytes(0) == KIB


def test_whoever_keeps_nothing_is_asked_for_nothing() -> None:
    """Neither by a tile of which it has no cell, nor where there is no blob."""
    assert draw_audits(blob_digest(b""), HOLDER, BLOBS, lambda blob, tile: (), 9) == []
    assert draw_audits(blob_digest(b""), HOLDER, [], by_peer, 9) == []
    first = draw_audits(blob_digest(b""), HOLDER, BLOBS, lambda blob, tile: () if tile else (4,), 40)
    assert 0 < len(first) < 40
    assert {(audit.tile, audit.cell) for audit in first} == {(0, 4)}
