"""A state by parts: what one node gives to another that knows its root from a certificate (chain.md 4).

A place in the tree of a sub-chain is named by its first bytes, as what stands below it is:

    prefix of H(key)   what is named                          its digest is
    none               the sub-chain                          a sub-root
    1 byte             a branch: 256 buckets in a row         the node 8 levels below the sub-root
    2 bytes            a bucket                               what ``protocol/state_proof.py`` says

Whoever knows the digest of a name checks what is below it: 256 digests must lead to it (``check_children``), and so must the
entries themselves (``check_entries``). So a state is fetched from the root down, from anybody, each part proved by itself as
soon as it is here; a part whose digest one has already need not be fetched, whichever state it was a part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
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
)
from protocol.merkle import merkle_root
from protocol.rejection import Reason, Rejected
from protocol.state_proof import (
    NO_ENTRIES,
    SubChain,
    bucket_digest,
    combine_roots,
    entry_leaf,
    key_digest,
    value_digest,
)

CHILDREN = 256  # of a sub-chain: its branches; of a branch: its buckets
DIGEST_BYTES = 32

# -- names ----------------------------------------------------------------------------------------------------------------

NameField = Annotated[bytes, Meta(min_length=1, max_length=3)]
"""One byte for the sub-chain, then the prefix."""


def split_name(name: bytes) -> tuple[SubChain, bytes]:
    """The sub-chain and the prefix of a name; raises ``Rejected(MALFORMED)``."""
    if not 1 <= len(name) <= 3 or name[0] >= len(SubChain):
        raise Rejected(Reason.MALFORMED, f"no part of a state is called {name.hex()}")
    return SubChain(name[0]), name[1:]


def children_of(name: bytes) -> list[bytes]:
    """The 256 names below one."""
    return [name + bytes([child]) for child in range(CHILDREN)]


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
    """Ask for the 256 digests below each name (of one byte or two), in the state of a checkpoint."""

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
    """256 digests for each name that was asked for."""

    digests: Annotated[
        tuple[Annotated[bytes, Meta(max_length=CHILDREN * DIGEST_BYTES)], ...],
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


def check_children(digests: bytes, parent: Digest) -> tuple[Digest, ...]:
    """The digests below a name whose digest is ``parent``; raises ``Rejected(BAD_PROOF)``."""
    children = tuple(Digest(digests[at : at + DIGEST_BYTES]) for at in range(0, len(digests), DIGEST_BYTES))
    if len(children) != CHILDREN or merkle_root(children) != parent:
        raise Rejected(Reason.BAD_PROOF, "the digests do not lead to the one above them")
    return children


def check_entries(name: bytes, entries: Sequence[StateEntry], expected: Digest) -> None:
    """Check that these are the entries below a name, all of them; raises ``Rejected(BAD_PROOF)``."""
    prefix = split_name(name)[1]
    places = [key_digest(entry.key) for entry in entries]
    if any(place[: len(prefix)] != prefix for place in places):
        raise Rejected(Reason.BAD_PROOF, f"an entry stands elsewhere than below {name.hex()}")
    if any(before >= after for before, after in pairwise(places)):
        raise Rejected(Reason.BAD_PROOF, f"the entries below {name.hex()} are not in order")
    leaves = (
        (place, entry_leaf(place, value_digest(entry.value))) for place, entry in zip(places, entries, strict=True)
    )
    if node_of_leaves(prefix, leaves) != expected:
        raise Rejected(Reason.BAD_PROOF, f"the entries below {name.hex()} do not lead to its digest")


def node_of_leaves(prefix: bytes, leaves: Iterable[tuple[Digest, Digest]]) -> Digest:
    """The digest of a prefix from what stands below it: (place, leaf), in ascending order of place."""
    if len(prefix) == 2:
        return _bucket_of_leaves([leaf for _, leaf in leaves])
    children = [EMPTY[len(prefix) + 1]] * CHILDREN
    for child, group in groupby(leaves, key=lambda each: each[0][len(prefix)]):
        children[child] = node_of_leaves(prefix + bytes([child]), group)
    return merkle_root(children)


def _bucket_of_leaves(leaves: Sequence[Digest]) -> Digest:
    return bucket_digest(len(leaves), merkle_root(leaves) if leaves else NO_ENTRIES)
