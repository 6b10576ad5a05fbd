"""A stream's root pins its shapes and contents; its table says nothing that the file does not hold."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import Digest
from protocol.limits import STREAMED_TILE_VALUES_MAX, TILES_MAX
from protocol.merkle import check_merkle_proof, leaf_digest, merkle_proof
from protocol.rejection import Rejected
from storage.streamed_tile import decode_tile
from storage.tile_stream import (
    FRONT_BYTES_MAX,
    StreamBuilder,
    StreamedMatrix,
    StreamShape,
    check_front,
    check_table,
)
from tests.storage.streams import drawn_stream

MATRICES = ((10, 40, 4), (3, 70, 3))


def check(file, root):
    shape = check_front(file[:FRONT_BYTES_MAX])
    return check_table(shape, file[len(file) - shape.table_bytes :], len(file), root)


def read(file, root):
    return [
        decode_tile(file[tile.offset : tile.offset + tile.stored_bytes], tile.place.shape, tile.name)
        for tile in check(file, root).tiles
    ]


matrices = st.builds(
    lambda rows, columns, tile_rows: (rows, columns, min(rows, tile_rows)),
    st.integers(1, 30),
    st.integers(1, 60),
    st.integers(1, 30),
)


@given(st.lists(matrices, min_size=1, max_size=4).map(tuple), st.integers(0, 2**32))
def test_round_trip(shapes, seed):
    """What was built is what is read, and the tiles cover each matrix once, in order."""
    shape, tiles, file, root = drawn_stream(shapes, seed)
    checked = check(file, root)
    assert checked.shape == shape
    for (codes_RC, scales_R), rows in zip(tiles, read(file, root), strict=True):
        assert (rows.codes_RC == codes_RC).all()
        assert (rows.scales_R == scales_R).all()
    for number, (matrix_rows, _, _) in enumerate(shapes):
        places = [tile.place for tile in checked.tiles if tile.place.matrix == number]
        covered = [row for place in places for row in range(place.first_row, place.first_row + place.shape.rows)]
        assert covered == list(range(matrix_rows))


def test_golden_stream(vector):
    """Digests, root and bytes are those that an independent program wrote, with frames of its own making."""
    golden = vector("tile_stream")
    file, root = bytes.fromhex(golden["file"]), Digest(bytes.fromhex(golden["root"]))
    shape = StreamShape(tuple(StreamedMatrix(*each) for each in golden["matrices"]))
    assert file.startswith(shape.front)
    tiles = [
        (
            np.frombuffer(bytes.fromhex(tile["codes"]), np.int8).reshape(tile["rows"], tile["columns"]),
            np.array(tile["scales"], np.uint16),
        )
        for tile in golden["tiles"]
    ]
    for (codes_RC, scales_R), rows in zip(tiles, read(file, root), strict=True):
        assert (rows.codes_RC == codes_RC).all()
        assert (rows.scales_R == scales_R).all()
    assert [tile.name.hex() for tile in check(file, root).tiles] == [tile["digest"] for tile in golden["tiles"]]
    builder = StreamBuilder(shape)
    assert check(b"".join(builder.pieces(tiles)), root).root == builder.root == root


@given(st.integers(0, len(drawn_stream(MATRICES)[2]) - 1), st.integers(1, 255))
def test_a_changed_byte_never_changes_what_is_read(at, mask):
    """Front, tiles and table are refused, or hold what they held."""
    _, tiles, file, root = drawn_stream(MATRICES)
    changed = bytearray(file)
    changed[at] ^= mask
    with contextlib.suppress(Rejected):
        found = read(bytes(changed), root)
        assert all((rows.codes_RC == codes).all() for (codes, _), rows in zip(tiles, found, strict=True))


@given(st.integers(0, len(drawn_stream(MATRICES)[2]) - 1))
def test_a_stream_that_is_cut_short_or_longer_is_refused(size_bytes):
    """At every byte, and with a byte more."""
    _, _, file, root = drawn_stream(MATRICES)
    for other in (file[:size_bytes], file[:size_bytes] + b"\x00" + file[size_bytes:]):
        with pytest.raises(Rejected):
            read(other, root)


def test_a_tile_is_proved_by_a_path():
    """Whoever holds one tile and a path needs nothing else of the stream."""
    shape, _, file, root = drawn_stream(MATRICES)
    names = [tile.name for tile in check(file, root).tiles]
    leaves = [leaf_digest(shape.front), *names]
    for index, name in enumerate(names, 1):
        check_merkle_proof(name, index, len(leaves), merkle_proof(leaves, index), root)


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 0),
        (1, 1, 2),
        (2, STREAMED_TILE_VALUES_MAX, 2),
        (2**32 - 1, 2**32 - 1, 2**32 - 1),
        (TILES_MAX + 1, 1, 1),
    ],
)
def test_matrices_that_nobody_could_hold_are_refused(numbers):
    """Before a table for their tiles is asked for."""
    with pytest.raises(Rejected):
        check_front(b"TSTREAM1" + struct.pack("<2I", 1, 1) + struct.pack("<3I", *numbers))
    with pytest.raises(ValueError, match=r"rows|values|tiles"):
        StreamShape((StreamedMatrix(*numbers),))


def test_a_front_of_no_or_too_many_matrices_is_refused():
    """The number is bounded before as many are read."""
    for count in (0, 17, 2**32 - 1):
        with pytest.raises(Rejected):
            check_front(b"TSTREAM1" + struct.pack("<2I", 1, count) + bytes(FRONT_BYTES_MAX))


def test_a_builder_takes_exactly_its_tiles():
    """A tile too few, too many, or of another shape is our mistake, and there is no root before the end."""
    shape, tiles, _, _ = drawn_stream(MATRICES)
    for wrong in (tiles[:-1], [*tiles, tiles[-1]], tiles[::-1]):
        builder = StreamBuilder(shape)
        with pytest.raises(ValueError, match=r"zip|codes"):
            list(builder.pieces(wrong))
    with pytest.raises(ValueError, match="written"):
        _ = StreamBuilder(shape).root
