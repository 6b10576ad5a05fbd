"""What goes wrong in a scenario, performed on whole machines: each fault is a row of a table and a task of its own."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from protocol.ids import short
from simnet.scenario import (
    Churn,
    Crash,
    CutRegion,
    Eclipse,
    FillDisks,
    GenesisLiars,
    KillBootstraps,
    KillOwners,
    SkewClocks,
    SlowRegion,
    StateLiars,
)
from simnet.virtual.state_liars import lie_about_state
from simnet.virtual.strangers import eclipse, lie

if TYPE_CHECKING:
    from simnet.virtual.machine import VirtualMachine
    from simnet.virtual.world import VirtualWorld

KILL_AT_SHARE: Final = 0.1  # of a round: learners are at work
LOOK_SECONDS: Final = 1.0


def start_faults(world: VirtualWorld, nursery: trio.Nursery) -> None:
    """Start a task for each fault of the scenario. Each draws from a generator of its own."""
    for number, fault in enumerate(world.scenario.faults):
        draw = random.Random(f"fault {number} {world.seed}")
        nursery.start_soon(FAULTS[type(fault)], world, fault, draw)
    if world.scenario.churn is not None:
        for machine in world.machines[world.scenario.validators :]:
            draw = random.Random(f"churn {machine.plan.index} {world.seed}")
            nursery.start_soon(_churn, world, world.scenario.churn, machine, draw)


# -- regions ------------------------------------------------------------------------------------------------------------


async def _cut_region(world: VirtualWorld, fault: CutRegion, draw: random.Random) -> None:
    await trio.sleep_until(fault.at_seconds)
    cut = world.links.cut
    cut[fault.region] = cut.get(fault.region, 0) + 1
    world.tell(f"{fault.region} is cut off")
    _hinder(world, fault.region, True)
    world.links_changed()
    await trio.sleep(fault.for_seconds)
    cut[fault.region] -= 1
    if not cut[fault.region]:
        del cut[fault.region]
        _hinder(world, fault.region, False)
    world.tell(f"{fault.region} is back")
    world.links_changed()


def _hinder(world: VirtualWorld, region: str, is_hindered: bool) -> None:
    for machine in world.machines:
        if machine.plan.region.name == region:
            world.watch.hindered(machine.peer, trio.current_time(), is_hindered)


async def _slow_region(world: VirtualWorld, fault: SlowRegion, draw: random.Random) -> None:
    await trio.sleep_until(fault.at_seconds)
    world.links.slow[fault.region] = (fault.latency_factor, fault.rate_share)
    world.tell(f"{fault.region} is slow")
    await trio.sleep(fault.for_seconds)
    world.links.slow.pop(fault.region, None)
    world.tell(f"{fault.region} is as fast as before")


# -- processes ----------------------------------------------------------------------------------------------------------


async def _kill_bootstraps(world: VirtualWorld, fault: KillBootstraps, draw: random.Random) -> None:
    await trio.sleep_until(fault.at_seconds)
    bootstraps = [machine for machine in world.machines if machine.plan.is_bootstrap]
    world.tell(f"{len(bootstraps)} bootstrap peers die for good")
    for machine in bootstraps:
        await world.kill(machine)


async def _kill_owners(world: VirtualWorld, fault: KillOwners, draw: random.Random) -> None:
    """In each round the owner of every tile, one after the other, as far as a quorum is left."""
    async with trio.open_nursery() as nursery:
        for number in range(fault.from_round, fault.until_round):
            while (node := _furthest(world)) is None or _round(node) < number:
                await trio.sleep(LOOK_SECONDS)
            await trio.sleep(KILL_AT_SHARE * world.scenario.learning.round_seconds)
            owners = dict.fromkeys(node.owner(tile) for tile in world.tiles)
            for owner in owners:
                machine = next(each for each in world.machines if each.peer == owner)
                while (
                    not _can_spare(world, machine) and (now := _furthest(world)) is not None and _round(now) == number
                ):
                    await trio.sleep(LOOK_SECONDS)
                if _can_spare(world, machine):
                    world.tell(f"{short(owner)}, who owns tiles, dies in round {number}")
                    await world.kill(machine)
                    nursery.start_soon(_bring_back, world, machine, fault.back_seconds)


async def _bring_back(world: VirtualWorld, machine: VirtualMachine, after_seconds: float) -> None:
    await trio.sleep(after_seconds)
    world.start(machine)


def _can_spare(world: VirtualWorld, machine: VirtualMachine) -> bool:
    """Whether a validator runs, and more than two thirds of them without it."""
    validators = world.machines[: world.scenario.validators]
    return machine.is_running and 3 * (sum(each.is_running for each in validators) - 1) > 2 * len(validators)


def _round(node: Any) -> int:
    number: int = node.engine.rounds.statistics().round
    return number


def _furthest(world: VirtualWorld) -> Any:
    """A running node that sees the newest round."""
    nodes = [machine.node for machine in world.machines if machine.node is not None]
    return max(nodes, key=_round, default=None)


async def _crash(world: VirtualWorld, fault: Crash, draw: random.Random) -> None:
    await trio.sleep_until(fault.at_seconds)
    async with trio.open_nursery() as nursery:
        for machine in _some(world, fault.share, draw):
            nursery.start_soon(_crash_one, world, fault, machine, draw.uniform(0.0, fault.for_seconds))


async def _crash_one(world: VirtualWorld, fault: Crash, machine: VirtualMachine, after_seconds: float) -> None:
    await trio.sleep(after_seconds)
    world.tell(f"{short(machine.peer)} crashes")
    await world.kill(machine)
    await trio.sleep(fault.back_seconds)
    world.start(machine)


async def _churn(world: VirtualWorld, churn: Churn, machine: VirtualMachine, draw: random.Random) -> None:
    """Away after a time without memory, back after another; until the last round, so that the end is seen by all."""
    await trio.sleep_until(machine.plan.arrives_seconds)
    while churn.share_per_hour > 0:
        await trio.sleep(draw.expovariate(churn.share_per_hour / 3600))
        world.tell(f"{short(machine.peer)} leaves")
        await world.kill(machine)
        await trio.sleep(draw.uniform(*churn.away_seconds))
        world.start(machine)


# -- disks and clocks ---------------------------------------------------------------------------------------------------


async def _fill_disks(world: VirtualWorld, fault: FillDisks, draw: random.Random) -> None:
    await trio.sleep_until(fault.at_seconds)
    machines = _some(world, fault.share, draw)
    world.tell(f"{len(machines)} disks are full")
    for machine in machines:
        machine.disk.is_full = True
        world.watch.hindered(machine.peer, trio.current_time(), True)
    world.judge_quorum()
    await trio.sleep(fault.for_seconds)
    for machine in machines:
        machine.disk.is_full = False
        world.watch.hindered(machine.peer, trio.current_time(), False)
    world.tell("the disks have room again")
    world.judge_quorum()


async def _skew_clocks(world: VirtualWorld, fault: SkewClocks, draw: random.Random) -> None:
    """They are off from the beginning: ``simnet/network.py`` has drawn whose."""
    await trio.lowlevel.checkpoint()


def _some(world: VirtualWorld, share: float, draw: random.Random) -> list[VirtualMachine]:
    """A share of the machines, never so many validators that the others are no quorum."""
    chosen = draw.sample(world.machines, round(share * len(world.machines)))
    spare = (len(world.machines[: world.scenario.validators]) - 1) // 3
    kept = []
    for machine in chosen:
        if machine.plan.is_validator:
            if not spare:
                continue
            spare -= 1
        kept.append(machine)
    return kept


Perform = Callable[[Any, Any, random.Random], Awaitable[None]]

FAULTS: Final[dict[type, Perform]] = {
    CutRegion: _cut_region,
    SlowRegion: _slow_region,
    KillBootstraps: _kill_bootstraps,
    KillOwners: _kill_owners,
    Crash: _crash,
    FillDisks: _fill_disks,
    SkewClocks: _skew_clocks,
    GenesisLiars: lie,
    Eclipse: eclipse,
    StateLiars: lie_about_state,
}
