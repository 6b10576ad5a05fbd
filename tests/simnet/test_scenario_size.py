"""The same scenario, larger, smaller and shorter: what it is about stays."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.rejection import Rejected
from simnet.network import make_template, plan_peers
from simnet.scenario import Arrivals, Eclipse, GenesisLiars, check_scenario, end_seconds
from simnet.scenario_file import SHIPPED, find_scenario
from simnet.scenario_size import CI_PEERS, CI_ROUND_SECONDS, CI_ROUNDS_MAX, ci_sized, resize
from simnet.swarm import draw_scenario

NAMES = [path.stem for path in sorted(SHIPPED.glob("*.toml"))]


@pytest.mark.parametrize("name", NAMES)
def test_the_small_form_keeps_every_fault(name):
    """Each happens, to somebody, at the same part of the run; so do arrivals, churn and villains."""
    scenario = find_scenario(name)
    small = ci_sized(scenario)
    assert small.peers <= CI_PEERS
    assert small.learning.round_seconds <= CI_ROUND_SECONDS
    assert small.rounds <= CI_ROUNDS_MAX
    assert (small.name, small.says, small.must_hold) == (scenario.name, scenario.says, scenario.must_hold)
    assert list(map(type, small.faults)) == list(map(type, scenario.faults))
    for fault, before in zip(small.faults, scenario.faults, strict=True):
        part = end_seconds(before, scenario.learning.round_seconds) / scenario.seconds
        assert end_seconds(fault, small.learning.round_seconds) / small.seconds == pytest.approx(part)
        if hasattr(fault, "share"):
            assert round(fault.share * small.peers) >= 1
    peers = plan_peers(small, 0)
    assert {peer.villain for peer in peers} - {None} == {each.kind for each in scenario.villains}
    assert bool(small.arrivals) == bool(scenario.arrivals)
    assert any(peer.arrives_seconds for peer in peers) == bool(scenario.arrivals)
    if scenario.churn is not None and small.churn is not None:
        leave = scenario.churn.share_per_hour * scenario.seconds
        assert small.churn.share_per_hour * small.seconds == pytest.approx(leave)
        assert (small.peers - small.validators) * leave / 3600 > 1  # or nobody leaves in most seeds
    assert make_template(small).learning.round_ms == 1000 * small.learning.round_seconds


def test_more_peers_do_not_make_a_larger_roster():
    """Learners do: ``calm --peers 200`` is what is promised with ten validators."""
    calm = resize(find_scenario("calm"), 200)
    assert (calm.peers, calm.validators, calm.bootstraps) == (200, 10, 3)
    assert resize(calm, 1000).validators == 10


def test_fewer_peers_make_a_smaller_roster_that_still_survives_two():
    """Down to all of them; what dies for ever is never a third of it."""
    assert [resize(find_scenario("calm"), peers).validators for peers in (40, 30, 20, 8, 5, 1)] == [10, 8, 7, 7, 5, 1]
    dead = resize(find_scenario("bootstraps-dead"), 12)
    assert (dead.validators, dead.bootstraps) == (7, 2)


def test_those_who_arrive_keep_their_share():
    """Four become as many as there are now; two waves stay two."""
    crowd = find_scenario("flash-crowd")
    for peers in (5, 50, 200, 600):
        sized = resize(crowd, peers)
        assert sized.validators == 4
        assert sum(each.peers for each in sized.arrivals) == min(peers - 4, 196 * peers // 200)
    waves = dataclasses.replace(crowd, arrivals=(Arrivals(98, 600, 700), Arrivals(98, 900, 950)))
    assert [each.peers for each in resize(waves, 105).arrivals] == [50, 51]


def test_attackers_of_one_victim_do_not_grow_with_the_network():
    """A victim has so many connections, and a small network fewer, but never more than attackers. Liars are a share."""
    attackers = [resize(find_scenario("eclipse"), peers).faults for peers in (400, 40, 20, 10, 4)]
    assert attackers == [(Eclipse(count, 30.0),) for count in (80, 80, 40, 20, 8)]
    liars = [resize(find_scenario("genesis-liar"), peers).faults for peers in (400, 40, 10, 4)]
    assert liars == [(GenesisLiars(count),) for count in (80, 8, 2, 1)]


def test_a_size_that_cannot_be_is_refused():
    """With the sentence of every other mistake."""
    with pytest.raises(Rejected, match="peers must be 1 to"):
        resize(find_scenario("calm"), 5_000)


@given(seed=st.integers(0, 10**9), peers=st.integers(7, 2_000))
def test_whatever_can_be_run_can_be_run_at_every_size(seed, peers):
    """Larger, smaller, and then small and short; a small form is its own."""
    sized = resize(draw_scenario(seed), peers)
    assert sized.peers == peers
    small = ci_sized(sized)
    assert check_scenario(small) is small
    assert ci_sized(small) == small
