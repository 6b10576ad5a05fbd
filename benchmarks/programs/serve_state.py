"""Sources of a state: hosts of one process over one data directory, each with all that a node answers to newcomers.

They say where they are in one line of JSON, and stop when their input ends. One that is asked for plain bytes gives those: that
is the copy beside which a sync stands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path

from node.config import load_settings
from node.ground import open_ground
from node.services.exchange import Exchange
from node.services.state_server import StateServer
from node.threads import in_thread
from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import BLOB
from protocol.digest import digest, number
from protocol.ids import PeerId
from protocol.limits import MIB
from protocol.rejection import Rejected
from storage.tile_format import CheckedTile

PLAIN_WORD: Final = b"plain"  # no canonical bytes of any question
PLAIN_BYTES: Final = 2 * MIB  # as large as most answers of a state are


async def serve(folder: Path, sources: int) -> None:
    """Until the input ends."""
    ground = open_ground(load_settings(folder))
    plain = bytes(range(256)) * (PLAIN_BYTES // 256)

    async def in_tile_thread(work: Callable[[], CheckedTile]) -> CheckedTile:
        return await in_thread(work)

    def ignore(peer: PeerId, refusal: Rejected) -> None:
        print(f"refused: {refusal}", file=sys.stderr)

    async with AsyncExitStack() as stack:
        addresses = []
        for index in range(sources):
            transport = await stack.enter_async_context(
                open_libp2p_host(
                    digest("nock/benchmark/1", b"source", number(index)),
                    listen=["/ip4/127.0.0.1/tcp/0"],
                    hello=ground.network,
                    check_hello=lambda peer, hello: None,
                )
            )
            exchange = Exchange(ground, transport, in_tile_thread, ignore)
            StateServer(ground, transport, in_thread)

            async def answer(peer: PeerId, data: bytes, exchange: Exchange = exchange) -> bytes:
                return plain if data == PLAIN_WORD else await exchange.serve_blob(peer, data)

            transport.set_request_handler(BLOB.protocol, answer)
            addresses.append(transport.addresses[0])
        print(json.dumps({"addresses": addresses}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
    ground.close()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sources", type=int, required=True)
def main(folder: Path, sources: int) -> None:
    """Serve the state in FOLDER."""
    trio.run(serve, folder, sources)


if __name__ == "__main__":
    main()
