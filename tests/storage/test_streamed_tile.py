"""A streamed tile is its content; whatever its bytes say, decoding takes no more than its shape."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from compute.delta import quantize
from protocol.limits import STREAMED_TILE_VALUES_MAX
from protocol.rejection import Reason, Rejected
from storage import streamed_tile
from storage.streamed_tile import HEADER_BYTES, TileRows, content_digest, decode_tile, encode_tile
from tests.storage.streams import drawn_rows

SHAPE = TileRows(4, 300)
SINGLE_SEGMENT = b"\x28\xb5\x2f\xfd\x60"  # a frame whose window is its content, and two bytes of size follow (RFC 8878)
shapes = st.builds(TileRows, st.integers(1, 30), st.integers(1, 200))


def small():
    return drawn_rows(SHAPE, np.random.default_rng(3))


def with_frame(frame):
    """A tile whose header agrees with any frame."""
    codes_RC, scales_R = small()
    scales = scales_R.tobytes()
    name = content_digest(SHAPE, scales, codes_RC.tobytes())
    return streamed_tile._header(SHAPE, len(frame), name) + scales + frame, name


def rejected(stored, shape, name):
    with pytest.raises(Rejected) as caught:
        decode_tile(stored, shape, name, "tile")
    assert caught.value.reason is Reason.BAD_BLOCK
    return caught.value.detail


@given(shapes, st.integers(0, 2**32))
def test_round_trip(shape, seed):
    """What was encoded is what is decoded, in no more bytes than the shape allows."""
    codes_RC, scales_R = drawn_rows(shape, np.random.default_rng(seed))
    stored, name = encode_tile(codes_RC, scales_R)
    assert len(stored) <= shape.stored_bytes_max
    rows = decode_tile(stored, shape, name)
    assert (rows.codes_RC == codes_RC).all()
    assert (rows.scales_R == scales_R).all()
    assert name == content_digest(shape, scales_R.tobytes(), codes_RC.tobytes())


@given(st.integers(0, len(encode_tile(*small())[0]) - 1), st.integers(1, 255))
def test_a_changed_byte_never_changes_the_content(at, mask):
    """Header, scales, frame: refused, but for bits of the frame that decompress to the same content."""
    codes_RC, scales_R = small()
    stored, name = encode_tile(codes_RC, scales_R)
    changed = bytearray(stored)
    changed[at] ^= mask
    with contextlib.suppress(Rejected):
        rows = decode_tile(changed, SHAPE, name)
        assert at >= SHAPE.frame_offset
        assert (rows.codes_RC == codes_RC).all()


@given(st.integers(0, len(encode_tile(*small())[0]) - 1))
def test_a_tile_that_is_cut_short_is_refused(size_bytes):
    """At every byte."""
    stored, name = encode_tile(*small())
    rejected(stored[:size_bytes], SHAPE, name)


def test_trailing_bytes_are_refused():
    """Behind the tile; and behind the frame, though the header counts them: noise, a frame of nothing, a skippable one."""
    codes_RC, _ = small()
    stored, name = encode_tile(*small())
    assert "header" in rejected(stored + b"\x00", SHAPE, name)
    frame = zstandard.ZstdCompressor(write_content_size=True, write_checksum=False).compress(codes_RC.tobytes())
    for trailing in (b"\x00", zstandard.ZstdCompressor().compress(b""), b"\x50\x2a\x4d\x18\x00\x00\x00\x00"):
        stored, name = with_frame(frame + trailing)
        assert "alone" in rejected(stored, SHAPE, name)


def test_another_shape_is_refused_before_anything_is_decompressed():
    """Rows and columns are the reader's to know, not the header's to say."""
    stored, name = encode_tile(*small())
    for shape in (TileRows(300, 4), TileRows(4, 299), TileRows(3, 400)):
        rejected(stored, shape, name)


def test_a_bomb_costs_nothing():
    """What declares more, declares nothing, or holds more than it declares is given no more room than its shape has."""
    size = struct.pack("<H", SHAPE.raw_bytes - 256)  # how zstd writes a size of two bytes
    repeated_byte = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\x00"  # a block of 128 KiB
    frames = {
        "2 MiB, as it says": zstandard.ZstdCompressor(write_content_size=True).compress(bytes(2 << 20)),
        "1 MiB, and it does not say": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20)),
        "8 MiB, and it says 1,200 bytes": SINGLE_SEGMENT + size + repeated_byte * 64,
        "an exbibyte, as it says": b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 60) + b"\x01\x00\x00",
        "a window of terabytes": b"\x28\xb5\x2f\xfd\x40\xf8" + size + b"\x01\x00\x00",
        "a window of 2 MiB, cut short": b"\x28\xb5\x2f\xfd\x40\x58" + size + repeated_byte,
    }
    for what, frame in frames.items():
        stored, name = with_frame(frame)
        assert len(stored) <= SHAPE.stored_bytes_max, what
        tracemalloc.start()
        rejected(stored, SHAPE, name)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 64 * 1024, what


def test_a_frame_of_fewer_bytes_than_it_declares_is_refused():
    """An empty last block behind a declared size, a skippable frame of that size, and a checksum that nobody asked for."""
    codes_RC, _ = small()
    raw = codes_RC.tobytes()
    empty = SINGLE_SEGMENT + struct.pack("<H", SHAPE.raw_bytes - 256) + b"\x01\x00\x00"
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", SHAPE.raw_bytes) + raw
    summed = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True).compress(raw)
    for frame in (empty, skippable, summed):
        stored, name = with_frame(frame)
        rejected(stored, SHAPE, name)


def test_content_that_a_tile_may_not_hold_is_refused_though_its_digest_is_right():
    """-128, codes under a scale of zero, scales beyond the range, negative or not finite: by both sides."""
    codes_RC, scales_R = small()
    wrong = []
    for bits in (1, streamed_tile.SCALE_BITS_MIN - 1, streamed_tile.SCALE_BITS_MAX + 1, 0x7F80, 0x7FC0, 0x8000, 0xBF80):
        changed = scales_R.copy()
        changed[0] = bits
        wrong.append((codes_RC, changed))
    below = codes_RC.copy()
    below[2, 7] = -128
    wrong.append((below, scales_R))
    zero = scales_R.copy()
    zero[:] = 0
    wrong.append((codes_RC, zero))
    for codes, scales in wrong:
        with pytest.raises(ValueError, match=r"scale|code"):
            encode_tile(codes, scales)
        name = content_digest(SHAPE, scales.tobytes(), codes.tobytes())
        frame = zstandard.ZstdCompressor(write_content_size=True, write_checksum=False).compress(codes.tobytes())
        stored = streamed_tile._header(SHAPE, len(frame), name) + scales.tobytes() + frame
        assert "digest" not in rejected(stored, SHAPE, name)


def test_frames_of_other_levels_have_the_same_name():
    """A tile is named by what it holds: whoever compresses it better keeps its place."""
    codes_RC, scales_R = small()
    stored, name = encode_tile(codes_RC, scales_R)
    frame = zstandard.ZstdCompressor(level=19, write_checksum=False).compress(codes_RC.tobytes())
    other = streamed_tile._header(SHAPE, len(frame), name) + stored[HEADER_BYTES : SHAPE.frame_offset] + frame
    assert (decode_tile(other, SHAPE, name).codes_RC == codes_RC).all()


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (1, 0), (1, STREAMED_TILE_VALUES_MAX + 1), (-1, -1)])
def test_no_tile_is_empty_or_too_large(rows, columns):
    """A shape that could not be held is no shape."""
    with pytest.raises(ValueError, match="holds 1 to"):
        TileRows(rows, columns)


@pytest.mark.parametrize("columns", [2, 1024])
def test_the_largest_tile_of_zeros_decodes_in_what_its_shape_says(columns):
    """A few hundred bytes may be a megabyte, because its reader asked for a megabyte; not two."""
    shape = TileRows(STREAMED_TILE_VALUES_MAX // columns, columns)
    stored, name = encode_tile(np.zeros((shape.rows, shape.columns), np.int8), np.zeros(shape.rows, np.uint16))
    assert len(stored) < shape.frame_offset + 256
    tracemalloc.start()
    rows = decode_tile(stored, shape, name)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not rows.codes_RC.any()
    assert peak_bytes <= shape.decoding_bytes + 16 * 1024


def test_storage_and_compute_mean_the_same_scales():
    """They do not import each other, so each has its own constants."""
    assert streamed_tile.SCALE_BITS_MIN == quantize.SCALE_BITS_MIN
    assert streamed_tile.SCALE_BITS_MAX == quantize.SCALE_BITS_MAX
