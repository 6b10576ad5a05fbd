"""A genesis, its tiles of version 0 and its text as files: on a real disk and on a simulated one, for workers to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from compute.jobs import BeginAnswer, Dataset, DecodeStep, EndAnswer, Evaluate, Hello, Learn, LearnDone, TileFile
from compute.model.genesis import genesis_tile
from compute.model.tiling import TileMap
from compute.trainer import Device, run_to_end
from node.config import load_template
from node.genesis_file import found_network
from node.worker import RESIDUAL, DiskFiles, WorkerFiles, WorkerMain
from protocol.codec import encode
from protocol.genesis import Genesis
from protocol.ids import TileId
from protocol.keys import KeyPair
from protocol.roster import MemberCard
from simnet.virtual.disk import Pool, VirtualDisk
from simnet.virtual.worker import NamedFiles
from storage.tile_format import tile_block
from tests.node.processes import CREATED_MS, corpus

LEARNER = bytes([7]) * 32


def found() -> tuple[Genesis, bytes]:
    """A small network and its one shard."""
    card = MemberCard.bind(*(KeyPair.from_seed(bytes([seed]) * 32) for seed in (1, 2, 3)))
    shard = corpus()[:65_536]
    return found_network(load_template("test"), [card], [shard], 0, CREATED_MS), shard


class Bench:
    """What jobs name, and workers on it. ``path``: where a file of this bench is, as jobs say it."""

    def __init__(self, files: WorkerFiles, root: str) -> None:
        self.files = files
        self.root = root
        self.genesis, shard = found()
        self.tile_map = TileMap.from_shape(self.genesis.model, self.genesis.tile_bytes)
        files.write(self.path("shard"), [shard])
        self.weights = {
            tile.id: genesis_tile(self.genesis.model, self.tile_map, self.genesis.model_seed, tile.id)
            for tile in self.tile_map.tiles
        }
        self.tiles = tuple(
            self.store_tile(tile, values, self.path(f"tile-{index}"))
            for index, (tile, values) in enumerate(self.weights.items())
        )
        self.dataset = Dataset(self.genesis.datasets[0].root(), (self.path("shard"),))
        self.first = Learn(0, LEARNER, self.tiles, self.dataset, (), state_path="", output_folder=self.path("learner"))
        self.evaluation = Evaluate(self.tiles, self.dataset, 16)
        self.greeting = Hello("cpu", 1, encode(self.genesis))

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def store_tile(self, tile: TileId, values: np.ndarray, path: str) -> TileFile:
        block, root = tile_block(tile, values.tobytes(), 1, values.size)
        self.files.write(path, [block])
        return TileFile(tile, 0, root, path)

    def answer(self, max_tokens: int) -> BeginAnswer:
        """One of the whole model."""
        return BeginAnswer(1, self.tiles, "a", (65,), max_tokens, 0.0, 0, 0, (256,))

    def worker(self, device: Device) -> WorkerMain:
        """A worker that was greeted."""
        worker = WorkerMain(device, self.files, lambda: 0, process=1)
        run_to_end(worker.hello(self.greeting))
        return worker

    def state(self, done: LearnDone) -> dict[str, np.ndarray]:
        with self.files.open(done.state_path) as file, np.load(file) as archive:
            return {name: archive[name] for name in archive.files}

    def residuals(self, done: LearnDone) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(RESIDUAL): array for name, array in self.state(done).items() if name.startswith(RESIDUAL)
        }


def bench_on_disk(folder: Path) -> Bench:
    """In a real folder."""
    return Bench(DiskFiles(), str(folder))


def bench_in_memory(disk: VirtualDisk | None = None) -> Bench:
    """On the disk of a simulated machine."""
    disk = disk or VirtualDisk("peer-007", Pool())
    return Bench(NamedFiles(disk.files, disk.name_of), disk.name)


def learn(worker: WorkerMain, job: Learn) -> Any:
    return run_to_end(worker.learn(job))


def answer(worker: WorkerMain, job: BeginAnswer) -> list[int]:
    """The tokens of an answer of the whole model that is alone in its decoder, which goes with it."""
    run_to_end(worker.begin_answer(job))
    said: list[int] = []
    ends = False
    while not ends:
        (decoded,) = run_to_end(worker.decode_step(DecodeStep(job.decoder, ()))).tokens
        ends = decoded.ends
        said.extend([decoded.token] if decoded.token >= 0 else [])
    run_to_end(worker.end_answer(EndAnswer(job.decoder, "")))
    return said


def three_rounds(bench: Bench, worker: WorkerMain) -> tuple[list[LearnDone], bytes]:
    """Rounds in which a tile is withheld and a delta is lost; what was said, and the last state file."""
    tile = bench.tile_map.ids[0]
    said = [learn(worker, bench.first)]
    lost = next(delta for delta in said[0].deltas if delta.tile == tile)
    said.append(learn(worker, replace(bench.first, round=1, state_path=said[-1].state_path, withheld=(tile,))))
    said.append(learn(worker, replace(bench.first, round=2, state_path=said[-1].state_path, lost=(lost,))))
    return said, bytes(bench.files.map(said[-1].state_path))
