"""Genesis weights have the same bits everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from fractions import Fraction

import numpy
import pytest

from compute.model.genesis import genesis_tile, genesis_weights, initial_deviation
from compute.model.layout import Initial
from compute.model.tiling import TileMap

SEED = bytes(range(32))
GOLDEN = "28e244f245a3961f67038101c13bcece57ed74bf93fe5972bb1a1bc45808cf9e"
"""SHA-256 over all tiles of the shape in conftest, in order, as little-endian float32. A change is a new network."""

PROGRAM = """
import hashlib
from compute.model.genesis import genesis_tile
from compute.model.tiling import TileMap
from protocol.genesis import ModelShape
shape = ModelShape(258, 2, 32, 2, 4, 48, 2, 32)
tile_map = TileMap.from_shape(shape, 16384)
hasher = hashlib.sha256()
for tile_id in tile_map.ids:
    hasher.update(genesis_tile(shape, tile_map, bytes(range(32)), tile_id).astype('<f4').tobytes())
print(hasher.hexdigest())
"""


@pytest.mark.parametrize("disabled", ["", "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX2 FMA3"])
def test_the_bits_do_not_depend_on_the_instruction_set(disabled):
    """The golden digest holds with numpy's vector code and without it."""
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == GOLDEN


def test_the_bits_do_not_depend_on_how_tiles_are_cut(shape, tile_map):
    """Every row has a stream of its own, so two tile sizes give the same weights."""
    coarse = genesis_weights(shape, TileMap.from_shape(shape, 1 << 20), SEED)
    fine = genesis_weights(shape, tile_map, SEED)
    assert coarse.keys() == fine.keys()
    assert all(numpy.array_equal(coarse[name], fine[name]) for name in coarse)


def test_another_seed_gives_other_weights(shape, tile_map):
    """Seed and parameter name both matter."""
    tile_id = tile_map.ids[-1]
    one, other = (genesis_tile(shape, tile_map, seed, tile_id) for seed in (SEED, bytes(32)))
    assert not numpy.array_equal(one, other)
    weights = genesis_weights(shape, tile_map, SEED)
    assert not numpy.array_equal(weights["layer0.expert0.up"], weights["layer0.expert1.up"])


def test_values_have_the_spread_that_the_table_asks_for(shape, tile_map):
    """Mean zero and the wanted standard deviation, within four of their own deviations; norms are exactly one."""
    weights = genesis_weights(shape, tile_map, SEED)
    for parameter in tile_map.parameters:
        matrix = weights[parameter.name].astype(numpy.float64)
        if parameter.initial is Initial.ONES:
            assert (matrix == 1.0).all()
            continue
        wanted = float(initial_deviation(parameter, shape.layers))
        assert abs(matrix.mean()) < 4 * wanted / matrix.size**0.5
        assert abs(matrix.std() / wanted - 1) < 4 / (2 * matrix.size) ** 0.5
        assert abs(matrix).max() < 3.5 * wanted


def test_deviations_are_rational(tile_map):
    """No square root of the machine's own decides a bit."""
    assert all(isinstance(initial_deviation(parameter, 2), Fraction) for parameter in tile_map.parameters)


def test_sha3_is_what_it_was():
    """The stream itself: SHAKE-128 of nothing, from FIPS 202."""
    assert hashlib.shake_128(b"").hexdigest(8) == "7f9c2ba4e88f827d"
