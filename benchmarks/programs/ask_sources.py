"""One thing that a newcomer does with its sources, by itself: the rest of it does nothing meanwhile.

    copy    as many bytes as a state has, in answers of the usual size, from all sources in turn, each written to a file
    proof   the newest checkpoint's block is final, from the genesis: asked of eight at once, verified once
    model   every tile by its root, verified page by page, as a version that is not here; durable in the end

The last line is JSON: seconds of wall and of this process's processor, and bytes that came.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path

from benchmarks.programs.serve_plain import PLAIN_BYTES
from node.clock import Clock
from node.config import load_settings
from node.ground import Ground, open_ground
from node.services.exchange import Exchange
from node.services.state_fetch import StateFetch
from node.threads import in_thread
from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import BLOB
from p2p.transport import PeerUnreachable, Transport
from protocol.ids import PeerId, TileId, Version
from protocol.rejection import Rejected
from storage.state_sync import QUESTIONS_MAX
from storage.tile_format import CheckedTile

TILES_AT_ONCE: Final = 4
DIALS: Final = 5


async def copy(ground: Ground, transport: Transport, size_bytes: int) -> None:
    peers, path = transport.connected_peers(), ground.settings.places.root / "copy"
    limiter = trio.CapacityLimiter(QUESTIONS_MAX)
    with path.open("wb") as file:

        async def fetch(peer: PeerId) -> None:
            async with limiter:
                file.write(
                    await transport.request(
                        peer,
                        BLOB.protocol,
                        b"plain",
                        timeout_seconds=120.0,
                        response_bytes_max=BLOB.response_bytes_max,
                    )
                )

        async with trio.open_nursery() as nursery:
            for index in range(-(-size_bytes // PLAIN_BYTES)):
                nursery.start_soon(fetch, peers[index % len(peers)])
    path.unlink()


async def proof(ground: Ground, transport: Transport, size_bytes: int) -> None:
    if await StateFetch(ground, transport, Clock(), in_thread).find_newest() is None:
        raise AssertionError("nobody proved a checkpoint")


async def model(ground: Ground, transport: Transport, size_bytes: int) -> None:
    async def in_tile_thread(work: Callable[[], CheckedTile]) -> CheckedTile:
        return await in_thread(work)

    def fail(peer: PeerId, refusal: Rejected) -> None:
        raise AssertionError(f"an honest source was refused: {refusal}")

    exchange = Exchange(ground, transport, in_tile_thread, fail)
    limiter = trio.CapacityLimiter(TILES_AT_ONCE)
    peers = transport.connected_peers()

    async def fetch(number: int, tile: TileId) -> None:
        root = ground.genesis_roots[tile]
        async with limiter:
            turn = number % len(peers)
            file = await exchange.fetch_tile(tile, root, peers[turn:] + peers[:turn])
            if file is None:
                raise AssertionError(f"nobody gave {tile}")
            await in_thread(lambda: ground.tiles.put(tile, Version(1), file, root))

    async with trio.open_nursery() as nursery:
        for number, tile in enumerate(sorted(ground.genesis_roots)):
            nursery.start_soon(fetch, number, tile)


WORK: Final[Mapping[str, Callable[[Ground, Transport, int], Awaitable[None]]]] = {
    "copy": copy,
    "proof": proof,
    "model": model,
}


async def _dial(transport: Transport, address: str) -> None:
    """Again, where a busy machine kept a source from greeting in time; raises ``PeerUnreachable``."""
    for _ in range(DIALS - 1):
        try:
            await transport.dial(address)
            return
        except PeerUnreachable:
            continue
    await transport.dial(address)


async def ask(folder: Path, what: str, addresses: tuple[str, ...], size_bytes: int) -> dict[str, Any]:
    """What it took."""
    ground = open_ground(load_settings(folder))
    try:
        async with open_libp2p_host(
            ground.keys.node.seed,
            listen=["/ip4/127.0.0.1/tcp/0"],
            hello=ground.network,
            check_hello=lambda peer, hello: None,
        ) as transport:
            for address in addresses:
                await _dial(transport, address)
            before = transport.statistics().bytes_received_total
            wall, processor = time.perf_counter(), time.process_time()
            await WORK[what](ground, transport, size_bytes)
            return {
                "wall": time.perf_counter() - wall,
                "processor": time.process_time() - processor,
                "received_bytes": transport.statistics().bytes_received_total - before,
            }
    finally:
        ground.close()


@click.command()
@click.argument("what", type=click.Choice(list(WORK)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("addresses", nargs=-1)
@click.option("--bytes", "size_bytes", type=int, default=0, help="Of a copy.")
def main(what: str, folder: Path, addresses: tuple[str, ...], size_bytes: int) -> None:
    """Do WHAT by the sources at ADDRESSES, as the node of FOLDER."""
    print(json.dumps(trio.run(ask, folder, what, addresses, size_bytes)), flush=True)


if __name__ == "__main__":
    main()
