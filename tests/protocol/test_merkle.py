"""Merkle trees: a proof leads to the root from one leaf at one place, and from nothing else."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import Digest
from protocol.limits import PAGE_BYTES
from protocol.merkle import check_merkle_proof, leaf_digest, merkle_proof, merkle_proofs, merkle_root, page_leaves
from protocol.rejection import Reason, Rejected

counts = st.integers(1, 40)


def leaves_of(count: int) -> list[Digest]:
    return [leaf_digest(bytes([number])) for number in range(count)]


def refused(leaf: bytes, index: int, count: int, proof: tuple[bytes, ...], root: bytes) -> bool:
    """Whether the proof is refused, and then for the one reason that there is."""
    try:
        check_merkle_proof(Digest(leaf), index, count, [Digest(step) for step in proof], Digest(root))
    except Rejected as rejected:
        return rejected.reason is Reason.BAD_PROOF
    return False


def plain_root(leaves: list[Digest]) -> bytes:
    """RFC 9162, 2.1.1, by recursion: split at the largest power of two below the count."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + plain_root(leaves[:half]) + plain_root(leaves[half:])).digest()


@pytest.mark.parametrize("count", range(1, 40))
def test_the_root_is_that_of_rfc_9162(count: int) -> None:
    """Carrying the odd one up builds the same tree as splitting at powers of two."""
    assert merkle_root(leaves_of(count)) == plain_root(leaves_of(count))


@given(counts, st.data())
def test_every_leaf_has_a_proof_and_only_its_own(count: int, data: st.DataObject) -> None:
    """A proof holds for its leaf at its index, and for no other leaf and no other index."""
    leaves = leaves_of(count)
    index = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(-2, count + 2).filter(lambda number: number != index))
    proof, root = merkle_proof(leaves, index), merkle_root(leaves)
    assert not refused(leaves[index], index, count, proof, root)
    assert refused(leaves[index], other, count, proof, root)
    assert refused(leaf_digest(b"other"), index, count, proof, root)


@given(counts, st.data())
def test_a_flipped_bit_anywhere_is_refused(count: int, data: st.DataObject) -> None:
    """In the leaf, in any step of the proof, or in the root."""
    leaves = leaves_of(count)
    index = data.draw(st.integers(0, count - 1))
    parts = [leaves[index], merkle_root(leaves), *merkle_proof(leaves, index)]
    which, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    wounded: list[bytes] = list(parts)
    wounded[which] = bytes(value ^ (1 << bit % 8 if at == bit // 8 else 0) for at, value in enumerate(parts[which]))
    assert refused(wounded[0], index, count, tuple(wounded[2:]), wounded[1])


@given(counts, st.data())
def test_a_proof_of_another_length_is_refused(count: int, data: st.DataObject) -> None:
    """Its shape follows from index and count: shortened, extended and reordered proofs are refused."""
    leaves = leaves_of(count)
    index = data.draw(st.integers(0, count - 1))
    proof, root = merkle_proof(leaves, index), merkle_root(leaves)
    assert refused(leaves[index], index, count, (*proof, root), root)
    assert refused(leaves[index], index, count, (*proof, leaves[0]), root)
    if proof:
        assert refused(leaves[index], index, count, proof[:-1], root)
        assert refused(leaves[index], index, count, proof[1:], root)
    if len(proof) > 1:
        assert refused(leaves[index], index, count, proof[::-1], root)


def test_a_node_is_not_a_leaf() -> None:
    """The prefixes keep an inner node, or the two digests that it hashes, from being shown as a page."""
    leaves = leaves_of(4)
    inner = merkle_root(leaves[:2])
    assert leaf_digest(leaves[0] + leaves[1]) != inner
    assert refused(inner, 0, 4, merkle_proof(leaves, 0)[1:], merkle_root(leaves))


def test_a_tree_without_leaves_is_our_mistake() -> None:
    """Nobody's bytes lead here: a caller that asks for it has a bug."""
    with pytest.raises(ValueError, match="at least one leaf"):
        merkle_root([])
    assert refused(leaf_digest(b""), 0, 0, (), leaf_digest(b""))


@given(st.binary(max_size=100), st.integers(1, 40))
def test_pages_cover_the_data_in_order(data: bytes, page_bytes: int) -> None:
    """The last page may be short; there is none for no data."""
    pages = [data[start : start + page_bytes] for start in range(0, len(data), page_bytes)]
    assert page_leaves(memoryview(data), page_bytes) == [leaf_digest(page) for page in pages]


def test_a_page_has_64_kib() -> None:
    """One byte beyond a page makes a second leaf."""
    assert len(page_leaves(memoryview(bytes(PAGE_BYTES)))) == 1
    assert len(page_leaves(memoryview(bytes(PAGE_BYTES + 1)))) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 256])
def test_all_proofs_of_a_tree_are_the_proofs_of_its_leaves(count: int) -> None:
    """Made at once, from one tree."""
    leaves = [leaf_digest(number.to_bytes(2, "big")) for number in range(count)]
    assert merkle_proofs(leaves) == [merkle_proof(leaves, index) for index in range(count)]
