"""The internet of a scenario: how long things take, what is lost and apart, and the account of every byte.

The machines here send a million bytes in a second and take two millions, unless a test says otherwise.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import PeerId
from simnet.scenario import HardwareClass, Learning, MustHold, Region, Route, Scenario
from simnet.virtual.links import BULK_BYTES, FRAME_BYTES, RegionLinks

NORTH, SOUTH, WEST = (Region(name, 1, (0.0, 0.0)) for name in ("north", "south", "west"))
SCENARIO = Scenario(
    name="three",
    says="Three regions.",
    seconds=60.0,
    peers=1,
    validators=1,
    bootstraps=1,
    regions=(NORTH, SOUTH, WEST),
    routes=(Route(("north", "south"), 100), Route(("north", "north"), 10), Route(("south", "west"), 50, 8, loss=0.25)),
    hardware=(HardwareClass("home", 1, 1.0, 8, 16),),
    learning=Learning(),
    must_hold=MustHold(()),
    default_latency_ms=200,
)
ANNA, ARNE, BEN, CLEO = (PeerId(bytes([number]) * 32) for number in range(1, 5))
PLACES = {ANNA: NORTH, ARNE: NORTH, BEN: SOUTH, CLEO: WEST}
UPLOAD, DOWNLOAD = 1e-6, 0.5e-6  # seconds a byte


def make_links(scenario: Scenario = SCENARIO, seed: int = 1) -> RegionLinks:
    links = RegionLinks(scenario, random.Random(seed))
    for peer, region in PLACES.items():
        links.connect(peer, region, scenario.hardware[0])
    return links


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=1e-9)


# -- time ---------------------------------------------------------------------------------------------------------------


def test_a_message_takes_its_way_and_its_bytes() -> None:
    """The route's latency, and the bytes with their frame at the sender's and the taker's rate; the same both ways."""
    size = 940 + FRAME_BYTES
    for source, sink, latency in ((ANNA, BEN, 0.1), (BEN, ANNA, 0.1), (ANNA, ARNE, 0.01)):
        assert make_links().arrival(source, sink, "k", 940, 7.0) == near(7.0 + size * (UPLOAD + DOWNLOAD) + latency)


def test_without_a_route_the_default_holds() -> None:
    """Between regions; within one a tenth of it."""
    size_seconds = (40 + FRAME_BYTES) * (UPLOAD + DOWNLOAD)
    assert make_links().arrival(ANNA, CLEO, "k", 40, 0.0) == near(0.2 + size_seconds)
    links = make_links()
    links.connect(ARNE, WEST, SCENARIO.hardware[0])
    assert links.arrival(ARNE, CLEO, "k", 40, 0.0) == near(0.02 + size_seconds)


@given(st.integers(0, 2**32))
def test_jitter_is_added_and_stays_within_its_bound(seed: int) -> None:
    """Never earlier than the latency, never later than latency and jitter; drawn anew for each thing."""
    links, size_seconds = make_links(seed=seed), (40 + FRAME_BYTES) * (UPLOAD + DOWNLOAD)
    ways = [links.arrival(BEN, CLEO, "k", 40, float(now)) - now - size_seconds for now in range(1, 20)]
    assert all(0.05 - 1e-9 <= way <= 0.058 + 1e-9 for way in ways)
    assert len({round(way, 9) for way in ways}) > 1


def test_a_machine_sends_one_thing_after_the_other() -> None:
    """What is sent while something else is on its way out waits for it, wherever each goes, small or large."""
    links = make_links()
    links.arrival(ANNA, BEN, "k", 1_000_000 - FRAME_BYTES, 0.0)
    small = 100 * (UPLOAD + DOWNLOAD)
    assert links.arrival(ANNA, ARNE, "k", 100 - FRAME_BYTES, 0.5) == near(1.0 + small + 0.01)
    assert links.arrival(ANNA, ARNE, "k", 100 - FRAME_BYTES, 9.0) == near(9.0 + small + 0.01)


def test_bulk_waits_where_it_arrives_and_small_things_slip_in_between() -> None:
    """Two who send much to one share its rate; what is small, and what goes to others, does not wait for them."""
    bulk = 1_000_000
    links = make_links()
    first = links.arrival(ANNA, BEN, "k", bulk - FRAME_BYTES, 0.0)
    assert first == near(bulk * (UPLOAD + DOWNLOAD) + 0.1)
    assert links.arrival(ARNE, BEN, "k", bulk - FRAME_BYTES, 0.0) == near(first + bulk * DOWNLOAD)
    small = links.arrival(CLEO, BEN, "k", 40, 1.0)
    assert small < first
    assert links.arrival(BEN, CLEO, "k", 40, 1.0) < first


@pytest.mark.parametrize(("size", "waits"), [(BULK_BYTES - 1, False), (BULK_BYTES, True)])
def test_what_is_bulk(size: int, waits: bool) -> None:
    """From 16 KiB on, with the frame."""
    links = make_links()
    first = links.arrival(ANNA, BEN, "k", 10**6, 0.0)
    assert (links.arrival(ARNE, BEN, "k", size - FRAME_BYTES, 0.0) > first) is waits


def test_a_slow_region_is_slow_to_the_others_and_not_in_itself() -> None:
    """Its latency is multiplied and its rate divided, in both directions; two slow regions multiply."""
    links, size = make_links(), 100
    links.slow["north"] = (3.0, 0.5)
    slow = 0.3 + 2 * size * (UPLOAD + DOWNLOAD)
    assert links.arrival(ANNA, BEN, "k", size - FRAME_BYTES, 0.0) == near(slow)
    assert links.arrival(BEN, ANNA, "k", size - FRAME_BYTES, 0.0) == near(slow)
    assert links.arrival(ANNA, ARNE, "k", size - FRAME_BYTES, 9.0) == near(9.01 + size * (UPLOAD + DOWNLOAD))
    links.slow["south"] = (2.0, 0.5)
    assert links.arrival(ANNA, BEN, "k", size - FRAME_BYTES, 9.5) == near(10.1 + 4 * size * (UPLOAD + DOWNLOAD))
    links.slow.clear()
    assert links.arrival(ANNA, BEN, "k", size - FRAME_BYTES, 20.0) == near(20.1 + size * (UPLOAD + DOWNLOAD))


# -- loss and cuts ------------------------------------------------------------------------------------------------------


def test_gossip_is_lost_at_the_rate_of_its_route() -> None:
    """A quarter of what goes from south to west, in either direction, and nothing elsewhere; connections never break."""
    links = make_links()
    lost = sum(links.loses(*pair) for _ in range(2_000) for pair in ((BEN, CLEO), (CLEO, BEN)))
    assert 900 < lost < 1_100
    assert not any(links.loses(ANNA, BEN) or links.breaks() for _ in range(500))


def test_a_cut_region_is_apart_from_all_others_and_together_in_itself() -> None:
    """Nothing goes in or out; two cut regions do not reach each other either."""
    links = make_links()
    assert not links.are_apart(ANNA, BEN)
    links.cut["north"] = 1
    pairs = [(ANNA, BEN), (BEN, ANNA), (ANNA, ARNE), (BEN, CLEO)]
    assert [links.are_apart(*pair) for pair in pairs] == [True, True, False, False]
    links.cut["south"] = 1
    assert [links.are_apart(*pair) for pair in pairs] == [True, True, False, True]
    links.cut.clear()
    assert not any(links.are_apart(*pair) for pair in pairs)


def test_a_stranger_is_outside_every_cut_region() -> None:
    """Peers of whom the links know nothing are in no region."""
    links, stranger = make_links(), PeerId(b"?" * 32)
    links.cut["north"] = 1
    assert links.are_apart(ANNA, stranger)
    assert not links.are_apart(BEN, stranger)


# -- the account --------------------------------------------------------------------------------------------------------


sendings = st.lists(
    st.tuples(
        st.sampled_from(sorted(PLACES)), st.sampled_from(sorted(PLACES)), st.sampled_from("ab"), st.integers(0, 10**5)
    ),
    max_size=30,
)


@given(sendings)
def test_the_account_has_every_byte_once(sent: list[tuple[PeerId, PeerId, str, int]]) -> None:
    """Between regions, within them, by region and by kind: each is the sum of what was sent, with a frame for each."""
    links = make_links()
    for source, sink, kind, size in sent:
        links.arrival(source, sink, kind, size, 0.0)
    wan = local = 0
    kinds = {"a": 0, "b": 0}
    table = {one.name: dict.fromkeys(("north", "south", "west"), 0) for one in SCENARIO.regions}
    for source, sink, kind, size in sent:
        size += FRAME_BYTES
        here, there = PLACES[source].name, PLACES[sink].name
        wan, local = (wan, local + size) if here == there else (wan + size, local)
        kinds[kind] += size
        table[here][there] += size
    assert links.totals() == (wan, local, len(sent))
    assert links.sent_between() == table
    assert {kind: links.by_kind[kind] for kind in "ab"} == kinds


@given(sendings, st.integers(0, 9))
def test_the_same_sendings_arrive_at_the_same_times(sent: list[tuple[PeerId, PeerId, str, int]], seed: int) -> None:
    """Links with the same generator are the same links, and time never goes backwards on a way."""
    scenario = replace(SCENARIO, hardware=(HardwareClass("thin", 1, 1.0, 1, 2),))
    one, other = make_links(scenario, seed), make_links(scenario, seed)
    for now, (source, sink, kind, size) in enumerate(sent):
        arrives = one.arrival(source, sink, kind, size, float(now))
        assert arrives == other.arrival(source, sink, kind, size, float(now))
        assert arrives > now
