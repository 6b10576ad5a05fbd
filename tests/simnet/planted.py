"""Programs with one bug each, of the kinds that shells have: what the swarm must find.

    swallowed_cancellation    a task that goes on when it is told to stop
    unawaited_close           a host that leaves its connections open
    queue_without_bound       a reactor that takes in faster than it works, and keeps everything

Each is the right program with one method changed, as somebody might who is in a hurry.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from consensus.engine import Event
from p2p.io.memory_host import MemoryHost, MemoryNetwork
from p2p.io.memory_host import open_memory_host as open_right_host
from simnet.virtual.machine import Program, WatchedNode
from simnet.virtual.world import run_scenario

ANSWER_SECONDS = 90.0


class Swallowing(WatchedNode):
    """Its poll for blocks survives everything, its own cancellation too."""

    async def _poll_blocks(self) -> None:
        while True:
            try:
                await super()._poll_blocks()
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1.0)  # "try again in a moment"


class Hoarding(WatchedNode):
    """Its reactor has a queue without a bound, and outside the roster a performer that waits for the network.

    In the roster it would slow down those who fill the queue: it is who only listens that hoards.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        send, receive = trio.open_memory_channel[Event | Callable[[int], list[Any]]](math.inf)
        self.reactor._send, self.reactor._receive = send, receive

    async def _store_finalized(self, effect: Any) -> None:
        await super()._store_finalized(effect)
        if self.me is None:
            await trio.sleep(ANSWER_SECONDS)  # "ask somebody else whether that is final"


@asynccontextmanager
async def open_leaving_host(network: MemoryNetwork, seed: bytes, **options: Any) -> AsyncIterator[MemoryHost]:
    """Its host starts to close connections when nobody waits for that any more."""

    async def close_all(host: MemoryHost) -> None:
        for connections in list(host._open_connections.values()):
            for connection in connections:
                host._start(connection.close)

    async with open_right_host(network, seed, **options) as host:
        host._close_all = partial(close_all, host)  # type: ignore[method-assign]
        yield host


PLANTED = {
    "swallowed_cancellation": Program(Swallowing),
    "unawaited_close": Program(WatchedNode, open_leaving_host),
    "queue_without_bound": Program(Hoarding),
}

RUNS = {name: partial(run_scenario, program=program) for name, program in PLANTED.items()}
