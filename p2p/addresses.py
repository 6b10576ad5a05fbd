"""Multiaddrs, as far as we use them: `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>/p2p/<peer id>`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from protocol.ids import TEXTS_REMEMBERED_MAX, PeerId, parse_peer, peer_text
from protocol.rejection import Reason, Rejected

ADDRESS_CHARACTERS_MAX: Final = 256
_UNSPECIFIED: Final = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where one peer listens."""

    family: str  # ip4, ip6, dns, dns4 or dns6
    host: str
    port: int
    peer: PeerId

    @property
    def transport_text(self) -> str:
        """Without the peer, as sockets are named."""
        return f"/{self.family}/{self.host}/tcp/{self.port}"

    def __str__(self) -> str:
        return f"{self.transport_text}/p2p/{peer_text(self.peer)}"


@lru_cache(TEXTS_REMEMBERED_MAX)
def parse_address(text: str) -> Address:
    """Raises `Rejected(BAD_ADDRESS)` with what is wrong. Good ones are remembered: every ping names some."""
    what = f"{text[:80]!r} is not /ip4/HOST/tcp/PORT/p2p/PEER"
    parts = text.split("/")
    if len(text) > ADDRESS_CHARACTERS_MAX or len(parts) != 7 or parts[0] or parts[3] != "tcp" or parts[5] != "p2p":
        raise Rejected(Reason.BAD_ADDRESS, what)
    family, host, port = parts[1], parts[2], parts[4]
    try:
        if family in ("ip4", "ip6"):
            host = str(ipaddress.ip_address(host))
            if (":" in host) != (family == "ip6"):
                raise ValueError
        elif family not in ("dns", "dns4", "dns6") or not host.isascii() or not host:
            raise ValueError
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError
    except ValueError:
        raise Rejected(Reason.BAD_ADDRESS, what) from None
    return Address(family, host, int(port), parse_peer(parts[6]))


def usable_addresses(texts: Iterable[str], peer: PeerId, seen_host: str | None) -> tuple[str, ...]:
    """What a peer says about itself, as far as it makes sense: its own id, and a host that can be dialled.

    A peer that listens on every interface says 0.0.0.0; then it is dialled where its connection came from.
    """
    usable: list[str] = []
    for text in texts:
        try:
            address = parse_address(text)
        except Rejected:
            continue
        if address.peer != peer:
            continue
        if address.host in _UNSPECIFIED:
            if seen_host is None or seen_host in _UNSPECIFIED:
                continue
            family = "ip6" if ":" in seen_host else "ip4"
            address = Address(family, seen_host, address.port, peer)
        usable.append(str(address))
    return tuple(dict.fromkeys(usable))
