"""Blobs are found by their digest, whole and right, or not at all."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import blob_digest
from protocol.ids import Digest
from protocol.rejection import Reason, Rejected
from storage.blobs import INLINE_BYTES_MAX, blob_file_name, blob_of_file_name
from storage.files import MemoryFiles, PowerCut
from storage.io.blob_store import BlobStore
from storage.keys import INLINE_BLOB, blob_key
from storage.kv import Batch, MemoryKeyValue

SMALL, EDGE, LARGE = b"small", b"e" * INLINE_BYTES_MAX, b"l" * (INLINE_BYTES_MAX + 1)


def test_put_and_find(files, index):
    """Blobs of every size come back read-only under their digest, also after a restart; putting again changes nothing."""
    store = BlobStore(files, index)
    names = store.put_many([SMALL, EDGE, LARGE, b"", SMALL])
    assert names == [blob_digest(data) for data in (SMALL, EDGE, LARGE, b"", SMALL)]
    assert store.put(LARGE) == names[2]
    for again in (store, BlobStore(files, index)):
        for data in (SMALL, EDGE, LARGE, b""):
            found = again.find(blob_digest(data))
            assert found == data
            assert found.readonly
            assert again.size(blob_digest(data)) == len(data)
        assert again.names() == sorted(set(names))
        assert again.bytes_used == len(SMALL) + len(EDGE) + len(LARGE)
    assert files.names("blobs") == [blob_file_name(blob_digest(LARGE))]


def test_absent_blobs(files, index):
    """What is not kept is ``None``, and deleting it is no error."""
    store, name = BlobStore(files, index), Digest(bytes(32))
    store.delete(name)
    assert (store.find(name), store.has(name), store.size(name)) == (None, False, None)


def test_delete(files, index):
    """A deleted blob is gone, after a restart too; a view of it stays valid."""
    store = BlobStore(files, index)
    names = store.put_many([SMALL, LARGE])
    view = store.find(names[1])
    store.delete(*names, names[0])
    for again in (store, BlobStore(files, index)):
        assert (again.names(), again.bytes_used) == ([], 0)
    assert files.names("blobs") == []
    assert view == LARGE


def test_a_changed_file_is_found_removed_and_can_be_put_again(files, index, damage):
    """A flipped bit is ``Rejected(BLOB_CORRUPT)`` at the first read; after a new put all is well."""
    name = BlobStore(files, index).put(LARGE)
    damage(files, blob_file_name(name), 70)
    store = BlobStore(files, index)
    with pytest.raises(Rejected, match=name.hex()[:16]) as caught:
        store.find(name)
    assert caught.value.reason is Reason.BLOB_CORRUPT
    assert not store.has(name)
    assert store.statistics().corrupt_count == 1
    store.put(LARGE)
    assert store.find(name) == LARGE


@pytest.mark.parametrize("length", [None, 0, 5, INLINE_BYTES_MAX])
def test_a_file_gone_or_cut_short_is_corrupt(files, index, cut_short, length):
    """A file that lost bytes, or is gone, is corrupt like any other change."""
    store = BlobStore(files, index)
    name = store.put(LARGE)
    if length is None:
        files.remove(blob_file_name(name))
    else:
        cut_short(files, blob_file_name(name), length)
    with pytest.raises(Rejected):
        store.find(name)
    assert store.find(name) is None


def test_a_changed_row_is_corrupt(files, index):
    """Rows are checked against their name as files are."""
    name = BlobStore(files, index).put(SMALL)
    batch = Batch()
    batch.put(blob_key(INLINE_BLOB, name), b"smalL")
    index.write(batch)
    with pytest.raises(Rejected):
        BlobStore(files, index).find(name)


def test_another_thread_may_read_and_changes_nothing(files, index):
    """What is wrong is refused, each time, and removed by whoever owns the store."""
    store = BlobStore(files, index)
    names = store.put_many([SMALL, LARGE])
    assert [store.read(name) for name in (*names, blob_digest(b"another"))] == [SMALL, LARGE, None]
    batch = Batch()
    batch.put(blob_key(INLINE_BLOB, names[0]), b"smalL")
    index.write(batch)
    for _ in range(2):
        with pytest.raises(Rejected):
            store.read(names[0])
    assert store.has(names[0])
    assert store.statistics().corrupt_count == 0


def test_files_of_no_blob_are_swept(files, index):
    """A file whose put never returned, or that is no blob's, is gone after a restart."""
    files.write(blob_file_name(blob_digest(LARGE)), [LARGE])
    files.write("blobs/zz/stray", [b"x"])
    files.write("blobs/zz/" + "ab" * 32, [b"x"])
    store = BlobStore(files, index)
    assert files.names("blobs") == []
    assert store.names() == []


@given(
    st.lists(st.sampled_from([SMALL, EDGE, LARGE, LARGE + b"2"]), min_size=1, max_size=4),
    st.integers(0, 20),
    st.integers(),
)
def test_power_cut_in_the_middle_of_puts(blobs, steps, seed):
    """After a power cut at any step every blob that was acknowledged is found, and every blob that is listed is right."""
    files, index, acknowledged = MemoryFiles(), MemoryKeyValue(), []
    store = BlobStore(files, index)
    files.cut_power_after(steps)
    with contextlib.suppress(PowerCut):
        acknowledged.extend((store.put(data), data) for data in blobs)
    index.crash()
    files = files.after_power_cut(random.Random(seed))
    files.sweep()
    store = BlobStore(files, index)
    for name, data in acknowledged:
        assert store.find(name) == data
    for name in store.names():
        assert blob_digest(store.find(name)) == name
    assert {blob_of_file_name(name) for name in files.names("blobs")} <= set(store.names())
