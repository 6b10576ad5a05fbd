"""Holders who do not compute what they are asked for: what a device that lies gives in place of an expert's rows.

    noise       the right rows, and noise of a tenth of their length
    other       what another expert makes of them: a holder of few that passes for a holder of many
    stale       what the first version that it had makes of them, for ever: one that saves itself the updates
    seldom      the right rows nine times, and noise the tenth time: one that knows that new holders are looked at
    int8        what the weights make of them that were rounded to eight bits, row by row: one that saves memory

Each is the real worker and server with another device beneath, so everything else about a holder is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np

from compute.exact import Float32
from compute.model.tiling import TileMap
from compute.row_scales import dequantize_rows, quantize_rows
from compute.trainer import Device, ExpertReader
from protocol.digest import number
from protocol.ids import TileId
from simnet.compute import generator_of
from simnet.virtual.learner import ModelDevice, made_report

LOUDNESS: Final = 0.1
SELDOM_ONE_IN: Final = 10


class _Noisy:
    def __init__(self, right: ExpertReader, seed: int) -> None:
        self._right = right
        self._generator = generator_of(b"wrong-experts", number(seed))

    def compute(self, rows: bytes, index: int, count: int) -> bytes:
        right_N = np.frombuffer(self._right.compute(rows, index, count), "<f4")
        noise_N = self._generator.standard_normal(right_N.size, np.float32)
        noisy: bytes = (right_N + LOUDNESS * np.sqrt(np.mean(right_N**2)) * noise_N).astype("<f4").tobytes()
        return noisy


class NoisyDevice(ModelDevice):
    """Shakes."""

    def __init__(self, name: str) -> None:
        super().__init__(made_report(name))
        self._made = 0

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32]) -> ExpertReader:
        self._made += 1
        return _Noisy(super().expert(tile_map, expert, weights), self._made)


class _Seldom:
    def __init__(self, right: ExpertReader, wrong: ExpertReader, turn: Iterator[int]) -> None:
        self._right, self._wrong, self._turn = right, wrong, turn

    def compute(self, rows: bytes, index: int, count: int) -> bytes:
        lies = next(self._turn) % SELDOM_ONE_IN == SELDOM_ONE_IN - 1
        return (self._wrong if lies else self._right).compute(rows, index, count)


class SeldomDevice(NoisyDevice):
    """Right at first, and then all but one time in ten."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._turn = itertools.count()

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32]) -> ExpertReader:
        right = ModelDevice.expert(self, tile_map, expert, weights)
        return _Seldom(right, super().expert(tile_map, expert, weights), self._turn)


class OtherDevice(ModelDevice):
    """Has one expert, the first that it was asked for, and gives what that makes of the rows of all others."""

    def __init__(self, name: str) -> None:
        super().__init__(made_report(name))
        self._only: ExpertReader | None = None

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32]) -> ExpertReader:
        if self._only is None:
            self._only = super().expert(tile_map, expert, weights)
        return self._only


class StaleDevice(ModelDevice):
    """Keeps of each expert what it had first."""

    def __init__(self, name: str) -> None:
        super().__init__(made_report(name))
        self._first: dict[str, ExpertReader] = {}

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32]) -> ExpertReader:
        if expert not in self._first:
            self._first[expert] = super().expert(tile_map, expert, weights)
        return self._first[expert]


class Int8Device(ModelDevice):
    """Keeps a quarter of the bytes."""

    def __init__(self, name: str) -> None:
        super().__init__(made_report(name))

    def expert(self, tile_map: TileMap, expert: str, weights: Mapping[TileId, Float32]) -> ExpertReader:
        from compute.model.expert import RowsExpert

        rounded = tile_map.assemble(weights)
        for name, matrix_RC in rounded.items():
            rounded[name] = np.empty_like(matrix_RC)
            dequantize_rows(*quantize_rows(matrix_RC), rounded[name])
        return RowsExpert(rounded, expert, "cpu")


ALWAYS_WRONG: Final[Mapping[str, Callable[[str], Device]]] = {
    "noise": NoisyDevice,
    "other": OtherDevice,
    "stale": StaleDevice,
    "int8": Int8Device,
}
