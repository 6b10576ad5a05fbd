"""The state on disk: a row for each entry, in the order of the tree, so that any part of it is one run of rows.

    own_key("state", chain | H(key) | key)       -> the entry's canonical bytes
    own_key("fetched", name)                     -> the digest of a part that was fetched and proved, until all are there
    own_key("fetching")                          -> FetchRow: what is being fetched; while it is here, the state is not one

``chain | key`` is what ``consensus.state.changes_between`` calls a row; a name is that of ``protocol/state_sync.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final

from msgspec import Meta

from protocol.codec import Message, decode, encode
from protocol.ids import Digest, DigestField
from protocol.light_client import LightBlock
from protocol.limits import MIB
from protocol.state_proof import SubChain, key_digest
from protocol.state_sync import (
    BUCKET_NAME_BYTES,
    DIGEST_BYTES,
    EMPTY,
    StateEntry,
    bucket_name,
    children_of,
    leaves_of,
    node_of_leaves,
)
from storage.keys import own_key
from storage.kv import Batch, KeyValue, scan_all

STATE: Final = own_key("state")
_FETCHED: Final = own_key("fetched")
_FETCHING: Final = own_key("fetching")
_FETCH_ROW_BYTES_MAX: Final = 64 * MIB  # our own: years of boundaries
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


def store_changes(batch: Batch, changes: Iterable[tuple[bytes, Message | None]]) -> None:
    """Add to ``batch`` what a block changed."""
    for row, entry in changes:
        if entry is None:
            batch.delete(state_key(row))
        else:
            batch.put(state_key(row), encode(entry))


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
    return [node_of_leaves(child[1:], leaves_of(entries_below(index, child))) for child in children_of(name)]


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
    places: Sequence[Digest],
    digest: Digest,
) -> None:
    """Add to ``batch``: entries, with H(key) of each, in place of all that is below a name, with its digest.

    What is below a bucket is added to what is there instead, and says so: before the first of them the bucket was emptied.
    """
    if len(name) <= BUCKET_NAME_BYTES:
        for prefix in (STATE, _FETCHED):
            for key, _ in scan_all(index, prefix + name):
                batch.delete(key)
    else:
        batch.delete(_FETCHED + bucket_name(name))
    before = STATE + name[:1]
    for entry, place in zip(entries, places, strict=True):
        batch.put(before + place + entry.key, entry.value)
    batch.put(_FETCHED + name, digest)


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
    for key, _ in scan_all(index, STATE):
        batch.delete(key)
    end_fetch(index, batch)
    index.write(batch)
