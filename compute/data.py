"""Data sets as shards of bytes, their validation split, and batches: pure functions that an auditor can repeat.

A corpus is many text files; `pack_corpus` lays them end to end, a NUL byte after each, and cuts the result into shards:

    file a | 00 | file b | 00 | file c ...        ->  shard 0 [0, 1 MiB)  shard 1 [1 MiB, 2 MiB)  ...

Each shard is looked at in chunks of 4 KiB. A chunk is validation data when the digest of (data-set root, shard, chunk)
falls below the manifest's share of its range: the root commits to the content, so nobody can choose the split without
choosing other data, and it is known from lengths alone, before a shard was fetched. Maximal runs of the other chunks
are training spans.

A window is `context` + 1 bytes: inputs and, one later, targets. A training window lies wholly within one training span,
so no batch ever sees a validation byte. Windows are drawn uniformly over all start positions of all spans: 64 bits of
SHAKE-128 times the number of positions, shifted right by 64. The bias of that is below positions / 2^64, under 10^-8
even for 64 GiB of text.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from protocol.digest import Domain, digest, number
from protocol.genesis import MILLION
from protocol.limits import DATASET_SHARD_BYTES_MAX
from protocol.rejection import Reason, Rejected

DOCUMENT_SEPARATOR = b"\x00"
"""Ends every document in a shard. NUL is in no text file; `compute.tokenizer` reads it as the END token."""

CHUNK_BYTES = 4096
"""The unit of the validation split. Large enough to hold several windows of a small model, small enough to mix."""

SPLIT_MICRO = 15_625
"""Share of chunks held out for validation, in millionths, unless the data set's manifest says another: one in 64."""

DRAW_BYTES = 8


class Window(NamedTuple):
    """`context` + 1 bytes of shard number `shard`, from byte `offset`."""

    shard: int
    offset: int


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive bytes [first, first + length) of one shard that lie on one side of the split."""

    shard: int
    first: int
    length: int


def pack_corpus(files: Iterable[bytes], shard_bytes: int = DATASET_SHARD_BYTES_MAX) -> list[bytes]:
    """Lay `files` end to end, a NUL after each, and cut into shards of `shard_bytes`; the last one may be shorter.

    Order and content decide every byte of the result. Raises Rejected(BAD_CORPUS) if nothing is left to pack.
    """
    packed = b"".join(text + DOCUMENT_SEPARATOR for text in files if text)
    if not packed:
        raise Rejected(Reason.BAD_CORPUS, "it holds no text")
    return [packed[first : first + shard_bytes] for first in range(0, len(packed), shard_bytes)]


def batch_windows(
    dataset_root: bytes,
    round: int,
    learner: bytes,
    step: int,
    batch_sequences: int,
    context: int,
    shard_lengths: Sequence[int],
    split_micro: int = SPLIT_MICRO,
) -> list[Window]:
    """The windows of one batch: a pure function of its arguments, uniform over the training data.

    `shard_lengths` are the bytes of every shard of the data set, in order. Raises Rejected(BAD_CORPUS) when no training
    span holds a window.
    """
    spans, ends = _training_spans(dataset_root, context + 1, tuple(shard_lengths), split_micro)
    positions = ends[-1]
    seed = digest(Domain.BATCH, dataset_root, number(round), learner, number(step))
    stream = hashlib.shake_128(seed).digest(DRAW_BYTES * batch_sequences)
    windows = []
    for first in range(0, len(stream), DRAW_BYTES):
        position = int.from_bytes(stream[first : first + DRAW_BYTES], "big") * positions >> 64
        index = bisect.bisect_right(ends, position)
        within = position - (ends[index - 1] if index else 0)
        windows.append(Window(spans[index].shard, spans[index].first + within))
    return windows


def validation_windows(
    dataset_root: bytes,
    window_count: int,
    context: int,
    shard_lengths: Sequence[int],
    split_micro: int = SPLIT_MICRO,
) -> list[Window]:
    """A fixed set of at most `window_count` windows, evenly spread over the validation chunks, no target counted twice.

    Raises Rejected(BAD_CORPUS) when the validation data is too small for a single window.
    """
    _, spans = split_spans(dataset_root, tuple(shard_lengths), split_micro)
    windows = [
        Window(span.shard, span.first + start) for span in spans for start in range(0, span.length - context, context)
    ]
    if not windows:
        raise Rejected(Reason.BAD_CORPUS, f"its validation part is too small for a window of {context + 1} bytes")
    count = min(window_count, len(windows))
    return [windows[index * len(windows) // count] for index in range(count)]


@lru_cache(maxsize=8)
def split_spans(
    dataset_root: bytes, shard_lengths: tuple[int, ...], split_micro: int = SPLIT_MICRO
) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """(training spans, validation spans) of a data set: together they are every byte of every shard, once.

    A chunk is validation data when the digest of its place is below `split_micro` of its range; when no chunk is (a
    tiny corpus), the one with the least digest is.
    """
    places = [(shard, first) for shard, length in enumerate(shard_lengths) for first in range(0, length, CHUNK_BYTES)]
    draws = [
        int.from_bytes(digest(Domain.SPLIT, dataset_root, number(shard), number(first // CHUNK_BYTES))[:8], "big")
        for shard, first in places
    ]
    threshold = max((split_micro << 64) // MILLION, min(draws, default=0) + 1)
    sides: tuple[list[Span], list[Span]] = ([], [])
    for (shard, first), draw in zip(places, draws, strict=True):
        side = sides[draw < threshold]
        length = min(CHUNK_BYTES, shard_lengths[shard] - first)
        if side and side[-1].shard == shard and side[-1].first + side[-1].length == first:
            side[-1] = Span(shard, side[-1].first, side[-1].length + length)
        else:
            side.append(Span(shard, first, length))
    return tuple(sides[0]), tuple(sides[1])


def tokens_of_windows(
    windows: Sequence[Window], context: int, shards: Sequence[bytes | memoryview]
) -> NDArray[numpy.uint8]:
    """The bytes of `windows` as an array (windows, context + 1)."""
    return numpy.stack([numpy.frombuffer(shards[shard], numpy.uint8, context + 1, offset) for shard, offset in windows])


@lru_cache(maxsize=8)
def _training_spans(
    dataset_root: bytes, window_bytes: int, shard_lengths: tuple[int, ...], split_micro: int
) -> tuple[tuple[Span, ...], tuple[int, ...]]:
    """Training spans that hold a window, and for each the number of window positions in it and all before it."""
    training, _ = split_spans(dataset_root, shard_lengths, split_micro)
    spans = tuple(span for span in training if span.length >= window_bytes)
    if not spans:
        raise Rejected(Reason.BAD_CORPUS, f"its training part is too small for a window of {window_bytes} bytes")
    return spans, tuple(accumulate(span.length - window_bytes + 1 for span in spans))
