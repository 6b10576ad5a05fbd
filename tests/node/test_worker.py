"""A worker's rounds, file to file: what it loads, what it says, what it keeps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from compute.delta.codec import decode
from compute.delta.feedback import begin_ahead, compress_with_feedback
from compute.jobs import Dataset, Learn, LearnDone, TileDelta, TileFile
from compute.learner import Learner
from compute.model.config import check_config
from compute.model.genesis import genesis_tile
from compute.model.tiling import TileMap
from node.config import load_template
from node.genesis_file import found_network
from node.tile_work import matrices_of
from node.worker import RESIDUAL, WorkerMain
from protocol.genesis import MILLION, Genesis
from protocol.keys import KeyPair
from protocol.roster import MemberCard
from storage.tile_format import tile_block
from tests.node.processes import CREATED_MS, corpus

LEARNER = bytes([7]) * 32


class QuietDesk:
    """Nobody waits for this worker."""

    def send(self, reply: Any) -> None:
        """Nobody listens either."""

    def checkpoint(self) -> None:
        """Nothing is more urgent."""


class Bench:
    """A genesis, its tiles of version 0 and its text as files, and a worker that was told of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        card = MemberCard.bind(*(KeyPair.from_seed(bytes([seed]) * 32) for seed in (1, 2, 3)))
        self.shard = corpus()[:65_536]
        self.genesis: Genesis = found_network(load_template("test"), [card], [self.shard], 0, CREATED_MS)
        self.tile_map = TileMap.from_shape(self.genesis.model, self.genesis.tile_bytes)
        (folder / "shard").write_bytes(self.shard)
        self.weights = {
            tile.id: genesis_tile(self.genesis.model, self.tile_map, self.genesis.model_seed, tile.id)
            for tile in self.tile_map.tiles
        }
        files = []
        for index, (tile, values) in enumerate(self.weights.items()):
            block, root = tile_block(tile, values.tobytes(), 1, values.size)
            (folder / f"tile-{index}").write_bytes(block)
            files.append(TileFile(tile, 0, root, str(folder / f"tile-{index}")))
        self.first = Learn(
            0,
            LEARNER,
            tuple(files),
            Dataset(self.genesis.datasets[0].root(), (str(folder / "shard"),)),
            held=(),
            state_path="",
            output_folder=str(folder),
        )

    def worker(self) -> WorkerMain:
        worker = WorkerMain()
        worker._genesis = self.genesis  # as Hello leaves it; choosing a device takes a benchmark
        return worker

    def learn(self, worker: WorkerMain, job: Learn) -> LearnDone:
        return worker.learn(job, QuietDesk())  # type: ignore[arg-type]  # a desk without a loop behind it

    def residuals(self, done: LearnDone) -> dict[str, np.ndarray]:
        with np.load(done.state_path) as state:
            return {
                name.removeprefix(RESIDUAL): state[name].copy() for name in state.files if name.startswith(RESIDUAL)
            }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_round_begins_ahead_of_the_decided_weights_by_a_share_of_the_residual(bench: Bench) -> None:
    """The deltas of a second round are, bit for bit, those of a learner that was loaded with weights less half the residual."""
    rule = bench.genesis.learning
    worker = bench.worker()
    first = bench.learn(worker, bench.first)
    residuals = bench.residuals(first)
    assert any(residual.any() for residual in residuals.values())
    second = bench.learn(worker, replace(bench.first, round=1, state_path=first.state_path))

    learner = Learner(check_config(bench.genesis.model), rule)
    with np.load(first.state_path) as state:
        learner.import_state({name: state[name] for name in state.files if not name.startswith(RESIDUAL)})
    start = Fraction(rule.residual_start_micro, MILLION)
    assert start > 0
    learner.load(
        bench.tile_map.assemble(
            {tile: begin_ahead(values, residuals[tile], start) for tile, values in bench.weights.items()}
        )
    )
    job = replace(bench.first, round=1)
    learner.run_steps(1, worker._batches(job, bench.genesis))
    said = {delta.tile: delta.payload for delta in second.deltas}
    for tile, change in learner.deltas(bench.tile_map).items():
        payload, _ = compress_with_feedback(
            change,
            residuals[tile],
            rule.delta_pipeline,
            Fraction(rule.residual_decay_micro, MILLION),
            matrices_of(bench.tile_map.tile(tile)),
        )
        assert said[tile] == payload


def test_a_worker_that_was_killed_goes_on_from_the_state_file(bench: Bench) -> None:
    """A new worker with the state file says in round 1 what the old one says: residuals and moments came along."""
    worker = bench.worker()
    first = bench.learn(worker, bench.first)
    job = replace(bench.first, round=1, state_path=first.state_path)
    assert bench.learn(worker, job).deltas == bench.learn(bench.worker(), job).deltas


def test_what_is_withheld_or_lost_waits_in_the_residual(bench: Bench) -> None:
    """A withheld tile has no delta and its whole change waits; a lost delta comes back before the steps begin."""
    tile = bench.tile_map.ids[0]
    values = bench.tile_map.tile(tile).values
    withheld = bench.learn(bench.worker(), replace(bench.first, withheld=(tile,)))
    waiting = bench.residuals(withheld)[tile]  # read now: the next state of round 0 takes its name
    plain = bench.learn(bench.worker(), bench.first)
    assert tile not in {delta.tile for delta in withheld.deltas}
    payload = next(delta.payload for delta in plain.deltas if delta.tile == tile)
    decay = np.float32(bench.genesis.learning.residual_decay_micro / MILLION)
    rest = waiting - decode(payload, values).dense()
    assert np.allclose(bench.residuals(plain)[tile], decay * rest, rtol=1e-5, atol=1e-9)

    lost = TileDelta(tile, 0, payload)
    given_back = bench.learn(bench.worker(), replace(bench.first, round=1, state_path=plain.state_path, lost=(lost,)))
    forgotten = bench.learn(bench.worker(), replace(bench.first, round=1, state_path=plain.state_path))
    said = [next(each.payload for each in done.deltas if each.tile == tile) for done in (given_back, forgotten)]
    assert said[0] != said[1]
