"""The made world between hosts in memory: latency, partitions, broken connections, and what hosts make of them."""

from __future__ import annotations

import random

import trio
import trio.testing

from p2p.io.memory_host import MemoryNetwork
from p2p.requests import SYNC, VOTE
from p2p.topics import topic_text
from p2p.transport import GossipReceived, MessageReceived, PeerConnected, PeerLost

from .conftest import World

TX = topic_text(bytes(32), "tx")


def run(scenario, **network_options) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World("memory", nursery)
            world.network = MemoryNetwork(random.Random(3), **network_options)
            await scenario(world)
            for host in world.hosts:
                host.stop.set()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_request_takes_two_latencies():
    """Bytes arrive after the latency of the network, by its own clock."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def echo(peer, data):
            return data

        b.transport.set_request_handler(SYNC.protocol, echo)
        began = trio.current_time()
        await a.transport.request(b.peer_id, SYNC.protocol, b"x", timeout_seconds=60.0, response_bytes_max=1)
        assert 1.99 < trio.current_time() - began < 2.01

    run(scenario, latency_seconds=(1.0, 1.0))


def test_a_short_partition_delays_and_loses_nothing():
    """Bytes between islands wait; after healing they arrive, in order, and no connection was lost."""

    async def scenario(world: World) -> None:
        a, b = await world.gossiping(TX, "a", "b")
        world.network.partition([a.peer_id], [b.peer_id])
        for number in range(10):
            await a.transport.send(b.peer_id, VOTE.protocol, b"%d" % number)
        await a.transport.publish(TX, b"late")
        await trio.sleep(5.0)
        assert not b.all_of(MessageReceived)
        assert not b.all_of(GossipReceived)
        world.network.heal()
        assert [event.data for event in await b.wait(MessageReceived, 10)] == [b"%d" % number for number in range(10)]
        assert (await b.wait(GossipReceived))[0].data == b"late"
        assert not a.all_of(PeerLost)

    run(scenario)


def test_a_long_partition_loses_the_peer_and_healing_finds_it():
    """Silence beyond the limit is a loss on both sides; after healing they dial each other again."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        world.network.partition([a.peer_id], [b.peer_id])
        assert "silent" in (await a.wait(PeerLost))[0].reason
        await b.wait(PeerLost)
        world.network.heal()
        await a.wait(PeerConnected, 2)
        await b.wait(PeerConnected, 2)

    run(scenario)


def test_a_broken_connection_is_a_loss_and_is_dialled_again():
    """A connection that breaks is told on both sides, and replaced."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")
        await world.network.break_connections(a.peer_id, b.peer_id)
        await a.wait(PeerLost)
        await b.wait(PeerLost)
        await a.wait(PeerConnected, 2)
        await b.wait(PeerConnected, 2)

    run(scenario)


def test_writes_that_break_connections_are_survived():
    """In a network where writes break connections now and then, requests go on being answered after each."""

    async def scenario(world: World) -> None:
        a, b = await world.network_of("a", "b")

        async def echo(peer, data):
            return data

        b.transport.set_request_handler(SYNC.protocol, echo)
        answered = 0
        with trio.fail_after(3600):
            while answered < 50 or len(a.all_of(PeerLost)) < 3:
                try:
                    await a.transport.request(b.peer_id, SYNC.protocol, b"x", timeout_seconds=5.0, response_bytes_max=1)
                    answered += 1
                except Exception:
                    await trio.sleep(0.5)

    run(scenario, break_probability=0.02)


def test_a_restart_behind_a_dead_connection_is_noticed():
    """A peer that was restarted while its old connection still seems open is lost and admitted anew, not confused with it."""

    async def scenario(world: World) -> None:
        a = await world.host("a")
        b = await world.host("b", [a])
        await a.wait(PeerConnected)
        world.network.cut_power(b.peer_id)
        await world.stop(b)
        assert a.transport.connected_peers() == (b.peer_id,)
        again = await world.host("b", [a])
        (lost,) = await a.wait(PeerLost)
        assert lost.reason == "it was restarted"
        await a.wait(PeerConnected, 2)
        await again.wait(PeerConnected)
        assert a.transport.connected_peers() == (again.peer_id,)

    run(scenario)
