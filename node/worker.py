"""The child's main program: where `compute` meets `storage` in a worker process.

One worker a device. It maps the immutable tile files that the node names, checks them against their roots, and lets a
trainer or a reader of its device work on them (`compute.trainer`). It writes one kind of file itself: the learner's state
(inner optimiser and residuals), which goes with exactly the deltas of its answer; the node makes both valid with one write of
its own.

    WorkerMain      what is done for each job, in steps; the same in a process and in a simulated world
    Device          torch on a CPU or GPU; or what a world makes of learning
    WorkerFiles     the disk by its paths; or a simulated one

Started as ``python -m node.worker``; the first call is ``Hello``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from compute.io.torch_device import TorchDevice
from compute.io.worker_loop import in_steps, serve
from compute.jobs import (
    BeginAnswer,
    Checkpoint,
    ComputeExpert,
    Decoded,
    DecodeStep,
    EndAnswer,
    Evaluate,
    EvaluateDone,
    ExpertComputed,
    Hello,
    Job,
    Learn,
    LearnDone,
    Noted,
    Progress,
    Ready,
    RowsWanted,
    TileDelta,
    TileFile,
    Work,
)
from compute.trainer import AnswerDecoder, Device, ExpertReader, Reader, Trainer
from node.clock import Clock
from protocol.genesis import MILLION, Genesis, check_genesis
from protocol.ids import Digest, TileId
from protocol.rejection import Reason, Rejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compute.data import Window
    from compute.model.tiling import TileMap
    from storage.tensor_block import BytesLike

EVALUATION_BATCH_SEQUENCES = 8  # small, so that an urgent request waits for one small forward pass
EXPERTS_BYTES_MAX = (
    2 << 30
)  # of experts that others call; on a CPU they are mapped files, which the system may drop (a guess)
RESIDUAL = "residual/"

Step = TypeVar("Step")
Result = TypeVar("Result")


class WorkerFiles(Protocol):
    """The files that jobs name, by the paths that they name. Every method raises ``OSError``."""

    def map(self, path: str) -> memoryview:
        """The bytes of a file that nobody changes; private to this process. Raises ``ValueError`` for a path that is none."""
        ...

    def open(self, path: str) -> BinaryIO:
        """A file to read once."""
        ...

    def write(self, path: str, pieces: Iterable[BytesLike]) -> None:
        """A new file, whole and durable on return."""
        ...


class WorkerMain:
    """What a worker keeps between calls: the model's shape, a trainer with its residuals, the newest weights to serve."""

    def __init__(self, device: Device, files: WorkerFiles, monotonic_ms: Callable[[], int], *, process: int) -> None:
        """`process`: the number of the process that this is the main program of."""
        self._device = device
        self._files = files
        self._monotonic_ms = monotonic_ms
        self._process = process
        self._genesis: Genesis | None = None
        self._trainer: Trainer | None = None
        self._trainer_state = ""  # the state file that the trainer's memory equals; "" for a fresh one
        self._residuals: dict[TileId, NDArray[np.float32]] = {}
        self._served: tuple[tuple[bytes, ...], Reader] | None = None
        # By name and roots of tiles, with their bytes, the last used last.
        self.experts_kept: dict[tuple[str, tuple[bytes, ...]], tuple[ExpertReader, int]] = {}
        self.experts_bytes_max = EXPERTS_BYTES_MAX
        self._decoders: dict[int, AnswerDecoder] = {}

    @property
    def work(self) -> Mapping[type[Job], Callable[[Any], Work[Any]]]:
        """What is done for a job of each kind."""
        return {
            Hello: self.hello,
            Learn: self.learn,
            Evaluate: self.evaluate,
            ComputeExpert: self.compute_expert,
            BeginAnswer: self.begin_answer,
            DecodeStep: self.decode_step,
            EndAnswer: self.end_answer,
        }

    # -- Hello ----------------------------------------------------------------------------------------------------------

    def hello(self, job: Hello) -> Work[Ready]:
        """Choose the device; everything heavy is imported here, after the watch over our parent began."""
        report = self._device.open(job.device, job.threads)
        self._genesis = check_genesis(job.genesis) if job.genesis else None
        yield Checkpoint(1.0)
        return Ready(report, self._process)

    # -- Learn ----------------------------------------------------------------------------------------------------------

    def learn(self, job: Learn) -> Work[LearnDone]:
        """One learner's part of a round. What is in memory is given up unless the state file was written."""
        try:
            return (yield from self._learn(job))
        except BaseException:
            self._trainer = None
            raise

    def _learn(self, job: Learn) -> Work[LearnDone]:
        """Load, return lost deltas, step, compress, write the state."""
        from compute.delta.feedback import add_back, begin_ahead, compress_with_feedback, empty_residual, withhold
        from node.tile_work import matrices_of

        genesis, rule, tile_map = self._need_genesis(), self._need_genesis().learning, self._tile_map()
        started = self._monotonic_ms()
        trainer = self._prepare(job)
        for delta in job.lost:
            tile = TileId(delta.tile)
            values = tile_map.tile(tile).values
            self._residuals[tile] = add_back(self._residuals.get(tile, empty_residual(values)), delta.payload)
        start = Fraction(rule.residual_start_micro, MILLION)
        weights = {
            tile: begin_ahead(values, self._residuals.get(tile, empty_residual(values.size)), start)
            for tile, values in self._read_tiles(job.tiles).items()
        }
        trainer.load(job, weights)

        def progress(step: tuple[int, float]) -> Checkpoint:
            count, loss = step[0] + 1, step[1]
            return Checkpoint(count / rule.inner_steps, Progress(count, rule.inner_steps, loss))

        report = yield from _checkpoints(trainer.steps(self._batches(job, genesis)), progress)
        withheld = frozenset(job.withheld)
        bases = {tile.tile: tile.version for tile in job.tiles}
        payloads = []
        for tile, change in sorted(trainer.changes().items()):
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
        state_path = self._write_state(Path(job.output_folder), job.round, trainer)
        return LearnDone(
            round=job.round,
            deltas=tuple(payloads),
            state_path=state_path,
            tokens=report.tokens,
            loss_mean=report.loss_mean,
            milliseconds=self._monotonic_ms() - started,
        )

    def _prepare(self, job: Learn) -> Trainer:
        """The trainer with the state that the job names."""
        if self._trainer is None or self._trainer_state != job.state_path:
            self._trainer = None
            trainer = self._device.trainer(self._need_genesis(), self._tile_map(), job.held or None)
            state = self._read_state(job.state_path) if job.state_path else {}
            self._residuals = {
                TileId(name.removeprefix(RESIDUAL)): array for name, array in state.items() if name.startswith(RESIDUAL)
            }
            trainer.import_state({name: array for name, array in state.items() if not name.startswith(RESIDUAL)})
            self._trainer = trainer
        return self._trainer

    def _batches(self, job: Learn, genesis: Genesis) -> Iterator[NDArray[np.uint8]]:
        """The batches of a round, each read when it is asked for."""
        from compute.data import batch_windows, tokens_of_windows

        manifest, rule = genesis.datasets[0], genesis.learning
        shards = [self._files.map(path) for path in job.dataset.shard_paths]
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

    def _read_state(self, path: str) -> dict[str, NDArray[np.float32]]:
        import numpy as np

        with self._files.open(path) as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def _write_state(self, folder: Path, round_number: int, trainer: Trainer) -> str:
        import numpy as np

        state = trainer.export_state()
        state.update({RESIDUAL + tile: array for tile, array in self._residuals.items()})
        image = io.BytesIO()
        np.savez(image, **state)  # type: ignore[arg-type]  # numpy's stub takes the arrays for its own option
        path = str(folder / f"round-{round_number:08d}.npz")
        self._files.write(path, [image.getbuffer()])
        self._trainer_state = path
        return path

    # -- Evaluate -------------------------------------------------------------------------------------------------------

    def evaluate(self, job: Evaluate) -> Work[EvaluateDone]:
        """Nats per byte on the fixed validation windows."""
        from compute.data import validation_windows

        genesis = self._need_genesis()
        manifest, context = genesis.datasets[0], genesis.model.context
        windows = validation_windows(
            job.dataset.root, job.validation_sequences, context, manifest.shard_bytes, manifest.split_micro
        )
        batches = [
            windows[first : first + EVALUATION_BATCH_SEQUENCES]
            for first in range(0, len(windows), EVALUATION_BATCH_SEQUENCES)
        ]
        steps = self._reader(job.tiles).evaluate(self._texts(job, batches, context), len(batches))
        loss = yield from _checkpoints(steps, lambda batch: Checkpoint((batch + 1) / len(batches)))
        return EvaluateDone(loss_micro=round(min(loss, 1e6) * MILLION), tokens=len(windows) * context)

    def _texts(self, job: Evaluate, batches: Sequence[Sequence[Window]], context: int) -> Iterator[NDArray[np.uint8]]:
        """The text of each batch of windows, read when it is asked for."""
        from compute.data import tokens_of_windows

        shards = [self._files.map(path) for path in job.dataset.shard_paths]
        for windows in batches:
            yield tokens_of_windows(windows, context, shards)

    # -- answers, and experts for those of others -----------------------------------------------------------------------

    def begin_answer(self, job: BeginAnswer) -> Work[Noted]:
        """One more answer of a decoder, which is made for its first one."""
        decoder = self._decoders.get(job.decoder)
        if decoder is None:
            decoder = self._decoder(job.tiles)
        decoder.begin(job)
        self._decoders[job.decoder] = decoder
        yield Checkpoint(1.0)
        return Noted()

    def decode_step(self, job: DecodeStep) -> Work[RowsWanted | Decoded]:
        """As far as the trunk goes by itself."""
        decoder = self._decoders.get(job.decoder)
        if decoder is None:
            raise Rejected(Reason.BAD_ARGUMENT, f"there is no decoder {job.decoder}")
        reply = decoder.step(job.outputs)
        yield Checkpoint(1.0)
        return reply

    def end_answer(self, job: EndAnswer) -> Work[Noted]:
        """One answer less, or a decoder less."""
        decoder = self._decoders.get(job.decoder)
        if decoder is not None and job.name:
            decoder.end(job.name)
        elif decoder is not None:
            del self._decoders[job.decoder]
        yield Checkpoint(1.0)
        return Noted()

    def _decoder(self, tiles: Sequence[TileFile]) -> AnswerDecoder:
        """Of the whole model, which evaluations read too, or of the trunk alone."""
        from compute.model.layout import TRUNK

        tile_map = self._tile_map()
        if tile_map.groups_of(TileId(tile.tile) for tile in tiles) == {TRUNK}:
            return self._device.decoder(self._need_genesis(), tile_map, self._read_tiles(tiles))
        return self._reader(tiles).decoder()

    def compute_expert(self, job: ComputeExpert) -> Work[ExpertComputed]:
        """Rows through one expert, which is kept for the next call."""
        rows = self._expert(job).compute(job.rows, job.index, job.count)
        yield Checkpoint(1.0)
        return ExpertComputed(rows)

    def _expert(self, job: ComputeExpert) -> ExpertReader:
        """An expert at these versions; those that were used last are kept."""
        name = job.expert, tuple(tile.root for tile in job.tiles)
        found = self.experts_kept.pop(name, None)
        if found is None:
            weights = self._read_tiles(job.tiles)
            expert = self._device.expert(self._tile_map(), job.expert, weights)
            found = expert, sum(values.nbytes for values in weights.values())
        self.experts_kept[name] = found
        while (
            len(self.experts_kept) > 1 and sum(size for _, size in self.experts_kept.values()) > self.experts_bytes_max
        ):
            del self.experts_kept[next(iter(self.experts_kept))]
        return found[0]

    def _reader(self, tiles: Sequence[TileFile]) -> Reader:
        """A reader of these tile versions; kept while they stay the same."""
        roots = tuple(tile.root for tile in tiles)
        if self._served is None or self._served[0] != roots:
            self._served = None
            reader = self._device.reader(self._need_genesis(), self._tile_map(), roots, self._read_tiles(tiles))
            self._served = (roots, reader)
        return self._served[1]

    def _read_tiles(self, tiles: Sequence[TileFile]) -> dict[TileId, NDArray[np.float32]]:
        """The weights of each tile: a mapped file, verified against its root. Raises ``Rejected(TILE_CORRUPT)``."""
        import numpy as np

        from storage.tile_format import check_tile

        weights = {}
        for each in tiles:
            tile_id = TileId(each.tile)
            try:
                memory = self._files.map(each.path)
            except (FileNotFoundError, ValueError) as error:
                raise Rejected(Reason.TILE_CORRUPT, f"tile {tile_id}: {error}") from None
            tile = check_tile(tile_id, memory, Digest(each.root))
            weights[tile_id] = np.frombuffer(tile.weights, np.float32)
        return weights

    def _tile_map(self) -> TileMap:
        from compute.model.tiling import TileMap

        genesis = self._need_genesis()
        return TileMap.from_shape(genesis.model, genesis.tile_bytes)

    def _need_genesis(self) -> Genesis:
        if self._genesis is None:
            raise Rejected(Reason.BAD_ARGUMENT, "the worker was greeted without a genesis document")
        return self._genesis


def _checkpoints(
    steps: Generator[Step, None, Result], checkpoint_of: Callable[[Step], Checkpoint]
) -> Generator[Checkpoint, None, Result]:
    """The steps as checkpoints; returns what they return."""
    with contextlib.closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
            yield checkpoint_of(step)


class DiskFiles:
    """``WorkerFiles`` on the real disk."""

    def map(self, path: str) -> memoryview:
        from storage.io.files import map_file

        return map_file(Path(path)).view

    def open(self, path: str) -> BinaryIO:
        return Path(path).open("rb")

    def write(self, path: str, pieces: Iterable[BytesLike]) -> None:
        from storage.io.files import write_file

        write_file(Path(path), pieces)


def main() -> None:
    """Serve calls until the node is gone."""
    import os

    worker = WorkerMain(TorchDevice(), DiskFiles(), Clock().monotonic_ms, process=os.getpid())
    serve({kind: in_steps(work_on) for kind, work_on in worker.work.items()})


if __name__ == "__main__":
    main()
