"""A newcomer with an empty data directory: what it does until state and model are here and verified, and how long that takes.

The last line is JSON: seconds of wall and of this process's processor by what was done, and bytes. A plain copy comes before
and after, of as many bytes, by as many questions at a time, into a file.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path

from benchmarks.programs.serve_state import PLAIN_BYTES, PLAIN_WORD
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
from protocol.state_proof import SubChain
from storage.state_sync import QUESTIONS_MAX
from storage.tile_format import CheckedTile

TILES_AT_ONCE: Final = 4
DIALS: Final = 5


class Newcomer:
    """One node's joining, with its times."""

    def __init__(self, ground: Ground, transport: Transport, folder: Path) -> None:
        self._ground = ground
        self._transport = transport
        self._folder = folder
        self.times: dict[str, dict[str, float]] = {}
        self.facts: dict[str, Any] = {}

    async def run(self, state_bytes: int, model_bytes: int) -> None:
        await self._timed("copy before", lambda: self._copy(state_bytes))
        fetch = StateFetch(self._ground, self._transport, Clock(), in_thread)
        before = self._received()
        await self._timed("proof", fetch.find_newest)
        self.facts["proof_bytes"] = self._received() - before
        before = self._received()
        await self._timed("state", fetch.run)
        self.facts["state_wire_bytes"] = self._received() - before
        self.facts["fetched_bytes"] = fetch.progress.bytes_fetched if fetch.progress else 0
        self.facts["sources"] = fetch.progress.sources if fetch.progress else 0
        await self._timed("copy after", lambda: self._copy(state_bytes))
        if model_bytes:
            await self._timed("model", self._fetch_model)
            await self._timed("copy of the model", lambda: self._copy(model_bytes))
        await self._timed(
            "load", self._load
        )  # the last: connections do not survive a collector with millions of objects

    async def _timed(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        await work()
        self.times[name] = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(f"{name}: {self.times[name]['wall']:.1f} s", file=sys.stderr, flush=True)

    def _received(self) -> int:
        return self._transport.statistics().bytes_received_total

    async def _copy(self, size_bytes: int) -> None:
        """As many bytes in answers of the usual size, from all sources in turn, each written to a file as it comes."""
        peers, path = self._transport.connected_peers(), self._folder / "copy"
        limiter = trio.CapacityLimiter(QUESTIONS_MAX)
        with path.open("wb") as file:

            async def fetch(peer: PeerId) -> None:
                async with limiter:
                    file.write(
                        await self._transport.request(
                            peer,
                            BLOB.protocol,
                            PLAIN_WORD,
                            timeout_seconds=120.0,
                            response_bytes_max=BLOB.response_bytes_max,
                        )
                    )

            async with trio.open_nursery() as nursery:
                for index in range(-(-size_bytes // PLAIN_BYTES)):
                    nursery.start_soon(fetch, peers[index % len(peers)])
        path.unlink()

    async def _load(self) -> None:
        """The state from the disk into memory, and its root computed: as every start of a node does."""
        state = await in_thread(self._ground.load_state)
        self.facts["root"] = state.root().hex()
        self.facts["sub_roots"] = [state.trees[chain].root().hex()[:16] for chain in SubChain]

    async def _fetch_model(self) -> None:
        """Every tile by its root, verified page by page, as a version that is not here; durable in the end."""

        async def in_tile_thread(work: Callable[[], CheckedTile]) -> CheckedTile:
            return await in_thread(work)

        def fail(peer: PeerId, refusal: Rejected) -> None:
            raise AssertionError(f"an honest source was refused: {refusal}")

        exchange = Exchange(self._ground, self._transport, in_tile_thread, fail)
        limiter = trio.CapacityLimiter(TILES_AT_ONCE)
        peers = self._transport.connected_peers()
        fetched = 0

        async def fetch(number: int, tile: TileId) -> None:
            nonlocal fetched
            root = self._ground.genesis_roots[tile]
            async with limiter:
                turn = number % len(peers)
                file = await exchange.fetch_tile(tile, root, peers[turn:] + peers[:turn])
                if file is None:
                    raise AssertionError(f"nobody gave {tile}")
                await in_thread(lambda: self._ground.tiles.put(tile, Version(1), file, root))
                fetched += len(file)

        async with trio.open_nursery() as nursery:
            for number, tile in enumerate(sorted(self._ground.genesis_roots)):
                nursery.start_soon(fetch, number, tile)
        self.facts["model_bytes"] = fetched


async def _dial(transport: Transport, address: str) -> None:
    """Again, where a busy machine kept a source from greeting in time; raises ``PeerUnreachable``."""
    for _ in range(DIALS - 1):
        try:
            await transport.dial(address)
            return
        except PeerUnreachable:
            continue
    await transport.dial(address)


async def join(folder: Path, addresses: list[str], state_bytes: int, model_bytes: int) -> None:
    """Everything, then the JSON."""
    ground = open_ground(load_settings(folder))
    async with open_libp2p_host(
        ground.keys.node.seed,
        listen=["/ip4/127.0.0.1/tcp/0"],
        hello=ground.network,
        check_hello=lambda peer, hello: None,
    ) as transport:
        for address in addresses:
            await _dial(transport, address)
        newcomer = Newcomer(ground, transport, folder)
        await newcomer.run(state_bytes, model_bytes)
    ground.close()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"times": newcomer.times, "facts": newcomer.facts | {"peak_bytes": 1024 * peak_kib}}), flush=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("addresses", nargs=-1)
@click.option("--state-bytes", type=int, required=True)
@click.option("--model-bytes", type=int, required=True)
def main(folder: Path, addresses: tuple[str, ...], state_bytes: int, model_bytes: int) -> None:
    """Join in FOLDER by the sources at ADDRESSES."""
    trio.run(join, folder, list(addresses), state_bytes, model_bytes)


if __name__ == "__main__":
    main()
