"""Hosts on a network in memory, all of them connected: for services that talk to each other."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from p2p.io.memory_host import MemoryNetwork, open_memory_host
from p2p.transport import Transport
from protocol.ids import PeerId
from protocol.rejection import Rejected


def no_report(peer: PeerId, refusal: Rejected) -> None:
    """Where nobody is to be blamed."""
    raise AssertionError(f"{peer.hex()} is blamed: {refusal}")


@asynccontextmanager
async def connected_hosts(count: int) -> AsyncIterator[list[Transport]]:
    """So many; each waited for the others."""
    network = MemoryNetwork(random.Random(5))
    async with AsyncExitStack() as opened:
        hosts: list[Transport] = []
        for number in range(count):
            host = open_memory_host(
                network,
                bytes([number]) * 32,
                hello=b"hello",
                check_hello=lambda peer, hello: None,
                bootstrap=[address for other in hosts for address in other.addresses],
            )
            hosts.append(await opened.enter_async_context(host))
        while any(len(host.connected_peers()) < count - 1 for host in hosts):
            await trio.sleep(0.1)
        yield hosts
