"""Merkle trees over pages: SHA-256, leaves and nodes prefixed apart.

    leaf(page)       = SHA-256(0x00 | page)
    node(left,right) = SHA-256(0x01 | left | right)

A level of odd length carries its last digest up unchanged (as in RFC 9162), so a proof's shape follows from (index, count)
alone and needs no flags. The prefix keeps a node from being presented as a leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from protocol.ids import Digest
from protocol.limits import PAGE_BYTES
from protocol.rejection import Reason, Rejected


def leaf_digest(data: bytes | bytearray | memoryview) -> Digest:
    """The digest of one page."""
    hasher = hashlib.sha256(b"\x00")
    hasher.update(data)
    return Digest(hasher.digest())


def node_digest(left: bytes, right: bytes) -> Digest:
    """The digest of a node over its two children."""
    return Digest(hashlib.sha256(b"\x01" + left + right).digest())


def page_leaves(data: memoryview, page_bytes: int = PAGE_BYTES) -> list[Digest]:
    """The leaf digests of ``data`` cut in pages; the last page may be short."""
    flat = data.cast("B")
    return [leaf_digest(flat[start : start + page_bytes]) for start in range(0, flat.nbytes, page_bytes)]


def _levels(leaves: Sequence[Digest]) -> list[list[Digest]]:
    if not leaves:
        raise ValueError("a Merkle tree has at least one leaf")
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [node_digest(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def merkle_root(leaves: Sequence[Digest]) -> Digest:
    """The root over ``leaves`` (at least one)."""
    if not leaves:
        raise ValueError("a Merkle tree has at least one leaf")
    sha256, level = hashlib.sha256, leaves
    while len(level) > 1:
        pairs = iter(level)
        above = [Digest(sha256(b"\x01" + left + right).digest()) for left, right in zip(pairs, pairs, strict=False)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def merkle_proof(leaves: Sequence[Digest], index: int) -> tuple[Digest, ...]:
    """The siblings from leaf ``index`` up to the root."""
    return _siblings(_levels(leaves), index)


def _siblings(levels: Sequence[Sequence[Digest]], index: int) -> tuple[Digest, ...]:
    proof = []
    for level in levels[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        index //= 2
    return tuple(proof)


def merkle_proofs(leaves: Sequence[Digest]) -> list[tuple[Digest, ...]]:
    """What :func:`merkle_proof` gives for each leaf, from one tree: a proof by itself costs as much as the root."""
    levels = _levels(leaves)
    return [_siblings(levels, index) for index in range(len(leaves))]


def proof_root(leaf: Digest, index: int, count: int, proof: Sequence[Digest]) -> Digest:
    """The root to which ``proof`` leads from leaf number ``index`` of ``count``.

    Raises ``Rejected(BAD_PROOF)`` where it is too short or too long for that.
    """
    if not 0 <= index < count:
        raise Rejected(Reason.BAD_PROOF, f"leaf {index} of {count}")
    at, siblings = leaf, iter(proof)
    while count > 1:
        if index ^ 1 < count:
            sibling = next(siblings, None)
            if sibling is None:
                raise Rejected(Reason.BAD_PROOF, "too short")
            at = node_digest(sibling, at) if index % 2 else node_digest(at, sibling)
        index, count = index // 2, (count + 1) // 2
    if next(siblings, None) is not None:
        raise Rejected(Reason.BAD_PROOF, "too long")
    return at


def check_merkle_proof(leaf: Digest, index: int, count: int, proof: Sequence[Digest], root: Digest) -> None:
    """Check that ``leaf`` is number ``index`` of ``count`` under ``root``; raises ``Rejected(BAD_PROOF)``."""
    if proof_root(leaf, index, count, proof) != root:
        raise Rejected(Reason.BAD_PROOF, "does not lead to the root")
