"""The disk of a simulated machine keeps the promises of a real one, fills up, and loses what was not synced.

Its rows and files go through the tests of ``tests/storage`` besides, beside the real ones.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.data_directory import DataDirectory
from node.disk import DirectoryDisk, Disk
from protocol.digest import blob_digest
from simnet.virtual.disk import OWN_FOLDER, POOLED_BYTES_MIN, Pool, VirtualDisk
from storage.io.journal_file import create_journal
from storage.journal import JournalState, MemoryJournal, read_journal
from storage.kv import Batch

LARGE = b"x" * POOLED_BYTES_MIN
Open = Callable[[], Disk]


def row(key: bytes, value: bytes | None) -> Batch:
    batch = Batch()
    if value is None:
        batch.delete(key)
    else:
        batch.put(key, value)
    return batch


# -- what every disk of a node does -------------------------------------------------------------------------------------


@pytest.fixture(params=["directory", "simulated"])
def open_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one and the same disk as often as processes begin on it; each must close it before the next."""
    opened: list[Disk] = []
    simulated = VirtualDisk("peer-0000", Pool())

    def open_it() -> Disk:
        if request.param == "simulated":
            disk: Disk = simulated.open()
        else:
            disk = DirectoryDisk(DataDirectory(tmp_path))
        opened.append(disk)
        return disk

    yield open_it
    for disk in opened:
        disk.close()


def test_the_next_process_finds_what_the_last_one_left(open_disk: Open) -> None:
    """Rows, files and journals, each where it was; the paths too."""
    disk = open_disk()
    disk.index.write(row(b"k", b"v"))
    disk.files.write("tiles/a/0", [LARGE])
    journal = disk.create_journal("votes", [b"first"])
    journal.append(b"second", b"third")
    journal.close()
    path = disk.path("learner/state")
    disk.close()
    again = open_disk()
    assert again.index.get(b"k") == b"v"
    assert bytes(again.files.read("tiles/a/0")) == LARGE
    opened = again.open_journal("votes")
    assert (opened.state, opened.records) == (JournalState.CLEAN, (b"first", b"second", b"third"))
    assert opened.journal is not None
    opened.journal.close()
    assert again.path("learner/state") == path
    assert path.endswith("learner/state")


def test_a_journal_goes_on_where_it_was_left(open_disk: Open) -> None:
    """Over several openings; begun anew it has what it is begun with and nothing else."""
    disk = open_disk()
    disk.create_journal("votes").close()
    for number in range(3):
        opened = disk.open_journal("votes")
        assert len(opened.records) == number
        assert opened.journal is not None
        opened.journal.append(bytes([number]))
        opened.journal.close()
    disk.create_journal("votes", [b"anew"]).close()
    opened = disk.open_journal("votes")
    assert (opened.state, opened.records) == (JournalState.CLEAN, (b"anew",))
    assert opened.journal is not None
    opened.journal.close()


def test_a_journal_that_is_not_there_is_missing(open_disk: Open) -> None:
    """It is told, and none is made."""
    disk = open_disk()
    for _ in range(2):
        opened = disk.open_journal("votes")
        assert (opened.state, opened.records, opened.journal) == (JournalState.MISSING, (), None)


def test_a_closed_journal_says_so(open_disk: Open) -> None:
    """Appending to it is a mistake of the caller, and changes nothing."""
    disk = open_disk()
    journal = disk.create_journal("votes", [b"first"])
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append(b"second")
    opened = disk.open_journal("votes")
    assert opened.records == (b"first",)
    assert opened.journal is not None
    opened.journal.close()


def test_other_bytes_are_rows_journals_and_the_learners_state(open_disk: Open) -> None:
    """Tiles and blobs are counted by their stores; these by the disk."""
    disk = open_disk()
    before = disk.other_bytes()
    disk.files.write("tiles/a/0", [bytes(10_000)])
    assert disk.other_bytes() < before + 10_000
    disk.files.write("learner/state", [bytes(5_000)])
    disk.create_journal("votes", [bytes(3_000)]).close()
    assert disk.other_bytes() >= before + 8_000


# -- the simulated one: journals ----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20), max_size=4), st.lists(st.binary(max_size=20), max_size=4))
def test_the_bytes_of_a_journal_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, first: list[bytes], later: list[bytes]
) -> None:
    """Byte for byte what ``storage/io/journal_file.py`` writes, when it is begun and when it goes on."""
    path = tmp_path_factory.mktemp("journal") / "votes"
    disk = VirtualDisk("one", Pool())
    for journal in (create_journal(path, first), disk.create_journal("votes", first)):
        for record in later:
            journal.append(record)
        journal.close()
    assert disk.images["votes"] == path.read_bytes()


@given(st.lists(st.binary(max_size=20), max_size=4), st.integers(1, 4), st.integers(0, 2**32))
def test_power_never_takes_a_record_that_was_acknowledged(records: list[bytes], cuts: int, seed: int) -> None:
    """However often power fails before the next start, the tail is torn at most, and the journal goes on after it."""
    disk, draw = VirtualDisk("one", Pool()), random.Random(seed)
    journal = disk.create_journal("votes")
    for record in records:
        journal.append(record)
    for _ in range(cuts):
        disk.lose_power(draw)
    opened = disk.open().open_journal("votes")
    assert opened.state in (JournalState.CLEAN, JournalState.TORN_TAIL)
    assert opened.records == tuple(records)
    assert opened.journal is not None
    opened.journal.append(b"after")
    assert disk.open_journal("votes").records == (*records, b"after")
    assert read_journal(disk.images["votes"]).state is JournalState.CLEAN


def test_power_tears_some_journals_and_leaves_others() -> None:
    """Over a few seeds both are seen: the test above tests something."""
    states = set()
    for seed in range(20):
        disk = VirtualDisk("one", Pool())
        disk.create_journal("votes", [b"first"])
        disk.lose_power(random.Random(seed))
        states.add(disk.open_journal("votes").state)
    assert states == {JournalState.CLEAN, JournalState.TORN_TAIL}


def test_a_damaged_journal_is_not_gone_on_with() -> None:
    """Damage before the last frame means that the past is unknown, and the bytes are left as they are."""
    disk = VirtualDisk("one", Pool())
    journal = MemoryJournal()
    for record in (b"first", b"second", b"third"):
        journal.append(record)
    damaged = bytearray(journal.image)
    damaged[30] ^= 1
    disk.images["votes"] = bytes(damaged)
    opened = disk.open_journal("votes")
    assert (opened.state, opened.journal) == (JournalState.DAMAGED, None)
    assert disk.images["votes"] == bytes(damaged)


# -- the simulated one: rows and room -----------------------------------------------------------------------------------


def test_power_takes_rows_that_were_not_synced() -> None:
    """A durable write keeps those before it; later ones are gone. A mere end of the process takes none."""
    disk = VirtualDisk("one", Pool())
    disk.index.write(row(b"a", b"1"), durable=False)
    disk.index.write(row(b"b", b"2"))
    disk.index.write(row(b"c", LARGE), durable=False)
    disk.close()
    assert disk.open().index.get(b"c") == LARGE
    before = disk.index.bytes_used
    disk.lose_power(random.Random(1))
    rows = disk.open().index.scan(b"", limit=9)
    assert rows == [(b"a", b"1"), (b"b", b"2")]
    assert disk.index.bytes_used == before - len(b"c" + LARGE) == 4


def test_power_takes_files_that_were_not_synced() -> None:
    """They are whole, cut short or gone; those that were synced, or moved after that, are whole."""
    found = set()
    for seed in range(100):
        disk = VirtualDisk("peer-0000", Pool())
        disk.files.write("waited", [b"data"])
        for name in ("unsynced", "synced", "removed", "moved"):
            disk.files.write(name, [b"data"], durable=False)
        disk.files.sync("synced")
        disk.files.remove("removed")
        disk.files.move("moved", "away")
        disk.lose_power(random.Random(seed))
        assert disk.files.read("waited") == disk.files.read("synced") == b"data"
        assert disk.files.size("removed") is None
        found.add((disk.files.size("unsynced"), disk.files.size("away") == disk.files.size("unsynced")))
    assert {size for size, _ in found} == {None, 0, 1, 2, 3, 4}
    assert {equal for _, equal in found} == {True, False}
    with pytest.raises(FileNotFoundError):
        disk.files.sync("removed")


def test_a_full_disk_refuses_writes_and_nothing_else() -> None:
    """It raises what a real one raises; reading, removing, and opening a journal go on; with room everything does."""
    disk = VirtualDisk("one", Pool())
    disk.index.write(row(b"a", b"1"))
    disk.files.write("tiles/a", [LARGE])
    disk.files.write("tiles/b", [LARGE])
    journal = disk.create_journal("votes", [b"first"])
    image = disk.images["votes"]
    disk.is_full = True
    for write in (
        lambda: disk.index.write(row(b"b", b"2")),
        lambda: disk.files.write("tiles/c", [LARGE]),
        lambda: disk.create_journal("proposals"),
        lambda: disk.create_journal("votes", [b"anew"]),
        lambda: journal.append(b"second"),
    ):
        with pytest.raises(OSError, match="no space left") as refused:
            write()
        assert refused.value.errno == errno.ENOSPC
    assert disk.index.get(b"a") == b"1"
    assert disk.index.get(b"b") is None
    assert bytes(disk.files.read("tiles/a")) == LARGE
    assert disk.files.names("tiles") == ["tiles/a", "tiles/b"]
    disk.files.remove("tiles/b")
    disk.index.write(row(b"a", None))
    assert disk.images == {"votes": image}
    assert disk.open_journal("votes").records == (b"first",)
    disk.is_full = False
    disk.index.write(row(b"b", b"2"))
    disk.files.write("tiles/c", [LARGE])
    with pytest.raises(ValueError, match="closed"):  # after a failed write nobody knows what the disk has
        journal.append(b"second")
    again = disk.open_journal("votes").journal
    assert again is not None
    again.append(b"second")
    assert disk.open_journal("votes").records == (b"first", b"second")


@given(st.lists(st.tuples(st.binary(max_size=2), st.none() | st.binary(max_size=100), st.booleans()), max_size=20))
def test_rows_know_what_they_take(writes: list[tuple[bytes, bytes | None, bool]]) -> None:
    """The sum of keys and values, through overwriting, deleting and a loss of power."""
    disk = VirtualDisk("one", Pool())
    for key, value, durable in writes:
        disk.index.write(row(key, value), durable=durable)
    for _ in range(2):
        rows = disk.index.scan(b"", limit=99)
        assert disk.index.bytes_used == sum(len(key) + len(value) for key, value in rows)
        disk.lose_power(random.Random(1))


# -- the simulated one: what is shared ----------------------------------------------------------------------------------


def test_equal_bytes_are_kept_once() -> None:
    """In the whole world: two disks hold the same object, as rows and as files, and the pool finds it by its digest."""
    pool = Pool()
    one, other = VirtualDisk("one", pool), VirtualDisk("other", pool)
    for disk in (one, other):
        disk.files.write("tiles/a", [bytes(100), b"tail"])
        disk.index.write(row(b"k", bytes(100) + b"tail"))
    held = [one.files.read("tiles/a").obj, other.files.read("tiles/a").obj, one.index.get(b"k"), other.index.get(b"k")]
    assert all(each is held[0] for each in held)
    assert pool.find(blob_digest(bytes(100) + b"tail")) is held[0]
    assert pool.bytes_used == 104


def test_the_pool_finds_whatever_anybody_kept() -> None:
    """What was removed too, however small; not what nobody kept, nor the learner's own state."""
    pool = Pool()
    disk = VirtualDisk("one", pool)
    disk.files.write("blobs/a", [LARGE])
    disk.files.remove("blobs/a")
    disk.files.write("blobs/b", [LARGE[1:]])
    disk.files.write(OWN_FOLDER + "state", [LARGE + b"own"])
    found = [pool.find(blob_digest(data)) for data in (LARGE, LARGE[1:], LARGE + b"own", b"never")]
    assert found == [LARGE, LARGE[1:], None, None]


def test_one_disk_knows_nothing_of_another() -> None:
    """Bytes are shared, names are not; a path is one disk's own."""
    pool = Pool()
    one, other = VirtualDisk("one", pool), VirtualDisk("other", pool)
    one.files.write("tiles/a", [LARGE])
    assert other.files.size("tiles/a") is None
    assert one.name_of(one.path("tiles/a")) == "tiles/a"
    with pytest.raises(ValueError, match="other"):
        one.name_of(other.path("tiles/a"))
