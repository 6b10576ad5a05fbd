"""Both databases keep the same promises."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.ids import Digest, Height, TileId, Version
from storage.io.rocks import RocksKeyValue, RowFiles, write_rows
from storage.keys import HEADER, blob_key, block_key, own_key, split_tile_key, tile_key, tile_prefix
from storage.kv import Batch, DatabaseCorrupt, DatabaseLocked, MemoryKeyValue, scan_all
from tests.room import no_room


def batch_of(**rows: str | None) -> Batch:
    batch = Batch()
    for key, value in rows.items():
        if value is None:
            batch.delete(key.encode())
        else:
            batch.put(key.encode(), value.encode())
    return batch


def test_a_batch_happens_in_order(index):
    """The last word on a key wins, empty values are values, and deleting nothing is no error."""
    batch = batch_of(a="1", b="", c="3")
    batch.delete(b"c")
    batch.delete(b"never")
    batch.extend(batch_of(a="2"))
    index.write(batch)
    assert len(batch) == 6
    assert [index.get(key) for key in (b"a", b"b", b"c", b"never")] == [b"2", b"", None, None]


def test_scan_is_ordered_bounded_and_keeps_to_its_prefix(index):
    """Rows come in order of unsigned bytes, from ``start`` on, and pages follow each other without loss."""
    batch = Batch()
    keys = [b"p", b"p\x00", b"p\x7f", b"p\x80", b"p\xff", b"p\xff\xff"]
    for key in [*keys, b"o\xff", b"q", b""]:
        batch.put(key, key[::-1])
    index.write(batch)
    assert index.scan(b"p", limit=100) == [(key, key[::-1]) for key in keys]
    assert [key for key, _ in index.scan(b"p", start=b"p\x80", limit=2)] == [b"p\x80", b"p\xff"]
    assert index.scan(b"p", start=b"q", limit=9) == []
    assert index.scan(b"zz", limit=9) == []
    paged, start = [], b""
    while rows := index.scan(b"p", start=start, limit=2):
        paged += [key for key, _ in rows]
        start = rows[-1][0] + b"\x00"
    assert paged == keys


def test_reclaiming_changes_no_row(index):
    """The disk of deleted rows is given back; what is there stays, in the range and beside it."""
    index.write(batch_of(a="1", b="2", c="3", d="4"))
    index.write(batch_of(b=None))
    index.reclaim(b"a", b"c")
    index.reclaim(b"x", b"y")
    assert [key for key, _ in scan_all(index, b"")] == [b"a", b"c", b"d"]


def test_everything_under_a_prefix(index):
    """However many rows there are, each comes once, in order."""
    index.write(batch_of(**{f"p{number:04}": "x" for number in range(9_000)}, o="x", q="x"))
    assert [key for key, _ in scan_all(index, b"p")] == [b"p%04d" % number for number in range(9_000)]


def test_a_scan_is_one_moment(index):
    """What is written after a scan does not change its rows."""
    index.write(batch_of(a="1"))
    rows = index.scan(b"", limit=9)
    index.write(batch_of(a="2", b="3"))
    assert rows == [(b"a", b"1")]


def test_a_closed_database_says_so(index):
    """Closing twice is no error; using it afterwards is."""
    index.close()
    index.close()
    uses = (
        lambda: index.get(b"a"),
        lambda: index.write(batch_of(a="1")),
        lambda: index.scan(b"", limit=1),
        lambda: index.reclaim(b"a", b"b"),
    )
    for use in uses:
        with pytest.raises(ValueError, match="closed"):
            use()


def test_power_cut_loses_only_what_was_not_durable():
    """A durable write makes the ones before it durable; later ones are lost, deletes and overwrites too."""
    kv = MemoryKeyValue()
    kv.write(batch_of(a="1", b="2"), durable=False)
    kv.write(batch_of(c="3"))
    kv.write(batch_of(a="9", b=None, d="4"), durable=False)
    kv.write(batch_of(a="10", c=None), durable=False)
    kv.crash()
    assert kv.scan(b"", limit=9) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]


class Against(RuleBasedStateMachine):
    """The false database behaves as a dictionary that is sorted when it is read."""

    keys = st.binary(max_size=3)

    def __init__(self):
        super().__init__()
        self.kv, self.model, self.durable = MemoryKeyValue(), {}, {}

    @rule(rows=st.lists(st.tuples(keys, st.none() | st.binary(max_size=2)), max_size=4), durable=st.booleans())
    def write(self, rows, durable):
        batch = Batch()
        for key, value in rows:
            if value is None:
                batch.delete(key)
                self.model.pop(key, None)
            else:
                batch.put(key, value)
                self.model[key] = value
        self.kv.write(batch, durable=durable)
        if durable:
            self.durable = dict(self.model)

    @rule()
    def crash(self):
        self.kv.crash()
        self.model = dict(self.durable)

    @rule(prefix=keys, start=keys, limit=st.integers(0, 4))
    def scan(self, prefix, start, limit):
        rows = [(key, self.model[key]) for key in sorted(self.model) if key.startswith(prefix) and key >= start]
        assert self.kv.scan(prefix, start=start, limit=limit) == rows[:limit]

    @invariant()
    def same(self):
        assert self.kv.scan(b"", limit=1000) == sorted(self.model.items())


TestMemoryAgainstDictionary = Against.TestCase


def test_rocks_keeps_what_it_wrote(tmp_path: Path):
    """Closing and opening again finds everything."""
    kv = RocksKeyValue(tmp_path / "db")
    kv.write(batch_of(a="1"))
    kv.write(batch_of(b="2"), durable=False)
    kv.close()
    again = RocksKeyValue(tmp_path / "db")
    assert again.scan(b"", limit=9) == [(b"a", b"1"), (b"b", b"2")]
    again.close()


def test_a_database_is_read_beside_its_owner(tmp_path: Path):
    """Read only, it is open twice, shows the moment of its opening, takes no write, and is not made where there is none."""
    kv = RocksKeyValue(tmp_path / "db")
    kv.write(batch_of(a="1"))
    beside = RocksKeyValue(tmp_path / "db", read_only=True)
    kv.write(batch_of(a="2"))
    assert beside.scan(b"", limit=9) == [(b"a", b"1")]
    with pytest.raises(OSError, match="failed"):
        beside.write(batch_of(a="3"))
    beside.close()
    kv.close()
    with pytest.raises(OSError, match="failed"):
        RocksKeyValue(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


def test_a_locked_database_says_so(tmp_path: Path):
    """A second opener is told that the database is open, and the first goes on."""
    kv = RocksKeyValue(tmp_path / "db")
    with pytest.raises(DatabaseLocked, match="open in another process"):
        RocksKeyValue(tmp_path / "db")
    kv.write(batch_of(a="1"))
    kv.close()


def crashed_copy(tmp_path: Path) -> Path:
    """A database of 50 acknowledged writes as kill -9 leaves it: everything is still in its log."""
    kv = RocksKeyValue(tmp_path / "db")
    for number in range(50):
        kv.write(batch_of(**{f"key{number:02}": "value" * 100}))
    shutil.copytree(tmp_path / "db", tmp_path / "copy")
    kv.close()
    return tmp_path / "copy"


@pytest.mark.parametrize("pattern", ["*.log", "MANIFEST-*", "CURRENT"])
def test_a_corrupt_database_says_so(tmp_path: Path, pattern: str):
    """Damage before acknowledged writes is ``DatabaseCorrupt`` with the remedy: they are never quietly forgotten."""
    copy = crashed_copy(tmp_path)
    (path,) = (path for path in copy.glob(pattern) if path.stat().st_size)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 4] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DatabaseCorrupt, match="nocknode recovery repair"):
        RocksKeyValue(copy)


def test_a_torn_last_write_is_dropped(tmp_path: Path):
    """A write that a power cut tore was never acknowledged: the database opens without it."""
    copy = crashed_copy(tmp_path)
    (path,) = (path for path in copy.glob("*.log") if path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-3])
    kv = RocksKeyValue(copy)
    assert len(kv.scan(b"", limit=99)) == 49
    kv.close()


@pytest.mark.parametrize("room_bytes", [0, 700, 5_000])
def test_a_full_disk_refuses_writes_and_keeps_what_it_had(tmp_path: Path, room_bytes: int):
    """Out of room, a write raises with the remedy, closing says no more, and the next opening has every acknowledged row."""
    kv = RocksKeyValue(tmp_path / "db")
    acknowledged: list[str] = []

    def write_on() -> None:
        for number in range(100):
            kv.write(batch_of(**{f"key{number:02}": "value" * 100}))
            acknowledged.append(f"key{number:02}")

    with no_room(room_bytes):
        with pytest.raises(OSError, match="make room"):
            write_on()
        assert len(kv.scan(b"", limit=999)) >= len(acknowledged)
        kv.close()
        kv.close()
    again = RocksKeyValue(tmp_path / "db")
    assert [name for name in acknowledged if again.get(name.encode()) is None] == []
    again.write(batch_of(room="again"))
    again.close()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path):
    """A file in the way is the world's failure, with a sentence."""
    (tmp_path / "db").write_text("in the way")
    with pytest.raises(OSError, match="db failed"):
        RocksKeyValue(tmp_path / "db")


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_order_of_keys_is_order_of_heights(heights):
    """Sorting keys sorts heights."""
    keys = sorted(block_key(HEADER, Height(height)) for height in heights)
    assert keys == [block_key(HEADER, Height(height)) for height in sorted(heights)]


def test_key_layout():
    """The keys are these bytes: a database written by one release is read by the next."""
    assert block_key(HEADER, Height(258)).hex() == "68" + "0000000000000102"
    assert blob_key(b"i", Digest(bytes(32))) == b"i" + bytes(32)
    assert tile_key(TileId("a/0"), Version(3)) == b"va/0\x00\0\0\0\0\0\0\0\x03"
    assert split_tile_key(tile_key(TileId("layer1.x/12"), Version(2**40))) == ("layer1.x/12", 2**40)
    assert not tile_key(TileId("a/01"), Version(0)).startswith(tile_prefix(TileId("a/0")))
    assert own_key("consensus", b"k") == b"xconsensus\x00k"


def test_a_file_of_rows_is_taken_whole_and_durable(tmp_path):
    """In place of what was there, beside what is not in it; the file is gone, the rows are there after a power cut."""
    path = tmp_path / "index"
    kv = RocksKeyValue(path)
    kv.write(batch_of(a="1", b="2", z="26"))
    files = RowFiles(tmp_path / "incoming", kv)
    first, second = files.new_path(), files.new_path()
    assert first != second
    write_rows(first, [(b"b", b"other"), (b"c", b"")])
    files.take(first)
    cut = tmp_path / "cut"
    shutil.copytree(path, cut)  # as the disk is at this moment
    for each in (kv, RocksKeyValue(cut)):
        assert each.scan(b"", limit=9) == [(b"a", b"1"), (b"b", b"other"), (b"c", b""), (b"z", b"26")]
        each.close()
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_file_of_rows_that_is_none_changes_nothing(tmp_path):
    """Neither one whose rows are not in order, nor one that is damaged, torn or missing: each is a sentence."""
    kv = RocksKeyValue(tmp_path / "index")
    kv.write(batch_of(a="1"))
    with pytest.raises(OSError, match="failed"):
        write_rows(tmp_path / "wrong.tmp", [(b"b", b""), (b"a", b"")])
    whole = tmp_path / "whole.tmp"
    write_rows(whole, [(b"a", bytes(10_000))])
    data = whole.read_bytes()
    for name, left in (
        ("torn.tmp", data[: len(data) // 2]),
        ("empty.tmp", b""),
        ("noise.tmp", bytes(10_000)),
        ("none.tmp", None),
    ):
        if left is not None:
            (tmp_path / name).write_bytes(left)
        with pytest.raises(OSError, match="index"):
            kv.ingest(tmp_path / name)
    assert kv.scan(b"", limit=9) == [(b"a", b"1")]
    kv.close()
