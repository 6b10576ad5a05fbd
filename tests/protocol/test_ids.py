"""Identifiers: one text for a peer, the one that libp2p shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import PeerId, after, parse_hex32, parse_peer, peer_text, short, short_digest
from protocol.rejection import Reason, Rejected
from tests.strategies import peers


@given(peers)
def test_text_and_key_are_one_to_one(peer: PeerId) -> None:
    """A peer's text leads back to its key, begins like every Ed25519 peer id and ends with its short form."""
    text = peer_text(peer)
    assert parse_peer(text) == peer
    assert text.startswith("12D3KooW")
    assert len(text) == 52
    assert text.endswith(short(peer))
    assert len(short(peer)) == 6


@given(
    st.one_of(st.text(max_size=80), st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=80))
)
def test_any_other_text_is_refused(text: str) -> None:
    """With a reason that blames the user; nothing else is ever raised."""
    with pytest.raises(Rejected) as rejected:
        parse_peer(text)
    assert rejected.value.reason is Reason.BAD_ADDRESS


@given(peers, st.sampled_from(["1", " ", "\n", "0", "é"]), st.integers(0, 52))
def test_a_longer_spelling_is_refused(peer: PeerId, extra: str, place: int) -> None:
    """A character more, wherever it stands, is another peer or none."""
    text = peer_text(peer)
    with pytest.raises(Rejected):
        parse_peer(text[:place] + extra + text[place:])


def test_hexadecimal_of_another_length_or_alphabet_is_refused_by_name() -> None:
    """The sentence names what the user gave."""
    assert parse_hex32("0a" * 32, "the network id") == b"\n" * 32
    assert parse_hex32("0A" * 32, "the network id") == b"\n" * 32
    for wrong in ("", "0a" * 31, "0a" * 33, "zz" * 32, "0a " * 32, "0a" * 31 + "0", "é" * 64):
        with pytest.raises(Rejected, match="the network id must be 64 hexadecimal digits") as rejected:
            parse_hex32(wrong, "the network id")
        assert rejected.value.reason is Reason.BAD_ARGUMENT


def test_a_digest_prints_as_eight_digits() -> None:
    """Enough to tell digests apart in a log."""
    assert short_digest(bytes(range(32))) == "00010203"


@given(st.lists(peers), peers)
def test_a_ring_begins_behind_our_own_place(others: list[PeerId], me: PeerId) -> None:
    """First those above us, then those below, each in order; never ourselves."""
    found = after(me, others)
    assert sorted(found) == sorted(peer for peer in others if peer != me)
    assert found == sorted(found, key=lambda peer: (peer < me, peer))
