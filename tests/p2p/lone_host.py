"""One host in a process of its own, to be stopped and killed by a test or asked by a measurement.

    python -m tests.p2p.lone_host NAME LISTEN [BOOTSTRAP ...]

Prints one JSON object for each thing that happens: first its addresses, then every event. Answers `/nock/sync/1` with what it
was asked.
"""

from __future__ import annotations

import json
import sys

import trio

from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import SYNC
from protocol.ids import PeerId


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def main(name: str, listen: str, bootstrap: list[str]) -> None:
    import hashlib

    async def echo(peer: PeerId, data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return data

    async with open_libp2p_host(
        hashlib.sha256(name.encode()).digest(),
        listen=[listen],
        hello=b"same network",
        check_hello=lambda peer, hello: None,
        bootstrap=bootstrap,
    ) as transport:
        transport.set_request_handler(SYNC.protocol, echo)
        say(addresses=transport.addresses)
        async for event in transport.events:
            say(event=type(event).__name__)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3:])
