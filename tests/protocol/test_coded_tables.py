"""The bound behind the tables of a coded blob, as arithmetic, and their size."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import decode, encode
from protocol.coded_tables import GRINDING_BITS, SOUNDNESS_BITS, TileTable, is_sound, soundness_bits
from protocol.digest import blob_digest
from protocol.erasure import COLD, LIVE, Geometry
from protocol.limits import CELLS_PER_TILE_MAX, KIB, TABLE_BYTES_MAX, TABLE_COLUMNS, TABLES_PATH_MAX


def chance(geometry: Geometry, columns: int) -> Fraction:
    """Of being deceived after all grinding, as docs/decisions/0022 adds it up."""
    subsets = math.comb(geometry.cells, geometry.data_cells + 1)
    return Fraction(subsets * 2 * 2**GRINDING_BITS, 2 ** (8 * columns))


@given(st.integers(1, 255), st.integers(1, 255), st.integers(1, 64))
def test_the_bound_is_the_sum_over_all_subsets_and_all_tries(data_cells: int, parity_cells: int, columns: int) -> None:
    """Rounded down to a power of two, never up."""
    geometry = Geometry(data_cells, parity_cells, KIB)
    bits = soundness_bits(geometry, columns)
    assert chance(geometry, columns) < Fraction(2) ** -bits
    assert Fraction(2) ** -(bits + 1) <= chance(geometry, columns)


def test_the_profiles_hold_with_48_columns_and_live_tiles_not_with_fewer_than_46() -> None:
    """2^-97 and 2^-285. A live tile has 2^205 subsets: what is left over them pays for the tries."""
    assert TABLE_COLUMNS == 48
    assert (soundness_bits(LIVE), soundness_bits(COLD)) == (97, 285)
    assert [is_sound(LIVE, columns) for columns in (16, 45, 46)] == [False, False, True]
    assert soundness_bits(LIVE, 16) < 0  # chain.md's smaller variant: nothing is left of this argument


@pytest.mark.parametrize(("data_cells", "is_enough"), [(1, True), (64, True), (77, True), (78, False), (85, False)])
def test_not_every_geometry_of_256_cells_is_sound(data_cells: int, is_enough: bool) -> None:
    """Up to 77 data cells; every one of these can be rebuilt from a third."""
    geometry = Geometry(data_cells, CELLS_PER_TILE_MAX - data_cells, KIB)
    assert is_sound(geometry) is is_enough
    assert is_enough is (soundness_bits(geometry) >= SOUNDNESS_BITS)
    assert geometry.any_third_rebuilds


def test_the_largest_table_travels() -> None:
    """Within its bound, with the longest proof."""
    sums = bytes(TABLE_COLUMNS * (CELLS_PER_TILE_MAX - 1))
    table = TileTable(2**14 - 1, sums, (blob_digest(b""),) * TABLES_PATH_MAX)
    data = encode(table)
    assert decode(TileTable, data, limit_bytes=TABLE_BYTES_MAX) == table
