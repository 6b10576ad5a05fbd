"""One suite for both hosts: a small world in which hosts are opened, stopped and asked what they were told."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from p2p.io.memory_host import MemoryNetwork, open_memory_host
from p2p.transport import Transport, TransportEvent
from protocol.ids import PeerId

PATIENCE_SECONDS = 25.0  # far above what any step needs, so that only a hang meets it


def seed_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def accept_everybody(peer: PeerId, hello: bytes) -> None:
    """A `check_hello` that refuses nobody."""


@dataclass
class Host:
    """A running host and everything it has told so far."""

    transport: Transport
    stop: trio.Event = field(default_factory=trio.Event)
    stopped: trio.Event = field(default_factory=trio.Event)
    told: list[TransportEvent] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def peer_id(self) -> PeerId:
        return self.transport.peer_id

    def all_of(self, kind: type) -> list:
        return [event for event in self.told if isinstance(event, kind)]

    async def wait(self, kind: type, count: int = 1, where: Callable[[object], bool] = lambda event: True) -> list:
        """The first `count` events of this kind."""
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                found = [event for event in self.all_of(kind) if where(event)]
                if len(found) >= count:
                    return found
                await self.changed.wait()

    async def listen(self) -> None:
        async for event in self.transport.events:
            self.told.append(event)
            self.changed.set()
            self.changed = trio.Event()


class World:
    """Hosts of one kind that can reach each other."""

    def __init__(self, kind: str, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.nursery = nursery
        self.network = MemoryNetwork(random.Random(1))
        self.hosts: list[Host] = []

    def open(self, seed: bytes, **options: object):
        if self.kind == "memory":
            return open_memory_host(self.network, seed, **options)
        from p2p.io.libp2p_host import open_libp2p_host

        return open_libp2p_host(
            seed, clock_milliseconds=lambda: 1_700_000_000_000 + int(trio.current_time() * 1000), **options
        )

    async def host(
        self,
        name: str,
        bootstrap: Sequence[Host] = (),
        *,
        listen: str = "/ip4/127.0.0.1/tcp/0",
        hello: bytes = b"same network",
        check_hello: Callable[[PeerId, bytes], None] = accept_everybody,
    ) -> Host:
        options = {
            "listen": [listen],
            "hello": hello,
            "check_hello": check_hello,
            "bootstrap": [address for other in bootstrap for address in other.transport.addresses],
            "generator": random.Random(f"{name} {len(self.hosts)}"),  # another for each life: it names the session
        }

        async def live(task_status) -> None:
            async with self.open(seed_of(name), **options) as transport, trio.open_nursery() as nursery:
                host = Host(transport)
                nursery.start_soon(host.listen)
                task_status.started(host)
                await host.stop.wait()
                nursery.cancel_scope.cancel()
            host.stopped.set()

        host = await self.nursery.start(live)
        self.hosts.append(host)
        return host

    async def stop(self, host: Host) -> None:
        host.stop.set()
        with trio.fail_after(PATIENCE_SECONDS):
            await host.stopped.wait()

    async def network_of(self, *names: str) -> list[Host]:
        """Hosts that all know each other."""
        hosts = [await self.host(names[0])]
        for name in names[1:]:
            hosts.append(await self.host(name, hosts[:1]))
        with trio.fail_after(PATIENCE_SECONDS):
            while any(len(host.transport.connected_peers()) < len(names) - 1 for host in hosts):
                await trio.sleep(0.02)
        return hosts

    async def gossiping(self, topic: str, *names: str) -> list[Host]:
        """Hosts that know each other and have heard each of the others on a topic."""
        hosts = await self.network_of(*names)
        for host in hosts:
            await host.transport.subscribe(topic)
        with trio.fail_after(PATIENCE_SECONDS):
            for host in hosts:
                word = b"warm up " + host.peer_id
                others = [other for other in hosts if other is not host]
                while not all(any(getattr(event, "data", None) == word for event in other.told) for other in others):
                    await host.transport.publish(topic, word)
                    await trio.sleep(0.05)
        for host in hosts:
            host.told.clear()
        return hosts


@pytest.fixture(params=["memory", "libp2p"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    """Runs a scenario in a world of either kind; the one in memory has a clock that jumps."""

    def run_scenario(scenario: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            with trio.fail_after(10 * PATIENCE_SECONDS):
                async with trio.open_nursery() as nursery:
                    world = World(request.param, nursery)
                    await scenario(world)
                    for host in world.hosts:
                        host.stop.set()

        clock = trio.testing.MockClock(autojump_threshold=0) if request.param == "memory" else None
        trio.run(main, clock=clock)

    return run_scenario
