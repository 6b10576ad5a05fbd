"""Tiles that were coded lately stay at hand, as many as fit."""

from __future__ import annotations

from node.coded_offer import CodedTiles
from protocol.erasure import LIVE
from storage.erasure.code import ErasureCode
from storage.erasure.tile import CodedTile, encode_tile
from storage.io.isal import open_kernel

CODE = ErasureCode(open_kernel(), LIVE)


def tile(number: int, data_bytes: int = 1_000) -> CodedTile:
    return encode_tile(CODE, 0, bytes([number]) * data_bytes)


def size_bytes(coded: CodedTile) -> int:
    """Of its cells alone."""
    return sum(cell.nbytes for cell in coded.cells)


def test_small_tiles_stay_by_the_hundred() -> None:
    """What counts are bytes: one rebuild serves holders that are a whole blob of small tiles apart."""
    coded = CodedTiles(CODE)
    made = [coded.keep(tile(number)) for number in range(64)]
    assert all(coded.find(each.root) is each for each in made)


def test_least_recently_used_goes_first_and_the_last_one_stays() -> None:
    """A tile that was asked for is younger than one that was coded after it; one alone may be larger than all together."""
    first, second, third = (tile(number) for number in range(3))
    coded = CodedTiles(CODE, bytes_max=5 * size_bytes(first) // 2)
    coded.keep(first)
    coded.keep(second)
    assert coded.find(first.root) is not None
    coded.keep(third)
    assert coded.find(second.root) is None
    assert coded.find(first.root) is first
    large = coded.keep(tile(3, 16 * 64 * 1024))
    assert coded.find(large.root) is large
    assert coded.find(first.root) is None
    assert coded.find(third.root) is None


def test_the_same_tile_counts_once() -> None:
    """Coded again it takes the place of the one that is there."""
    first, second = tile(0), tile(1)
    coded = CodedTiles(CODE, bytes_max=5 * size_bytes(first) // 2)
    for _ in range(10):
        coded.keep(first)
    coded.keep(second)
    assert coded.find(first.root) is not None
