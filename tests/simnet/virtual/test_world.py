"""Level two: whole nodes in virtual time. A seed is one history, machines come back, and every shipped scenario passes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from p2p.requests import DELTA
from protocol.codec import decode
from protocol.ids import PeerId
from protocol.learning import DeltaBundle, DeltaReceipt
from protocol.limits import FRAME_BYTES_MAX
from protocol.rejection import Reason, Rejected
from simnet.network import plan_peers
from simnet.outcome import Outcome
from simnet.scenario import MustHold, Scenario
from simnet.scenario_file import find_scenario, list_scenarios
from simnet.scenario_size import ci_sized, resize
from simnet.virtual.disk import VirtualDisk
from simnet.virtual.machine import Program, VirtualMachine, WatchedNode
from simnet.virtual.time import run_virtually
from simnet.virtual.world import RIGHT, VirtualWorld, _quiet, _sparing, run_scenario

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = tuple(scenario.name for scenario in list_scenarios())
Script = Callable[[VirtualWorld], Awaitable[None]]


def small(rounds: int) -> Scenario:
    """A calm day of seven machines, all of them validators."""
    scenario = ci_sized(resize(find_scenario("calm"), 7))
    return replace(scenario, seconds=rounds * scenario.learning.round_seconds, bootstraps=2)


def check(outcome: Outcome) -> None:
    """Every rule was looked at, and none was broken; what is not gets the command that shows it."""
    broken = {name: each.breaches[:3] for name, each in outcome.invariants.items() if each.breaches}
    assert outcome.passed, f"{outcome.scenario}, seed {outcome.seed}: {broken}"
    assert any(each.checks for each in outcome.invariants.values())


def run_script(scenario: Scenario, seed: int, script: Script, program: Program = RIGHT) -> Outcome:
    """One world, with somebody in it who does and sees more than a scenario says."""
    worlds: list[VirtualWorld] = []

    async def main() -> None:
        world = VirtualWorld(scenario, seed, None, program)
        worlds.append(world)
        with _quiet(world.watch, world.machines[0].peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(script, world)
                await world.run()

    with _sparing():
        run_virtually(seed, main)
    return worlds[0].outcome()


def tip(machine: VirtualMachine) -> int:
    """The newest final block that a running machine holds."""
    assert machine.node is not None
    return machine.node.ground.ledger.tip() or 0


@pytest.mark.slow
def test_a_seed_is_one_history() -> None:
    """The same seed gives the same digest and the same numbers; another seed another history."""
    first, again, other = (run_scenario(small(2), seed) for seed in (1, 1, 2))
    assert first.facts() == again.facts()
    assert first.digest != other.digest
    assert len(first.digest) == 64
    check(first)


@pytest.mark.slow
def test_a_seed_is_one_history_under_any_hash_seed() -> None:
    """No set is walked through and no ``hash`` asked: two processes with other hash seeds log the same."""
    program = (
        "from simnet.virtual.world import run_scenario\n"
        "from tests.simnet.virtual.test_world import small\n"
        "print(run_scenario(small(1), 3).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "77")
    }
    assert len(digests) == 1


@pytest.mark.slow
def test_a_killed_machine_comes_back_and_catches_up() -> None:
    """While it is down the others go on; back, it holds what they hold, and ends with every tile."""
    tips: list[tuple[int, int]] = []

    async def script(world: VirtualWorld) -> None:
        victim, other = world.machines[-1], world.machines[0]
        await trio.sleep(20.0)
        last = tip(victim)
        await world.kill(victim)
        assert not victim.is_running
        assert world.network.connections_of(victim.peer) == 0
        await trio.sleep(30.0)
        tips.append((last, tip(other)))
        world.start(victim)
        await trio.sleep(30.0)
        assert victim.lives == 2
        tips.append((tip(victim), tip(other)))

    check(run_script(small(3), 1, script))
    (last, missed), (caught_up, newest) = tips
    assert missed > last
    assert missed < newest <= caught_up + 1


@pytest.mark.slow
def test_a_machine_finds_its_network_again_when_all_bootstraps_are_gone() -> None:
    """Those that it was told to begin with are dead when it restarts, and it dials whom it knew.

    The others have as many connections as they want, and it is no member of the roster: nobody looks for it.
    """
    scenario = ci_sized(find_scenario("calm"))
    scenario = replace(scenario, seconds=2 * scenario.learning.round_seconds, bootstraps=2)
    connections: list[int] = []
    remembered: list[tuple[str, ...]] = []

    async def script(world: VirtualWorld) -> None:
        victim = world.machines[-1]
        bootstraps = [machine for machine in world.machines if machine.plan.is_bootstrap]
        assert not victim.plan.is_validator
        await trio.sleep(20.0)
        await world.kill(victim)
        for machine in bootstraps:
            await world.kill(machine)
        ground = victim._open_ground()
        remembered.append(ground.known_peers())
        ground.close()
        await trio.sleep(10.0)  # until nobody looks for it any more
        world.start(victim)
        await trio.sleep(20.0)
        connections.append(world.network.connections_of(victim.peer))

    check(run_script(scenario, 1, script))
    assert len(remembered[0]) > 2
    assert connections[0] >= 2


class FullOnce(WatchedNode):
    """A node whose disk is full while the first deltas of the world are given to it."""

    refused: ClassVar[list[bytes]] = []
    refusals: ClassVar[list[Reason]] = []
    taken: ClassVar[set[bytes]] = set()

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.transport.set_request_handler(DELTA.protocol, self._take_once_on_a_full_disk)

    async def _take_once_on_a_full_disk(self, peer: PeerId, data: bytes) -> bytes:
        deltas = decode(DeltaBundle, data, limit_bytes=FRAME_BYTES_MAX).deltas
        disk = self.ground.disk
        assert isinstance(disk, VirtualDisk)
        if deltas and not self.refused:
            disk.is_full = True
            self.refused.extend(deltas)
        try:
            answer = await self.learning._take_deltas(peer, data)
        except Rejected as refusal:
            self.refusals.append(refusal.reason)
            raise
        finally:
            disk.is_full = False
        outcomes = decode(DeltaReceipt, answer, limit_bytes=FRAME_BYTES_MAX).outcomes
        self.taken.update(delta for delta, outcome in zip(deltas, outcomes, strict=False) if not outcome)
        return answer


@pytest.mark.slow
def test_a_delta_is_refused_while_the_owners_disk_is_full() -> None:
    """The owner says BUSY, nothing fails, and whoever gave the delta keeps it and gives it again when there is room."""
    check(run_scenario(small(2), 1, program=Program(FullOnce)))
    assert FullOnce.refusals == [Reason.BUSY]
    assert FullOnce.taken >= set(FullOnce.refused)


class CountingNode(WatchedNode):
    """Says when it asked others for blocks."""

    asked: ClassVar[dict[PeerId, list[float]]] = {}

    async def _sync(self) -> None:
        self.asked.setdefault(self.ground.peer, []).append(trio.current_time())
        await super()._sync()


@pytest.mark.slow
def test_a_chain_that_stands_is_asked_for_less_and_less_often() -> None:
    """Those who follow it ask at growing intervals: not every two seconds, all of them, for as long as it stands."""
    CountingNode.asked.clear()
    scenario = replace(
        ci_sized(find_scenario("calm")), seconds=240.0, must_hold=MustHold(("chain_agrees", "no_failure"))
    )

    async def stand_still(world: VirtualWorld) -> None:
        await trio.sleep_until(60.0)
        for machine in world.machines[3 : scenario.validators]:  # three of seven remain
            await world.kill(machine)

    outcome = run_script(scenario, 1, stand_still, Program(CountingNode))
    check(outcome)
    followers = [plan.peer for plan in plan_peers(scenario, 1)[scenario.validators :]]
    for peer in followers:
        late = [at for at in CountingNode.asked[peer] if at > 100.0]
        assert 2 <= len(late) <= 140 / 5  # every two seconds it would be seventy


@pytest.mark.slow
@pytest.mark.timeout(900)  # hours of virtual time: on a machine that others use, the longest takes five minutes
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_passes(name: str) -> None:
    """CI-sized, every rule that it names holds."""
    seed = 1
    outcome = run_scenario(ci_sized(find_scenario(name)), seed)
    broken = {name: each.breaches[:3] for name, each in outcome.invariants.items() if each.breaches}
    assert outcome.passed, f"nocknode simnet run {name} --ci --seed {seed}: {broken}"
