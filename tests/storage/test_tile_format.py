"""A tile's state is a block of float32 planes; its root is decided by peers and believed, its file is not."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import TileId, Version
from protocol.limits import PAGE_BYTES
from protocol.rejection import Reason, Rejected
from storage.tensor_block import BlockShape, Dtype, build_block
from storage.tile_format import check_tile, tile_block, tile_file_name, tile_root

TILE = TileId("layer0.expert3/1")


def planes_bytes(planes: int, values: int) -> bytes:
    return struct.pack(f"<{planes * values}f", *[(i % 251 - 125) / 64 for i in range(planes * values)])


def test_golden_root(vector):
    """The root of a tile's state is the one that an independent program computed."""
    golden = vector("tile_root")
    file, root = tile_block(TILE, planes_bytes(golden["planes"], golden["values"]), golden["planes"], golden["values"])
    assert (root.hex(), len(file)) == (golden["root"], golden["file_bytes"])
    assert hashlib.sha256(file).hexdigest() == golden["file_sha256"]


@given(st.integers(1, 3), st.integers(1, 40_000))
def test_round_trip(planes, values):
    """Planes come back as they were given, and the root needs no file."""
    state = planes_bytes(planes, values)
    file, root = tile_block(TILE, state, planes, values)
    assert tile_root(TILE, state, planes, values) == root
    tile = check_tile(TILE, memoryview(file), root)
    assert (tile.planes, tile.values, tile.root, tile.memory) == (planes, values, root, file)
    assert b"".join(tile.plane(index) for index in range(planes)) == state == tile.state
    assert tile.weights == state[: 4 * values]


def test_only_what_is_used_is_verified():
    """A flipped bit in the optimiser's plane does not stop who needs the weights, and stops who needs it."""
    values = PAGE_BYTES // 4 * 4
    file, root = tile_block(TILE, planes_bytes(2, values), 2, values)
    bad = bytearray(file)
    bad[4096 + 5 * PAGE_BYTES] ^= 1
    reports = []
    tile = check_tile(TILE, memoryview(bad), root, lambda: reports.append("corrupt"))
    assert tile.pending_pages == 9
    assert tile.weights == file[4096 : 4096 + 4 * values]
    assert tile.pending_pages == 4
    assert tile.read(1, values - 1, values) == file[4096 + 8 * values - 4 : 4096 + 8 * values]
    for use in (lambda: tile.plane(1), tile.verify, lambda: tile.state):
        with pytest.raises(Rejected, match=r"tile layer0.expert3/1: page 5 of 9 has the wrong digest") as caught:
            use()
        assert caught.value.reason is Reason.TILE_CORRUPT
    assert reports == ["corrupt"] * 3


@given(st.data())
def test_a_damaged_file_is_only_ever_tile_corrupt(data):
    """Cut short, extended or with a flipped bit: ``Rejected(TILE_CORRUPT)``, from opening or from verifying."""
    file, root = tile_block(TILE, planes_bytes(2, 9000), 2, 9000)
    bad = bytearray(file)
    match data.draw(st.sampled_from(["cut", "extend", "flip"])):
        case "cut":
            del bad[data.draw(st.integers(0, len(bad) - 1)) :]
        case "extend":
            bad += data.draw(st.binary(min_size=1, max_size=100))
        case _:
            bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Rejected) as caught:
        check_tile(TILE, memoryview(bad), root).verify()
    assert caught.value.reason is Reason.TILE_CORRUPT


def test_a_block_of_another_kind_is_no_tile():
    """A sound block that is not plain float32 is refused even under its own root."""
    pieces, root = build_block(BlockShape(Dtype.UINT8, 1, 8), [b"12345678"])
    with pytest.raises(Rejected, match="not float32"):
        check_tile(TILE, memoryview(b"".join(pieces)), root)


def test_reading_outside_is_a_mistake_of_the_caller():
    """Planes and values that a tile does not have are ``IndexError``; a state of another size is ``ValueError``."""
    file, root = tile_block(TILE, planes_bytes(1, 10), 1, 10)
    tile = check_tile(TILE, memoryview(file), root)
    for plane, start, stop in [(1, 0, 1), (-1, 0, 1), (0, 5, 4), (0, 0, 11), (0, -1, 2)]:
        with pytest.raises(IndexError):
            tile.read(plane, start, stop)
    assert tile.read(0, 3, 3).nbytes == 0
    for planes, values in [(2, 10), (0, 10), (1, 0)]:
        with pytest.raises(ValueError, match=r"tile layer0\.expert3/1"):
            tile_root(TILE, planes_bytes(1, 10), planes, values)


def test_file_names():
    """A version's file lies in its tile's folder; a name that could leave it is refused."""
    assert tile_file_name(TILE, Version(7)) == "tiles/layer0.expert3/1/7.tblock"
    for name in ["../0", "./0", ".a/0", "a//0", "a/../0", "trunk", "trunk/x", "Trunk/0", "trunk/0\n", "trunk/٣"]:
        with pytest.raises(Rejected) as caught:
            tile_file_name(TileId(name), Version(1))
        assert caught.value.reason is Reason.MALFORMED
