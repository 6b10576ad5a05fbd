"""CellStore: cells of coded blobs, and what it takes to check them, on disk. What goes where is in ``storage/cells.py``.

    put_blob     manifest, tables, until when     one batch of rows
    put_cells    one file for each tile, synced; then one batch of rows: only now are the cells held
    find         a cell, checked up to the blob's root each time: a holder whose disk changed a cell knows before others do
    drop_cells   the rows first, then files without cells; a file with more that is gone than is left is written anew
    drop_blob    the rows first, then all files

So a file without a row was never acknowledged, or was dropped, and goes at the start. A cell is a cell of its blob whatever the
tables say: whether it agrees with a table is asked before it is put.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from protocol.codec import decode, encode
from protocol.coded_tables import TileTable, check_table
from protocol.erasure import CheckedManifest, Shard, make_manifest
from protocol.ids import Digest, Epoch
from protocol.limits import SHARD_BYTES_MAX, TABLE_BYTES_MAX
from protocol.rejection import Rejected, check_invariant
from storage.cells import (
    CELL_FOLDER,
    KEPT_ROW_BYTES_MAX,
    KeptBlob,
    KeptRow,
    Place,
    cell_file_name,
    later,
    unpack_place,
)
from storage.erasure.tile import CheckedShard, check_shard
from storage.files import Files
from storage.keys import CELL, KEPT_BLOB, blob_key, cell_key, split_cell_key, table_key
from storage.kv import Batch, KeyValue, scan_all


@dataclass(frozen=True, slots=True)
class CellStatistics:
    """``bytes_gone`` of ``bytes_used`` are of cells that were dropped while others of their file stayed.

    Since the start: ``corrupt_count`` cells were found changed, or their file was gone; ``moved_count`` were written anew.
    """

    blobs: int
    cells: int
    bytes_used: int
    bytes_gone: int
    corrupt_count: int
    moved_count: int


@dataclass(slots=True)
class _File:
    """One file of cells: its name, its size, and what of it is held."""

    name: str
    size_bytes: int
    held_bytes: int = 0


@dataclass(slots=True)
class _Blob:
    manifest: CheckedManifest
    tables_root: Digest
    kept_until: int | None
    tiles: dict[int, dict[int, Place]] = field(default_factory=dict)  # where each cell is, by tile and cell


class CellStore:
    """The cells that this node keeps. One writer; safe after a crash at any moment. :meth:`read` is for any thread."""

    def __init__(self, files: Files, index: KeyValue) -> None:
        """Read which cells there are, and remove files that no cell is in. Raises ``OSError``."""
        self._files = files
        self._index = index
        self._blobs: dict[Digest, _Blob] = {}
        self._by_number: dict[int, _File] = {}
        self._corrupt_count = 0
        self._moved_count = 0
        for key, value in scan_all(index, KEPT_BLOB):
            row = decode(KeptRow, value, limit_bytes=KEPT_ROW_BYTES_MAX)
            manifest = make_manifest(row.manifest.geometry, row.manifest.size_bytes, row.manifest.tile_roots)
            check_invariant(manifest.root == key[1:], "a kept blob is under its own name")
            self._blobs[manifest.root] = _Blob(manifest, row.tables_root, row.kept_until)
        self._next_number = 1
        sizes = {name: files.size(name) or 0 for name in files.names(CELL_FOLDER)}
        lost = Batch()
        for key, value in scan_all(index, CELL):
            blob, tile, cell = split_cell_key(key)
            place = unpack_place(value)
            name = cell_file_name(blob, tile, place.file)
            self._next_number = max(self._next_number, place.file + 1)
            if place.offset + place.size_bytes > sizes.get(name, 0):  # the file is gone, or was cut short
                lost.delete(key)
                continue
            file = self._by_number.setdefault(place.file, _File(name, sizes[name]))
            file.held_bytes += place.size_bytes
            self._blobs[blob].tiles.setdefault(tile, {})[cell] = place
        if lost:
            self._corrupt_count += len(lost)
            index.write(lost)
        known = {file.name for file in self._by_number.values()}  # asked only "is it in"
        for name in sizes:
            if name not in known:
                files.remove(name)

    # -- blobs ----------------------------------------------------------------------------------------------------------

    def put_blob(
        self, manifest: CheckedManifest, tables_root: Digest, tables: Sequence[TileTable], kept_until: int | None
    ) -> None:
        """Keep what cells of a blob are checked by, until the end of epoch ``kept_until``; durable on return.

        ``tables``: of every tile, in order. A blob may be put again: what was promised is not shortened, and of two tables'
        roots the later one is kept, beside the same cells. Raises ``Rejected(BAD_PROOF)`` for tables that do not lead to
        ``tables_root``, ``ValueError`` where they are not one of each tile, ``OSError``.
        """
        if [table.tile for table in tables] != list(range(manifest.tile_count)):
            raise ValueError(f"{len(tables)} tables, {manifest.tile_count} tiles have one each")
        batch = Batch()
        for table in tables:
            check_table(manifest, tables_root, table)
            batch.put(table_key(manifest.root, table.tile), encode(table))
        held = self._blobs.get(manifest.root)
        until = kept_until if held is None else later(held.kept_until, kept_until)
        if held is not None and (held.tables_root, held.kept_until) == (tables_root, until):
            return
        row = KeptRow(manifest.manifest, tables_root, None if until is None else Epoch(until))
        batch.put(blob_key(KEPT_BLOB, manifest.root), encode(row))
        self._index.write(batch)
        self._blobs[manifest.root] = _Blob(manifest, tables_root, until, {} if held is None else held.tiles)

    def blobs(self) -> Iterator[KeptBlob]:
        """Every blob that was put and not dropped, by root."""
        for blob in sorted(self._blobs):
            yield self._kept(self._blobs[blob])

    def find_blob(self, blob: Digest) -> KeptBlob | None:
        held = self._blobs.get(blob)
        return None if held is None else self._kept(held)

    def find_manifest(self, blob: Digest) -> CheckedManifest | None:
        held = self._blobs.get(blob)
        return None if held is None else held.manifest

    def find_table(self, blob: Digest, tables_root: Digest, tile: int) -> TileTable | None:
        """The table of a tile; None where the blob is kept with other tables, or not at all, or has no such tile."""
        held = self._blobs.get(blob)
        if held is None or held.tables_root != tables_root:
            return None
        row = self._index.get(table_key(blob, tile))
        return None if row is None else decode(TileTable, row, limit_bytes=TABLE_BYTES_MAX)

    def find_tables(self, blob: Digest, tables_root: Digest) -> tuple[TileTable, ...] | None:
        """The tables of all tiles, in order; None where the blob is kept with other tables, or not at all."""
        held = self._blobs.get(blob)
        tiles = range(0 if held is None else held.manifest.tile_count)
        tables = tuple(table for tile in tiles if (table := self.find_table(blob, tables_root, tile)) is not None)
        return tables or None

    def drop_blob(self, blob: Digest) -> int:
        """Forget a blob with all its cells; no error where it is not kept. Returns how many bytes of files went."""
        held = self._blobs.get(blob)
        if held is None:
            return 0
        batch = Batch()
        batch.delete(blob_key(KEPT_BLOB, blob))
        for tile in range(held.manifest.tile_count):
            batch.delete(table_key(blob, tile))
        for tile, cells in held.tiles.items():
            for cell in cells:
                batch.delete(cell_key(blob, tile, cell))
        self._index.write(batch)
        del self._blobs[blob]
        numbers = {place.file: None for cells in held.tiles.values() for place in cells.values()}
        return sum(self._remove(number) for number in numbers)

    def release(self, epoch: int) -> int:
        """Forget the blobs that were to be kept until an epoch before this one. Returns how many bytes of files went."""
        ended = [kept for kept in self.blobs() if kept.kept_until is not None and kept.kept_until < epoch]
        return sum(self.drop_blob(kept.manifest.root) for kept in ended)

    # -- cells ----------------------------------------------------------------------------------------------------------

    def put_cells(self, blob: Digest, shards: Iterable[CheckedShard]) -> None:
        """Keep cells of a blob that was put; durable on return. Those that are held already are left as they are.

        After a crash either all of them are there or none. Raises ``LookupError`` where the blob is not kept, ``OSError``.
        """
        held = self._blobs.get(blob)
        if held is None:
            raise LookupError(f"blob {blob.hex()[:16]} is not kept: put it first")
        new: dict[int, dict[int, bytes]] = {}
        for checked in shards:
            tile, cell = checked.shard.tile, checked.shard.cell
            check_invariant(checked.tile_root == held.manifest.tile_root(tile), "a cell is put to its own blob")
            if cell not in held.tiles.get(tile, {}):
                new.setdefault(tile, {}).setdefault(cell, encode(checked.shard))
        self._write(blob, new)

    def find(self, blob: Digest, tile: int, cell: int) -> CheckedShard | None:
        """A cell that is held, as it was put. One that the disk changed is forgotten: it is to be fetched again."""
        found = self.read(blob, tile, cell)
        if found is None and (place := self._find_place(blob, tile, cell)) is not None:
            self._corrupt_count += 1
            self._forget(blob, tile, [cell])
            self._remove_if_empty(place.file)
        return found

    def read(self, blob: Digest, tile: int, cell: int) -> CheckedShard | None:
        """As :meth:`find`, and from any thread: it changes nothing."""
        while (place := self._find_place(blob, tile, cell)) is not None:
            held = self._blobs.get(blob)
            found = None if held is None else self._read(held.manifest, tile, cell, place)
            if found is not None or self._find_place(blob, tile, cell) == place:
                return found
        return None  # not held, or dropped meanwhile; one that was moved meanwhile is read again

    def cells_held(self, blob: Digest, tile: int) -> tuple[int, ...]:
        """The cells of a tile that are held, ascending."""
        held = self._blobs.get(blob)
        return () if held is None else tuple(sorted(held.tiles.get(tile, ())))

    def drop_cells(self, blob: Digest, tile: int, cells: Collection[int]) -> None:
        """Forget cells; those that are not held are no error. Raises ``OSError``, after they are forgotten."""
        places = {cell: place for cell in cells if (place := self._find_place(blob, tile, cell)) is not None}
        if not places:
            return
        self._forget(blob, tile, list(places))
        self._move(blob, tile, {place.file: None for place in places.values()})

    @property
    def bytes_used(self) -> int:
        """Of all files; rows are the index's."""
        return sum(file.size_bytes for file in list(self._by_number.values()))  # in one step: another thread may write

    def statistics(self) -> CellStatistics:
        return CellStatistics(
            blobs=len(self._blobs),
            cells=sum(len(cells) for held in self._blobs.values() for cells in held.tiles.values()),
            bytes_used=self.bytes_used,
            bytes_gone=sum(file.size_bytes - file.held_bytes for file in self._by_number.values()),
            corrupt_count=self._corrupt_count,
            moved_count=self._moved_count,
        )

    # -- files ----------------------------------------------------------------------------------------------------------

    def _write(self, blob: Digest, tiles: dict[int, dict[int, bytes]]) -> None:
        """Files first, then their rows. After a failure of the disk no file is left that no row will ever name."""
        batch = Batch()
        places: list[tuple[int, int, Place]] = []
        written: dict[int, _File] = {}
        try:
            for tile, cells in tiles.items():
                number, self._next_number = self._next_number, self._next_number + 1
                name = cell_file_name(blob, tile, number)
                written[number] = _File(name, self._files.write(name, cells.values()))
                offset = 0
                for cell, data in cells.items():
                    place = Place(number, offset, len(data))
                    offset += len(data)
                    places.append((tile, cell, place))
                    batch.put(cell_key(blob, tile, cell), place.pack())
        except OSError:
            for file in written.values():
                self._files.remove(file.name)
            raise
        if batch:
            self._index.write(batch)
        self._by_number.update(written)
        for tile, cell, place in places:
            held = self._blobs[blob].tiles.setdefault(tile, {})
            if (moved := held.get(cell)) is not None:
                self._by_number[moved.file].held_bytes -= moved.size_bytes
            self._by_number[place.file].held_bytes += place.size_bytes
            held[cell] = place

    def _move(self, blob: Digest, tile: int, numbers: Iterable[int]) -> None:
        """What is left in files of which less than half is left goes together into a new one; then those files go."""
        files = {number: self._by_number[number] for number in numbers}
        sparse = [number for number, file in files.items() if 2 * file.held_bytes < file.size_bytes]
        for number in sparse:
            self._remove_if_empty(number)
        staying = [cell for cell, place in self._blobs[blob].tiles.get(tile, {}).items() if place.file in sparse]
        found = {cell: checked for cell in staying if (checked := self.find(blob, tile, cell)) is not None}
        self._write(blob, {tile: {cell: encode(checked.shard) for cell, checked in found.items()}} if found else {})
        self._moved_count += len(found)
        for number in sparse:
            self._remove_if_empty(number)

    def _find_place(self, blob: Digest, tile: int, cell: int) -> Place | None:
        held = self._blobs.get(blob)
        return None if held is None else held.tiles.get(tile, {}).get(cell)

    def _read(self, manifest: CheckedManifest, tile: int, cell: int, place: Place) -> CheckedShard | None:
        """What is there, if it is still the cell; None where anything of it changed."""
        try:
            memory = self._files.read(cell_file_name(manifest.root, tile, place.file))
        except FileNotFoundError:
            return None
        data = memory[place.offset : place.offset + place.size_bytes]
        try:
            checked = check_shard(manifest, decode(Shard, data, limit_bytes=SHARD_BYTES_MAX))
        except Rejected:
            return None
        return checked if (checked.shard.tile, checked.shard.cell) == (tile, cell) else None

    def _forget(self, blob: Digest, tile: int, cells: Sequence[int]) -> None:
        """The rows of cells that are held; their bytes stay in their files."""
        batch = Batch()
        for cell in cells:
            batch.delete(cell_key(blob, tile, cell))
        self._index.write(batch)
        held = self._blobs[blob].tiles[tile]
        for cell in cells:
            place = held.pop(cell)
            self._by_number[place.file].held_bytes -= place.size_bytes
        if not held:
            del self._blobs[blob].tiles[tile]

    def _remove_if_empty(self, number: int) -> None:
        file = self._by_number.get(number)
        if file is not None and not file.held_bytes:
            self._remove(number)

    def _remove(self, number: int) -> int:
        """Remove a file whose rows are gone; returns its size."""
        file = self._by_number.pop(number)
        self._files.remove(file.name)
        return file.size_bytes

    def _kept(self, held: _Blob) -> KeptBlob:
        numbers = {place.file: None for cells in held.tiles.values() for place in cells.values()}
        size_bytes = sum(self._by_number[number].size_bytes for number in numbers)
        return KeptBlob(held.manifest, held.tables_root, held.kept_until, size_bytes)
