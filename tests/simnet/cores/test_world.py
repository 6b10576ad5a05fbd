"""Level one: what a small network of cores does, and that a seed says all of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.rejection import Reason, Rejected
from simnet.cores.world import World, run_scenario
from simnet.outcome import Outcome
from simnet.scenario import (
    Arrivals,
    Churn,
    Crash,
    CutRegion,
    Eclipse,
    FillDisks,
    GenesisLiars,
    HardwareClass,
    KillBootstraps,
    KillOwners,
    Learning,
    MustHold,
    Region,
    Route,
    Scenario,
    SkewClocks,
    SlowRegion,
    Villains,
)
from simnet.scenario_file import find_scenario
from simnet.scenario_size import ci_sized

ROOT = Path(__file__).resolve().parents[3]

SMALL = Scenario(
    name="small",
    says="Nine machines in three regions learn for some minutes.",
    seconds=120.0,
    peers=9,
    validators=7,
    bootstraps=2,
    regions=(Region("north", 1, (10.0, 60.0)), Region("south", 1, (20.0, -30.0)), Region("west", 1, (-90.0, 40.0))),
    routes=(Route(("north", "south"), 90, 10), Route(("north", "west"), 50, 5, loss=0.01)),
    hardware=(HardwareClass("quick", 1, 8, 100, 100), HardwareClass("slow", 1, 20, 10, 50)),
    learning=Learning(round_seconds=60.0, tiles=6),
    must_hold=MustHold(()),
)


def check(outcome: Outcome) -> None:
    """Every invariant was looked at where it could be, and none was breached."""
    assert outcome.passed, {name: each.breaches[:3] for name, each in outcome.invariants.items() if each.breaches}


def test_a_seed_is_one_run() -> None:
    """The same seed gives the same digest and the same numbers; another seed another run."""
    first, again, other = run_scenario(SMALL, 1), run_scenario(SMALL, 1), run_scenario(SMALL, 2)
    assert first.facts() == again.facts()
    assert first.digest != other.digest
    assert len(first.digest) == 64


@pytest.mark.slow
def test_a_seed_is_one_run_under_any_hash_seed() -> None:
    """No set is walked through and no ``hash`` asked: two processes with other hash seeds log the same."""
    program = (
        "from simnet.cores.world import run_scenario\n"
        "from tests.simnet.cores.test_world import SMALL\n"
        "print(run_scenario(SMALL, 3).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "77")
    }
    assert len(digests) == 1


def test_what_is_shared_changes_nothing() -> None:
    """Peers that compute everything themselves log the same as those that learn from each other."""
    scenario = replace(SMALL, seconds=60.0)
    alone, shared = World(scenario, 4, memo=False).run(), World(scenario, 4).run()
    assert alone.digest == shared.digest
    assert alone.facts() == shared.facts()


def test_calm_network_learns_and_decides_every_tile() -> None:
    """Each round moves all tiles on with everybody's deltas, and the loss falls from round to round."""
    outcome = run_scenario(SMALL, 5)
    check(outcome)
    assert len(outcome.rounds) >= 4
    losses = [each.loss for each in outcome.rounds]
    assert losses == sorted(losses, reverse=True)
    for each in outcome.rounds[1:]:
        assert (each.tiles_advanced, each.learners, each.takeovers) == (6, 9, 0)
    assert {each.round for each in outcome.rounds} == set(range(len(outcome.rounds)))
    assert outcome.invariants["roots_derivable"].checks >= 24


def test_bytes_are_counted_where_they_go() -> None:
    """One region sends nothing over the sea; three do, and samples, regions and kinds of message add up to the same."""
    alone = run_scenario(replace(SMALL, regions=SMALL.regions[:1], routes=(), seconds=60.0), 6)
    assert sum(each.wan_bytes for each in alone.samples) == 0
    world = World(replace(SMALL, seconds=60.0), 6)
    outcome = world.run()
    sent = sum(sum(region.sent_to.values()) for region in outcome.regions)
    assert sent == world.network.traffic.wan_bytes + world.network.traffic.local_bytes
    assert sent == sum(world.network.traffic.by_kind.values())
    assert world.network.traffic.wan_bytes == sum(world.network.traffic.wan_by_kind.values())
    sampled = sum(each.wan_bytes + each.local_bytes for each in outcome.samples)
    assert sampled == sum(sum(each.by_kind.values()) for each in outcome.samples)
    assert 0 < sampled <= sent
    assert outcome.rounds[0].wan_bytes > outcome.rounds[0].local_bytes > 0


def test_killed_owner_is_taken_over_and_comes_back() -> None:
    """Where an owner dies in the middle of a round, a standby proposes, and no tile waits for long."""
    fault = KillOwners(from_round=1, until_round=4, back_seconds=60.0)
    hardware = (HardwareClass("slow", 1, 40, 50, 50),)
    outcome = run_scenario(replace(SMALL, seconds=360.0, hardware=hardware, faults=(fault,)), 7)
    check(outcome)
    assert sum("it owns" in each.says for each in outcome.happenings) >= 1
    assert sum(each.takeovers for each in outcome.rounds) >= 1
    assert outcome.moves


def test_cut_region_catches_up() -> None:
    """While it is cut off it stands still; afterwards it has every block, every tile, and contributes again."""
    scenario = replace(SMALL, seconds=300.0, faults=(CutRegion("south", 40.0, 90.0),))
    world = World(scenario, 8)
    outcome = world.run()
    check(outcome)
    cut = [peer for peer in world.peers if peer.region == "south"]
    others = [peer for peer in world.peers if peer.region != "south"]
    assert cut
    assert min(peer.disk.tip for peer in cut) >= max(peer.disk.tip for peer in others) - 1
    assert [each.says for each in outcome.happenings] == ["south is cut off", "south is connected again"]
    assert outcome.rounds[-1].learners == 9


def test_process_that_comes_back_goes_on_from_its_disk() -> None:
    """Crashed peers start from what they had stored, vote again, and nothing that they said before is contradicted."""
    fault = Crash(share=0.34, at_seconds=30.0, for_seconds=30.0, back_seconds=15.0)
    world = World(replace(SMALL, faults=(fault,)), 9)
    outcome = world.run()
    check(outcome)
    crashed = [peer for peer in world.peers if peer.life > 1]
    assert len(crashed) == 3
    assert all(peer.is_running and peer.disk.tip >= max(each.disk.tip for each in world.peers) - 1 for peer in crashed)
    assert not any(peer.blamed["equivocation"] for peer in world.peers)


def test_peers_come_and_go() -> None:
    """Late ones fetch the chain and the tiles; those that leave come back; everybody who may contribute does."""
    scenario = replace(
        SMALL,
        peers=12,
        seconds=240.0,
        arrivals=(Arrivals(2, 40.0, 80.0),),
        churn=Churn(share_per_hour=10.0, away_seconds=(10.0, 40.0)),
        must_hold=MustHold((), contributes_within_rounds=3),
    )
    world = World(scenario, 10)
    outcome = world.run()
    check(outcome)
    assert [peer.plan.arrives_seconds > 0 for peer in world.peers] == [False] * 10 + [True] * 2
    assert any("leaves" in each.says for each in outcome.happenings)
    assert outcome.samples[0].peers == 10
    assert outcome.invariants["joiners_contribute"].checks > 0


def test_dead_bootstraps_slow_routes_and_wrong_clocks_are_survived() -> None:
    """Two of seven never come back, a region is slow, some clocks are off by a minute: tiles are decided all the same."""
    faults = (KillBootstraps(50.0), SlowRegion("west", 60.0, 60.0, 8.0, 0.1), SkewClocks(0.12, 60.0))
    outcome = run_scenario(replace(SMALL, seconds=240.0, faults=faults), 11)
    check(outcome)
    assert outcome.samples[-1].peers == 7
    assert "the clocks of 1 peers are off by 60 s" in [each.says for each in outcome.happenings]


def test_poison_goes_through_the_real_merge() -> None:
    """A third of the learners undoes what a network learns whose rule is the mean; the rule for strangers bears it."""
    poison = replace(SMALL, villains=(Villains("sign_flipped", 0.33),), must_hold=MustHold(("roots_derivable",)))
    mean = replace(poison, learning=replace(poison.learning, merge_rule="mean"))
    clean, borne = (run_scenario(each, 12).rounds[-1].loss for each in (SMALL, poison))
    assert borne < 1.02 * clean
    undone = run_scenario(mean, 12).rounds
    assert undone[-1].loss > undone[0].loss
    with pytest.raises(Rejected, match="no villain"):
        World(replace(SMALL, villains=(Villains("nice", 0.33),)), 1)


@pytest.mark.parametrize("fault", [FillDisks(0.1, 10.0, 10.0), GenesisLiars(2), Eclipse(4, 10.0)])
def test_what_needs_shells_is_refused(fault: FillDisks | GenesisLiars | Eclipse) -> None:
    """In one sentence that names the scenario."""
    with pytest.raises(Rejected, match="scenario small needs whole nodes") as refused:
        run_scenario(replace(SMALL, faults=(fault,)), 1)
    assert refused.value.reason is Reason.BAD_CONFIG


def test_progress_is_heard() -> None:
    """In virtual seconds, ascending, up to the end."""
    heard: list[float] = []
    outcome = run_scenario(replace(SMALL, seconds=60.0), 13, on_progress=heard.append)
    assert heard == sorted(heard) == [each.seconds for each in outcome.samples]
    assert heard[-1] <= outcome.virtual_seconds == 60.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "calm",
        "churn",
        "region-cut",
        "flash-crowd",
        "poison",
        "slow-region",
        "bootstraps-dead",
        "owners-killed",
        "clock-skew",
    ],
)
def test_shipped_scenario_holds(name: str) -> None:
    """Every scenario that cores can run passes its own invariants, small and short."""
    check(run_scenario(ci_sized(find_scenario(name)), 1))


def test_a_region_sends_one_delta_where_each_learner_would_send_its_own() -> None:
    """With aggregation fewer bytes of deltas cross the sea, and every learner still counts; without, nobody gathers."""
    regions = (Region("north", 1, (10.0, 60.0)), Region("south", 1, (20.0, -30.0)))
    crowd = replace(SMALL, peers=24, regions=regions, routes=(), seconds=60.0)
    gathered, direct = (
        World(replace(crowd, learning=replace(crowd.learning, aggregation=on)), 14) for on in (True, False)
    )
    for world in (gathered, direct):
        check(world.run())
    last = {id(world): world.watch.rounds[-1] for world in (gathered, direct)}
    assert last[id(gathered)].learners == 24
    assert last[id(direct)].learners < 24  # strangers have eight places a tile
    contributors = [
        max(
            len(ref.contributors)
            for block in world.peers[0].disk.ledger
            for head in world.shared.heads_of(block)
            for ref in head.deltas
        )
        for world in (gathered, direct)
    ]
    assert contributors[0] > 1
    assert contributors[1] == 0


class HeavyTiles(World):
    """Whose updates take a thin line half a second each."""

    def weigh(self, data: bytes) -> int:
        return 600_000


def test_an_update_crosses_the_sea_once_however_thin_its_proposers_line_is() -> None:
    """And its region has it before the round is over: neighbours give it to neighbours."""
    regions = (Region("north", 1, (10.0, 60.0)), Region("south", 1, (20.0, -30.0)))
    hardware = (HardwareClass("thin", 1, 8, 10, 50),)
    learning = replace(SMALL.learning, round_seconds=120.0)
    world = HeavyTiles(
        replace(SMALL, peers=40, regions=regions, routes=(), hardware=hardware, learning=learning, seconds=120.0), 14
    )
    crossed: list[str] = []
    count = world.network.count

    def watch(one: str, other: str, size_bytes: int, kind: str) -> None:
        if kind == "blob" and one != other and size_bytes >= 600_000:
            crossed.append(one)
        count(one, other, size_bytes, kind)

    world.network.count = watch  # type: ignore[method-assign]
    check(world.run())
    heads = [head for block in world.peers[0].disk.ledger for head in world.shared.heads_of(block)]
    assert len(heads) >= 12
    assert len(heads) <= len(crossed) <= len(heads) + 6  # those that were proposed as the time was over
