"""What a host says of itself when others reach it elsewhere than where it listens."""

from __future__ import annotations

import pytest
import trio

from p2p.io.libp2p_host import open_libp2p_host
from p2p.transport import PeerConnected
from protocol.ids import peer_text
from protocol.rejection import Rejected

from .conftest import PATIENCE_SECONDS, accept_everybody, seed_of

LISTEN = ["/ip4/127.0.0.1/tcp/0"]
OUTSIDE = "/dns4/node.example/tcp/4001"


def open_host(name: str, **options: object):
    return open_libp2p_host(seed_of(name), listen=LISTEN, hello=b"", check_hello=accept_everybody, **options)


def test_others_are_told_what_a_host_announces():
    """The address to dial is the announced one, in our own words and in what peers keep; the sockets are another fact."""

    async def main() -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            async with open_host("a", announce=[OUTSIDE]) as a:
                me = peer_text(a.peer_id)
                assert a.addresses == (f"{OUTSIDE}/p2p/{me}",)
                (socket,) = a.listening
                assert socket.startswith("/ip4/127.0.0.1/tcp/")
                async with open_host("b", bootstrap=[f"{socket}/p2p/{me}"]) as b:
                    assert b.addresses == tuple(f"{each}/p2p/{peer_text(b.peer_id)}" for each in b.listening)
                    async for event in b.events:
                        if isinstance(event, PeerConnected):
                            break
                    assert b.known_addresses(a.peer_id)[0] == a.addresses[0]

    trio.run(main)


def test_an_announced_address_must_be_one_to_dial():
    """Port 0, which one may listen on, leads nowhere."""

    async def main() -> None:
        with pytest.raises(Rejected):
            async with open_host("a", announce=LISTEN):
                pass

    trio.run(main)
