"""The state on disk: a row for each entry, in the order of the tree, so that any part of it is one run of rows.

    own_key("state", chain | H(key) | key)       -> the entry's canonical bytes
    own_key("bucket", name)                      -> the digest of a bucket that has entries
    own_key("fetched", name)                     -> the digest of a part that was fetched and proved, until all are there
    own_key("fetching")                          -> FetchRow: what is being fetched; while it is here, the state is not one

``chain | key`` is what ``consensus.state.changes_between`` calls a row; a name is that of ``protocol/state_sync.py``.

A node opens a state by the digests of its buckets, which lead to the state root, and reads the entries of a bucket when
somebody looks at it first: what is read is proved then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Annotated, Final

from msgspec import Meta

from consensus.state import State, StoredRow, open_state
from protocol.codec import Message, decode, encode
from protocol.ids import Digest, DigestField
from protocol.light_client import LightBlock
from protocol.limits import MIB
from protocol.rejection import Rejected
from protocol.state_proof import SubChain, key_digest
from protocol.state_sync import (
    BUCKET_NAME_BYTES,
    DIGEST_BYTES,
    EMPTY,
    CheckedEntries,
    StateEntry,
    bucket_name,
    buckets_of_leaves,
    check_entries,
    children_of,
    leaves_of,
    node_of_buckets,
)
from storage.keys import own_key
from storage.kv import Batch, DatabaseCorrupt, KeyValue, scan_all

STATE: Final = own_key("state")
_BUCKET: Final = own_key("bucket")
_FETCHED: Final = own_key("fetched")
_FETCHING: Final = own_key("fetching")
_FETCH_ROW_BYTES_MAX: Final = 64 * MIB  # our own: years of boundaries
NOT_THE_STATE: Final = (
    "The state in the database is not the one that its last block has: "
    "run `nocknode recovery repair`, which fetches it again from peers."
)
ON_ITS_WAY: Final = Digest(bytes(DIGEST_BYTES))
_PLACE_BYTES: Final = 1 + DIGEST_BYTES  # before an entry's key: sub-chain and H(key)


class FetchRow(Message, frozen=True):
    """The checkpoint whose state is being fetched: its block was proved to be final. ``way``: the boundaries that proved it."""

    block: LightBlock
    way: tuple[LightBlock, ...]
    sub_roots: Annotated[tuple[DigestField, ...], Meta(min_length=len(SubChain), max_length=len(SubChain))]


# -- entries --------------------------------------------------------------------------------------------------------------


def state_key(row: bytes) -> bytes:
    """Where the entry of ``chain | key`` is kept."""
    key = row[1:]
    return STATE + row[:1] + key_digest(key) + key


def store_changes(batch: Batch, changes: Iterable[tuple[bytes, Message | None]], after: State) -> None:
    """Add to ``batch`` what a block changed, and the digests that buckets have ``after`` it."""
    buckets: dict[bytes, Digest] = {}
    for row, entry in changes:
        at = state_key(row)
        if entry is None:
            batch.delete(at)
        else:
            batch.put(at, encode(entry))
        bucket = at[len(STATE) : len(STATE) + BUCKET_NAME_BYTES]
        if bucket not in buckets:
            buckets[bucket] = after.trees[row[0]].bucket_digest(row[1:])
    for bucket, found in buckets.items():
        if found == EMPTY[BUCKET_NAME_BYTES - 1]:
            batch.delete(_BUCKET + bucket)
        else:
            batch.put(_BUCKET + bucket, found)


def open_rows(index: KeyValue, root: Digest) -> State | None:
    """The state with this root, read when it is looked at; None where the digests that are here do not lead to it."""
    buckets = ((key[len(_BUCKET) :], Digest(value)) for key, value in scan_all(index, _BUCKET))
    return open_state(buckets, partial(_read_bucket, index), root)


def _read_bucket(index: KeyValue, name: bytes, bucket: Digest) -> Iterator[StoredRow]:
    """The entries of a bucket; raises ``DatabaseCorrupt`` where they are not those of its digest."""
    entries = tuple(entries_below(index, name))
    try:
        leaves = check_entries(name, entries, bucket).leaves
    except Rejected:
        raise DatabaseCorrupt(NOT_THE_STATE) from None
    return ((entry.key, entry.value, leaf) for entry, leaf in zip(entries, leaves, strict=True))


def count_buckets(index: KeyValue) -> None:
    """Compute the digests of all buckets from the entries that are here, and put right what differs; durable on return."""
    found: dict[bytes, Digest] = {}
    for chain in SubChain:
        name = bytes([chain])
        for child in children_of(name):
            found |= buckets_of_leaves(name, leaves_of(entries_below(index, child)))
    batch, kept = Batch(), {key[len(_BUCKET) :]: value for key, value in scan_all(index, _BUCKET)}
    for bucket in kept.keys() - found.keys():
        batch.delete(_BUCKET + bucket)
    for bucket, digest in found.items():
        if kept.get(bucket) != digest:
            batch.put(_BUCKET + bucket, digest)
    if batch:
        index.write(batch)


def scan_state(index: KeyValue, name: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Every ``chain | key`` below a name (none: the whole state) with its value, bucket after bucket."""
    at = len(STATE)
    for key, value in scan_all(index, STATE + name):
        yield key[at : at + 1] + key[at + _PLACE_BYTES :], value


def row_of_entry(name: bytes, key: bytes) -> bytes:
    """Where the entry of a key is kept that stands below a name."""
    return state_key(name[:1] + key)


def entries_below(index: KeyValue, name: bytes, *, start: bytes = b"") -> Iterator[StateEntry]:
    """The entries below a name, of a bucket or above, in ascending order of H(key); ``start``: from this row on."""
    at = len(STATE) + _PLACE_BYTES
    for key, value in scan_all(index, STATE + name, start=start):
        yield StateEntry(key[at:], value)


def digests_below(index: KeyValue, name: bytes) -> list[Digest]:
    """The 256 digests below a name, from the entries that are here."""
    chain = name[:1]
    return [
        node_of_buckets(child, buckets_of_leaves(chain, leaves_of(entries_below(index, child))))
        for child in children_of(name)
    ]


# -- while a state is fetched ---------------------------------------------------------------------------------------------


def find_fetch(index: KeyValue) -> FetchRow | None:
    """What is being fetched; None where the state is whole."""
    raw = index.get(_FETCHING)
    return None if raw is None else decode(FetchRow, raw, limit_bytes=_FETCH_ROW_BYTES_MAX)


def begin_fetch(index: KeyValue, row: FetchRow) -> None:
    """From now on the rows of the state are parts of one; durable on return.

    Those of a state that was whole until now are parts that were kept: whatever is the same in both need not be fetched.
    """
    batch = Batch()
    if find_fetch(index) is None:
        for chain in SubChain:
            name = bytes([chain])
            for child, digest in zip(children_of(name), digests_below(index, name), strict=True):
                if digest != EMPTY[1]:
                    batch.put(_FETCHED + child, digest)
    batch.put(_FETCHING, encode(row))
    index.write(batch)


def fetched_parts(index: KeyValue) -> dict[bytes, Digest]:
    """The parts that were kept, by their names."""
    return {key[len(_FETCHED) :]: Digest(value) for key, value in scan_all(index, _FETCHED)}


def keep_part(
    batch: Batch,
    index: KeyValue,
    name: bytes,
    entries: Sequence[StateEntry],
    checked: CheckedEntries,
    digest: Digest,
) -> None:
    """Add to ``batch``: entries that were proved in place of all that is below a name, with its digest.

    What is below a bucket is added to what is there instead, and says so: before the first of them the bucket was emptied. Its
    digest is the bucket's.
    """
    _clear_part(batch, index, name)
    for row, value in rows_of_part(name, entries, checked):
        batch.put(row, value)
    mark_part(batch, name, checked, digest)


def rows_of_part(name: bytes, entries: Sequence[StateEntry], checked: CheckedEntries) -> Iterator[tuple[bytes, bytes]]:
    """The rows of entries that were proved, in ascending order."""
    before = STATE + name[:1]
    return (
        (before + place + entry.key, entry.value) for entry, (place, _) in zip(entries, checked.leaves, strict=True)
    )


def expect_part(batch: Batch, index: KeyValue, name: bytes) -> None:
    """Add to ``batch``: whatever is below a name counts for nothing until ``mark_part``, as its rows come otherwise.

    After a crash in between, all or none of them are here, and the name has a digest that no part has.
    """
    _clear_part(batch, index, name)
    batch.put(_FETCHED + name, ON_ITS_WAY)


def mark_part(batch: Batch, name: bytes, checked: CheckedEntries, digest: Digest) -> None:
    """Add to ``batch``: the digests of a part whose rows are here."""
    buckets = checked.buckets if len(name) <= BUCKET_NAME_BYTES else ((bucket_name(name), digest),)
    for bucket, found in buckets:
        batch.put(_BUCKET + bucket, found)
    batch.put(_FETCHED + name, digest)


def _clear_part(batch: Batch, index: KeyValue, name: bytes) -> None:
    if len(name) > BUCKET_NAME_BYTES:
        batch.delete(_FETCHED + bucket_name(name))
        return
    for prefix in (STATE, _BUCKET, _FETCHED):
        for key, _ in scan_all(index, prefix + name):
            batch.delete(key)


def keep_split(batch: Batch, name: bytes, digests: Sequence[Digest]) -> None:
    """Add to ``batch``: the digests below a name in place of its own."""
    batch.delete(_FETCHED + name)
    for child, digest in zip(children_of(name), digests, strict=True):
        batch.put(_FETCHED + child, digest)


def end_fetch(index: KeyValue, batch: Batch) -> None:
    """Add to ``batch`` that the state is whole."""
    for key, _ in scan_all(index, _FETCHED):
        batch.delete(key)
    batch.delete(_FETCHING)


def forget_state(index: KeyValue) -> None:
    """Remove the state, whole or not: the next one begins with nothing. Durable on return."""
    batch = Batch()
    for prefix in (STATE, _BUCKET):
        for key, _ in scan_all(index, prefix):
            batch.delete(key)
    end_fetch(index, batch)
    index.write(batch)
