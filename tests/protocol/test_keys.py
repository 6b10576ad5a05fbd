"""Keys: signatures that only their key makes, and a check that hostile bytes cannot make raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.keys import KeyPair, begin_remembering, end_remembering, verify
from tests.strategies import key_pairs, seeds


@given(seeds, st.binary(max_size=64))
def test_a_signature_is_its_keys_and_its_messages(seed: bytes, message: bytes) -> None:
    """It verifies under that key for that message, and the same seed makes it again."""
    key = KeyPair.from_seed(seed)
    signature = key.sign(message)
    assert verify(key.public, message, signature)
    assert not verify(key.public, message + b"\0", signature)
    assert key.seed == seed
    assert KeyPair(seed).sign(message) == signature


@given(key_pairs, key_pairs)
def test_another_key_did_not_sign(one: KeyPair, other: KeyPair) -> None:
    """Two seeds, two keys."""
    assert verify(other.public, b"m", one.sign(b"m")) is (one.seed == other.seed)


@given(key_pairs, st.integers(0, 511))
def test_a_flipped_bit_of_a_signature_is_refused(key: KeyPair, bit: int) -> None:
    """In either half."""
    signature = bytearray(key.sign(b"m"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(key.public, b"m", bytes(signature))


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_hostile_bytes_never_raise(public: bytes, signature: bytes) -> None:
    """Keys that are no points and signatures of any length are simply false."""
    assert not verify(public, b"m", signature)
    assert not verify(public[:32].ljust(32, b"\0"), b"m", signature[:64].ljust(64, b"\0"))


def test_a_weak_key_signs_nothing() -> None:
    """A key of small order would verify one signature for every message."""
    weak = bytes([1]) + bytes(31)
    assert not verify(weak, b"m", weak + bytes(32))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_has_32_bytes(length: int) -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match="exactly 32 bytes"):
        KeyPair(bytes(length))


def test_a_key_never_prints_its_seed() -> None:
    """A log line or a traceback shows the public half."""
    key = KeyPair(b"s" * 32)
    assert key.public[:4].hex() in repr(key)
    assert key.seed.hex() not in repr(key)


@given(st.lists(st.tuples(key_pairs, st.binary(max_size=3), st.integers(0, 520), st.booleans()), max_size=6))
def test_remembering_changes_no_verdict(checks: list[tuple[KeyPair, bytes, int, bool]]) -> None:
    """True or false, asked for the first time or again, of good signatures and of those with a flipped bit or a cut end."""
    asked = []
    for key, message, bit, is_good in checks:
        signature = bytearray(key.sign(message))
        if not is_good:
            signature = signature[:-1] if bit >= 512 else signature
            signature[min(bit // 8, 62)] ^= 1 << bit % 8
        asked += [(key.public, message, bytes(signature)), (key.public[:31], message, bytes(signature))]
    without = [verify(*each) for each in asked]
    begin_remembering(4)  # fewer than are asked: what was forgotten is checked again
    try:
        assert [[verify(*each) for each in asked] for _ in range(2)] == [without] * 2
    finally:
        end_remembering()
    assert [verify(*each) for each in asked] == without


def test_remembering_may_be_nested_and_ended_too_often() -> None:
    """The last to begin ends first; an end without a beginning leaves the check as it is."""
    key = KeyPair(b"s" * 32)
    begin_remembering(1)
    begin_remembering(1)
    for _ in range(4):
        assert verify(key.public, b"m", key.sign(b"m"))
        assert not verify(key.public, b"n", key.sign(b"m"))
        end_remembering()
