"""The real model behind `compute.trainer`: torch on one device. Everything heavy is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from compute.jobs import DeviceReport, Learn
from compute.trainer import BytesBatch, ExpertReader, Held, StepsReport
from protocol.genesis import Genesis
from protocol.ids import TileId

if TYPE_CHECKING:
    from compute.learner import Learner
    from compute.model.moe import MoEModel
    from compute.model.tiling import Float32Array, TileMap
    from compute.rows_decoder import RowsDecoder


class TorchDevice:
    """A CPU or GPU under torch."""

    def __init__(self) -> None:
        self._name = "cpu"

    def open(self, option: str, threads: int) -> DeviceReport:
        """`compute.io.device.choose_device`."""
        from compute.io.device import choose_device

        report = choose_device(option, threads)
        self._name = report.device
        return report

    def trainer(self, genesis: Genesis, tile_map: TileMap, held: Held | None) -> TorchTrainer:
        """A fresh `compute.learner.Learner`."""
        from compute.learner import Learner
        from compute.model.config import check_config

        return TorchTrainer(Learner(check_config(genesis.model), genesis.learning, self._name, held), tile_map)

    def reader(
        self, genesis: Genesis, tile_map: TileMap, roots: Sequence[bytes], weights: Mapping[TileId, Float32Array]
    ) -> TorchReader:
        """A model of its own with these weights."""
        from compute.model.config import check_config
        from compute.model.moe import MoEModel

        model = MoEModel(check_config(genesis.model)).to(self._name)
        model.load(tile_map.assemble(weights))
        return TorchReader(model)

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32Array]) -> ExpertReader:
        """A `compute.model.expert.RowsExpert`, on this device."""
        from compute.model.expert import RowsExpert

        return RowsExpert(tile_map.assemble(weights), expert, self._name)

    def decoder(self, genesis: Genesis, tile_map: TileMap, weights: Mapping[TileId, Float32Array]) -> RowsDecoder:
        """A `compute.rows_decoder.RowsDecoder` of a trunk on this device."""
        from compute.model.config import check_config
        from compute.model.moe import TRUNK_ALONE, MoEModel
        from compute.rows_decoder import RowsDecoder

        model = MoEModel(check_config(genesis.model), TRUNK_ALONE).to(self._name)
        model.load(tile_map.assemble(weights))
        return RowsDecoder(model)


class TorchTrainer:
    """`compute.learner.Learner`, in tiles."""

    def __init__(self, learner: Learner, tile_map: TileMap) -> None:
        self._learner = learner
        self._tile_map = tile_map
        self._round = 0

    def import_state(self, state: Mapping[str, Float32Array]) -> None:
        self._learner.import_state(state)

    def export_state(self) -> dict[str, Float32Array]:
        return self._learner.export_state()

    def load(self, job: Learn, weights: Mapping[TileId, Float32Array]) -> None:
        self._round = job.round
        self._learner.load(self._tile_map.assemble(weights))

    def steps(self, batches: Iterable[BytesBatch]) -> Generator[tuple[int, float], None, StepsReport]:
        return self._learner.steps(self._round, batches)

    def changes(self) -> dict[TileId, Float32Array]:
        return self._learner.deltas(self._tile_map)


class TorchReader:
    """A model that is only read."""

    def __init__(self, model: MoEModel) -> None:
        self._model = model

    def evaluate(self, batches: Iterable[BytesBatch], count: int) -> Generator[int, None, float]:
        from compute.evaluation import evaluate_batches

        return evaluate_batches(self._model, batches)

    def decoder(self) -> RowsDecoder:
        from compute.rows_decoder import RowsDecoder

        return RowsDecoder(self._model)
