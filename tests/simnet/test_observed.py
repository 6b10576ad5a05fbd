"""What follows from what was seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simnet.facts import Lagging, PeerFacts, RoundFacts, RoundSlots, Status, TileFacts
from simnet.observed import FaultPlan, Network, compare_roots, ended_faults, fault_target, ratio, repaired_peers
from simnet.options import FAULTS, AllHit, Fault, FaultKind, PeerIndex, Repair, RepairKind, TileOwner


def running(peers: int = 4, rounds: int = 20, round_seconds: float | None = 10.0) -> Network:
    network = Network(peers, rounds, round_seconds)
    for index in range(peers):
        network.started(index, 0.0)
    return network


def kill(peer: int, number: int) -> Fault:
    return Fault(FaultKind.KILL, PeerIndex(peer), number)


def restart(target: PeerIndex | AllHit, number: int) -> Repair:
    return Repair(RepairKind.RESTART, target, number)


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
    plan = FaultPlan([kill(1, 2), kill(0, 3)], [])
    for number in range(3):
        see(network, 10.0 * number, round=number)
    assert plan.take_due_faults(network, 21.0) == []
    assert plan.take_due_faults(network, 25.0) == [kill(1, 2)]
    assert plan.take_due_faults(network, 26.0) == []
    see(network, 30.0, round=4)
    assert plan.take_due_faults(network, 30.0) == [kill(0, 3)]


def test_a_restart_fires_when_its_round_opens():
    """Not in the round before, and only once."""
    network = running()
    plan = FaultPlan([], [restart(PeerIndex(1), 2)])
    see(network, 10.0, round=1)
    assert plan.take_due_repairs(network, 11.0) == []
    see(network, 20.0, round=2)
    assert plan.take_due_repairs(network, 20.0) == [restart(PeerIndex(1), 2)]
    assert plan.take_due_repairs(network, 20.0) == []


def test_a_stalled_network_gets_its_restart_early():
    """Where the survivors cannot reach the round in which a peer comes back, it comes back after three rounds of stall."""
    network = running()
    plan = FaultPlan([], [restart(AllHit(), 9)])
    see(network, 0.0, round=1)
    see(network, 10.0, round=1, state="stalled", detail="only 2 of 4 members are reachable")
    assert plan.take_due_repairs(network, 39.0) == []
    assert plan.take_due_repairs(network, 40.0) == [restart(AllHit(), 9)]
    assert [event.kind for event in network.events] == ["stalled"] * 4
    assert "only 2 of 4 members are reachable" in network.events[0].text


def test_numbers_of_a_killed_process_are_kept():
    """A peer's totals go on after a restart from where the killed process was."""
    network = running()
    network.saw_status(1, Status(short="s1", bytes_sent=700, rejected={"expired": 2}), 1.0)
    network.hit(1, FaultKind.KILL, 2.0)
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
    network.hit(2, FaultKind.KILL, 2.0)
    assert network.done
    network.started(2, 3.0)
    assert not network.done


def test_faults_find_whom_they_mean():
    """A tile's owner is the running peer that has it now; a restart means who was killed and is down."""
    network = running()
    see(network, 1.0)
    network.saw_tiles([TileFacts(tile="trunk/0", owner="s2")])
    owner, nobody = (Fault(FaultKind.KILL, TileOwner(f"trunk/{tile}"), 1) for tile in (0, 1))
    assert fault_target(network, owner) == 2
    assert fault_target(network, nobody) is None
    network.hit(2, FaultKind.KILL, 1.0)
    assert fault_target(network, owner) is None
    assert fault_target(network, kill(2, 1)) is None
    assert repaired_peers(network, restart(AllHit(), 2)) == [2]
    assert repaired_peers(network, restart(PeerIndex(1), 2)) == []


@pytest.mark.parametrize("kind", [kind for kind, row in FAULTS.items() if row.seconds is not None])
def test_a_fault_ends_when_it_was_told_to(kind):
    """After its seconds or its usual ones; once; and it does not hit twice while it lasts."""
    network = running()
    said, unsaid = Fault(kind, PeerIndex(1), 2, 3.5), Fault(kind, PeerIndex(2), 2)
    plan = FaultPlan([said, unsaid], [])
    for fault in (said, unsaid):
        assert fault_target(network, fault) == fault.target.index
        network.hit(fault.target.index, kind, 10.0, "", plan.ends_at(fault, 10.0))
        assert fault_target(network, fault) is None
    assert network.peers[1].state == FAULTS[kind].state
    assert ended_faults(network, 13.4) == []
    assert ended_faults(network, 13.5) == [(1, kind)]
    network.recovered(1, kind, 13.5)
    assert ended_faults(network, 13.5) == []
    assert ended_faults(network, 10.0 + FAULTS[kind].seconds) == [(2, kind)]
    assert [event.kind for event in network.events] == [kind, kind, "over"]


def test_a_pause_with_a_resume_waits_for_it():
    """Unless it says its own seconds, a pause that somebody will end has no other end; a kill ends it too."""
    network = running()
    pauses = [
        Fault(FaultKind.PAUSE, PeerIndex(index), 2, seconds) for index, seconds in ((1, None), (2, None), (3, 4.0))
    ]
    plan = FaultPlan([], [Repair(RepairKind.RESUME, PeerIndex(1), 4), Repair(RepairKind.RESUME, PeerIndex(3), 4)])
    ends = [plan.ends_at(pause, 5.0) for pause in pauses]
    assert ends == [None, 5.0 + FAULTS[FaultKind.PAUSE].seconds, 9.0]
    for pause, end in zip(pauses, ends, strict=True):
        network.hit(pause.target.index, FaultKind.PAUSE, 5.0, "", end)
    assert repaired_peers(network, Repair(RepairKind.RESUME, PeerIndex(1), 4)) == [1]
    network.hit(1, FaultKind.KILL, 6.0)
    assert repaired_peers(network, Repair(RepairKind.RESUME, AllHit(), 4)) == [2, 3]
    assert network.peers[1].state == "killed"


def test_survivors_that_stall_bring_back_who_is_paused():
    """A peer that sleeps cannot say that it is stalled; that the others are is enough."""
    network = running()
    network.hit(1, FaultKind.PAUSE, 0.0)
    plan = FaultPlan([], [Repair(RepairKind.RESUME, PeerIndex(1), 9)])
    see(network, 1.0, round=1)
    for index in (0, 2, 3):
        network.saw_status(index, Status(state="stalled", detail="2 of 4", round=1), 10.0)
    assert plan.take_due_repairs(network, 39.0) == []
    assert plan.take_due_repairs(network, 40.0) == [Repair(RepairKind.RESUME, PeerIndex(1), 9)]


def test_a_node_may_stop_on_its_full_disk_and_is_waited_for():
    """With its sentence and code 2, once for each full disk; any other end of it is one that should not have been."""
    network = running()
    network.hit(1, FaultKind.FILL_DISK, 5.0)
    network.exited(1, 6.0, "code 2; make room", 2)
    assert (network.peers[1].state, network.hindered, network.waiting_to_start) == ("stopped", True, [])
    network.recovered(1, FaultKind.FILL_DISK, 8.0)
    assert network.waiting_to_start == [1]
    network.started(1, 8.0)
    assert (network.waiting_to_start, network.hindered) == ([], False)
    network.exited(1, 9.0, "code 2; make room", 2)
    assert (network.peers[1].state, network.waiting_to_start) == ("exited", [])
    network.hit(2, FaultKind.FILL_DISK, 9.0)
    network.recovered(2, FaultKind.FILL_DISK, 9.5)
    network.exited(2, 10.0, "code 1; a bug", 1)
    network.hit(3, FaultKind.FILL_DISK, 11.0)
    network.recovered(3, FaultKind.FILL_DISK, 12.0)
    network.exited(3, 12.5, "code 2; it met the full disk before", 2)
    assert network.waiting_to_start == [3]
    assert [event.text[:6] for event in network.events if event.kind == "exit"] == ["peer 1", "peer 2"]


def test_a_full_disk_outlives_its_process():
    """Who is killed and comes back while the disk is full finds it full."""
    network = running()
    network.hit(1, FaultKind.FILL_DISK, 5.0)
    network.hit(1, FaultKind.KILL, 6.0)
    network.started(1, 7.0)
    network.exited(1, 8.0, "code 2; make room", 2)
    assert network.peers[1].gave_up


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
