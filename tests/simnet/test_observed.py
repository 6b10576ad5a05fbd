"""What follows from what was seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simnet.facts import Lagging, PeerFacts, RoundFacts, RoundSlots, Status, TileFacts
from simnet.observed import FaultPlan, Network, compare_roots, kill_target, killed_peers, ratio
from simnet.options import AllKilled, Kill, PeerIndex, Restart, TileOwner


def running(peers: int = 4, rounds: int = 20, round_seconds: float | None = 10.0) -> Network:
    network = Network(peers, rounds, round_seconds)
    for index in range(peers):
        network.started(index, 0.0)
    return network


def see(network: Network, now: float, **fields) -> None:
    for peer in network.live:
        network.saw_status(
            peer.index, Status(short=f"s{peer.index}", state=fields.get("state", "learning"), **_less(fields)), now
        )


def _less(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if name != "state"}


def test_a_round_is_open_when_half_of_the_running_peers_are_in_it():
    """One peer that is ahead opens nothing; the second of four does."""
    network = running()
    see(network, 1.0, round=0)
    network.saw_status(0, Status(state="learning", round=1), 2.0)
    assert network.round == 0
    network.saw_status(1, Status(state="learning", round=1), 3.0)
    assert network.round == 1
    assert network.opened_at == {0: 1.0, 1: 3.0}


def test_nodes_that_still_boot_open_no_round():
    """Round 0 opens with learning, not with a process."""
    network = running()
    see(network, 1.0, round=0, state="syncing")
    assert network.opened_at == {}


def test_a_kill_fires_once_in_the_middle_of_its_round():
    """Not at the opening, then once, and at once if the round was missed."""
    network = running()
    plan = FaultPlan([Kill(PeerIndex(1), 2), Kill(PeerIndex(0), 3)], [])
    for number in range(3):
        see(network, 10.0 * number, round=number)
    assert plan.take_due_kills(network, 21.0) == []
    assert plan.take_due_kills(network, 25.0) == [Kill(PeerIndex(1), 2)]
    assert plan.take_due_kills(network, 26.0) == []
    see(network, 30.0, round=4)
    assert plan.take_due_kills(network, 30.0) == [Kill(PeerIndex(0), 3)]


def test_a_restart_fires_when_its_round_opens():
    """Not in the round before, and only once."""
    network = running()
    plan = FaultPlan([], [Restart(PeerIndex(1), 2)])
    see(network, 10.0, round=1)
    assert plan.take_due_restarts(network, 11.0) == []
    see(network, 20.0, round=2)
    assert plan.take_due_restarts(network, 20.0) == [Restart(PeerIndex(1), 2)]
    assert plan.take_due_restarts(network, 20.0) == []


def test_a_stalled_network_gets_its_restart_early():
    """Where the survivors cannot reach the round in which a peer comes back, it comes back after three rounds of stall."""
    network = running()
    plan = FaultPlan([], [Restart(AllKilled(), 9)])
    see(network, 0.0, round=1)
    see(network, 10.0, round=1, state="stalled", detail="only 2 of 4 members are reachable")
    assert plan.take_due_restarts(network, 39.0) == []
    assert plan.take_due_restarts(network, 40.0) == [Restart(AllKilled(), 9)]
    assert [event.kind for event in network.events] == ["stalled"] * 4
    assert "only 2 of 4 members are reachable" in network.events[0].text


def test_numbers_of_a_killed_process_are_kept():
    """A peer's totals go on after a restart from where the killed process was."""
    network = running()
    network.saw_status(1, Status(short="s1", bytes_sent=700, rejected={"expired": 2}), 1.0)
    network.killed(1, 2.0)
    network.saw_status(1, Status(short="s1", bytes_sent=999), 2.1)
    assert network.peers[1].bytes_sent == 700, "an answer that crossed the kill is not counted"
    network.started(1, 3.0)
    network.saw_status(1, Status(short="s1", bytes_sent=50, rejected={"expired": 1}), 4.0)
    assert network.peers[1].bytes_sent == 750
    assert network.peers[1].rejected == {"expired": 3}


def test_a_restarted_peer_does_not_erase_what_it_sent_in_a_round():
    """Of two reports of one round by one peer, the one with more bytes stands."""
    network = running()
    network.saw_rounds(0, [RoundFacts(round=3, bytes_sent=500, delta_float32_bytes=9)], 1.0)
    network.saw_rounds(0, [RoundFacts(round=3, bytes_sent=0, closed_ms=4)], 2.0)
    assert network.totals()[0].bytes_sent == 500
    assert network.totals()[0].delta_float32_bytes == 9


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=2), st.lists(st.floats(0, 6), min_size=2, max_size=2))
def test_own_bytes_are_summed_and_losses_are_averaged(sent, losses):
    """Each number of a round is joined as its meaning asks."""
    network = running(2)
    for peer in range(2):
        network.saw_rounds(
            peer,
            [RoundFacts(round=0, bytes_sent=sent[peer], val_loss=losses[peer], tiles=3, tiles_advanced=3, tokens=70)],
            1.0,
        )
    totals = network.totals()[0]
    assert totals.bytes_sent == sum(sent)
    assert totals.val_loss == pytest.approx(sum(losses) / 2)
    assert totals.tokens == 70, "tokens come from decided heads, which all nodes share"


def test_a_slot_lags_only_if_no_peer_saw_it_advance():
    """A peer that is behind does not make the network's slots lag, and a reason is kept where one peer knows it."""
    network = running(2)
    network.saw_rounds(0, [RoundFacts(round=0, tiles=2, tiles_advanced=1, lagging=(Lagging(tile="a/0"),))], 1.0)
    network.saw_rounds(
        1, [RoundFacts(round=0, tiles=2, tiles_advanced=1, lagging=(Lagging(tile="a/0", reason="why"),))], 1.0
    )
    assert [slot.reason for slot in network.totals()[0].lagging] == ["why"]
    network.saw_rounds(1, [RoundFacts(round=0, tiles=2, tiles_advanced=2)], 2.0)
    assert network.totals()[0].lagging == ()


def test_a_run_is_done_when_every_running_peer_has_closed_every_round():
    """A killed peer is not waited for; a silent one is."""
    network = running(3, rounds=2)
    see(network, 1.0, round=2, rounds=2)
    assert network.done
    network.saw_silence(2)
    assert not network.done
    network.killed(2, 2.0)
    assert network.done
    network.started(2, 3.0)
    assert not network.done


def test_faults_find_whom_they_mean():
    """A tile's owner is the running peer that has it now; a restart means who was killed and is down."""
    network = running()
    see(network, 1.0)
    network.saw_tiles([TileFacts(tile="trunk/0", owner="s2")])
    assert kill_target(network, TileOwner("trunk/0")) == 2
    assert kill_target(network, TileOwner("trunk/1")) is None
    network.killed(2, 1.0)
    assert kill_target(network, TileOwner("trunk/0")) is None
    assert kill_target(network, PeerIndex(2)) is None
    assert killed_peers(network, AllKilled()) == [2]
    assert killed_peers(network, PeerIndex(1)) == []


def test_the_round_trip_time_is_the_median_over_connected_peers():
    """Peers that are not connected have no say."""
    network = running()
    network.saw_peers(
        0, [PeerFacts(connected=True, rtt_ms=value) for value in (1.0, 3.0, 90.0)] + [PeerFacts(rtt_ms=1e9)]
    )
    assert network.peers[0].rtt_ms == 3.0


_roots = st.dictionaries(
    st.sampled_from(["a/0", "b/0", "c/0"]), st.tuples(st.integers(0, 2), st.sampled_from("xy")), min_size=1
)


@given(st.dictionaries(st.integers(0, 3), _roots, min_size=1, max_size=4))
def test_roots_agree_exactly_when_all_peers_hold_the_same(held):
    """Any difference, a missing tile included, is a disagreement, and it is named."""
    tiles = {
        peer: [TileFacts(tile=tile, version=version, root=root) for tile, (version, root) in slots.items()]
        for peer, slots in held.items()
    }
    rounds = {7: {peer: RoundSlots(round=7, slots=slots) for peer, slots in held.items()}}
    agreement = compare_roots(tiles, rounds, 20)
    same = all(slots == next(iter(held.values())) for slots in held.values())
    assert agreement.roots_agree == same
    assert agreement.rounds_agreed == ((7,) if same else ())
    assert bool(agreement.dissent) == (not same)
    pairs = {(tile, version, root) for slots in held.values() for tile, (version, root) in slots.items()}
    assert agreement.torn == (len({pair[:2] for pair in pairs}) < len(pairs)), "two roots of one version: torn"


def test_nobody_agrees_with_nobody():
    """Without a peer, or with a peer that shows no tiles, or for a round that nobody has, nothing agrees."""
    assert compare_roots({}, {3: {}}, 20) == compare_roots({}, {}, 20)
    assert not compare_roots({}, {}, 20).roots_agree
    assert not compare_roots({0: ()}, {}, 20).roots_agree


def test_a_ratio_of_nothing_is_nothing():
    """No bytes, no ratio."""
    assert ratio(10, 0) is None
    assert ratio(10, 5) == 2.0


def test_why_a_run_is_unfinished_names_the_peers_behind():
    """The sentence has each peer's own words."""
    network = running(2, rounds=3)
    network.saw_status(0, Status(state="stalled", detail="too few members", rounds=1), 1.0)
    network.saw_status(1, Status(state="done", rounds=3), 1.0)
    assert network.why_unfinished() == "3 of 3 rounds are closed; peer 0 is stalled (too few members)."
