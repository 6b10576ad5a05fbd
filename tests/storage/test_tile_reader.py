"""Tiles are read ahead, in order, in no more memory than was allowed; leaving early leaves nothing behind."""

from __future__ import annotations

import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import Digest
from protocol.rejection import Reason, Rejected
from storage.io.tile_reader import StreamFile
from tests.storage.streams import drawn_stream

MATRICES = ((40, 500, 4), (25, 800, 3))
TILES, SMALLEST_LIMIT = 19, 5_200  # a tile of 2,400 values is stored in as many bytes, header and scales, and decoded


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A stream of 40 KB on a disk: its path, tiles and root."""
    _, tiles, file, root = drawn_stream(MATRICES)
    path = tmp_path_factory.mktemp("streams") / "expert.stream"
    path.write_bytes(file)
    return path, tiles, root


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tile-reader")]


@given(st.integers(SMALLEST_LIMIT, 60_000), st.integers(0, 10_000))
def test_all_tiles_come_in_order_within_the_limit(stored, limit_bytes, working_bytes):
    """Whatever the limit, and the caller's share is a part of it."""
    path, tiles, root = stored
    with StreamFile(path, root) as stream, stream.read(limit_bytes + working_bytes, working_bytes) as reader:
        seen = 0
        for (codes_RC, scales_R), block in zip(tiles, reader, strict=True):
            assert (block.codes_RC == codes_RC).all()
            assert (block.scales_R == scales_R).all()
            facts = reader.statistics()
            assert working_bytes < facts.held_bytes <= facts.held_bytes_peak <= limit_bytes + working_bytes
            seen += 1
        assert seen == TILES == reader.statistics().tiles_read
        assert reader.statistics().held_bytes == 0
    assert not threads()


def test_what_is_counted_is_what_is_allocated(stored):
    """By the interpreter's own accounts, with nothing counted but tiles; a stream five times the limit passes."""
    path, _, root = stored
    limit_bytes = 12_000
    assert path.stat().st_size >= 3 * limit_bytes
    with StreamFile(path, root) as stream:
        list(stream.read(limit_bytes))  # what a first pass imports and caches
        tracemalloc.start()
        with stream.read(limit_bytes) as reader:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for block in reader:
                assert block.codes_RC.size
            peak_bytes = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert peak_bytes <= limit_bytes + 8 * 1024  # futures, arrays' heads, frames


def test_a_larger_limit_reads_further_ahead(stored):
    """And no further than it allows, however long the tile in use is used."""
    path, _, root = stored
    ahead = []
    with StreamFile(path, root) as stream:
        for limit_bytes in (SMALLEST_LIMIT, 20_000, 1_000_000):
            with stream.read(limit_bytes) as reader:
                next(reader)
                ahead.append(reader.statistics().tiles_ahead)
    assert ahead[0] == 0 < ahead[1] < ahead[2] == TILES - 1


def test_tiles_are_decoded_while_one_is_in_use(stored):
    """Nobody asks for them until they are there."""
    path, tiles, root = stored
    with StreamFile(path, root) as stream, stream.read(1_000_000) as reader:
        block = next(reader)
        decoded = [future.result() for _, future in reader._ahead]
        assert len(decoded) == TILES - 1
        assert (block.codes_RC == tiles[0][0]).all()


def test_a_limit_that_fits_no_tile_is_the_users_mistake(stored):
    """The sentence says what one tile takes."""
    path, _, root = stored
    with StreamFile(path, root) as stream, pytest.raises(Rejected, match="takes") as caught:
        stream.read(4_000)
    assert caught.value.reason is Reason.BAD_CONFIG
    with StreamFile(path, root) as stream, pytest.raises(Rejected):
        stream.read(1_000_000, working_bytes=999_999)


def test_leaving_in_the_middle_lets_go_of_everything(stored):
    """Thread, tiles, descriptor; also when it is the file that is closed, and twice."""
    path, _, root = stored
    stream = StreamFile(path, root)
    reader, other = stream.read(30_000), stream.read(1_000_000)
    block = next(reader)
    next(other)
    assert len(threads()) == 2
    reader.close()
    assert reader.statistics().held_bytes == 0
    assert next(reader, None) is None
    stream.close()
    assert other.statistics().held_bytes == 0
    assert not threads()
    stream.close()
    reader.close()
    with pytest.raises(ValueError, match="given back"):
        _ = block.codes_RC
    with pytest.raises(ValueError, match="closed"):
        stream.load(stream.checked.tiles[0])


def test_a_block_is_given_back_by_asking_for_the_next(stored):
    """Who uses it later is told, instead of holding memory that was counted as free."""
    path, _, root = stored
    with StreamFile(path, root) as stream, stream.read(30_000) as reader:
        first = next(reader)
        next(reader)
        with pytest.raises(ValueError, match="given back"):
            _ = first.scales_R


def test_a_damaged_tile_is_found_when_its_turn_comes(stored, tmp_path):
    """The tiles before it are right, and the reader is closed then."""
    path, tiles, root = stored
    damaged = tmp_path / "damaged.stream"
    with StreamFile(path, root) as stream:
        tile = stream.checked.tiles[5]
    file = bytearray(path.read_bytes())
    file[tile.offset + tile.place.shape.frame_offset + 40] ^= 1
    damaged.write_bytes(file)
    with StreamFile(damaged, root) as stream:
        reader = stream.read(20_000)
        for codes_RC, _ in tiles[:5]:
            assert (next(reader).codes_RC == codes_RC).all()
        with pytest.raises(Rejected) as caught:
            next(reader)
        assert caught.value.reason is Reason.TILE_CORRUPT
        assert reader.statistics().held_bytes == 0
    assert not threads()


def test_a_file_that_shrinks_while_it_is_read_is_refused(stored, tmp_path):
    """It is not mapped, so that no signal ends the process."""
    path, _, root = stored
    shrinking = tmp_path / "shrinking.stream"
    shrinking.write_bytes(path.read_bytes())
    with StreamFile(shrinking, root) as stream, stream.read(SMALLEST_LIMIT) as reader:
        next(reader)
        with shrinking.open("r+b") as file:
            file.truncate(1_000)
        with pytest.raises(Rejected) as caught:
            list(reader)
    assert caught.value.reason is Reason.TILE_CORRUPT


def test_another_file_or_root_is_refused_when_it_is_opened(stored, tmp_path):
    """Before a tile is read; and the descriptor is closed."""
    path, _, root = stored
    empty = tmp_path / "empty.stream"
    empty.write_bytes(b"")
    short = tmp_path / "short.stream"
    short.write_bytes(path.read_bytes()[:300])
    for wrong, wanted in ((path, Digest(bytes(32))), (empty, root), (short, root)):
        with pytest.raises(Rejected) as caught:
            StreamFile(wrong, wanted)
        assert caught.value.reason is Reason.TILE_CORRUPT
    with pytest.raises(FileNotFoundError):
        StreamFile(tmp_path / "none.stream", root)
