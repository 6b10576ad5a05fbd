"""The child's main program: where `compute` meets `storage` in a worker process.

One worker a device. It maps the immutable tile files that the node names, checks them against their roots, and runs
functions of `compute` on them. It writes one kind of file itself: the learner's state (inner optimiser and residuals), which
goes with exactly the deltas of its answer; the node makes both valid with one write of its own.

Started as ``python -m node.worker``; the first call is ``Hello``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from compute.io.worker_loop import Desk, serve
from compute.jobs import (
    Dataset,
    Evaluate,
    EvaluateDone,
    Generate,
    GenerateDone,
    Hello,
    Learn,
    LearnDone,
    Progress,
    Ready,
    TileDelta,
    TileFile,
    Token,
)
from node.clock import Clock
from protocol.genesis import MILLION, Genesis, check_genesis
from protocol.ids import Digest, TileId
from protocol.rejection import Reason, Rejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compute.learner import Learner
    from compute.model.moe import MoEModel

EVALUATION_BATCH_SEQUENCES = 8  # small, so that an urgent request waits for one small forward pass
RESIDUAL = "residual/"


class WorkerMain:
    """What a worker keeps between calls: the model's shape, the learner with its optimiser, the newest weights to serve."""

    def __init__(self) -> None:
        self._genesis: Genesis | None = None
        self._device = "cpu"
        self._learner: Learner | None = None
        self._learner_state = ""  # the state file that the learner's memory equals; "" for a fresh one
        self._residuals: dict[TileId, NDArray[np.float32]] = {}
        self._served: tuple[tuple[bytes, ...], MoEModel] | None = None

    # -- Hello ----------------------------------------------------------------------------------------------------------

    def hello(self, job: Hello, desk: Desk) -> Ready:
        """Choose the device; everything heavy is imported here, after the watch over our parent began."""
        import os

        from compute.io.device import choose_device

        report = choose_device(job.device, job.threads)
        self._device = report.device
        self._genesis = check_genesis(job.genesis) if job.genesis else None
        return Ready(report, os.getpid())

    # -- Learn ----------------------------------------------------------------------------------------------------------

    def learn(self, job: Learn, desk: Desk) -> LearnDone:
        """One learner's part of a round. What is in memory is given up unless the state file was written."""
        try:
            return self._learn(job, desk)
        except BaseException:
            self._learner = None
            raise

    def _learn(self, job: Learn, desk: Desk) -> LearnDone:
        """Load, return lost deltas, step, compress, write the state."""
        from compute.delta.feedback import add_back, begin_ahead, compress_with_feedback, empty_residual, withhold
        from compute.model.tiling import TileMap
        from node.tile_work import matrices_of

        genesis, rule = self._need_genesis(), self._need_genesis().learning
        started = Clock().monotonic_ms()
        tile_map = TileMap.from_shape(genesis.model, genesis.tile_bytes)
        learner = self._prepare(job)
        for delta in job.lost:
            tile = TileId(delta.tile)
            values = tile_map.tile(tile).values
            self._residuals[tile] = add_back(self._residuals.get(tile, empty_residual(values)), delta.payload)
        start = Fraction(rule.residual_start_micro, MILLION)
        weights = {
            tile: begin_ahead(values, self._residuals.get(tile, empty_residual(values.size)), start)
            for tile, values in _read_tiles(job.tiles).items()
        }
        learner.load(tile_map.assemble(weights))

        def on_step(step: int, loss: float) -> bool:
            desk.send(Progress(step + 1, rule.inner_steps, loss))
            desk.checkpoint()
            return True

        report = learner.run_steps(job.round, self._batches(job, genesis), on_step)
        withheld = frozenset(job.withheld)
        bases = {tile.tile: tile.version for tile in job.tiles}
        payloads = []
        for tile, change in sorted(learner.deltas(tile_map).items()):
            residual = self._residuals.get(tile, empty_residual(change.size))
            if tile in withheld:
                self._residuals[tile] = withhold(residual, change)
                continue
            payload, self._residuals[tile] = compress_with_feedback(
                change,
                residual,
                rule.delta_pipeline,
                Fraction(rule.residual_decay_micro, MILLION),
                matrices_of(tile_map.tile(tile)),
            )
            payloads.append(TileDelta(tile, bases[tile], payload))
        state_path = self._write_state(Path(job.output_folder), job.round, learner)
        return LearnDone(
            round=job.round,
            deltas=tuple(payloads),
            state_path=state_path,
            tokens=report.tokens,
            loss_mean=report.loss_mean,
            milliseconds=Clock().monotonic_ms() - started,
        )

    def _prepare(self, job: Learn) -> Learner:
        """The learner with the state that the job names."""
        from compute.learner import Learner
        from compute.model.config import check_config

        genesis = self._need_genesis()
        if self._learner is None or self._learner_state != job.state_path:
            self._learner = None
            learner = Learner(check_config(genesis.model), genesis.learning, self._device, job.held or None)
            state = _read_state(Path(job.state_path)) if job.state_path else {}
            self._residuals = {
                TileId(name.removeprefix(RESIDUAL)): array for name, array in state.items() if name.startswith(RESIDUAL)
            }
            learner.import_state({name: array for name, array in state.items() if not name.startswith(RESIDUAL)})
            self._learner = learner
        return self._learner

    def _batches(self, job: Learn, genesis: Genesis) -> Iterable[NDArray[np.uint8]]:
        from compute.data import batch_windows, tokens_of_windows

        manifest, rule = genesis.datasets[0], genesis.learning
        shards = _map_shards(job.dataset)
        for step in range(rule.inner_steps):
            windows = batch_windows(
                job.dataset.root,
                job.round,
                job.learner,
                step,
                rule.batch_sequences,
                genesis.model.context,
                manifest.shard_bytes,
                manifest.split_micro,
            )
            yield tokens_of_windows(windows, genesis.model.context, shards)

    def _write_state(self, folder: Path, round_number: int, learner: Learner) -> str:
        import numpy as np

        from storage.io.files import write_file

        state = learner.export_state()
        state.update({RESIDUAL + tile: array for tile, array in self._residuals.items()})
        image = io.BytesIO()
        np.savez(image, **state)  # type: ignore[arg-type]  # numpy's stub takes the arrays for its own option
        path = folder / f"round-{round_number:08d}.npz"
        write_file(path, [image.getbuffer()])
        self._learner_state = str(path)
        return str(path)

    # -- Evaluate and Generate ------------------------------------------------------------------------------------------

    def evaluate(self, job: Evaluate, desk: Desk) -> EvaluateDone:
        """Nats per byte on the fixed validation windows."""
        from compute.data import tokens_of_windows, validation_windows
        from compute.evaluation import evaluate_model

        genesis = self._need_genesis()
        manifest, context = genesis.datasets[0], genesis.model.context
        windows = validation_windows(
            job.dataset.root, job.validation_sequences, context, manifest.shard_bytes, manifest.split_micro
        )
        shards = _map_shards(job.dataset)
        model = self._model(job.tiles)
        batches = [
            tokens_of_windows(windows[first : first + EVALUATION_BATCH_SEQUENCES], context, shards)
            for first in range(0, len(windows), EVALUATION_BATCH_SEQUENCES)
        ]

        def on_batch(index: int) -> bool:
            desk.checkpoint()
            return True

        loss = evaluate_model(model, batches, on_batch)
        return EvaluateDone(loss_micro=round(min(loss, 1e6) * MILLION), tokens=len(windows) * context)

    def generate(self, job: Generate, desk: Desk) -> GenerateDone:
        """Stream the continuation of a prompt."""
        from compute.inference import Sampling, generate

        sampling = Sampling(
            max_tokens=job.max_tokens,
            temperature=job.temperature,
            top_k=job.top_k,
            seed=job.seed,
            stop_tokens=frozenset(job.stop_tokens),
        )
        count = 0
        for token in generate(self._model(job.tiles), job.prompt, sampling):
            desk.send(Token(token))
            count += 1
            desk.checkpoint()
        return GenerateDone(tokens=count, stopped=count < job.max_tokens)

    def _model(self, tiles: Sequence[TileFile]) -> MoEModel:
        """A model for reading, with these tile versions; kept while they stay the same."""
        from compute.model.config import check_config
        from compute.model.moe import MoEModel
        from compute.model.tiling import TileMap

        genesis = self._need_genesis()
        roots = tuple(tile.root for tile in tiles)
        if self._served is None or self._served[0] != roots:
            self._served = None
            tile_map = TileMap.from_shape(genesis.model, genesis.tile_bytes)
            model = MoEModel(check_config(genesis.model)).to(self._device)
            model.load(tile_map.assemble(_read_tiles(tiles)))
            self._served = (roots, model)
        return self._served[1]

    def _need_genesis(self) -> Genesis:
        if self._genesis is None:
            raise Rejected(Reason.BAD_ARGUMENT, "the worker was greeted without a genesis document")
        return self._genesis


def _read_tiles(tiles: Sequence[TileFile]) -> dict[TileId, NDArray[np.float32]]:
    """The weights of each tile: a mapped file, verified against its root. Raises ``Rejected(TILE_CORRUPT)``."""
    import numpy as np

    from storage.io.files import map_file
    from storage.tile_format import check_tile

    weights = {}
    for each in tiles:
        tile_id = TileId(each.tile)
        try:
            memory = map_file(Path(each.path)).view
        except (FileNotFoundError, ValueError) as error:
            raise Rejected(Reason.TILE_CORRUPT, f"tile {tile_id}: {error}") from None
        tile = check_tile(tile_id, memory, Digest(each.root))
        weights[tile_id] = np.frombuffer(tile.weights, np.float32)
    return weights


def _map_shards(dataset: Dataset) -> list[memoryview]:
    from storage.io.files import map_file

    return [map_file(Path(path)).view for path in dataset.shard_paths]


def _read_state(path: Path) -> dict[str, NDArray[np.float32]]:
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def main() -> None:
    """Serve calls until the node is gone."""
    worker = WorkerMain()
    serve({Hello: worker.hello, Learn: worker.learn, Evaluate: worker.evaluate, Generate: worker.generate})


if __name__ == "__main__":
    main()
