"""Two sides of a called expert: a holder, with a host, a worker process and the service of a node; and a caller.

    expert_peer.py hold FOLDER WIDTH EXPERT_WIDTH
        says where it is in one line of JSON; stops when its input ends
    expert_peer.py call ADDRESS WIDTH EXPERT_WIDTH BATCH SECONDS
        says that it is ready; at a line of its input it calls for so long, then says how many milliseconds each call took

The expert's weights are drawn; nobody learns, and there is no chain.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import click
import numpy as np
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path

from compute.io.pool import Worker, worker_environment
from compute.jobs import Hello, TileFile
from compute.model.layout import expert_group
from compute.model.tiling import TileMap
from node.config import load_template
from node.genesis_file import found_network
from node.services.expert_client import open_expert_client
from node.services.expert_server import ExpertServer
from node.services.learning import WORKER_COMMAND
from p2p.io.libp2p_host import Libp2pHost, open_libp2p_host
from p2p.transport import Transport
from protocol.codec import encode
from protocol.digest import digest, number
from protocol.experts import ExpertSlice
from protocol.genesis import ModelShape
from protocol.ids import PeerId, TileId, Version
from protocol.keys import KeyPair
from protocol.limits import MIB
from protocol.rejection import Rejected
from protocol.roster import MemberCard
from storage.io.files import write_file
from storage.tile_format import tile_block

EXPERT: Final = expert_group(0, 0)
TILE_BYTES: Final = 4 * MIB
PATIENCE_SECONDS: Final = 60.0
CORPUS: Final = bytes(range(256)) * 256
HOLDER: Final = 0  # the number of the holder's host


def tile_map_of(width: int, expert_width: int) -> TileMap:
    return TileMap.from_shape(shape_of(width, expert_width), TILE_BYTES)


def shape_of(width: int, expert_width: int) -> ModelShape:
    return ModelShape(
        vocabulary=258,
        layers=1,
        width=width,
        heads=2,
        experts=2,
        expert_width=expert_width,
        experts_per_token=1,
        context=16,
    )


def write_expert(folder: Path, tile_map: TileMap) -> dict[TileId, TileFile]:
    """The tiles of one expert, with drawn weights."""
    draw = np.random.default_rng(1)
    files = {}
    for tile in tile_map.group_tiles(EXPERT):
        values = draw.standard_normal(tile.values, dtype=np.float32) / 32
        block, root = tile_block(tile.id, values.tobytes(), 1, values.size)
        path = folder / str(tile.id).replace("/", "-")
        write_file(path, [block])
        files[tile.id] = TileFile(tile.id, 0, root, str(path))
    return files


def greeting_of(width: int, expert_width: int) -> Hello:
    """What makes a worker know the model."""
    card = MemberCard.bind(*(KeyPair.from_seed(bytes([seed]) * 32) for seed in (1, 2, 3)))
    template = replace(load_template("test"), model=shape_of(width, expert_width), tile_bytes=TILE_BYTES)
    return Hello("cpu", 1, encode(found_network(template, [card], [CORPUS], 0, 0)))


def open_host(index: int, bootstrap: Sequence[str] = ()) -> AbstractAsyncContextManager[Libp2pHost]:
    return open_libp2p_host(
        digest("nock/benchmark/1", b"expert", number(index)),
        listen=["/ip4/127.0.0.1/tcp/0"],
        hello=b"expert",
        check_hello=lambda peer, hello: None,
        bootstrap=bootstrap,
    )


async def hold(folder: Path, width: int, expert_width: int) -> None:
    """Until the input ends."""
    tile_map = tile_map_of(width, expert_width)
    files = write_expert(folder, tile_map)
    worker = Worker(
        WORKER_COMMAND,
        on_log=lambda line: print(line, file=sys.stderr),
        environment=worker_environment(1),
        greeting=greeting_of(width, expert_width),
    )

    async def tile_files(bases: Sequence[tuple[TileId, Version]]) -> tuple[TileFile, ...]:
        return tuple(files[tile] for tile, _ in bases)

    async with trio.open_nursery() as nursery, open_host(HOLDER) as transport:
        await nursery.start(worker.run)
        await worker.wait_greeted()
        ExpertServer(transport, tile_map, lambda tile: Version(0), tile_files, lambda: worker)
        print(json.dumps({"address": transport.addresses[0]}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def call(address: str, width: int, expert_width: int, batch: int, seconds: float) -> None:
    """One call after the other, for so long."""
    versions = [Version(0)] * len(tile_map_of(width, expert_width).group_tiles(EXPERT))
    rows = np.random.default_rng(batch).standard_normal((batch, width)).astype("<f4").tobytes()
    taken: list[float] = []
    index = Random().randrange(1, 2**32)

    def report(peer: PeerId, refusal: Rejected) -> None:
        raise SystemExit(f"the holder gave what is no answer: {refusal}")

    async with open_host(index, [address]) as transport, open_expert_client(transport, Random(1), report) as client:
        await connected(transport)
        expert = ExpertSlice(EXPERT)
        client.place({expert: dict.fromkeys(transport.connected_peers(), 1)})
        for _ in range(3):
            await client.call(expert, versions, rows, PATIENCE_SECONDS)
        print(json.dumps({"ready": True}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        with trio.move_on_after(seconds):
            while True:
                began = trio.current_time()
                await client.call(expert, versions, rows, PATIENCE_SECONDS)
                taken.append(1000 * (trio.current_time() - began))
    print(json.dumps({"milliseconds": taken}), flush=True)


async def connected(transport: Transport) -> None:
    while not transport.connected_peers():
        await trio.sleep(0.05)


@click.group()
def main() -> None:
    """Hold an expert, or call it."""


@main.command("hold")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("width", type=int)
@click.argument("expert_width", type=int)
def hold_command(folder: Path, width: int, expert_width: int) -> None:
    """Hold an expert whose files are in FOLDER."""
    trio.run(hold, folder, width, expert_width)


@main.command("call")
@click.argument("address")
@click.argument("width", type=int)
@click.argument("expert_width", type=int)
@click.argument("batch", type=int)
@click.argument("seconds", type=float)
def call_command(address: str, width: int, expert_width: int, batch: int, seconds: float) -> None:
    """Call the expert of the holder at ADDRESS with BATCH rows, for SECONDS."""
    trio.run(call, address, width, expert_width, batch, seconds)


if __name__ == "__main__":
    main()
