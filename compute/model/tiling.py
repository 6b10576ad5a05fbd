"""Which rows of which parameters lie in which tile.

A tile is a run of consecutive whole rows of the tensors of one group, in layout order, filled up to `tile_bytes` of
float32:

    group trunk, 3 tensors          A A A A A A | B B | C C C C C        (rows)
    tiles of 5 rows                [A A A A A][A B B C C][C C C]         trunk/0, trunk/1, trunk/2

So a tensor larger than a tile is split by rows, small ones share one, and an expert never shares a tile with anything
else: who holds an expert holds its tiles and no others. A tile's array is flat, float32, its segments one after
another, each row-major.

Pure numpy: the network process imports this file, torch stays out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from compute.model.config import MoEConfig, check_config
from compute.model.layout import Parameter, parameters
from protocol.ids import TileId
from protocol.limits import TILE_BYTES_MAX, TILES_MAX
from protocol.rejection import Reason, Rejected

if TYPE_CHECKING:
    from protocol.genesis import ModelShape

Float32Array = NDArray[numpy.float32]

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [first_row, first_row + rows) of one parameter, beginning at value `offset` of the tile."""

    parameter: str
    first_row: int
    rows: int
    columns: int
    offset: int

    @property
    def values(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: its segments lie without gaps, `values` float32 values in all."""

    id: TileId
    group: str
    segments: tuple[Segment, ...]
    values: int

    @property
    def bytes(self) -> int:
        """Size of the tile's array as float32."""
        return self.values * FLOAT32_BYTES


@dataclass(frozen=True)
class TileMap:
    """All tiles of one model, in layout order: a partition of its parameters."""

    parameters: tuple[Parameter, ...]
    tiles: tuple[Tile, ...]

    @classmethod
    def from_shape(cls, shape: ModelShape, tile_bytes: int) -> TileMap:
        """Cut the model of `shape` into tiles of at most `tile_bytes` bytes of float32.

        Raises Rejected(BAD_CONFIG) if the shape makes no sense, a single row does not fit a tile, or there would
        be more than TILES_MAX tiles.
        """
        return cls.from_config(check_config(shape), tile_bytes)

    @classmethod
    def from_config(cls, config: MoEConfig, tile_bytes: int) -> TileMap:
        """`from_shape` for a shape that was checked before. Raises Rejected(BAD_CONFIG) likewise."""
        if not FLOAT32_BYTES <= tile_bytes <= TILE_BYTES_MAX:
            raise Rejected(Reason.BAD_CONFIG, f"tiles of {tile_bytes} bytes, they must have 4 to {TILE_BYTES_MAX}")
        if config.parameter_values * FLOAT32_BYTES > TILES_MAX * tile_bytes:
            raise Rejected(
                Reason.BAD_CONFIG,
                f"{config.parameter_values} parameters need over {TILES_MAX} tiles of {tile_bytes} bytes",
            )
        table = parameters(config)
        widest = max(table, key=lambda parameter: parameter.columns)
        tile_values = tile_bytes // FLOAT32_BYTES
        if widest.columns > tile_values:
            raise Rejected(
                Reason.BAD_CONFIG,
                f"a row of {widest.name} takes {widest.columns * FLOAT32_BYTES} bytes, a tile has only {tile_bytes}",
            )
        return cls(table, tuple(_cut(table, tile_values)))

    @property
    def ids(self) -> tuple[TileId, ...]:
        """Ids of all tiles in layout order."""
        return tuple(tile.id for tile in self.tiles)

    @property
    def values(self) -> int:
        """Float32 values of the whole model."""
        return sum(tile.values for tile in self.tiles)

    def tile(self, tile_id: TileId) -> Tile:
        """The tile of that id. Raises Rejected(UNKNOWN_TILE)."""
        found = self._tile_by_id.get(tile_id)
        if found is None:
            raise Rejected(Reason.UNKNOWN_TILE, f"this model has no tile {tile_id!r}")
        return found

    def group_tiles(self, group: str) -> tuple[Tile, ...]:
        """Tiles of a group ("trunk", "layer0.expert3") in order; empty if there is no such group."""
        return self._tiles_by_group.get(group, ())

    def groups_of(self, tile_ids: Iterable[TileId]) -> frozenset[str]:
        """Groups of which every tile is among `tile_ids`."""
        present = set(tile_ids)
        return frozenset(
            group for group, tiles in self._tiles_by_group.items() if all(tile.id in present for tile in tiles)
        )

    def assemble(self, tile_arrays: Mapping[TileId, Float32Array]) -> dict[str, Float32Array]:
        """Parameters by name, each (rows, columns), of all groups whose tiles are all given; other groups are left out.

        A parameter that lies in one tile is a view of the tile's array; one that is spread over several is copied
        together. Raises Rejected(BAD_SHAPE) for an array that is not float32 or has not exactly the tile's values.
        """
        complete = self.groups_of(tile_arrays)
        pieces: dict[str, list[Float32Array]] = {}
        for tile in self.tiles:
            if tile.group not in complete:
                continue
            flat = check_tile_array(tile, tile_arrays[tile.id])
            for segment in tile.segments:
                rows_RC = flat[segment.offset : segment.offset + segment.values].reshape(segment.rows, segment.columns)
                pieces.setdefault(segment.parameter, []).append(rows_RC)
        return {name: rows[0] if len(rows) == 1 else numpy.concatenate(rows) for name, rows in pieces.items()}

    def split(self, weights: Mapping[str, Float32Array]) -> dict[TileId, Float32Array]:
        """Inverse of `assemble`: new tile arrays of all groups whose parameters are all given.

        Raises Rejected(BAD_SHAPE) for a parameter of another size or type.
        """
        tile_arrays: dict[TileId, Float32Array] = {}
        for tile in self.tiles:
            if not all(name in weights for name in self._names_by_group[tile.group]):
                continue
            flat = numpy.empty(tile.values, dtype=numpy.float32)
            for segment in tile.segments:
                matrix_RC = weights[segment.parameter]
                parameter = self._parameter_by_name[segment.parameter]
                if matrix_RC.shape != (parameter.rows, parameter.columns) or matrix_RC.dtype != numpy.float32:
                    raise Rejected(
                        Reason.BAD_SHAPE,
                        f"{segment.parameter} is {matrix_RC.dtype}{matrix_RC.shape}, "
                        f"not float32({parameter.rows}, {parameter.columns})",
                    )
                rows_RC = matrix_RC[segment.first_row : segment.first_row + segment.rows]
                flat[segment.offset : segment.offset + segment.values] = rows_RC.reshape(-1)
            tile_arrays[tile.id] = flat
        return tile_arrays

    @cached_property
    def _tile_by_id(self) -> dict[TileId, Tile]:
        return {tile.id: tile for tile in self.tiles}

    @cached_property
    def _tiles_by_group(self) -> dict[str, tuple[Tile, ...]]:
        by_group: dict[str, list[Tile]] = {}
        for tile in self.tiles:
            by_group.setdefault(tile.group, []).append(tile)
        return {group: tuple(tiles) for group, tiles in by_group.items()}

    @cached_property
    def _parameter_by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    @cached_property
    def _names_by_group(self) -> dict[str, list[str]]:
        by_group: dict[str, list[str]] = {}
        for parameter in self.parameters:
            by_group.setdefault(parameter.group, []).append(parameter.name)
        return by_group


def check_tile_array(tile: Tile, array: Float32Array) -> Float32Array:
    """The array, flat, if it is float32 with exactly the tile's values. Raises Rejected(BAD_SHAPE)."""
    if array.dtype != numpy.float32 or array.size != tile.values:
        raise Rejected(
            Reason.BAD_SHAPE, f"tile {tile.id} is {array.size} values of {array.dtype}, not {tile.values} of float32"
        )
    return array.reshape(-1)


def _cut(table: tuple[Parameter, ...], tile_values: int) -> list[Tile]:
    """Fill tiles row by row; a new group always begins a new tile."""
    tiles: list[Tile] = []
    segments: list[Segment] = []
    filled = 0
    index = 0

    def close(group: str) -> None:
        nonlocal filled, index
        tiles.append(Tile(TileId(f"{group}/{index}"), group, tuple(segments), filled))
        segments.clear()
        filled = 0
        index += 1

    previous_group = table[0].group
    for parameter in table:
        if parameter.group != previous_group:
            close(previous_group)
            previous_group, index = parameter.group, 0
        first_row = 0
        while first_row < parameter.rows:
            rows = min(parameter.rows - first_row, (tile_values - filled) // parameter.columns)
            if rows == 0:
                close(parameter.group)
                continue
            segments.append(Segment(parameter.name, first_row, rows, parameter.columns, filled))
            filled += rows * parameter.columns
            first_row += rows
    close(previous_group)
    return tiles
