"""What a scenario says goes wrong, as calls at their times: one row a fault. What makes no sense without shells is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from protocol.rejection import Reason, Rejected
from simnet.scenario import (
    Churn,
    Crash,
    CutRegion,
    Eclipse,
    Fault,
    FillDisks,
    GenesisLiars,
    KillBootstraps,
    KillOwners,
    Scenario,
    SkewClocks,
    SlowRegion,
    StateLiars,
)

if TYPE_CHECKING:
    from simnet.cores.peer import Peer
    from simnet.cores.world import World

HOUR_SECONDS: Final = 3_600
KILL_AT_SHARE: Final = 0.1  # of a round: learners are at work
LOOK_MS: Final = 1_000

REFUSED: Final[dict[type, str]] = {
    FillDisks: "its disks are dictionaries, which are never full",
    GenesisLiars: "nobody dials anybody there, so nobody can be offered another genesis",
    Eclipse: "everybody knows the roster there, so nobody can be kept from it",
    StateLiars: "whoever arrives there is given the newest state",
}


def check_faults(scenario: Scenario) -> None:
    """Raises ``Rejected(BAD_CONFIG)`` for what cores alone cannot show."""
    for fault in scenario.faults:
        why = REFUSED.get(type(fault))
        if why is not None:
            raise Rejected(Reason.BAD_CONFIG, f"scenario {scenario.name} needs whole nodes, not --level 1: {why}")
    if scenario.learning.compute != "analytic":
        raise Rejected(Reason.BAD_CONFIG, f"scenario {scenario.name} learns a real model: that needs whole nodes")


def plan_faults(world: World) -> None:
    """Put everything of the scenario on the heap."""
    for fault in world.scenario.faults:
        _PLANS[type(fault)](world, fault)
    if world.scenario.churn is not None:
        _plan_churn(world, world.scenario.churn)


def _at(world: World, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
    world.later(1_000 * seconds - world.now_ms, call, *arguments)


# -- regions ------------------------------------------------------------------------------------------------------------


def _plan_cut(world: World, fault: CutRegion) -> None:
    def cut(by: int) -> None:
        world.network.cut(fault.region, by)
        world.account.tell(f"{fault.region} is {'cut off' if by > 0 else 'connected again'}")
        world.on_cut(fault.region)

    _at(world, fault.at_seconds, cut, 1)
    _at(world, fault.at_seconds + fault.for_seconds, cut, -1)


def _plan_slow(world: World, fault: SlowRegion) -> None:
    def slow(latency_factor: float, rate_share: float, word: str) -> None:
        world.network.slow(fault.region, latency_factor, rate_share)
        world.account.tell(f"{fault.region} is {word}")

    _at(world, fault.at_seconds, slow, fault.latency_factor, fault.rate_share, "slow")
    until = fault.at_seconds + fault.for_seconds
    _at(world, until, slow, 1 / fault.latency_factor, 1 / fault.rate_share, "as fast as before")


# -- processes ----------------------------------------------------------------------------------------------------------


def _kill(world: World, peer: Peer, back_seconds: float | None, why: str) -> None:
    """End a process, if it runs; None: for ever."""
    if not peer.is_running:
        return
    world.account.tell(f"peer {peer.index} in {peer.region} {why}")
    peer.kill()
    if back_seconds is None:
        peer.stays_dead = True
    else:
        world.later(1_000 * back_seconds, peer.start)


def _plan_bootstraps(world: World, fault: KillBootstraps) -> None:
    for peer in world.peers:
        if peer.plan.is_bootstrap:
            _at(world, fault.at_seconds, _kill, world, peer, None, "dies for ever: a bootstrap peer")


def _plan_crash(world: World, fault: Crash) -> None:
    count = round(fault.share * len(world.peers))
    for peer in world.random.sample(world.peers, count):
        seconds = fault.at_seconds + fault.for_seconds * world.random.random()
        _at(world, seconds, _kill, world, peer, fault.back_seconds, "crashes")


def _plan_churn(world: World, churn: Churn) -> None:
    others = [peer for peer in world.peers if not peer.plan.is_validator]
    count = round(churn.share_per_hour * len(others) * world.scenario.seconds / HOUR_SECONDS)
    for _ in range(count if others else 0):
        peer = world.random.choice(others)
        away = world.random.uniform(*churn.away_seconds)
        _at(world, world.scenario.seconds * world.random.random(), _kill, world, peer, away, "leaves")


def _plan_owners(world: World, fault: KillOwners) -> None:
    """In each round the owner of every tile, one after the other, as far as a quorum is left."""
    newest = -1

    def opened(round_number: int) -> None:
        nonlocal newest
        newest = round_number
        if fault.from_round <= round_number < fault.until_round:
            world.later(int(KILL_AT_SHARE * 1_000 * world.scenario.learning.round_seconds), begin, round_number)

    def begin(round_number: int) -> None:
        owners = (world.find_owner(tile) for tile in world.shared.tile_map.ids)
        kill(round_number, [owner for owner in dict.fromkeys(owners) if owner is not None])

    def kill(round_number: int, owners: list[Peer]) -> None:
        while owners and owners[0].is_running and world.has_quorum_without(owners[0]):
            _kill(world, owners.pop(0), fault.back_seconds, f"is killed in round {round_number}: it owns tiles")
        if owners and newest == round_number:
            world.later(LOOK_MS, kill, round_number, owners)

    world.when_round_opens.append(opened)


def _plan_skew(world: World, fault: SkewClocks) -> None:
    """Whose clocks are off is in everybody's plan from the beginning."""
    count = sum(peer.plan.clock_offset_ms != 0 for peer in world.peers)
    _at(world, 0, world.account.tell, f"the clocks of {count} peers are off by {fault.offset_seconds:g} s")


_PLANS: Final[dict[type[Fault], Callable[[World, Any], None]]] = {
    CutRegion: _plan_cut,
    SlowRegion: _plan_slow,
    KillBootstraps: _plan_bootstraps,
    KillOwners: _plan_owners,
    Crash: _plan_crash,
    SkewClocks: _plan_skew,
}
