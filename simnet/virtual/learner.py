"""What the learners of a simulated world compute with, in place of torch on a device of their own.

    AnalyticDevice     a valley for each tile (``simnet/compute.py``): cheap, and its loss depends on what was merged
    ModelDevice        the real model of the genesis, in this process, on one thread

Both are the ``compute.trainer.Device`` of a real ``node.worker.WorkerMain``: residuals, compression, files and replies are
those of the real worker. A villain puts its own change in place of the honest one, before any of that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from compute.data import tokens_of_windows, validation_windows
from compute.exact import Float32
from compute.io.device import configure, import_torch
from compute.io.torch_device import TorchDevice
from compute.jobs import (
    NO_TOKEN,
    BeginAnswer,
    Decoded,
    DecodedToken,
    DeviceReport,
    ExpertPart,
    Learn,
    RowsWanted,
)
from compute.model.tiling import TileMap
from compute.trainer import BytesBatch, Held, StepsReport, run_to_end
from protocol.genesis import Genesis, LearningRule
from protocol.ids import PeerId, TileId, Version
from protocol.rejection import Reason, Rejected
from simnet.compute import Valley
from simnet.villains.villain import Conspiracy, Villain

PROGRESS_REPLIES: Final = 5  # of one round: somebody may look at it, and each costs the world a few events
LOSSES_REMEMBERED_MAX: Final = 256  # of sets of versions: a round's is asked for by everybody, soon after each other
BYTE_TOKENS: Final = 256


def made_report(name: str, gigaflops: int = 100, memory_bytes: int = 16 * 10**9) -> DeviceReport:
    """What a device of this world says of itself; nothing is measured, or two runs would differ."""
    return DeviceReport(
        device="cpu",
        name=name,
        threads=1,
        float32_gigaflops=gigaflops,
        float16_gigaflops=gigaflops,
        link_megabytes_per_second=0,
        memory_bytes=memory_bytes,
        tier=0,
        torch_version="none",
    )


@dataclass(slots=True)
class Landscape:
    """What all analytic learners of one world share: the valley, what villains saw, and losses that somebody has computed."""

    valley: Valley
    conspiracy: Conspiracy
    losses: OrderedDict[tuple[bytes, ...], float] = field(default_factory=OrderedDict)

    def loss(self, roots: tuple[bytes, ...], weights: Mapping[TileId, Float32]) -> float:
        """Of these versions, which ``roots`` name."""
        found = self.losses.get(roots)
        if found is None:
            found = self.losses[roots] = self.valley.loss(weights)
            if len(self.losses) > LOSSES_REMEMBERED_MAX:
                self.losses.popitem(last=False)
        return found


class AnalyticDevice:
    """A device that goes down the valley of its world."""

    def __init__(
        self, landscape: Landscape, report: DeviceReport, villain: Villain | None = None, villain_from_round: int = 0
    ) -> None:
        self._landscape = landscape
        self._report = report
        self._villain = villain
        self._villain_from_round = villain_from_round

    def open(self, option: str, threads: int) -> DeviceReport:
        return self._report

    def trainer(self, genesis: Genesis, tile_map: TileMap, held: Held | None) -> AnalyticTrainer:
        return AnalyticTrainer(
            self._landscape, genesis.learning, genesis.model.context, self._villain, self._villain_from_round
        )

    def reader(
        self, genesis: Genesis, tile_map: TileMap, roots: Sequence[bytes], weights: Mapping[TileId, Float32]
    ) -> AnalyticReader:
        return AnalyticReader(self._landscape.loss(tuple(roots), weights))

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32]) -> AnalyticExpert:
        return AnalyticExpert()

    def decoder(self, genesis: Genesis, tile_map: TileMap, weights: Mapping[TileId, Float32]) -> AnalyticDecoder:
        return AnalyticDecoder(genesis.model.layers, genesis.model.width)


class AnalyticTrainer:
    """A learner whose steps are taken all at once, after the time that they take. Between rounds it remembers nothing."""

    def __init__(
        self,
        landscape: Landscape,
        rule: LearningRule,
        context: int,
        villain: Villain | None,
        villain_from_round: int,
    ) -> None:
        self._landscape = landscape
        self._steps = rule.inner_steps
        self._tokens = rule.inner_steps * rule.batch_sequences * context
        self._villain = villain
        self._villain_from_round = villain_from_round
        self._job: Learn | None = None
        self._weights: Mapping[TileId, Float32] = {}

    def import_state(self, state: Mapping[str, Float32]) -> None:
        """There is none."""

    def export_state(self) -> dict[str, Float32]:
        return {}

    def load(self, job: Learn, weights: Mapping[TileId, Float32]) -> None:
        self._job = job
        self._weights = weights

    def steps(self, batches: Iterable[BytesBatch]) -> Generator[tuple[int, float], None, StepsReport]:
        """The loss that is said is the one before the first step. No text is read."""
        loss = self._landscape.valley.loss(self._weights)
        replies = min(self._steps, PROGRESS_REPLIES)
        for number in range(1, replies + 1):
            yield number * self._steps // replies - 1, loss
        return StepsReport(self._steps, self._tokens, loss_mean=loss, loss_last=loss, balance_loss_mean=0.0)

    def changes(self) -> dict[TileId, Float32]:
        """An honest learner's are seen by those who conspire; a villain says others, or none, of the tiles it likes."""
        job = self._job
        if job is None:
            return {}
        villain = self._villain if job.round >= self._villain_from_round else None
        learner = PeerId(job.learner)
        changes = {}
        for file in job.tiles:
            tile = TileId(file.tile)
            weights_N = self._weights[tile]
            change_N = self._landscape.valley.change(
                tile, weights_N, learner, job.round, self._steps, flipped=villain is not None and villain.FLIPS_LABELS
            )
            if villain is None:
                self._landscape.conspiracy.saw(learner, tile, job.round, change_N)
                changes[tile] = change_N
            else:
                said_N = villain.change(tile, job.round, Version(file.version), weights_N, change_N)
                if said_N is not None:
                    changes[tile] = said_N
        return changes


class AnalyticReader:
    """Weights of which only the loss is known."""

    def __init__(self, loss: float) -> None:
        self._loss = loss

    def evaluate(self, batches: Iterable[BytesBatch], count: int) -> Generator[int, None, float]:
        """All batches at once. No text is read."""
        yield count - 1
        return self._loss

    def decoder(self) -> AnalyticDecoder:
        return AnalyticDecoder(layers=0, width=0)


class AnalyticExpert:
    """An expert that gives back what it is given: the first slice does, and the others add nothing."""

    def compute(self, rows: bytes, index: int, count: int) -> bytes:
        return bytes(len(rows)) if index else rows


class AnalyticDecoder:
    """Sends one row through expert 0 of each layer that is elsewhere, then chooses bytes that mean nothing."""

    def __init__(self, layers: int, width: int) -> None:
        self._layers = layers
        self._row = bytes(4 * width)
        self._answers: dict[str, BeginAnswer] = {}
        self._chosen: dict[str, int] = {}
        self._layer: int | None = None  # whose rows are wanted

    def begin(self, job: BeginAnswer) -> None:
        if job.name in self._answers:
            raise Rejected(Reason.BAD_ARGUMENT, f"an answer called {job.name!r} is under way")
        self._answers[job.name] = job
        self._chosen[job.name] = 0

    def end(self, name: str) -> None:
        self._answers.pop(name, None)
        self._chosen.pop(name, None)

    def step(self, outputs: Sequence[ExpertPart]) -> RowsWanted | Decoded:
        wanted = [] if self._layer is None else [(0, len(self._row))]
        if [(part.expert, len(part.rows)) for part in outputs] != wanted:
            raise Rejected(Reason.BAD_SHAPE, "other rows than were wanted")
        self._layer = 0 if self._layer is None else self._layer + 1
        if self._answers and self._layer < self._layers:
            return RowsWanted(self._layer, (ExpertPart(0, self._row),))
        self._layer = None
        return Decoded(tuple(self._decode(job) for job in list(self._answers.values())))

    def _decode(self, job: BeginAnswer) -> DecodedToken:
        best = (job.seed + self._chosen[job.name]) % BYTE_TOKENS
        token = job.given[self._chosen[job.name]] if job.given else best
        self._chosen[job.name] += 1
        is_stop = token in job.stop_tokens
        ends = is_stop or self._chosen[job.name] == job.max_tokens
        if ends:
            self.end(job.name)
        return DecodedToken(job.name, NO_TOKEN if is_stop else token, ends, float(token != best))


class ModelDevice(TorchDevice):
    """The real model. Deterministic: one thread, and a report that is made instead of measured."""

    def __init__(self, report: DeviceReport) -> None:
        super().__init__()
        self._report = report

    def open(self, option: str, threads: int) -> DeviceReport:
        configure(import_torch(), threads=1)
        return self._report


class ModelLoss:
    """The real model's loss of any weights, on the validation windows of its data set: what checkers measure a run with."""

    def __init__(self, genesis: Genesis, tile_map: TileMap, shards: Sequence[bytes]) -> None:
        self._genesis = genesis
        self._tile_map = tile_map
        self._device = ModelDevice(made_report("checker"))
        self._device.open("cpu", 1)
        manifest, context = genesis.datasets[0], genesis.model.context
        windows = validation_windows(
            manifest.root(),
            genesis.learning.validation_sequences,
            context,
            manifest.shard_bytes,
            manifest.split_micro,
        )
        self._batch = tokens_of_windows(windows, context, [memoryview(shard) for shard in shards])

    def loss(self, weights: Mapping[TileId, Float32]) -> float:
        reader = self._device.reader(self._genesis, self._tile_map, (), weights)
        return run_to_end(reader.evaluate([self._batch], 1))
