"""A host that answers every question with the same bytes: the plain copy beside which a sync stands.

It has the protocol stack of a node and nothing else of one. It says where it is in one line of JSON, and stops when its input
ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path

from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import BLOB
from protocol.digest import digest, number
from protocol.ids import PeerId
from protocol.limits import MIB

PLAIN_BYTES: Final = 2 * MIB  # as large as most answers of a state are


async def serve(network: bytes, index: int) -> None:
    """Until the input ends."""
    plain = bytes(range(256)) * (PLAIN_BYTES // 256)

    async def answer(peer: PeerId, data: bytes) -> bytes:
        return plain

    async with open_libp2p_host(
        digest("nock/benchmark/1", b"plain", number(index)),
        listen=["/ip4/127.0.0.1/tcp/0"],
        hello=network,
        check_hello=lambda peer, hello: None,
    ) as transport:
        transport.set_request_handler(BLOB.protocol, answer)
        print(json.dumps({"address": transport.addresses[0]}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


@click.command()
@click.argument("network", type=bytes.fromhex)
@click.argument("index", type=int)
def main(network: bytes, index: int) -> None:
    """Serve in NETWORK, as the host of number INDEX."""
    trio.run(serve, network, index)


if __name__ == "__main__":
    main()
