"""Batches are a pure function of their names and never show a validation byte."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.data import (
    CHUNK_BYTES,
    batch_windows,
    pack_corpus,
    split_spans,
    tokens_of_windows,
    validation_windows,
)
from compute.io.corpus import read_corpus
from protocol.rejection import Reason, Rejected

roots = st.binary(min_size=32, max_size=32)
lengths = st.lists(st.integers(1, 300_000), min_size=1, max_size=5).filter(lambda found: sum(found) > 40 * CHUNK_BYTES)
contexts = st.integers(1, 512)


@given(roots, lengths)
def test_the_split_covers_every_byte_once(root, shard_lengths):
    """Training and validation spans are disjoint and together all shards."""
    training, validation = split_spans(root, tuple(shard_lengths))
    assert validation
    spans = sorted((*training, *validation), key=lambda span: (span.shard, span.first))
    ends = [0] * len(shard_lengths)
    for span in spans:
        assert span.first == ends[span.shard]
        ends[span.shard] += span.length
    assert ends == shard_lengths


@given(roots, lengths, contexts, st.integers(0, 1000), st.integers(0, 100), st.integers(1, 40))
def test_training_windows_never_touch_a_validation_chunk(root, shard_lengths, context, round, step, batch_sequences):
    """Nor do they leave their shard."""
    _, validation = split_spans(root, tuple(shard_lengths))
    windows = batch_windows(root, round, b"learner", step, batch_sequences, context, shard_lengths)
    assert len(windows) == batch_sequences
    for shard, offset in windows:
        assert offset >= 0
        assert offset + context + 1 <= shard_lengths[shard]
        for span in validation:
            assert span.shard != shard or offset + context < span.first or offset >= span.first + span.length


@given(roots, lengths, contexts)
def test_validation_windows_lie_in_validation_chunks_and_count_no_target_twice(root, shard_lengths, context):
    """The set is fixed: asking for fewer windows gives windows of the same kind."""
    _, validation = split_spans(root, tuple(shard_lengths))
    if max(span.length for span in validation) <= context:
        return
    windows = validation_windows(root, 50, context, shard_lengths)
    targets = [(shard, offset + 1 + index) for shard, offset in windows for index in range(context)]
    assert len(set(targets)) == len(targets)
    for shard, offset in windows:
        assert any(
            span.shard == shard and span.first <= offset and offset + context < span.first + span.length
            for span in validation
        )


def test_a_batch_is_a_function_of_its_names():
    """Equal names give equal windows; root, round, learner and step each change them."""
    names = (bytes(32), 3, b"a" * 32, 7)
    arguments = (4, 64, [500_000, 300_000])
    expected = batch_windows(*names, *arguments)
    assert batch_windows(*names, *arguments) == expected
    for index, other in enumerate((b"\x01" * 32, 4, b"b" * 32, 8)):
        changed = (*names[:index], other, *names[index + 1 :])
        assert batch_windows(*changed, *arguments) != expected


def test_windows_are_spread_over_all_training_data():
    """Each quarter of the data gets about a quarter of 4,000 windows."""
    starts = [
        shard * 1_000_000 + offset
        for step in range(40)
        for shard, offset in batch_windows(bytes(32), 0, b"x", step, 100, 128, [1_000_000, 1_000_000])
    ]
    counts, _ = numpy.histogram(starts, bins=4, range=(0, 2_000_000))
    assert all(800 < count < 1200 for count in counts)


def test_about_one_chunk_in_64_is_held_out():
    """Counted over 40 MB."""
    _, validation = split_spans(bytes(32), (1_000_000,) * 40)
    share = sum(span.length for span in validation) / 40_000_000
    assert 0.010 < share < 0.022
    _, validation = split_spans(bytes(32), (1_000_000,) * 4, split_micro=500_000)
    assert 0.4 < sum(span.length for span in validation) / 4_000_000 < 0.6


def test_packing_keeps_every_byte_and_ends_each_document_with_nul():
    """Shards are full but the last."""
    shards = pack_corpus([b"alpha", b"", b"beta"], shard_bytes=4)
    assert shards == [b"alph", b"a\x00be", b"ta\x00"]


def test_windows_become_rows_of_bytes():
    """Row i is the bytes of window i."""
    rows = tokens_of_windows([(0, 1), (1, 0)], 2, [b"abcd", memoryview(b"xyz")])
    assert rows.tobytes() == b"bcdxyz"
    assert rows.shape == (2, 3)


def test_too_little_data_is_the_users_mistake():
    """A corpus without a window says so."""
    for function in (
        lambda: batch_windows(bytes(32), 0, b"", 0, 1, 5000, [4096 * 2]),
        lambda: validation_windows(bytes(32), 1, 5000, [4096 * 2]),
        lambda: pack_corpus([]),
    ):
        with pytest.raises(Rejected) as refused:
            function()
        assert refused.value.reason is Reason.BAD_CORPUS


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    """Hidden files, binaries and empty files are left out."""
    text = b"x" * 20_000
    (tmp_path / "b.txt").write_bytes(b"B" + text)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.txt").write_bytes(b"C" + text)
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden").write_bytes(text)
    (tmp_path / "binary").write_bytes(b"\x00\xff" * 10_000)
    assert [found[:1] for found in read_corpus(tmp_path)] == [b"C", b"B"]


def test_an_unusable_corpus_is_refused_with_the_path(tmp_path):
    """Missing, too small and binary files each get a sentence."""
    (tmp_path / "small.txt").write_bytes(b"too small")
    (tmp_path / "binary.bin").write_bytes(b"\xff\xfe" * 50_000)
    for name in ("missing", "small.txt", "binary.bin"):
        with pytest.raises(Rejected, match=name) as refused:
            read_corpus(tmp_path / name)
        assert refused.value.reason is Reason.BAD_CORPUS


def test_the_standard_library_is_a_corpus():
    """Megabytes of text, the same on a second reading, without installed packages."""
    texts = read_corpus()
    assert sum(map(len, texts)) > 4_000_000
    assert texts == read_corpus()
