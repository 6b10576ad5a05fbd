"""The shape of the state and the proof of one entry, for whoever knows only the state root (chain.md 4).

    state root  = digest("nock/state-root/1", A, B, C, D, meta)      five sub-roots, one for each sub-chain
    sub-root    = Merkle root over 65,536 buckets                    protocol/merkle.py
    bucket      = digest("nock/state-bucket/1", count, entries)      entries: Merkle root over its entries; zeros for none
    entry leaf  = leaf(H(key) | H(value))                            in ascending order of H(key) within the bucket
    place       = the first 16 bits of H(key)

A proof of presence shows the key's entry. A proof of absence shows the entries between which the key would stand: two
neighbours, one at an end, none in an empty bucket. For one state there is exactly one proof for each key.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.digest import Domain, digest, domain_head, number
from protocol.ids import Digest, DigestField, Natural
from protocol.limits import STATE_BUCKETS
from protocol.merkle import check_merkle_proof, leaf_digest
from protocol.rejection import Reason, Rejected

BUCKET_LEVELS = STATE_BUCKETS.bit_length() - 1  # from a bucket up to its sub-root
NO_ENTRIES = Digest(bytes(32))
_KEY_HEAD = domain_head(Domain.STATE_KEY)
_VALUE_HEAD = domain_head(Domain.STATE_VALUE)


class SubChain(enum.IntEnum):
    """The five parts of the state, in the order in which the state root takes their roots."""

    A = 0  # meta-chain: versions of the model
    B = 1  # parameters and tiles
    C = 2  # ledger
    D = 3  # data sets
    META = 4  # what the rules themselves need


class ProvedEntry(Message, frozen=True):
    """One entry of a bucket with its path to the bucket's entries."""

    index: Natural
    key: DigestField  # H(key)
    value: DigestField  # H(value)
    path: Annotated[tuple[DigestField, ...], Meta(max_length=64)]


class StateProof(Message, frozen=True):
    """One bucket as far as one key is concerned, and its way to the state root."""

    count: Natural
    entries: DigestField
    shown: Annotated[tuple[ProvedEntry, ...], Meta(max_length=2)]
    path: Annotated[tuple[DigestField, ...], Meta(min_length=BUCKET_LEVELS, max_length=BUCKET_LEVELS)]
    sub_roots: Annotated[tuple[DigestField, ...], Meta(min_length=len(SubChain), max_length=len(SubChain))]


def key_digest(key: bytes) -> Digest:
    """H(key)."""
    return Digest(hashlib.sha256(_KEY_HEAD + len(key).to_bytes(8, "big") + key).digest())


def value_digest(value: bytes) -> Digest:
    """H(value), over the value's canonical bytes."""
    return Digest(hashlib.sha256(_VALUE_HEAD + len(value).to_bytes(8, "big") + value).digest())


def bucket_of(place: Digest) -> int:
    """The number of the bucket of H(key)."""
    return int.from_bytes(place[:2], "big")


def entry_leaf(place: Digest, value: Digest) -> Digest:
    """The Merkle leaf of one entry."""
    return leaf_digest(place + value)


def entry_leaves(entries: Iterable[tuple[bytes, bytes]]) -> list[tuple[Digest, Digest]]:
    """(place, leaf) of each (key, value), in their order: what the functions above give, at half the cost of calling them."""
    sha256, found = hashlib.sha256, []
    for key, value in entries:
        place = sha256(_KEY_HEAD + len(key).to_bytes(8, "big") + key).digest()
        held = sha256(_VALUE_HEAD + len(value).to_bytes(8, "big") + value).digest()
        found.append((Digest(place), Digest(sha256(b"\x00" + place + held).digest())))
    return found


def bucket_digest(count: int, entries: Digest) -> Digest:
    """The Merkle leaf of one bucket."""
    return digest(Domain.STATE_BUCKET, number(count), entries)


def combine_roots(sub_roots: Sequence[Digest]) -> Digest:
    """The state root of five sub-roots, in the order of ``SubChain``."""
    return digest(Domain.STATE_ROOT, *sub_roots)


def check_state_proof(proof: StateProof, root: Digest, chain: SubChain, key: bytes, value: bytes | None) -> None:
    """Check that ``key`` has ``value`` (canonical bytes; None: is absent) in ``chain`` of the state with ``root``.

    Raises ``Rejected(BAD_PROOF)``.
    """
    if combine_roots(proof.sub_roots) != root:
        raise Rejected(Reason.BAD_PROOF, "the sub-roots do not give the state root")
    place = key_digest(key)
    bucket = bucket_digest(proof.count, proof.entries)
    check_merkle_proof(bucket, bucket_of(place), STATE_BUCKETS, proof.path, proof.sub_roots[chain])
    for entry in proof.shown:
        check_merkle_proof(entry_leaf(entry.key, entry.value), entry.index, proof.count, entry.path, proof.entries)
    if value is not None:
        shown = [(entry.key, entry.value) for entry in proof.shown]
        if shown != [(place, value_digest(value))]:
            raise Rejected(Reason.BAD_PROOF, "the entry has another key or value")
    elif not _surrounds(proof, place):
        raise Rejected(Reason.BAD_PROOF, "the entries shown do not surround the key's place")


def _surrounds(proof: StateProof, place: Digest) -> bool:
    """Whether the entries shown leave no room for ``place``: it would stand between them, or beyond the end."""
    match proof.shown:
        case ():
            return proof.count == 0
        case (only,):
            before_first = only.index == 0 and place < only.key
            return before_first or (only.index == proof.count - 1 and only.key < place)
        case (left, right):
            return right.index == left.index + 1 and left.key < place < right.key
        case _:
            return False
