"""Reading a tile stream ahead of whoever computes with it, in no more memory than was allowed.

    disk --> stored bytes --> codes and scales --> the tile in use
             \\------- one thread ahead -------/    until the next is asked for

Every byte is reserved before it is allocated: a tile is begun when its stored bytes and what they decode to fit
beside what is held already; otherwise it waits until the tile in use is given back. That happens when the next one is
asked for, so all accounts are kept by the thread that computes, and there is no lock. A limit that fits a few tiles
reads a few tiles ahead; one that fits a single tile still runs, and waits for each.

Files are read, not mapped: mapped pages would stay in the process's memory, and a file that is cut short would crash
it.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from protocol.ids import Digest
from protocol.rejection import Reason, Rejected
from storage.streamed_tile import Codes, DecodedRows, Scales, decode_tile
from storage.tile_stream import FRONT_BYTES_MAX, CheckedStream, StreamedTile, check_front, check_table


class RowBlock:
    """Rows ``[first_row, ...)`` of matrix number ``matrix``, as they were stored.

    They are given back by asking for the next block: then they are gone from here, and who kept an array of them takes more
    memory than was allowed.
    """

    __slots__ = ("_rows", "first_row", "matrix")

    def __init__(self, matrix: int, first_row: int, rows: DecodedRows) -> None:
        self.matrix = matrix
        self.first_row = first_row
        self._rows: DecodedRows | None = rows

    @property
    def codes_RC(self) -> Codes:
        return self._held().codes_RC

    @property
    def scales_R(self) -> Scales:
        return self._held().scales_R

    def give_back(self) -> None:
        """Idempotent."""
        self._rows = None

    def _held(self) -> DecodedRows:
        if self._rows is None:
            raise ValueError("the block was given back")
        return self._rows


@dataclass(frozen=True, slots=True)
class ReaderStatistics:
    """Of one pass over a stream. ``held_bytes`` and its peak are counted as the limit is, the caller's share included."""

    tiles_read: int
    stored_bytes_read: int
    held_bytes: int
    held_bytes_peak: int
    tiles_ahead: int


class TileReader:
    """One pass over a stream: an iterator of :class:`RowBlock`, and a context manager.

    The thread that iterates is the one that closes. Leaving in the middle lets go of everything.
    """

    def __init__(self, stream: StreamFile, memory_bytes_max: int, working_bytes: int) -> None:
        """See :meth:`StreamFile.read`."""
        largest_bytes = max(map(_loading_bytes, stream.checked.tiles))
        if working_bytes + largest_bytes > memory_bytes_max:
            raise Rejected(
                Reason.BAD_CONFIG,
                f"{stream.path.name}: a memory limit of {memory_bytes_max} bytes, "
                f"one tile at a time takes {working_bytes + largest_bytes}",
            )
        self._stream = stream
        self._memory_bytes_max = memory_bytes_max
        self._held_bytes = self._held_bytes_peak = working_bytes
        self._waiting = deque(stream.checked.tiles)
        self._ahead: deque[tuple[StreamedTile, Future[DecodedRows]]] = deque()
        self._in_use: RowBlock | None = None
        self._in_use_bytes = 0
        self._tiles_read = 0
        self._stored_bytes_read = 0
        self._executor: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "tile-reader")
        self._begin()

    def __iter__(self) -> TileReader:
        return self

    def __next__(self) -> RowBlock:
        """The next block; the one before is given back.

        Raises ``Rejected(TILE_CORRUPT)`` and ``OSError``; then, and at the end, the reader is closed.
        """
        self._give_back()
        self._begin()
        if not self._ahead:
            self.close()
            raise StopIteration
        tile, future = self._ahead.popleft()
        try:
            rows = future.result()
        except BaseException:
            self.close()
            raise
        self._in_use_bytes = tile.place.shape.decoded_bytes
        self._held_bytes -= _loading_bytes(tile) - self._in_use_bytes
        self._tiles_read += 1
        self._stored_bytes_read += tile.stored_bytes
        self._begin()
        self._in_use = RowBlock(tile.place.matrix, tile.place.first_row, rows)
        return self._in_use

    def close(self) -> None:
        """Stop reading, wait for the tile that is being read, forget all. Idempotent."""
        executor, self._executor = self._executor, None
        if executor is not None:
            self._waiting.clear()
            executor.shutdown(wait=True, cancel_futures=True)
            self._ahead.clear()
            self._give_back()
            self._held_bytes = 0
            self._stream.forget(self)

    def statistics(self) -> ReaderStatistics:
        return ReaderStatistics(
            self._tiles_read, self._stored_bytes_read, self._held_bytes, self._held_bytes_peak, len(self._ahead)
        )

    def __enter__(self) -> TileReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Begin as many tiles as fit, in order."""
        while (
            self._executor is not None
            and self._waiting
            and self._held_bytes + _loading_bytes(self._waiting[0]) <= self._memory_bytes_max
        ):
            tile = self._waiting.popleft()
            self._held_bytes += _loading_bytes(tile)
            self._held_bytes_peak = max(self._held_bytes_peak, self._held_bytes)
            self._ahead.append((tile, self._executor.submit(self._stream.load, tile)))

    def _give_back(self) -> None:
        """The block in use."""
        if self._in_use is not None:
            self._in_use.give_back()
            self._in_use = None
            self._held_bytes -= self._in_use_bytes


def _loading_bytes(tile: StreamedTile) -> int:
    """What reading and decoding one tile takes."""
    return tile.stored_bytes + tile.place.shape.decoding_bytes


class StreamFile:
    """An open stream. Several readers may be at work, each in its own memory; closing closes them."""

    def __init__(self, path: Path, root: Digest) -> None:
        """Open a stream and check what it says of itself against the root.

        Raises ``OSError``, and ``Rejected(TILE_CORRUPT)`` when it is not the stream of this root.
        """
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._readers: list[TileReader] = []
        try:
            self.checked = self._check(root)
        except BaseException:
            self.close()
            raise

    def read(self, memory_bytes_max: int, working_bytes: int = 0) -> TileReader:
        """Begin to read from the first tile on.

        All tiles that are held, whether stored or decoded, and ``working_bytes``, which the caller holds for each block that it
        works on, never exceed ``memory_bytes_max``. Raises ``Rejected(BAD_CONFIG)`` where no tile fits in that.
        """
        reader = TileReader(self, memory_bytes_max, working_bytes)
        self._readers.append(reader)
        return reader

    def load(self, tile: StreamedTile) -> DecodedRows:
        """Read and decode one tile; for any thread. Raises ``OSError`` and ``Rejected(TILE_CORRUPT)``."""
        stored = self._read_at(tile.offset, tile.stored_bytes)
        what = f"{self.path.name}, tile at {tile.offset}"
        return decode_tile(stored, tile.place.shape, tile.name, what, Reason.TILE_CORRUPT)

    def forget(self, reader: TileReader) -> None:
        """A reader has closed itself."""
        if reader in self._readers:
            self._readers.remove(reader)

    def close(self) -> None:
        """Close the readers, then the file. Idempotent."""
        for reader in list(self._readers):
            reader.close()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> StreamFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, root: Digest) -> CheckedStream:
        what, reason = self.path.name, Reason.TILE_CORRUPT
        file_bytes = os.fstat(self._open_descriptor()).st_size
        shape = check_front(self._read_at(0, min(FRONT_BYTES_MAX, file_bytes)), what, reason)
        if file_bytes < shape.table_bytes:  # before a table is allocated
            raise Rejected(reason, f"{what}: cut short, {file_bytes} bytes")
        table = self._read_at(file_bytes - shape.table_bytes, shape.table_bytes)
        return check_table(shape, table, file_bytes, root, what, reason)

    def _read_at(self, offset: int, size_bytes: int) -> bytes:
        data = os.pread(self._open_descriptor(), size_bytes, offset)
        if len(data) != size_bytes:
            raise Rejected(Reason.TILE_CORRUPT, f"{self.path.name}: cut short, {len(data)} of {size_bytes} bytes")
        return data

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("the stream is closed")
        return self._descriptor
