"""Addresses as people type them, checked before anything is opened.

/ip4/127.0.0.1/tcp/4001                     where to listen
/dns4/home.example.org/tcp/4001             what to tell others instead, where that is not how they reach us
/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...     whom to dial: only with the peer id can we know who answers
127.0.0.1:0                                 the HTTP API; port 0 lets the system choose
https://chat.example.org                    an origin whose pages may call it
"""

from __future__ import annotations

import ipaddress
import re

from p2p.addresses import Address, parse_address
from protocol.ids import PeerId, peer_text
from protocol.rejection import Reason, Rejected

EXAMPLE = "/ip4/127.0.0.1/tcp/4001"
_ANYBODY = peer_text(PeerId(bytes(32)))
_LISTEN = re.compile(r"/(ip4|ip6)/([0-9a-fA-F.:]{2,45})/tcp/([0-9]{1,5})", re.ASCII)


def check_listen_address(text: object) -> str:
    """A multiaddr to listen on; raises ``Rejected(BAD_ADDRESS)``."""
    shown = str(text)[:100]
    if "/p2p/" in shown:
        raise Rejected(Reason.BAD_ADDRESS, f"{shown!r} names a peer; listen on an address alone, such as {EXAMPLE}")
    match = _LISTEN.fullmatch(text) if isinstance(text, str) else None
    try:
        if match is None or int(match[3]) > 65_535:
            raise ValueError
        ipaddress.IPv4Address(match[2]) if match[1] == "ip4" else ipaddress.IPv6Address(match[2])
    except ValueError:
        raise Rejected(Reason.BAD_ADDRESS, f"{shown!r} is no address to listen on, such as {EXAMPLE}") from None
    return match[0]


def check_announced_address(text: object) -> str:
    """A multiaddr at which others reach us, without our id, in its canonical form; raises ``Rejected(BAD_ADDRESS)``."""
    shown = str(text)[:100]
    if "/p2p/" in shown:
        raise Rejected(Reason.BAD_ADDRESS, f"{shown!r} names a peer; announce an address alone, such as {EXAMPLE}")
    try:
        return parse_address(f"{text}/p2p/{_ANYBODY}").transport_text
    except Rejected:
        raise Rejected(Reason.BAD_ADDRESS, f"{shown!r} is no address to announce, such as {EXAMPLE}") from None


def check_peer_address(text: object) -> str:
    """A multiaddr to dial, peer id included, in its canonical form; raises ``Rejected(BAD_ADDRESS)``."""
    return str(parse_peer_address(text))


def parse_peer_address(text: object) -> Address:
    """The parts of a dialable address; raises ``Rejected(BAD_ADDRESS)``."""
    shown = str(text)
    if "/p2p/" not in shown and _LISTEN.fullmatch(shown):
        raise Rejected(
            Reason.BAD_ADDRESS,
            f"{shown!r} lacks the peer id; the node you join prints its whole address, {EXAMPLE}/p2p/12D3KooW...",
        )
    return parse_address(shown)


def check_api_address(text: object) -> str:
    """``IP:PORT`` of this machine; raises ``ValueError``."""
    host, _, port = str(text).rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        host = ""
    if not host or (":" in host) != host.startswith("[") or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(
            "must be an address and a port, such as 127.0.0.1:0, or 0.0.0.0:8080 to be reached from other machines by key"
        )
    return str(text)


def check_webhook(text: object) -> str:
    """Where notices are sent: a URL of http or https; raises ``ValueError``."""
    if not isinstance(text, str) or not re.fullmatch(
        r"https?://[A-Za-z0-9.\-]{1,253}(:[0-9]{1,5})?(/[!-~]{0,1024})?", text
    ):
        raise ValueError("must be a URL such as https://hooks.example.org/T00/B00")
    return text


def check_origin(text: object) -> str:
    """The origin of web pages, as browsers say it: ``https://chat.example.org``; raises ``ValueError``."""
    if not isinstance(text, str) or not re.fullmatch(r"https?://[a-z0-9.\-]{1,253}(:[0-9]{1,5})?", text):
        raise ValueError("must be an origin such as https://chat.example.org, without a path")
    return text
