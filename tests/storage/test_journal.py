"""A journal keeps every record that was acknowledged, and knows whether it does."""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.io.journal_file import create_journal, open_journal
from storage.journal import FRAME_BODY_BYTES_MAX, MAGIC, JournalState, MemoryJournal, frame, read_journal
from tests.room import no_room

appends = st.lists(st.lists(st.binary(max_size=12), max_size=3), max_size=5)


def image_of(groups: list[list[bytes]]) -> tuple[bytes, list[int]]:
    """A journal's bytes, and where each append ends."""
    journal, ends = MemoryJournal(), [len(MAGIC)]
    for group in groups:
        journal.append(*group)
        ends.append(len(journal.image))
    return journal.image, ends


def test_golden_journal(vector):
    """The bytes of three appends are those that an independent program wrote."""
    golden = vector("journal")
    groups = [[bytes.fromhex(record) for record in group] for group in golden["appends"]]
    assert image_of(groups)[0].hex() == golden["image"]
    assert read_journal(bytes.fromhex(golden["image"])).records == tuple(record for group in groups for record in group)


@given(appends)
def test_round_trip(groups):
    """Records come back in order, empty ones too."""
    contents = read_journal(image_of(groups)[0])
    assert contents.state is JournalState.CLEAN
    assert contents.records == tuple(record for group in groups for record in group)
    assert contents.frame_count == len(groups)


@given(appends, st.data())
def test_a_cut_anywhere_is_a_torn_tail(groups, data):
    """A journal cut at any byte keeps exactly the appends before the cut, each whole, and can be gone on with."""
    image, ends = image_of(groups)
    cut = data.draw(st.integers(len(MAGIC), len(image)))
    contents = read_journal(image[:cut])
    whole = sum(end <= cut for end in ends) - 1
    assert contents.records == tuple(record for group in groups[:whole] for record in group)
    assert contents.state is (JournalState.CLEAN if cut in ends else JournalState.TORN_TAIL)
    resumed = MemoryJournal(image[:cut])
    resumed.append(b"next")
    assert read_journal(resumed.image).records == (*contents.records, b"next")


@given(st.lists(st.lists(st.binary(max_size=12), max_size=3), min_size=2, max_size=5), st.data())
def test_damage_before_the_last_append_is_never_taken_for_a_torn_tail(groups, data):
    """Any bytes overwritten before an intact append give DAMAGED, however many records they span."""
    image, ends = image_of(groups)
    start = data.draw(st.integers(len(MAGIC), ends[-2] - 1))
    stop = data.draw(st.integers(start + 1, ends[-2]))
    bad = image[:start] + data.draw(st.binary(min_size=stop - start, max_size=stop - start)) + image[stop:]
    if bad == image:
        return
    contents = read_journal(bad)
    assert contents.state is JournalState.DAMAGED
    before = sum(end <= start for end in ends) - 1
    assert contents.records == tuple(record for group in groups[:before] for record in group)


@given(appends, st.data())
def test_a_torn_last_append_is_a_torn_tail_whatever_it_holds(groups, data):
    """Any change inside the last append loses that append and nothing else: pages of it may reach the disk in any order."""
    image, ends = image_of([*groups, [b"the last", b"records"]])
    at = data.draw(st.integers(ends[-2], len(image) - 1))
    bad = bytearray(image)
    bad[at] ^= data.draw(st.integers(1, 255))
    contents = read_journal(bytes(bad))
    assert contents.state is JournalState.TORN_TAIL
    assert contents.good_bytes == ends[-2]


def test_lost_and_repeated_appends_are_damage():
    """An append that is missing from the middle, or comes twice, is damage: each frame knows its number."""
    image, ends = image_of([[b"one"], [b"two"], [b"three"]])
    one, two, three = (image[start:end] for start, end in itertools.pairwise(ends))
    for frames in ([one, three], [two, three], [one, one], [one, two, one], [two, one]):
        assert read_journal(MAGIC + b"".join(frames)).state is JournalState.DAMAGED


def test_a_frame_whose_lengths_lie_is_damage():
    """A frame under a right checksum whose records do not add up was not written by us."""
    for bad in (struct.pack("<I", 9) + b"abc", b"ab"):
        checksum = zlib.crc32(bad, zlib.crc32(bytes(8)))
        contents = read_journal(MAGIC + struct.pack("<IIQ", len(bad), checksum, 0) + bad)
        assert (contents.state, contents.records) == (JournalState.DAMAGED, ())


@given(st.binary(max_size=200))
def test_noise_never_raises(noise):
    """Whatever the bytes are, reading them gives a state."""
    assert read_journal(noise).records == ()
    assert read_journal(MAGIC + noise).state in (JournalState.CLEAN, JournalState.TORN_TAIL, JournalState.DAMAGED)


def test_too_large_an_append_is_refused_before_it_is_written():
    """An append above the bound is a mistake of the caller."""
    with pytest.raises(ValueError, match="too many"):
        frame(0, [bytes(FRAME_BODY_BYTES_MAX)])


def test_file_round_trip(tmp_path: Path):
    """A journal file goes on where it ended, over several openings."""
    path = tmp_path / "votes.journal"
    assert open_journal(path).state is JournalState.MISSING
    journal = create_journal(path, [b"first"])
    for number in range(3):
        journal.append(b"%d" % number, b"again")
        assert journal.size_bytes == path.stat().st_size
        journal.close()
        opened = open_journal(path)
        assert opened.state is JournalState.CLEAN
        assert len(opened.records) == 1 + 2 * (number + 1)
        journal = opened.journal
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append(b"late")


@given(st.integers(1, 26))
def test_file_and_memory_hold_the_same_bytes(tmp_path_factory, lost):
    """The file is the image; a torn tail is cut off the file, and the next append takes its place."""
    path = tmp_path_factory.mktemp("journal") / "j"
    memory, journal = MemoryJournal(), create_journal(path)
    for group in ([b"a"], [b"bb", b""], [b"the torn"]):
        memory.append(*group)
        journal.append(*group)
    journal.close()
    assert path.read_bytes() == memory.image
    path.write_bytes(memory.image[:-lost])
    opened = open_journal(path)
    assert opened.state is JournalState.TORN_TAIL
    assert opened.records == (b"a", b"bb", b"")
    resumed = MemoryJournal(memory.image[:-lost])
    resumed.append(b"next")
    opened.journal.append(b"next")
    opened.journal.close()
    assert path.read_bytes() == resumed.image


def test_a_damaged_file_is_left_alone_and_begun_anew_with_a_record(tmp_path: Path):
    """Damage offers no journal to go on with; the new one says in its first record what happened, the old one is kept."""
    path = tmp_path / "j"
    journal = create_journal(path)
    journal.append(b"one")
    journal.append(b"two")
    journal.close()
    bad = bytearray(path.read_bytes())
    bad[len(MAGIC) + 20] ^= 1
    path.write_bytes(bad)
    opened = open_journal(path)
    assert (opened.state, opened.records, opened.journal) == (JournalState.DAMAGED, (), None)
    assert path.read_bytes() == bad
    create_journal(path, [b"past unknown before epoch 7"]).close()
    assert open_journal(path).records == (b"past unknown before epoch 7",)
    assert (tmp_path / "j.old").read_bytes() == bad


@pytest.mark.parametrize("image", [b"", b"NOCK", b"NOCKJRN2", b"\0" * 100])
def test_a_file_that_is_no_journal_is_damaged(tmp_path: Path, image):
    """A journal's name never stands for less than its magic, so anything else is damage."""
    (tmp_path / "j").write_bytes(image)
    assert open_journal(tmp_path / "j").state is JournalState.DAMAGED


def test_a_failed_append_closes_the_journal(tmp_path: Path):
    """After the disk refused once, nothing more is appended: nobody knows what it has."""
    journal = create_journal(tmp_path / "j")
    os.close(journal._descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        journal.append(b"x")


@pytest.mark.parametrize("room_bytes", range(0, 90, 7))
def test_a_full_disk_tears_at_most_what_was_not_acknowledged(tmp_path: Path, room_bytes: int):
    """Room for half a frame or for none: the append raises, and the next opening has what was acknowledged and goes on."""
    journal = create_journal(tmp_path / "j")
    journal.append(b"first")
    acknowledged = [b"first"]

    def append_on() -> None:
        for number in range(9):
            journal.append(b"record %d" % number)
            acknowledged.append(b"record %d" % number)

    with no_room(journal.size_bytes + room_bytes), pytest.raises(OSError, match="File too large"):
        append_on()
    opened = open_journal(tmp_path / "j")
    assert opened.records == tuple(acknowledged)
    assert opened.journal is not None
    opened.journal.append(b"on")
    opened.journal.close()
    assert open_journal(tmp_path / "j").records == (*acknowledged, b"on")


def test_a_journal_that_was_begun_with_records_does_not_lose_them_to_one_bit(tmp_path: Path) -> None:
    """A flip anywhere in them is damage, which forbids going on; it is never taken for a torn last write."""
    path = tmp_path / "votes.journal"
    create_journal(path, [b"floor", b"vote"]).close()
    whole = path.read_bytes()
    opened = open_journal(path)
    assert (opened.state, opened.records) == (JournalState.CLEAN, (b"floor", b"vote"))
    assert opened.journal is not None
    opened.journal.append(b"next")
    opened.journal.close()
    assert open_journal(path).records == (b"floor", b"vote", b"next")
    for at in range(whole.index(b"floor"), whole.index(b"vote") + 4):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert open_journal(path).state is JournalState.DAMAGED
