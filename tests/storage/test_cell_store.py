"""Cells are found as they were put, or not at all; what was acknowledged survives a power cut at any step."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from protocol.codec import encode
from protocol.coded_tables import TileTable, check_table, make_tables
from protocol.digest import blob_digest
from protocol.erasure import CheckedManifest, Geometry
from protocol.ids import Digest
from protocol.limits import KIB, TABLE_COLUMNS
from protocol.rejection import InvariantBroken, Reason
from storage.cells import CELL_FOLDER, cell_file_name, later
from storage.erasure.check import TileCheck
from storage.erasure.tile import CheckedShard, CodedTile
from storage.files import Files, MemoryFiles, PowerCut
from storage.io.cell_store import CellStore
from storage.keys import CELL, KEPT_BLOB
from storage.kv import Batch, MemoryKeyValue
from tests.storage.erasure.samples import blob, kernel, refused

TINY = Geometry(2, 3, KIB)
Tables = tuple[Digest, list[TileTable]]


@functools.cache
def sample(seed: int = 0, tiles: int = 2) -> tuple[CheckedManifest, list[CodedTile]]:
    _, manifest, coded = blob(tiles * TINY.tile_bytes - 5, TINY, seed)
    return manifest, coded


@functools.cache
def tables(seed: int = 0, tiles: int = 2, other: bool = False) -> Tables:
    """Those of the blob, or others to which an author committed as well."""
    manifest, coded = sample(seed, tiles)
    if other:
        return make_tables(manifest, [bytes([7]) * TABLE_COLUMNS * TINY.data_cells] * tiles)
    return make_tables(manifest, [TileCheck.of(kernel(), manifest, tile.index).table(tile) for tile in coded])


def put(store: CellStore, seed: int = 0, tiles: int = 2, until: int | None = 9, other: bool = False) -> CheckedManifest:
    manifest, _ = sample(seed, tiles)
    store.put_blob(manifest, *tables(seed, tiles, other), until)
    return manifest


def shards(*places: tuple[int, int], seed: int = 0, tiles: int = 2) -> list[CheckedShard]:
    return [sample(seed, tiles)[1][tile].checked(cell) for tile, cell in places]


def only_file(files: Files) -> str:
    (name,) = files.names(CELL_FOLDER)
    return name


# -- what is kept is found ---------------------------------------------------------------------------------------------


def test_put_and_find(files, index):
    """Cells, manifest and tables come back as they were put, also after a restart; one file for each tile of a call."""
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards((0, 4), (1, 2), (0, 1)))
    store.put_cells(manifest.root, shards((0, 1), (0, 4)))
    assert len(files.names(CELL_FOLDER)) == 2
    for again in (store, CellStore(files, index)):
        assert again.cells_held(manifest.root, 0) == (1, 4)
        assert again.cells_held(manifest.root, 1) == (2,)
        for tile, cell in ((0, 1), (0, 4), (1, 2)):
            (expected,) = shards((tile, cell))
            assert again.find(manifest.root, tile, cell) == again.read(manifest.root, tile, cell) == expected
        assert again.find(manifest.root, 1, 1) is None
        assert again.find_manifest(manifest.root) == manifest
        root, made = tables()
        assert again.find_tables(manifest.root, root) == tuple(made)
        assert [check_table(manifest, root, again.find_table(manifest.root, root, tile)).tile for tile in (0, 1)] == [
            0,
            1,
        ]
        (kept,) = again.blobs()
        assert kept == again.find_blob(manifest.root)
        assert (kept.manifest, kept.tables_root, kept.kept_until) == (manifest, root, 9)
        assert kept.bytes_used == again.bytes_used == sum(files.size(name) for name in files.names(CELL_FOLDER))
        assert again.statistics().cells == 3


def test_what_is_not_kept_is_none(files, index):
    """Asking for it, dropping it and releasing it are no errors; cells of a blob that was not put are one."""
    store, manifest = CellStore(files, index), sample()[0]
    root, _ = tables()
    assert store.find(manifest.root, 0, 0) is store.read(manifest.root, 0, 0) is None
    assert store.find_blob(manifest.root) is store.find_manifest(manifest.root) is None
    assert store.find_tables(manifest.root, root) is store.find_table(manifest.root, root, 0) is None
    assert store.cells_held(manifest.root, 0) == ()
    assert (store.drop_blob(manifest.root), store.release(10**6), list(store.blobs())) == (0, 0, [])
    store.drop_cells(manifest.root, 0, [0])
    with pytest.raises(LookupError, match="put it first"):
        store.put_cells(manifest.root, shards((0, 0)))
    put(store)
    store.put_cells(manifest.root, [])
    assert store.find_table(manifest.root, root, 2) is store.find_table(manifest.root, manifest.root, 0) is None
    with pytest.raises(InvariantBroken):
        store.put_cells(manifest.root, shards((0, 0), seed=1))


def test_a_promise_is_not_shortened(files, index):
    """Put again, a blob is kept until the later of both epochs, with the newer tables and the cells that it had."""
    store = CellStore(files, index)
    manifest = put(store, until=9)
    store.put_cells(manifest.root, shards((0, 3)))
    put(store, until=4, other=True)
    (kept,) = CellStore(files, index).blobs()
    assert (kept.kept_until, kept.tables_root) == (9, tables(other=True)[0])
    assert store.find_tables(manifest.root, tables()[0]) is None
    assert store.find_tables(manifest.root, tables(other=True)[0]) == tuple(tables(other=True)[1])
    assert store.find(manifest.root, 0, 3) == shards((0, 3))[0]
    assert [later(4, 9), later(9, 4), later(9, None), later(None, 9)] == [9, 9, None, None]


def test_what_is_kept_already_is_not_written_again():
    """Neither a blob with the same tables, for no longer, nor its cells: a disk without power is not asked."""
    files = MemoryFiles()
    store = CellStore(files, CuttingRows(files))
    manifest = put(store, until=9)
    store.put_cells(manifest.root, shards((0, 3)))
    files.cut_power_after(0)
    put(store, until=9)
    put(store, until=4)
    store.put_cells(manifest.root, shards((0, 3)))
    store.drop_cells(manifest.root, 0, [1])
    with pytest.raises(PowerCut):
        put(store, until=10)


def test_tables_that_do_not_lead_to_their_root_are_refused(files, index):
    """Nothing of such a blob is kept; a table too few is the caller's mistake."""
    store, (manifest, _), (root, made) = CellStore(files, index), sample(), tables()
    refused(Reason.BAD_PROOF, lambda: store.put_blob(manifest, blob_digest(b"another"), made, 9))
    changed = replace(made[1], sums=bytes(len(made[1].sums)))
    refused(Reason.BAD_PROOF, lambda: store.put_blob(manifest, root, [made[0], changed], 9))
    for wrong in (made[:1], made[::-1], [*made, made[1]]):
        with pytest.raises(ValueError, match="have one each"):
            store.put_blob(manifest, root, wrong, 9)
    assert list(store.blobs()) == list(CellStore(files, index).blobs()) == []


def test_drop_and_release(files, index):
    """A dropped blob is gone with its files; a blob is kept through its last epoch, and for ever where none is said."""
    store = CellStore(files, index)
    kept = {seed: put(store, seed, until=until) for seed, until in ((1, 5), (2, 6), (3, None))}
    for seed, manifest in kept.items():
        store.put_cells(manifest.root, shards((0, 0), (1, 1), seed=seed))
    used_bytes = store.bytes_used
    assert store.release(5) == 0
    assert store.release(6) == used_bytes // 3
    assert store.find_blob(kept[1].root) is None
    assert store.release(10**9) == used_bytes // 3
    (left,) = CellStore(files, index).blobs()
    assert left.manifest == kept[3]
    assert store.drop_blob(kept[3].root) == used_bytes // 3
    assert store.bytes_used == 0
    assert files.names(CELL_FOLDER) == []
    assert index.scan(b"", limit=9) == []


# -- what goes makes room ----------------------------------------------------------------------------------------------


def test_a_file_goes_when_less_than_half_of_it_is_left(files, index):
    """The rest moves to a new file, so that never more than half of what is used is of no use."""
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards(*((0, cell) for cell in range(5))))
    full, name = store.bytes_used, only_file(files)
    store.drop_cells(manifest.root, 0, [0, 3])
    assert (store.bytes_used, only_file(files)) == (full, name)
    assert 0 < store.statistics().bytes_gone <= full // 2
    store.drop_cells(manifest.root, 0, [4, 0])
    assert only_file(files) != name
    rest_bytes = sum(len(encode(each.shard)) for each in shards((0, 1), (0, 2)))
    assert (store.bytes_used, store.statistics().bytes_gone) == (rest_bytes, 0)
    assert store.statistics().moved_count == 2
    for again in (store, CellStore(files, index)):
        assert again.cells_held(manifest.root, 0) == (1, 2)
        assert [again.find(manifest.root, 0, cell) for cell in (1, 2)] == shards((0, 1), (0, 2))
    store.drop_cells(manifest.root, 0, [1, 2])
    assert (store.bytes_used, files.names(CELL_FOLDER)) == (0, [])
    assert store.find_blob(manifest.root) is not None


def test_what_is_damaged_does_not_move(files, index, damage):
    """It is found out when the rest of its file is, and forgotten."""
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards(*((0, cell) for cell in range(5))))
    damage(files, only_file(files), 20)
    store.drop_cells(manifest.root, 0, [2, 3, 4])
    assert store.cells_held(manifest.root, 0) == (1,)
    assert store.find(manifest.root, 0, 1) == shards((0, 1))[0]
    assert store.statistics().corrupt_count == 1


# -- what the disk did -------------------------------------------------------------------------------------------------


def test_a_changed_cell_is_missing_and_can_be_put_again(files, index, damage):
    """Whatever bit of it: the others of its file are still there, and whoever only reads changes nothing."""
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards((0, 0), (0, 1)))
    damage(files, only_file(files), store.bytes_used - 3)  # in the last proof
    assert store.read(manifest.root, 0, 1) is None
    assert store.cells_held(manifest.root, 0) == (0, 1)
    assert store.find(manifest.root, 0, 1) is None
    assert store.cells_held(manifest.root, 0) == (0,)
    assert store.find(manifest.root, 0, 0) == shards((0, 0))[0]
    assert store.statistics().corrupt_count == 1
    store.put_cells(manifest.root, shards((0, 1)))
    for again in (store, CellStore(files, index)):
        assert again.find(manifest.root, 0, 1) == shards((0, 1))[0]


def test_a_file_with_nothing_but_damage_goes(files, index, damage):
    """Its last cell was found changed."""
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards((0, 0)))
    damage(files, only_file(files), 5)
    assert store.find(manifest.root, 0, 0) is None
    assert (store.bytes_used, files.names(CELL_FOLDER)) == (0, [])


@pytest.mark.parametrize("left_bytes", [None, 0, KIB + 200])
def test_a_file_that_is_gone_or_cut_short_is_found_out(files, index, cut_short, left_bytes):
    """At the start, or when a cell is asked for; cells before the cut are still there."""
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards((0, 0), (0, 1)))
    if left_bytes is None:
        files.remove(only_file(files))
    else:
        cut_short(files, only_file(files), left_bytes)
    there = (0,) if left_bytes else ()
    restarted = CellStore(files, index)
    assert restarted.cells_held(manifest.root, 0) == there
    assert restarted.statistics().corrupt_count == 2 - len(there)
    assert restarted.statistics().bytes_gone <= restarted.bytes_used
    found = [store.find(manifest.root, 0, cell) for cell in (0, 1)]
    assert [cell for cell in (0, 1) if found[cell] is not None] == list(there)
    assert CellStore(files, index).cells_held(manifest.root, 0) == there


def test_a_cell_in_another_cells_place_is_not_found(files, index):
    """Its file says what it is; a row that leads to another cell leads nowhere."""
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards((0, 0), (0, 1)))
    rows = dict(index.scan(CELL, limit=9))
    batch = Batch()
    for key, value in zip(rows, reversed(rows.values()), strict=True):
        batch.put(key, value)
    index.write(batch)
    assert [CellStore(files, index).find(manifest.root, 0, cell) for cell in (0, 1)] == [None, None]


def test_a_row_of_another_blob_stops_the_node(files, index):
    """The database has its own checksums: that would be our mistake."""
    manifest = put(CellStore(files, index))
    (row,) = index.scan(KEPT_BLOB, limit=2)
    batch = Batch()
    batch.delete(row[0])
    batch.put(KEPT_BLOB + blob_digest(manifest.root), row[1])
    index.write(batch)
    with pytest.raises(InvariantBroken):
        CellStore(files, index)


def test_files_of_no_cell_are_swept(files, index):
    """A file whose put never returned is gone after a restart, and its number is used again without harm."""
    store = CellStore(files, index)
    manifest = put(store)
    files.write(cell_file_name(manifest.root, 0, 1), [b"never acknowledged"])
    files.write(f"{CELL_FOLDER}/stray", [b"x"])
    store = CellStore(files, index)
    assert files.names(CELL_FOLDER) == []
    store.put_cells(manifest.root, shards((0, 0)))
    assert CellStore(files, index).find(manifest.root, 0, 0) == shards((0, 0))[0]


class FullFiles(MemoryFiles):
    """A disk that refuses the second of two files."""

    writes_left = 1

    def write(self, name, pieces, *, durable=True):
        if not self.writes_left:
            raise OSError("no space left")
        self.writes_left -= 1
        return super().write(name, pieces, durable=durable)


def test_a_put_that_a_full_disk_refuses_leaves_nothing():
    """No file stays that no row names, though the node runs on; when there is room again all is as ever."""
    files, index = FullFiles(), MemoryKeyValue()
    store = CellStore(files, index)
    manifest = put(store)
    with pytest.raises(OSError, match="no space"):
        store.put_cells(manifest.root, shards((0, 0), (1, 0)))
    assert (store.bytes_used, files.names(CELL_FOLDER), store.cells_held(manifest.root, 0)) == (0, [], ())
    files.writes_left = 3
    store.put_cells(manifest.root, shards((0, 0)))
    store.put_cells(manifest.root, shards(*((0, cell) for cell in range(1, 5)), (1, 0)))
    with pytest.raises(OSError, match="no space"):
        store.drop_cells(manifest.root, 0, [0, 1, 2, 3])
    assert len(files.names(CELL_FOLDER)) == 2  # what is empty makes room first
    for again in (store, CellStore(files, index)):  # dropped they are; the rest waits where it is
        assert again.cells_held(manifest.root, 0) == (4,)
        assert again.find(manifest.root, 0, 4) == shards((0, 4))[0]
    assert store.statistics().bytes_gone > store.bytes_used // 2


class MovingFiles(MemoryFiles):
    """Somebody else works while a file is read."""

    meanwhile: Callable[[], None] | None = None

    def read(self, name):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().read(name)


def test_a_reader_finds_a_cell_that_moves_while_it_reads():
    """It looks again where the cell is now; one that was dropped meanwhile is not there."""
    files, index = MovingFiles(), MemoryKeyValue()
    store = CellStore(files, index)
    manifest = put(store)
    store.put_cells(manifest.root, shards(*((0, cell) for cell in range(5))))
    files.meanwhile = lambda: store.drop_cells(manifest.root, 0, [0, 1, 2])
    assert store.read(manifest.root, 0, 4) == shards((0, 4))[0]
    files.meanwhile = lambda: store.drop_blob(manifest.root) and None
    assert store.read(manifest.root, 0, 4) is None
    assert store.statistics().corrupt_count == 0


# -- power cuts --------------------------------------------------------------------------------------------------------


class CuttingRows(MemoryKeyValue):
    """Rows on the disk of ``files``: a batch is one of its steps, whole or not at all."""

    def __init__(self, files: MemoryFiles) -> None:
        super().__init__()
        self.files = files

    def write(self, batch, *, durable=True):
        self.files._step()
        super().write(batch, durable=durable)


Kept = dict[int, tuple[bool, int | None, frozenset[tuple[int, int]]]]  # by seed: other tables, until, cells
SEEDS = st.integers(0, 2)
PLACES = st.frozensets(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=6)


class StoreMachine(RuleBasedStateMachine):
    """The store beside a dictionary. Every change may be cut at any of its steps: then it happened, or it did not."""

    @initialize()
    def begin(self):
        self.files = MemoryFiles()
        self.index = CuttingRows(self.files)
        self.store = CellStore(self.files, self.index)
        self.kept: Kept = {}
        for seed in range(3):
            put(self.store, seed)
            self.kept[seed] = False, 9, frozenset()
            self.put_cells(seed, frozenset((tile, cell) for tile in (0, 1) for cell in range(seed, 5)), None, 0)

    def change(self, change: Callable[[], object], stages: list[Kept], cut_after: int | None, seed: int) -> None:
        """``stages``: what may be kept after a cut; the last of them is what is kept without one."""
        if cut_after is not None:
            self.files.cut_power_after(cut_after)
        with contextlib.suppress(PowerCut):
            change()
            if self.files._steps_left != 0:
                self.files._steps_left = None
                self.kept = stages[-1]
                return
            stages = stages[-1:]
        self.index.crash()
        self.files = self.files.after_power_cut(random.Random(seed))
        self.files.sweep()
        self.index.files = self.files
        self.store = CellStore(self.files, self.index)
        assert self.found() in stages
        self.kept = self.found()

    def found(self) -> Kept:
        found: Kept = {}
        for seed in range(3):
            manifest, _ = sample(seed)
            kept = self.store.find_blob(manifest.root)
            if kept is not None:
                cells = {(tile, cell) for tile in (0, 1) for cell in self.store.cells_held(manifest.root, tile)}
                found[seed] = kept.tables_root == tables(seed, other=True)[0], kept.kept_until, frozenset(cells)
        return found

    cuts = st.none() | st.integers(0, 5) | st.integers(0, 12)

    @rule(seed=SEEDS, other=st.booleans(), until=st.none() | st.integers(0, 40), cut=cuts, draw=st.integers())
    def put_blob(self, seed, other, until, cut, draw):
        _, before, cells = self.kept.get(seed, (other, -1, frozenset()))
        after = {**self.kept, seed: (other, None if None in (before, until) else max(before, until), cells)}
        self.change(lambda: put(self.store, seed, until=until, other=other), [self.kept, after], cut, draw)

    @rule(seed=SEEDS, places=PLACES, cut=cuts, draw=st.integers())
    def put_cells(self, seed, places, cut, draw):
        if seed not in self.kept:
            self.put_blob(seed, False, 9, None, draw)
        other, until, cells = self.kept[seed]
        after = {**self.kept, seed: (other, until, cells | places)}
        given = shards(*sorted(places), seed=seed)
        self.change(lambda: self.store.put_cells(sample(seed)[0].root, given), [self.kept, after], cut, draw)

    @rule(seed=SEEDS, places=PLACES, tile=st.integers(0, 1), cut=cuts, draw=st.integers())
    def drop_cells(self, seed, places, tile, cut, draw):
        going = sorted(cell for at, cell in places if at == tile)
        after = dict(self.kept)
        if seed in after:
            other, until, cells = after[seed]
            after[seed] = other, until, cells - {(tile, cell) for cell in going}
        self.change(lambda: self.store.drop_cells(sample(seed)[0].root, tile, going), [self.kept, after], cut, draw)

    @rule(seed=SEEDS, cut=cuts, draw=st.integers())
    def drop_blob(self, seed, cut, draw):
        after = {other: kept for other, kept in self.kept.items() if other != seed}
        self.change(lambda: self.store.drop_blob(sample(seed)[0].root), [self.kept, after], cut, draw)

    @rule(epoch=st.integers(0, 40), cut=cuts, draw=st.integers())
    def release(self, epoch, cut, draw):
        """One blob after the other, in the order of their roots."""
        stages = [self.kept]
        for seed in sorted(self.kept, key=lambda seed: sample(seed)[0].root):
            until = self.kept[seed][1]
            if until is not None and until < epoch:
                stages.append({other: kept for other, kept in stages[-1].items() if other != seed})
        self.change(lambda: self.store.release(epoch), stages, cut, draw)

    @rule(draw=st.integers(0, 2**32))
    def damage(self, draw):
        """A bit flips: one cell is gone when it is looked for, and no other."""
        random_ = random.Random(draw)
        names = self.files.names(CELL_FOLDER)
        if not names:
            return
        name = random_.choice(names)
        self.files.damage(name, random_.randrange(self.files.size(name)))
        lost = []
        for seed, (_, _, cells) in self.kept.items():
            root = sample(seed)[0].root
            lost += [(seed, place) for place in sorted(cells) if self.store.find(root, *place) is None]
        assert len(lost) <= 1
        for seed, place in lost:
            other, until, cells = self.kept[seed]
            self.kept = {**self.kept, seed: (other, until, cells - {place})}

    @rule()
    def restart(self):
        self.store = CellStore(self.files, self.index)

    @invariant()
    def what_is_kept_is_found(self):
        assert self.found() == self.kept
        for seed, (other, _, cells) in self.kept.items():
            manifest, _ = sample(seed)
            for tile, cell in sorted(cells):
                assert self.store.find(manifest.root, tile, cell) == shards((tile, cell), seed=seed)[0]
            root, made = tables(seed, other=other)
            assert self.store.find_tables(manifest.root, root) == tuple(made)

    @invariant()
    def every_file_is_accounted_for(self):
        names = self.files.names(CELL_FOLDER)
        assert self.store.bytes_used == sum(self.files.size(name) for name in names)
        assert sum(kept.bytes_used for kept in self.store.blobs()) == self.store.bytes_used
        held_bytes = sum(0 if kept is None else len(cells) for kept, _, cells in self.kept.values())
        assert (held_bytes == 0) is (not names)


TestTheStore = StoreMachine.TestCase
TestTheStore.settings = settings(max_examples=300, stateful_step_count=25, deadline=None)
