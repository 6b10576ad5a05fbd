"""Relays on the loopback: real sockets, both ends in this process."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from simnet.relay import HOST, Relays, find_caller


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@asynccontextmanager
async def relays_before(handler) -> AsyncIterator[Relays]:
    """Two peers; peer 1's node is `handler`, and this process is peer 0."""
    async with trio.open_nursery() as nursery:
        relays = Relays(2, lambda: {os.getpid(): 0})
        await relays.open(nursery)
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        relays.lead_to(1, (f"/ip4/{HOST}/tcp/{listener.socket.getsockname()[1]}",))
        yield relays
        nursery.cancel_scope.cancel()


async def dial(relays: Relays, index: int) -> trio.SocketStream:
    return await trio.open_tcp_stream(HOST, int(relays.address(index).split("/")[4]))


async def exchange(stream: trio.SocketStream, data: bytes) -> bytes:
    """What comes back for `data`."""
    back = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        while len(back) < len(data):
            back += await stream.receive_some(65_536)
    return back


def test_bytes_come_through_whole_and_in_order():
    """Both ways, at any speed, also when the speed changes on the way."""
    data = bytes(range(256)) * 2_000

    async def main() -> None:
        async with relays_before(echo) as relays, await dial(relays, 1) as stream:
            assert await exchange(stream, data) == data
            for index in (0, 1):
                relays.set_speed(index, 0.02, 10_000_000)
            assert await exchange(stream, data) == data
            relays.set_speed(1, 0.0, None)
            assert await exchange(stream, data) == data

    trio.run(main)


def test_an_end_that_hangs_up_is_passed_on():
    """A node that closes its connection closes the caller's, with what it said before."""

    async def say_goodbye(stream: trio.SocketStream) -> None:
        await stream.receive_some(5)
        await stream.send_all(b"goodbye")

    async def main() -> None:
        async with relays_before(say_goodbye) as relays, await dial(relays, 1) as stream:
            relays.set_speed(1, 0.02, 100_000)
            await stream.send_all(b"hello")
            assert b"".join([data async for data in stream]) == b"goodbye"

    trio.run(main)


def test_before_a_node_that_is_not_there_nobody_answers():
    """As a port that nobody listens on: the caller is let go at once, now and after the node has gone."""

    async def main() -> None:
        async with relays_before(echo) as relays:
            async with await dial(relays, 0) as stream:
                assert await stream.receive_some() == b""
            relays.lead_to(1, (f"/ip4/{HOST}/tcp/1",))
            async with await dial(relays, 1) as stream:
                assert await stream.receive_some() == b""

    trio.run(main)


def test_the_caller_is_found_by_its_socket():
    """Which of our processes has the other end of a connection; nobody for a stranger."""

    async def main() -> None:
        async with relays_before(echo) as relays, await dial(relays, 1) as stream:
            port = stream.socket.getsockname()[1]
            assert find_caller({os.getpid(): 7}, port) == 7
            assert find_caller({os.getppid(): 7}, port) is None
            assert find_caller({2**22 + 1: 7}, port) is None

    trio.run(main)
