"""What a start makes of the vote journal (chain.md S6): which past is known, which is lost, and that a lost one stays lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.finality.signer import REFUSALS, JournalState
from node.disk import DirectoryJournals
from node.ground import _doubted_key, _open_votes
from storage.journal import MAGIC, frame
from storage.kv import Batch, KeyValue, MemoryKeyValue

FIRST, SECOND = frame(0, [b"first vote"]), frame(1, [b"second vote"])
WHOLE = MAGIC + FIRST + SECOND


def voted(path: Path) -> KeyValue:
    """The database of a directory that has voted, with a journal of two votes."""
    index = MemoryKeyValue()
    journal, records, state = _open_votes(DirectoryJournals(path.parent), index)
    assert journal is not None
    assert (records, state) == ((), JournalState.CLEAN)
    journal.append(b"first vote")
    journal.append(b"second vote")
    journal.close()
    assert path.read_bytes() == WHOLE
    return index


@pytest.mark.parametrize(
    ("image", "state", "votes"),
    [
        (WHOLE, JournalState.CLEAN, 2),
        (WHOLE[:-1], JournalState.TORN, 1),
        (WHOLE[: len(MAGIC + FIRST) + 1], JournalState.TORN, 1),
        (MAGIC + FIRST + b"\0" * 64, JournalState.TORN, 1),
        (None, JournalState.MISSING, 0),
        (b"", JournalState.DAMAGED, 0),
        (b"NOCKJRN0" + FIRST + SECOND, JournalState.DAMAGED, 0),
        (MAGIC + FIRST[:-1] + b"?" + SECOND, JournalState.DAMAGED, 0),
        (MAGIC + SECOND, JournalState.DAMAGED, 0),
        (MAGIC + FIRST[:9] + SECOND, JournalState.DAMAGED, 0),
    ],
    ids=[
        "whole",
        "cut",
        "cut in its length",
        "zeroes",
        "missing",
        "empty",
        "magic",
        "flipped",
        "lost first",
        "cut first",
    ],
)
def test_what_is_known_of_the_past(tmp_path: Path, image: bytes | None, state: JournalState, votes: int):
    """Only a last record may be torn; all else is an unknown past: nothing may be signed, now or at any later start."""
    path = tmp_path / "votes.journal"
    index = voted(path)
    path.unlink()
    if image is not None:
        path.write_bytes(image)
    journal, records, found = _open_votes(DirectoryJournals(path.parent), index)
    assert (found, len(records)) == (state, votes)
    assert (journal is None) == (found in REFUSALS)
    if journal is not None:
        journal.append(b"goes on")
        journal.close()
        assert _open_votes(DirectoryJournals(path.parent), index)[1] == (*records, b"goes on")
    else:
        assert (path.read_bytes() if path.exists() else None) == image
        assert _open_votes(DirectoryJournals(path.parent), index)[2] is state


def test_who_was_a_member_before_it_had_a_block_has_lost_its_journal(tmp_path: Path):
    """Its disk was another one: an empty journal is no proof that it never voted, now or at any later start."""
    index, journals = MemoryKeyValue(), DirectoryJournals(tmp_path)
    first, _, state = _open_votes(journals, index)
    assert first is not None
    assert state is JournalState.CLEAN
    first.close()
    batch = Batch()
    batch.put(_doubted_key(0), b"1")
    index.write(batch)
    for _ in range(2):
        assert _open_votes(journals, index) == (None, (), JournalState.MISSING)
    journals.create_journal("votes.journal", [b"no vote before epoch 3"]).close()
    journal, records, state = _open_votes(journals, index)
    assert journal is not None
    assert (records, state) == ((b"no vote before epoch 3",), JournalState.CLEAN)
    journal.close()


def test_every_state_is_asked_for_above():
    """The table has them all."""
    assert set(JournalState) == {JournalState.CLEAN, JournalState.TORN, *REFUSALS}


def test_a_journal_without_its_row_gets_one(tmp_path: Path):
    """A new database knows the journal from the next start on: lost later, it is missed.

    Databases are moved away when they are damaged, and the first start may have ended before it wrote the row.
    """
    path = tmp_path / "votes.journal"
    voted(path)
    index = MemoryKeyValue()
    journal, records, state = _open_votes(DirectoryJournals(path.parent), index)
    assert journal is not None
    assert (len(records), state) == (2, JournalState.CLEAN)
    journal.close()
    path.unlink()
    assert _open_votes(DirectoryJournals(path.parent), index)[2] is JournalState.MISSING
    assert not path.exists()


def test_a_crash_before_the_row_is_durable_leaves_a_journal_to_go_on_with(tmp_path: Path):
    """The journal comes first: whatever the crash leaves, the next start may vote."""
    path = tmp_path / "votes.journal"

    class Cut(MemoryKeyValue):
        def write(self, batch: Batch, *, durable: bool = True) -> None:
            raise OSError("the power failed")

    with pytest.raises(OSError, match="power"):
        _open_votes(DirectoryJournals(path.parent), Cut())
    journal, records, state = _open_votes(DirectoryJournals(path.parent), MemoryKeyValue())
    assert journal is not None
    assert (records, state) == ((), JournalState.CLEAN)
    journal.close()
