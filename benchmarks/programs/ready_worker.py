"""A worker that need not learn: it compresses its deltas when it is greeted, and answers every round with them at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path

from compute.io.worker_loop import Desk, serve
from compute.jobs import DeviceReport, Evaluate, EvaluateDone, Hello, Learn, LearnDone, Ready, TileDelta
from protocol.genesis import MILLION, check_genesis

VARIANTS = 2  # of each tile's delta, taken in turns
LOSS_MICRO = 5 * MILLION  # what an evaluation answers: nothing was learned


class ReadyWorker:
    """Payloads of every tile, made once. ``seed`` tells the learners apart."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._payloads: dict[str, list[bytes]] = {}
        self._tokens = 0

    def hello(self, job: Hello, desk: Desk) -> Ready:
        """Compress the deltas."""
        import numpy as np

        from benchmarks.programs.ready_deltas import ready_payload
        from compute.model.tiling import TileMap

        genesis = check_genesis(job.genesis)
        generator = np.random.default_rng(self._seed)
        rule = genesis.learning
        self._payloads = {
            tile.id: [ready_payload(tile, rule.delta_pipeline, generator) for _ in range(VARIANTS)]
            for tile in TileMap.from_shape(genesis.model, genesis.tile_bytes).tiles
        }
        self._tokens = rule.inner_steps * rule.batch_sequences * genesis.model.context
        report = DeviceReport(
            device="cpu",
            name="deltas that are ready",
            threads=1,
            float32_gigaflops=0,
            float16_gigaflops=0,
            link_megabytes_per_second=0,
            memory_bytes=0,
            tier=0,
            torch_version="",
        )
        return Ready(report, os.getpid())

    def learn(self, job: Learn, desk: Desk) -> LearnDone:
        """The deltas of a round."""
        return LearnDone(
            round=job.round,
            deltas=tuple(
                TileDelta(tile.tile, tile.version, self._payloads[tile.tile][job.round % VARIANTS])
                for tile in sorted(job.tiles, key=lambda tile: tile.tile)
            ),
            state_path=str(Path(job.output_folder) / "no-state"),
            tokens=self._tokens,
            loss_mean=LOSS_MICRO / MILLION,
            milliseconds=0,
        )

    def evaluate(self, job: Evaluate, desk: Desk) -> EvaluateDone:
        """Nothing to measure."""
        return EvaluateDone(LOSS_MICRO, tokens=1)


def main() -> None:
    """Serve calls until the node is gone."""
    worker = ReadyWorker(int(sys.argv[1]))
    serve({Hello: worker.hello, Learn: worker.learn, Evaluate: worker.evaluate})


if __name__ == "__main__":
    main()
