"""Multiaddrs: what is one of ours, and what a peer may say about itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.addresses import parse_address, usable_addresses
from protocol.ids import PeerId, peer_text
from protocol.keys import KeyPair
from protocol.rejection import Reason, Rejected

ME = PeerId(KeyPair.from_seed(b"k" * 32).public)
OTHER = PeerId(KeyPair.from_seed(b"o" * 32).public)


@pytest.mark.parametrize("host", ["/ip4/127.0.0.1", "/ip6/::1", "/dns/node.example", "/dns4/a", "/dns6/b"])
def test_an_address_comes_back(host):
    """Text to value and back is the identity."""
    text = f"{host}/tcp/4001/p2p/{peer_text(ME)}"
    address = parse_address(text)
    assert str(address) == text
    assert (address.port, address.peer) == (4001, ME)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1/tcp/4001",
        f"/ip4/127.0.0.256/tcp/4001/p2p/{peer_text(ME)}",
        f"/ip4/::1/tcp/4001/p2p/{peer_text(ME)}",
        f"/ip4/127.0.0.1/udp/4001/p2p/{peer_text(ME)}",
        f"/ip4/127.0.0.1/tcp/0/p2p/{peer_text(ME)}",
        f"/ip4/127.0.0.1/tcp/65536/p2p/{peer_text(ME)}",
        "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWnobody",
        f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_text(ME)}" + "/" * 300,
    ],
)
def test_what_is_not_an_address_is_refused(text):
    """Each mistake is BAD_ADDRESS."""
    with pytest.raises(Rejected) as caught:
        parse_address(text)
    assert caught.value.reason is Reason.BAD_ADDRESS


@given(st.text(max_size=80))
def test_hostile_addresses_are_only_ever_rejected(text):
    """Any text is an address or a Rejected."""
    with pytest.raises(Rejected):
        parse_address(text)


def test_a_peer_speaks_for_itself_only():
    """Addresses of others, and junk, are left out of what a peer says about itself."""
    mine = f"/ip4/10.0.0.1/tcp/1/p2p/{peer_text(ME)}"
    assert usable_addresses([mine, mine, "junk", f"/ip4/10.0.0.1/tcp/1/p2p/{peer_text(OTHER)}"], ME, None) == (mine,)


def test_every_interface_means_where_it_was_seen():
    """0.0.0.0 is replaced by the host that the connection came from; unknown, it is left out."""
    everywhere = f"/ip4/0.0.0.0/tcp/4001/p2p/{peer_text(ME)}"
    assert usable_addresses([everywhere], ME, "10.1.2.3") == (f"/ip4/10.1.2.3/tcp/4001/p2p/{peer_text(ME)}",)
    assert usable_addresses([everywhere], ME, "::1") == (f"/ip6/::1/tcp/4001/p2p/{peer_text(ME)}",)
    assert usable_addresses([everywhere], ME, None) == ()
