"""One hash: no two lists of parts and no two domains share a digest."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import Domain, blob_digest, digest, number

WORDS = [word for name, word in vars(Domain).items() if name.isupper()]


def test_every_domain_word_is_used_once_and_looks_alike() -> None:
    """A word is never given two meanings."""
    assert len(WORDS) > 15
    assert len(set(WORDS)) == len(WORDS)
    for word in WORDS:
        assert word.startswith("nock/")
        assert word.split("/")[2].isdigit()
        assert len(word) < 256


def test_a_digest_is_sha256_of_length_prefixed_parts() -> None:
    """The drawing at the top of the file, by hand."""
    by_hand = b"\x0bnock/blob/1" + (2).to_bytes(8, "big") + b"ab" + (0).to_bytes(8, "big")
    assert digest(Domain.BLOB, b"ab", b"") == hashlib.sha256(by_hand).digest()


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_other_parts_are_another_digest(one: list[bytes], other: list[bytes]) -> None:
    """Moving a byte over the border of two parts changes the digest."""
    assert (digest(Domain.BLOB, *one) == digest(Domain.BLOB, *other)) is (one == other)


@pytest.mark.parametrize("word", WORDS)
def test_a_domain_separates(word: str) -> None:
    """The same bytes under two words have two digests."""
    assert [other for other in WORDS if digest(other, b"x") == digest(word, b"x")] == [word]


@given(st.binary(max_size=64))
def test_a_view_has_the_digest_of_its_bytes(data: bytes) -> None:
    """Views of wider items count bytes, not items."""
    padded = data + bytes(-len(data) % 4)
    assert blob_digest(memoryview(data)) == blob_digest(data) == blob_digest(bytearray(data))
    assert blob_digest(memoryview(padded).cast("I")) == blob_digest(padded)


def test_a_number_has_eight_bytes_and_is_natural() -> None:
    """A negative or larger one is a bug of ours."""
    assert number(258) == b"\0\0\0\0\0\0\1\2"
    for wrong in (-1, 2**64):
        with pytest.raises(OverflowError):
            number(wrong)
