"""A data directory of which a part is damaged or gone: nothing is deleted, nothing is signed twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.finality.signer import JournalState
from node.data_directory import DataDirectory
from node.disk import DirectoryDisk, DirectoryJournals
from node.ground import VOTES_FILE, _open_votes, reserve_sequences
from node.recovery_repair import ASIDE, check_keys_are_back, repair_directory
from protocol.rejection import Rejected
from storage.io.files import DirectoryBusy
from storage.io.rocks import RocksKeyValue
from storage.journal import MAGIC, frame
from storage.keys import own_key, unpack_u64
from storage.kv import Batch

NOW_MS = 1_800_000_000_000
VOTES = MAGIC + frame(0, [b"a vote"]) + frame(1, [b"another"])


@pytest.fixture
def places(tmp_path: Path) -> DataDirectory:
    """A directory in which a node has lived."""
    places = DataDirectory(tmp_path / "node")
    disk = DirectoryDisk(places)
    batch = Batch()
    for number in range(2000):
        batch.put(own_key("test", number.to_bytes(4, "big")), bytes(100))
    disk.index.write(batch)
    _open_votes(disk, disk.index)
    reserve_sequences(disk.index, 4096)
    disk.files.write("tiles/one", [b"a tile"])
    disk.index.reclaim(b"", b"\xff")  # into a table file
    disk.close()
    (places.journal / VOTES_FILE).write_bytes(VOTES)
    return places


def spoil(database: Path) -> None:
    """Flip a bit in every table file."""
    for path in database.glob("*.sst"):
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)


def read_sequence(places: DataDirectory) -> int:
    index = RocksKeyValue(places.database)
    raw = index.get(own_key("sequence"))
    index.close()
    return unpack_u64(raw or bytes(8))


def test_a_whole_directory_is_left_alone(places: DataDirectory) -> None:
    """Every row was read, and nothing was moved."""
    rows: list[int] = []
    assert repair_directory(places, NOW_MS, rows.append) == []
    assert rows[-1] >= 2000
    assert not (places.root / ASIDE).exists()
    assert read_sequence(places) == 4096


def test_a_damaged_database_goes_aside_with_what_it_knew(places: DataDirectory) -> None:
    """Votes stay as they are, and envelopes go on above every number that others may have seen."""
    spoil(places.database)
    found = repair_directory(places, NOW_MS)
    assert [(each.part, each.aside) for each in found] == [("db", "aside/1/db"), ("tiles", "aside/1/tiles")]
    assert "orrupt" in found[0].why
    assert (places.root / "aside/1/tiles/one").read_bytes() == b"a tile"
    assert (places.journal / VOTES_FILE).read_bytes() == VOTES
    assert read_sequence(places) == NOW_MS
    assert repair_directory(places, NOW_MS + 1) == []
    spoil(places.database)
    (places.database / "CURRENT").unlink()
    assert repair_directory(places, NOW_MS + 2)[0].aside == "aside/2/db"
    assert read_sequence(places) == NOW_MS + 2


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-*", "*.sst"])
def test_a_database_that_lacks_a_file_is_damaged(places: DataDirectory, name: str) -> None:
    """Whichever it is."""
    for path in places.database.glob(name):
        path.unlink()
    assert repair_directory(places, NOW_MS)[0].part == "db"
    assert read_sequence(places) == NOW_MS


def test_a_lost_disk_never_votes_by_mistake(tmp_path: Path) -> None:
    """An empty directory looks like that of a node that never voted; what repair leaves does not, at any start after it."""
    places = DataDirectory(tmp_path / "node")
    found = repair_directory(places, NOW_MS)
    assert [(each.part, each.aside) for each in found] == [(VOTES_FILE, ""), ("db", "")]
    for _ in range(2):
        index = RocksKeyValue(places.database)
        journal, records, state = _open_votes(DirectoryJournals(places.journal), index)
        index.close()
        assert (journal, records, state) == (None, (), JournalState.DAMAGED)


def test_damaged_votes_are_copied_and_stay_damaged(places: DataDirectory) -> None:
    """The copy is for people; in its place nothing begins anew that would forget what was signed."""
    damaged = MAGIC + frame(1, [b"not the first"])
    (places.journal / VOTES_FILE).write_bytes(damaged)
    (found,) = repair_directory(places, NOW_MS)
    assert (places.root / found.aside).read_bytes() == damaged
    assert (places.journal / VOTES_FILE).read_bytes() == damaged


def test_the_votes_of_a_fork_are_looked_for_as_well(places: DataDirectory) -> None:
    """A node that may have voted on it, and has no journal of that, does not begin one as if it never had."""
    assert [each.part for each in repair_directory(places, NOW_MS, fork=2)] == ["votes-2.journal"]
    index = RocksKeyValue(places.database)
    assert _open_votes(DirectoryJournals(places.journal), index, 2)[2] is JournalState.DAMAGED
    assert _open_votes(DirectoryJournals(places.journal), index, 1)[2] is JournalState.CLEAN
    index.close()


def test_a_directory_in_use_is_not_touched(places: DataDirectory) -> None:
    """The node that runs keeps it."""
    disk = DirectoryDisk(places)
    with pytest.raises(DirectoryBusy):
        repair_directory(places, NOW_MS)
    disk.close()


def test_without_keys_there_is_nothing_to_repair(places: DataDirectory) -> None:
    """The sentence says where they belong."""
    with pytest.raises(Rejected, match="keys"):
        check_keys_are_back(places)
