"""Hosts that are no nodes: liars about the genesis, and attackers who want a victim for themselves."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import trio

from p2p.io.memory_host import MemoryHost, open_memory_host
from p2p.transport import PeerUnreachable
from protocol.ids import NetworkId, PeerId, short
from protocol.rejection import Rejected
from simnet.network import make_keys
from simnet.scenario import Eclipse, GenesisLiars

if TYPE_CHECKING:
    from simnet.virtual.world import VirtualWorld

AGAIN_SECONDS: Final = 5.0  # between two dials of everybody
FIRST_INDEX: Final = 100_000  # their keys and addresses are nobody's of the scenario
PORT: Final = 4001
NEIGHBOURS: Final = 8  # that an attacker dials, and as many dial it: all of them would be thousands of connections


async def lie(world: VirtualWorld, fault: GenesisLiars, draw: random.Random) -> None:
    """Peers of another network dial everybody and offer their genesis, for ever; nobody may admit them."""
    world.tell(f"{fault.peers} peers of another network begin to dial everybody")
    async with AsyncExitStack() as stack:
        liars = [await _open(world, stack, NetworkId(bytes(32)), draw) for _ in range(fault.peers)]
        while True:
            for liar in liars:
                _forget_events(liar)
                for machine in world.machines:
                    await _dial(liar, world.address(machine))
                for peer in liar.connected_peers():
                    now = trio.current_time()
                    world.watch.failed(peer, f"it admitted {short(liar.peer_id)}, whose genesis is another", now)
            await trio.sleep(AGAIN_SECONDS)


async def eclipse(world: VirtualWorld, fault: Eclipse, draw: random.Random) -> None:
    """Attackers of the right network keep to one victim. They admit it, pass nothing on, and know only each other."""
    await trio.sleep_until(fault.at_seconds)
    victim = draw.choice(world.machines[world.scenario.validators :] or world.machines)
    world.tell(f"{fault.attackers} attackers surround {short(victim.peer)}")
    async with AsyncExitStack() as stack:
        network = world.genesis.network_id()
        attackers = [await _open(world, stack, network, draw) for _ in range(fault.attackers)]
        ring = attackers + attackers[:NEIGHBOURS]
        for index, attacker in enumerate(attackers):  # what each says when it is asked for others
            for other in ring[index + 1 : index + 1 + NEIGHBOURS]:
                if other is not attacker:
                    await _dial(attacker, other.addresses[0])
        while True:
            for attacker in attackers:
                _forget_events(attacker)
                if victim.peer not in attacker.connected_peers():
                    await _dial(attacker, world.address(victim))
            await trio.sleep(AGAIN_SECONDS)


async def _open(world: VirtualWorld, stack: AsyncExitStack, network: NetworkId, draw: random.Random) -> MemoryHost:
    """A host of its own name and address, whichever fault brings it."""
    index = next(world.strangers)
    (keys,) = make_keys(world.seed, 1, FIRST_INDEX + index)
    region, hardware = draw.choice(world.scenario.regions), draw.choice(world.scenario.hardware)
    world.links.connect(keys.peer, region, hardware)
    return await stack.enter_async_context(
        open_memory_host(
            world.network,
            keys.node.seed,
            listen=(f"/ip4/11.0.{index >> 8}.{index & 255}/tcp/{PORT}",),
            hello=network,
            check_hello=_accept,
            generator=random.Random(draw.getrandbits(64)),
            clock_milliseconds=None,
        )
    )


def _forget_events(host: MemoryHost) -> None:
    """Nobody else reads them, and a host whose events nobody reads stops."""
    while True:
        try:
            host.events.receive_nowait()
        except trio.WouldBlock:
            return


def _accept(peer: PeerId, hello: bytes) -> None:
    """Strangers take anybody."""


async def _dial(host: MemoryHost, address: str) -> None:
    try:
        await host.dial(address)
    except (PeerUnreachable, Rejected):
        return
