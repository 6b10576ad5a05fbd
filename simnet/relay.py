"""Relays before the ports of nodes, in this process, on 127.0.0.1: how a peer's link is made slow without root.

    peer 1 ── dials what peer 2 announces ──► relay of peer 2 ──► port of peer 2
              └────── peer 1's line out, peer 2's line in ──────┘    and back: 2's out, 1's in

Every peer announces the address of its relay and not its own port (``--announce``), so whoever learns of it dials the relay.
A connection slows down with either of its ends: who dialled is found by asking the system which node has the other end of the
accepted socket, because what is said on the connection is encrypted. A caller that is none of ours, or that is gone, has
usual lines. Connections are broken only by their ends: a slow link delays and never loses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import psutil
import trio

from simnet.line import Line, arrives_at

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 16_384
CHUNKS_MAX: Final = 16  # under way in one direction of one connection: what a socket's buffer would hold
TROUBLES: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass(slots=True)
class Link:
    """One peer's link: the lines that all of its connections share, and where they lead."""

    inwards: Line = field(default_factory=Line)
    outwards: Line = field(default_factory=Line)
    address: str = ""  # of the relay, as a multiaddr without a peer
    port: int | None = None  # of the node behind it; None while there is none


class Relays:
    """The relay of every peer. ``pids`` says which node processes run now: peer by process number."""

    def __init__(self, peers: int, pids: Callable[[], Mapping[int, int]]) -> None:
        self._links = [Link() for _ in range(peers)]
        self._pids = pids

    async def open(self, nursery: trio.Nursery) -> None:
        """Listen before every peer, for as long as `nursery` is open. Raises ``OSError``."""
        for index, link in enumerate(self._links):
            listeners = await trio.open_tcp_listeners(0, host=HOST)
            link.address = f"/ip4/{HOST}/tcp/{listeners[0].socket.getsockname()[1]}"
            nursery.start_soon(partial(trio.serve_listeners, partial(self._accept, index), listeners))

    def address(self, index: int) -> str:
        """What a peer announces."""
        return self._links[index].address

    def lead_to(self, index: int, listening: tuple[str, ...]) -> None:
        """Where the peer's node listens from now on: multiaddrs, of which the first counts; none while it is down."""
        self._links[index].port = int(listening[0].split("/")[4]) if listening else None

    def set_speed(self, index: int, delay_seconds: float, bytes_per_second: float | None) -> None:
        """How fast a peer's link is from now on, each way; None: no bound."""
        link = self._links[index]
        for line in (link.inwards, link.outwards):
            line.set_speed(delay_seconds, bytes_per_second)

    async def _accept(self, index: int, caller: trio.SocketStream) -> None:
        """One connection, until one of its ends hangs up."""
        link = self._links[index]
        if link.port is None:
            return  # serve_listeners closes it, as a port without a node would
        try:
            node = await trio.open_tcp_stream(HOST, link.port)
            port = caller.socket.getpeername()[1]
        except OSError:
            return
        async with node, trio.open_nursery() as nursery:
            who = await trio.to_thread.run_sync(find_caller, self._pids(), port)
            other = self._links[who] if who is not None else Link()
            nursery.start_soon(_carry, caller, node, (other.outwards, link.inwards), nursery.cancel_scope)
            nursery.start_soon(_carry, node, caller, (link.outwards, other.inwards), nursery.cancel_scope)


def find_caller(pids: Mapping[int, int], port: int) -> int | None:
    """The peer whose process has a socket on this port; None if it is none of them."""
    for pid, peer in pids.items():
        with suppress(psutil.Error):
            if any(found.laddr and found.laddr.port == port for found in psutil.Process(pid).net_connections("tcp4")):
                return peer
    return None


async def _carry(
    source: trio.SocketStream, target: trio.SocketStream, lines: tuple[Line, Line], scope: trio.CancelScope
) -> None:
    """Carry one direction over both lines in turn, then hang up for good: yamux has no use for half a connection."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](CHUNKS_MAX)

    async def read() -> None:
        async with send:
            with suppress(*TROUBLES):
                while data := await source.receive_some(CHUNK_BYTES):
                    await send.send((arrives_at(lines, len(data), trio.current_time()), bytes(data)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async for due, data in receive:
            if due > trio.current_time():
                await trio.sleep_until(due)
            try:
                await target.send_all(data)
            except TROUBLES:
                break
        nursery.cancel_scope.cancel()
    scope.cancel()
