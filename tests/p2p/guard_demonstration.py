"""Defects of libp2p 0.8.1, met by bare hosts or by ours, in a process of its own: it may not survive.

    python -m tests.p2p.guard_demonstration bare|guarded SCENARIO...

For each scenario two hosts, `victim` and `other`, are connected, and one line of JSON says what happened: {scenario: outcome}.
A process that dies of the defect prints none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

TOPIC = "nock/00000000/tiles/0"
MESHSUB = "/meshsub/1.1.0"
HELD = "/nock/sync/1"


@dataclass
class Side:
    """One host of either kind, as far as the scenarios need it."""

    basic_host: Any
    pubsub: Any
    transport: Any  # None for a bare one
    heard: set[bytes]

    async def publish(self, data: bytes) -> None:
        await (self.transport or self.pubsub).publish(TOPIC, data)


@asynccontextmanager
async def bare_side(seed: bytes) -> AsyncIterator[Side]:
    """A host as libp2p makes it, started in the one order that does not crash, with only the heartbeat changed."""
    from libp2p import new_host
    from libp2p.identity_utils import create_identity_from_seed
    from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, PROTOCOL_ID_V13, GossipSub
    from libp2p.pubsub.pubsub import Pubsub
    from libp2p.tools.anyio_service import background_trio_service
    from multiaddr import Multiaddr

    host = new_host(key_pair=create_identity_from_seed(seed))
    router = GossipSub([PROTOCOL_ID_V13, PROTOCOL_ID_V12, PROTOCOL_ID_V11], 6, 4, 12, heartbeat_interval=1)
    pubsub = Pubsub(host, router)
    heard: set[bytes] = set()
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        await stack.enter_async_context(background_trio_service(router))
        await stack.enter_async_context(background_trio_service(pubsub))
        await pubsub.wait_until_ready()
        subscription = await pubsub.subscribe(TOPIC)

        async def listen() -> None:
            async for message in subscription:
                heard.add(message.data)

        nursery.start_soon(listen)
        await stack.enter_async_context(host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]))
        yield Side(host, pubsub, None, heard)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def guarded_side(seed: bytes) -> AsyncIterator[Side]:
    from p2p.io.libp2p_host import open_libp2p_host
    from p2p.transport import GossipReceived

    options: Any = {"listen": ["/ip4/127.0.0.1/tcp/0"], "hello": b"", "check_hello": lambda peer, hello: None}
    async with open_libp2p_host(seed, **options) as transport, trio.open_nursery() as nursery:
        heard: set[bytes] = set()

        async def listen() -> None:
            async for event in transport.events:
                if isinstance(event, GossipReceived):
                    heard.add(event.data)

        nursery.start_soon(listen)
        await transport.subscribe(TOPIC)
        yield Side(transport._host, transport._gossip, transport, heard)
        nursery.cancel_scope.cancel()


async def connect(victim: Side, other: Side) -> None:
    if victim.transport is not None:
        await other.transport.dial(victim.transport.addresses[0])
    else:
        from libp2p.peer.peerinfo import PeerInfo

        await other.basic_host.connect(PeerInfo(victim.basic_host.get_id(), victim.basic_host.get_addrs()))
    await until(lambda: TOPIC in other.pubsub.router.mesh and other.pubsub.router.mesh[TOPIC])
    await until(lambda: TOPIC in victim.pubsub.router.mesh and victim.pubsub.router.mesh[TOPIC])


async def until(condition: Any, seconds: float = 10.0) -> bool:
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(0.01)
        return True
    return False


async def still_talks(victim: Side, other: Side) -> bool:
    """Whether gossip from the other still reaches the victim."""
    await other.publish(b"are you there?")
    return await until(lambda: b"are you there?" in victim.heard, 5.0)


async def write_to_meshsub(victim: Side, other: Side, data: bytes) -> bool:
    from libp2p.utils import encode_varint_prefixed

    stream = await other.basic_host.new_stream(victim.basic_host.get_id(), [MESHSUB])
    await stream.write(encode_varint_prefixed(data))
    await trio.sleep(0.5)  # for the victim to read it: nothing tells when it has
    return await still_talks(victim, other)


async def garbage_frame(victim: Side, other: Side) -> bool:
    return await write_to_meshsub(victim, other, b"\xff" * 64)


async def junk_key(victim: Side, other: Side) -> bool:
    from libp2p.pubsub.pb import rpc_pb2

    message = rpc_pb2.Message(
        data=b"x", topicIDs=[TOPIC], from_id=b"\x01\x02", seqno=b"1", key=b"junk", signature=b"junk"
    )
    return await write_to_meshsub(victim, other, rpc_pb2.RPC(publish=[message]).SerializeToString())


async def raising_handler(victim: Side, other: Side) -> bool:
    async def raise_it(stream: Any) -> None:
        raise KeyError("a bug of the application")

    victim.basic_host.set_stream_handler("/test/raise", raise_it)
    try:
        stream = await other.basic_host.new_stream(victim.basic_host.get_id(), ["/test/raise"])
        await stream.read(1)
    except Exception as error:
        print("the dialler sees", type(error).__name__, file=sys.stderr)
    return await still_talks(victim, other)


async def burst(victim: Side, other: Side) -> int:
    for number in range(200):
        await other.publish(b"burst %d" % number)
    await until(lambda: len(victim.heard) >= 200, 3.0)
    return len(victim.heard)


async def steady(victim: Side, other: Side) -> int:
    for number in range(40):
        await other.publish(b"steady %d" % number)
        await trio.sleep(0.05)
    await until(lambda: len(victim.heard) >= 40, 2.0)
    return len(victim.heard)


async def open_streams(victim: Side, other: Side) -> str:
    """What the caller meets who wants one stream more than there are."""

    async def hold(stream: Any) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        if victim.transport is not None:
            from p2p.transport import RequestFailed

            async def never(peer: Any, data: bytes) -> bytes:
                await trio.sleep_forever()
                raise AssertionError

            victim.transport.set_request_handler(HELD, never)

            async def ask(seconds: float) -> None:
                await other.transport.request(
                    victim.transport.peer_id, HELD, b"", timeout_seconds=seconds, response_bytes_max=1
                )

            for _ in range(256):
                nursery.start_soon(ask, 60.0)
            await trio.sleep(0.1)
            try:
                await ask(1.0)
            except RequestFailed as failed:
                outcome = failed.why
        else:
            victim.basic_host.set_stream_handler(HELD, hold)
            for _ in range(250):
                await other.basic_host.new_stream(victim.basic_host.get_id(), [HELD])
            outcome = "silence"
            with trio.move_on_after(3.0):
                for _ in range(10):
                    await other.basic_host.new_stream(victim.basic_host.get_id(), [HELD])
                outcome = "opened"
        nursery.cancel_scope.cancel()
    return outcome


async def same_port(victim: Side, other: Side) -> str:
    """What a second host meets on the port of the first."""
    port = int(victim.basic_host.get_transport_addrs()[0].value_for_protocol("tcp"))
    listen = f"/ip4/127.0.0.1/tcp/{port}"
    if victim.transport is not None:
        from p2p.io.libp2p_host import AddressInUse, open_libp2p_host

        try:
            async with open_libp2p_host(b"3" * 32, listen=[listen], hello=b"", check_hello=lambda peer, hello: None):
                return "both listen"
        except AddressInUse as error:
            return error.strerror
    from libp2p import new_host
    from multiaddr import Multiaddr

    second = new_host()
    async with second.run([Multiaddr(listen)]):
        addresses = second.get_transport_addrs()
        await second.close()
        return "both listen" if addresses else "refused"


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (garbage_frame, junk_key, raising_handler, burst, steady, open_streams, same_port)
}


async def main(kind: str, names: list[str]) -> None:
    side = {"bare": bare_side, "guarded": guarded_side}[kind]
    for name in names:
        with trio.fail_after(40):
            async with side(b"1" * 32) as victim, side(b"2" * 32) as other:
                await connect(victim, other)
                print(json.dumps({name: await SCENARIOS[name](victim, other)}), flush=True)
                if kind == "bare":
                    await victim.basic_host.close()  # or their listeners stay (B4)
                    await other.basic_host.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2:])
