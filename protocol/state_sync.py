"""A state by parts: what one node gives to another that knows its root from a certificate (chain.md 4).

A place in the tree of a sub-chain is named by its first bytes, as what stands below it is:

    prefix of H(key)   what is named                          its digest is
    none               the sub-chain                          a sub-root
    1 byte             a branch: 256 buckets in a row         the node 8 levels below the sub-root
    2 bytes            a bucket                               what ``protocol/state_proof.py`` says

A bucket may be larger than any answer: who grinds keys can fill one. So names go on below it, in the Merkle tree of its
entries, a byte for each 8 levels, counted from the leaves: the last byte names a run of 64 entries, which always fits, the byte
before it 256 runs, and so on. How many bytes there are follows from the number of entries, which the bucket's digest fixes.

Whoever knows the digest of a name checks what is below it: 256 digests must lead to it (``check_children``), and so must the
entries themselves (``check_entries``). So a state is fetched from the root down, from anybody, each part proved by itself as
soon as it is here; a part whose digest one has already need not be fetched, whichever state it was a part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.ids import Digest, DigestField, HeightField
from protocol.light_client import LightBlock, LightClientProof
from protocol.limits import (
    STATE_CHILDREN_PER_REQUEST_MAX,
    STATE_ENTRY_BYTES_MAX,
    STATE_NAMES_PER_REQUEST_MAX,
    STATE_PART_ENTRIES_MAX,
    STATE_RUN_ENTRIES,
)
from protocol.merkle import merkle_root
from protocol.rejection import Reason, Rejected
from protocol.state_proof import (
    NO_ENTRIES,
    SubChain,
    bucket_digest,
    combine_roots,
    entry_leaves,
)

CHILDREN = 256  # of a sub-chain: its branches; of a branch: its buckets
DIGEST_BYTES = 32
_COUNT_BYTES = 8
_PATH_BYTES_MAX = 4  # 2^38 entries in one bucket
BUCKET_NAME_BYTES = 3

# -- names ----------------------------------------------------------------------------------------------------------------

NameField = Annotated[bytes, Meta(min_length=1, max_length=BUCKET_NAME_BYTES + _PATH_BYTES_MAX)]
"""One byte for the sub-chain, then the prefix; for what is below a bucket, then its way."""


def split_name(name: bytes) -> tuple[SubChain, bytes]:
    """The sub-chain and the prefix of a name; raises ``Rejected(MALFORMED)``."""
    if not 1 <= len(name) <= BUCKET_NAME_BYTES + _PATH_BYTES_MAX or name[0] >= len(SubChain):
        raise Rejected(Reason.MALFORMED, f"no part of a state is called {name.hex()}")
    return SubChain(name[0]), name[1:BUCKET_NAME_BYTES]


def bucket_name(name: bytes) -> bytes:
    """The bucket in which what is named stands; the name itself where it is one, or stands above buckets."""
    return name[:BUCKET_NAME_BYTES]


def children_of(name: bytes, count: int = CHILDREN) -> list[bytes]:
    """The names below one: 256 above buckets."""
    return [name + bytes([child]) for child in range(count)]


@dataclass(frozen=True, slots=True)
class BucketShape:
    """How a bucket is cut: levels of its Merkle tree from an entry up to its run, and for each byte of a name."""

    run_levels: int
    child_levels: int


BUCKET_SHAPE = BucketShape(STATE_RUN_ENTRIES.bit_length() - 1, CHILDREN.bit_length() - 1)


@dataclass(frozen=True, slots=True)
class Span:
    """What a name at or below a bucket of ``count`` entries means: entries ``first`` up to, not including, ``stop``.

    Its digest is a node of the tree. Below it are ``children`` names, of ``child_entries`` each but for the last;
    a run has none.
    """

    first: int
    stop: int
    child_entries: int
    is_run: bool

    @property
    def children(self) -> int:
        return 0 if self.is_run else -(-(self.stop - self.first) // self.child_entries)

    @classmethod
    def of(cls, name: bytes, count: int, shape: BucketShape = BUCKET_SHAPE) -> Span:
        """Raises ``Rejected(MALFORMED)`` where a bucket of so many entries has nothing of this name."""
        levels = shape.run_levels + shape.child_levels
        while 1 << levels < count:
            levels += shape.child_levels
        node = 0
        for child in name[BUCKET_NAME_BYTES:]:
            node, levels = (node << shape.child_levels) + child, levels - shape.child_levels
        first = node << max(levels, 0)
        if levels < shape.run_levels or first >= count:
            raise Rejected(Reason.MALFORMED, f"a bucket of {count} entries has no {name.hex()}")
        is_run = levels == shape.run_levels
        child_entries = 1 if is_run else 1 << (levels - shape.child_levels)
        return cls(first, min(first + (1 << levels), count), child_entries, is_run)


def _empty_digests() -> tuple[Digest, ...]:
    bucket = bucket_digest(0, NO_ENTRIES)
    branch = merkle_root([bucket] * CHILDREN)
    return merkle_root([branch] * CHILDREN), branch, bucket


EMPTY = _empty_digests()
"""Digests of a sub-chain, a branch and a bucket without an entry: by the length of the prefix."""

# -- questions and answers ------------------------------------------------------------------------------------------------


class GetCheckpoint(Message, frozen=True, tag=1):
    """Ask for the way from a block that is trusted to the newest checkpoint; height 0 is the genesis."""

    trusted_height: HeightField


class GetTrusted(Message, frozen=True, tag=2):
    """Ask for a block by its height, to whom its digest was told by somebody whom the asker trusts."""

    height: HeightField


class GetChildren(Message, frozen=True, tag=3):
    """Ask for the digests below each name, in the state of a checkpoint."""

    height: HeightField
    names: Annotated[tuple[NameField, ...], Meta(min_length=1, max_length=STATE_CHILDREN_PER_REQUEST_MAX)]


class GetEntries(Message, frozen=True, tag=4):
    """Ask for the entries below each name, in the state of a checkpoint; as many as fit, in the order of the names."""

    height: HeightField
    names: Annotated[tuple[NameField, ...], Meta(min_length=1, max_length=STATE_NAMES_PER_REQUEST_MAX)]


StateRequest = GetCheckpoint | GetTrusted | GetChildren | GetEntries


class Checkpoint(Message, frozen=True):
    """The answer to ``GetCheckpoint``. Where the way is too long for one answer it ends before a checkpoint: ask on from there.

    ``sub_roots`` are those of the state after the last block of the proof; none where that is no checkpoint.
    """

    proof: LightClientProof
    sub_roots: Annotated[tuple[DigestField, ...], Meta(max_length=len(SubChain))]

    def check_roots(self, state_root: Digest) -> tuple[Digest, ...]:
        """The sub-roots, if they lead to the state root; raises ``Rejected(BAD_PROOF)``."""
        if len(self.sub_roots) != len(SubChain) or combine_roots(self.sub_roots) != state_root:
            raise Rejected(Reason.BAD_PROOF, "the sub-roots do not give the state root")
        return self.sub_roots


class Trusted(Message, frozen=True):
    """The answer to ``GetTrusted``: the block with its epoch's roster. The certificate is not looked at."""

    block: LightBlock


class Children(Message, frozen=True):
    """For each name that was asked for, the digests below it, 256 above buckets; before those of a bucket, how many entries."""

    digests: Annotated[
        tuple[Annotated[bytes, Meta(max_length=_COUNT_BYTES + CHILDREN * DIGEST_BYTES)], ...],
        Meta(min_length=1, max_length=STATE_CHILDREN_PER_REQUEST_MAX),
    ]


class StateEntry(Message, frozen=True):
    """One entry: its key in its sub-chain, its value's canonical bytes."""

    key: Annotated[bytes, Meta(min_length=1, max_length=256)]
    value: Annotated[bytes, Meta(max_length=STATE_ENTRY_BYTES_MAX)]


class Entries(Message, frozen=True):
    """For the first names that were asked for, their entries in ascending order of H(key).

    None: by themselves they are too much for an answer; ask for what is below. At least one name is answered.
    """

    parts: Annotated[
        tuple[Annotated[tuple[StateEntry, ...], Meta(max_length=STATE_PART_ENTRIES_MAX)] | None, ...],
        Meta(min_length=1, max_length=STATE_NAMES_PER_REQUEST_MAX),
    ]


# -- checking -------------------------------------------------------------------------------------------------------------


def check_children(digests: bytes, parent: Digest, count: int = CHILDREN) -> tuple[Digest, ...]:
    """The digests below a name whose digest is ``parent``; raises ``Rejected(BAD_PROOF)``."""
    children = tuple(Digest(digests[at : at + DIGEST_BYTES]) for at in range(0, len(digests), DIGEST_BYTES))
    if len(children) != count or merkle_root(children) != parent:
        raise Rejected(Reason.BAD_PROOF, "the digests do not lead to the one above them")
    return children


def pack_bucket(count: int, digests: Iterable[Digest]) -> bytes:
    """What ``Children`` says of a bucket."""
    return count.to_bytes(_COUNT_BYTES, "big") + b"".join(digests)


def check_bucket(
    name: bytes, data: bytes, parent: Digest, shape: BucketShape = BUCKET_SHAPE
) -> tuple[int, tuple[Digest, ...]]:
    """How many entries a bucket has, and the digests below it, from ``pack_bucket``; raises ``Rejected(BAD_PROOF)``."""
    count, digests = int.from_bytes(data[:_COUNT_BYTES], "big"), data[_COUNT_BYTES:]
    children = [Digest(digests[at : at + DIGEST_BYTES]) for at in range(0, len(digests), DIGEST_BYTES)]
    if not children or bucket_digest(count, merkle_root(children)) != parent:
        raise Rejected(Reason.BAD_PROOF, "the digests do not lead to the bucket's")
    if Span.of(name, count, shape).children != len(children):
        raise Rejected(Reason.BAD_PROOF, f"{len(children)} digests below a bucket of {count} entries")
    return count, tuple(children)


@dataclass(frozen=True, slots=True)
class CheckedEntries:
    """What proving entries has computed: (place, leaf) of each, and the digest of each bucket that is full of them, by name."""

    leaves: tuple[tuple[Digest, Digest], ...] = ()
    buckets: tuple[tuple[bytes, Digest], ...] = ()


def check_entries(name: bytes, entries: Sequence[StateEntry], expected: Digest) -> CheckedEntries:
    """Check that these are the entries below a name, all of them. Raises ``Rejected(BAD_PROOF)``."""
    prefix = split_name(name)[1]
    leaves = leaves_of(entries)
    if any(not place.startswith(prefix) for place, _ in (*leaves[:1], *leaves[-1:])):  # those between are in order
        raise Rejected(Reason.BAD_PROOF, f"an entry stands elsewhere than below {name.hex()}")
    if any(before[0] >= after[0] for before, after in pairwise(leaves)):
        raise Rejected(Reason.BAD_PROOF, f"the entries below {name.hex()} are not in order")
    buckets: dict[bytes, Digest] = {}
    if len(name) > BUCKET_NAME_BYTES:
        found = merkle_root([leaf for _, leaf in leaves]) if leaves else NO_ENTRIES
    else:
        buckets = buckets_of_leaves(name[:1], leaves)
        found = node_of_buckets(name, buckets)
    if found != expected:
        raise Rejected(Reason.BAD_PROOF, f"the entries below {name.hex()} do not lead to its digest")
    return CheckedEntries(tuple(leaves), tuple(buckets.items()))


def leaves_of(entries: Iterable[StateEntry]) -> list[tuple[Digest, Digest]]:
    """(place, leaf) of each entry, in their order."""
    return entry_leaves([(entry.key, entry.value) for entry in entries])


def buckets_of_leaves(chain: bytes, leaves: Iterable[tuple[Digest, Digest]]) -> dict[bytes, Digest]:
    """The digests of the buckets of a sub-chain that have entries, by name, from (place, leaf) in ascending order of place."""
    groups: dict[bytes, list[Digest]] = {}
    for place, leaf in leaves:
        groups.setdefault(place[: BUCKET_NAME_BYTES - 1], []).append(leaf)
    return {chain + prefix: bucket_digest(len(group), merkle_root(group)) for prefix, group in groups.items()}


def node_of_buckets(name: bytes, buckets: Mapping[bytes, Digest]) -> Digest:
    """The digest of a name from those of the buckets at or below it that have entries."""
    if len(name) == BUCKET_NAME_BYTES:
        return buckets.get(name, EMPTY[BUCKET_NAME_BYTES - 1])
    below: dict[bytes, dict[bytes, Digest]] = {}
    for bucket, found in buckets.items():
        below.setdefault(bucket[: len(name) + 1], {})[bucket] = found
    nothing = EMPTY[len(name)]
    return merkle_root(
        [node_of_buckets(child, below[child]) if child in below else nothing for child in children_of(name)]
    )
