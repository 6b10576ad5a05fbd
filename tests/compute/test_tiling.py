"""Tiles are a partition of the parameters, and cutting them apart and putting them together loses nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.model.config import check_config
from compute.model.layout import TRUNK, parameters
from compute.model.tiling import TileMap
from protocol.genesis import ModelShape
from protocol.ids import TileId
from protocol.limits import TILES_MAX
from protocol.rejection import Reason, Rejected

shapes = st.builds(
    lambda layers, heads, head_pairs, experts, expert_width, chosen, context: ModelShape(
        vocabulary=258,
        layers=layers,
        width=heads * head_pairs * 2,
        heads=heads,
        experts=experts,
        expert_width=expert_width,
        experts_per_token=min(chosen, experts),
        context=context,
    ),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 64),
)
tile_sizes = st.integers(256, 100_000)


@given(shapes, tile_sizes)
def test_every_row_of_every_parameter_lies_in_exactly_one_tile(shape, tile_bytes):
    """Segments fill a tile without gaps; rows of a parameter follow each other through the tiles of its own group."""
    tile_map = TileMap.from_shape(shape, tile_bytes)
    next_row = dict.fromkeys((parameter.name for parameter in tile_map.parameters), 0)
    sizes = {parameter.name: parameter for parameter in tile_map.parameters}
    for tile in tile_map.tiles:
        filled = 0
        for segment in tile.segments:
            parameter = sizes[segment.parameter]
            assert segment.offset == filled
            assert segment.first_row == next_row[segment.parameter]
            assert segment.columns == parameter.columns
            assert parameter.group == tile.group
            filled += segment.values
            next_row[segment.parameter] += segment.rows
        assert filled == tile.values
        assert 0 < tile.bytes <= tile_bytes
    assert next_row == {name: parameter.rows for name, parameter in sizes.items()}
    assert (
        tile_map.values
        == check_config(shape).parameter_values
        == sum(p.values for p in parameters(check_config(shape)))
    )


@given(shapes, tile_sizes)
def test_split_is_the_inverse_of_assemble(shape, tile_bytes):
    """Numbered values come back in their places."""
    tile_map = TileMap.from_shape(shape, tile_bytes)
    first = 0
    tiles = {}
    for tile in tile_map.tiles:
        tiles[tile.id] = numpy.arange(first, first + tile.values, dtype=numpy.float32)
        first += tile.values
    again = tile_map.split(tile_map.assemble(tiles))
    assert list(again) == list(tile_map.ids)
    assert all(numpy.array_equal(again[tile_id], tiles[tile_id]) for tile_id in tiles)


def test_ids_are_group_and_number(tile_map):
    """The trunk comes first, then experts by layer; numbers start at 0 in each group."""
    assert tile_map.ids[:2] == ("trunk/0", "trunk/1")
    assert "layer1.expert3/0" in tile_map.ids
    assert [tile.id for tile in tile_map.group_tiles("layer0.expert1")] == ["layer0.expert1/0"]


def test_groups_with_a_missing_tile_are_left_out(tile_map):
    """Holding some experts gives their parameters and no others."""
    kept = [tile for tile in tile_map.tiles if tile.group in (TRUNK, "layer0.expert2") and tile.id != "trunk/1"]
    weights = tile_map.assemble({tile.id: numpy.zeros(tile.values, numpy.float32) for tile in kept})
    assert set(weights) == {"layer0.expert2.up", "layer0.expert2.down"}


def test_arrays_of_the_wrong_size_or_type_are_refused(tile_map):
    """A tile that is cut short, or not float32, is Rejected(BAD_SHAPE)."""
    tiles = {tile.id: numpy.zeros(tile.values, numpy.float32) for tile in tile_map.tiles}
    for wrong in (tiles["trunk/0"][:-1], tiles["trunk/0"].astype(numpy.float64)):
        with pytest.raises(Rejected) as refused:
            tile_map.assemble({**tiles, TileId("trunk/0"): wrong})
        assert refused.value.reason is Reason.BAD_SHAPE
    weights = tile_map.assemble(tiles)
    with pytest.raises(Rejected):
        tile_map.split({**weights, "head": weights["head"][1:]})


def test_unknown_tiles_are_refused(tile_map):
    """A tile id that the model does not have is the fault of whoever names it."""
    with pytest.raises(Rejected) as refused:
        tile_map.tile(TileId("layer9.expert0/0"))
    assert refused.value.reason is Reason.UNKNOWN_TILE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocabulary": 100}, "vocabulary"),
        ({"heads": 3}, "heads"),
        ({"experts_per_token": 9}, "experts"),
        ({"layers": 2**31 - 1, "experts": 2**31 - 1}, "parameters"),
        ({"layers": TILES_MAX, "width": 2, "heads": 1, "expert_width": 1}, "tiles"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(shape, change, words):
    """Each with a sentence that names what is wrong, before anything is allocated."""
    values = {name: getattr(shape, name) for name in ModelShape.__struct_fields__}
    with pytest.raises(Rejected, match=words) as refused:
        TileMap.from_shape(ModelShape(**(values | change)), 1 << 20)
    assert refused.value.reason is Reason.BAD_CONFIG


def test_a_row_must_fit_a_tile(shape):
    """Rows are never cut."""
    with pytest.raises(Rejected, match="row"):
        TileMap.from_shape(shape, 128)


def test_the_network_process_imports_the_tiling_without_torch():
    """Importing tiles, genesis weights, jobs and the pool leaves torch out."""
    program = (
        "import sys, compute, compute.model.tiling, compute.model.genesis, compute.jobs, compute.io.pool, compute.data, "
        "compute.io.corpus, compute.io.device, compute.io.torch_device, compute.trainer, "
        "compute.waiting_calls, compute.tokenizer; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
