"""What a worker computes with, as protocols: the device, a trainer on it, and readers of weights, of an expert, of a trunk.

    Device.open --> DeviceReport        once, at the greeting
    Device.trainer --> Trainer          load --> steps --> changes, round after round; export_state goes to disk with them
    Device.reader --> Reader            weights that are only read: evaluate, decoder
    Device.expert --> ExpertReader      those of one expert: compute
    Device.decoder --> AnswerDecoder    those of a trunk: begin, step, end; a reader's decoder needs nobody else

A worker process has torch behind them (`compute.io.torch_device`), a simulated one whatever its world makes of them. This
file imports neither torch nor numpy: a worker reads it before it has said that it lives.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from compute.jobs import BeginAnswer, Decoded, DeviceReport, ExpertPart, Learn, RowsWanted
from protocol.genesis import Genesis
from protocol.ids import TileId

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from compute.model.tiling import Float32Array, TileMap

BytesBatch: TypeAlias = "NDArray[numpy.uint8]"
"""(sequences, context + 1) bytes of text: inputs, and targets one later."""

Held = Sequence[Sequence[int]]
"""For each layer the experts to train."""


@dataclass(frozen=True, slots=True)
class StepsReport:
    """What a run of local steps saw. Losses are cross-entropy in nats per byte, without the load-balance loss."""

    steps: int
    tokens: int
    loss_mean: float
    loss_last: float
    balance_loss_mean: float


class Trainer(Protocol):
    """A learner's part of a round without its residuals: decided weights in, what local steps changed out."""

    def import_state(self, state: Mapping[str, Float32Array]) -> None:
        """Go on from what `export_state` gave; nothing in it: begin anew. Raises Rejected(BAD_SHAPE)."""
        ...

    def export_state(self) -> dict[str, Float32Array]:
        """What must survive to the next round, as named float32 matrices: the moments of an optimiser."""
        ...

    def load(self, job: Learn, weights: Mapping[TileId, Float32Array]) -> None:
        """Begin the job's round from these weights. Raises Rejected(BAD_SHAPE)."""
        ...

    def steps(self, batches: Iterable[BytesBatch]) -> Generator[tuple[int, float], None, StepsReport]:
        """Take the steps, one for each batch; yields the step's number, from 0 on, and its loss. Raises Diverged.

        Steps may be left out of what is yielded, but for the last. Whoever needs no text takes none.
        """
        ...

    def changes(self) -> dict[TileId, Float32Array]:
        """For every tile that was trained, the weights it was loaded with minus what they are now."""
        ...


class Reader(Protocol):
    """Weights that nothing changes any more."""

    def evaluate(self, batches: Iterable[BytesBatch], count: int) -> Generator[int, None, float]:
        """Nats per byte over all targets of so many batches; infinite if a logit is no number.

        Yields the number of each batch, from 0 on; as with steps, all but the last may be left out.
        """
        ...

    def decoder(self) -> AnswerDecoder:
        """A decoder that wants no rows."""
        ...


class ExpertReader(Protocol):
    """One expert that nothing changes any more."""

    def compute(self, rows: bytes, index: int, count: int) -> bytes:
        """What a slice of it makes of rows; see `compute.jobs.ComputeExpert`. Raises Rejected(BAD_SHAPE)."""
        ...


class AnswerDecoder(Protocol):
    """Answers under way; where it has no experts, they are elsewhere."""

    def begin(self, job: BeginAnswer) -> None:
        """One more. Raises Rejected(BAD_ARGUMENT)."""
        ...

    def end(self, name: str) -> None:
        """Forget one; no error where there is none."""
        ...

    def step(self, outputs: Sequence[ExpertPart]) -> RowsWanted | Decoded:
        """Go on, or begin; see `compute.jobs.DecodeStep`.

        Raises Rejected(BAD_SHAPE) for outputs that are not those of the rows that were wanted; then they are wanted still.
        """
        ...


class Device(Protocol):
    """Where a worker computes."""

    def open(self, option: str, threads: int) -> DeviceReport:
        """Choose and measure the device: before anything else is asked. Raises Rejected(BAD_DEVICE, BAD_ARGUMENT)."""
        ...

    def trainer(self, genesis: Genesis, tile_map: TileMap, held: Held | None) -> Trainer:
        """A trainer with nothing learned yet. `held`: None means all experts."""
        ...

    def reader(
        self, genesis: Genesis, tile_map: TileMap, roots: Sequence[bytes], weights: Mapping[TileId, Float32Array]
    ) -> Reader:
        """A reader of these weights; `roots` name their versions, in the order of the weights. Raises Rejected(BAD_SHAPE)."""
        ...

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32Array]) -> ExpertReader:
        """An expert with the weights of all its tiles. Raises Rejected(BAD_SHAPE)."""
        ...

    def decoder(self, genesis: Genesis, tile_map: TileMap, weights: Mapping[TileId, Float32Array]) -> AnswerDecoder:
        """A decoder with the weights of the trunk's tiles. Raises Rejected(BAD_SHAPE)."""
        ...


Result = TypeVar("Result")


def run_to_end(steps: Generator[object, None, Result]) -> Result:
    """What a generator returns, whatever it yields on its way."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
