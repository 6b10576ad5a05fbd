"""Fetching the genesis document of a network from one of its peers: the only question that may be asked before admission."""

from __future__ import annotations

import secrets

import trio

from p2p.io.libp2p_host import open_libp2p_host
from p2p.requests import GENESIS
from p2p.transport import PeerUnreachable, RequestFailed
from protocol.genesis import check_genesis
from protocol.ids import NetworkId, PeerId
from protocol.rejection import Reason, Rejected

JOIN_SECONDS_MAX = 20.0


def fetch_genesis(multiaddr: str, network_id: NetworkId) -> bytes:
    """The genesis bytes of ``network_id`` from the peer at ``multiaddr``, checked against the id.

    Raises ``Rejected`` (FOREIGN_NETWORK, BAD_ADDRESS) or ``PeerUnreachable``. Whoever serves it need not be trusted.
    """
    return trio.run(_fetch, multiaddr, network_id)


async def _fetch(multiaddr: str, network_id: NetworkId) -> bytes:
    def check_hello(peer: PeerId, hello: bytes) -> None:
        if hello != network_id:
            raise Rejected(
                Reason.FOREIGN_NETWORK,
                f"that peer's network is {hello[:8].hex()}..., asked was {network_id[:8].hex()}...",
            )

    async with open_libp2p_host(
        secrets.token_bytes(32), listen=["/ip4/127.0.0.1/tcp/0"], hello=network_id, check_hello=check_hello
    ) as transport:
        with trio.move_on_after(JOIN_SECONDS_MAX):
            peer = await transport.dial(multiaddr)
            try:
                data = await transport.request(
                    peer,
                    GENESIS.protocol,
                    b"",
                    timeout_seconds=GENESIS.timeout_seconds,
                    response_bytes_max=GENESIS.response_bytes_max,
                )
            except RequestFailed as failure:
                raise PeerUnreachable(f"{multiaddr} did not give its genesis document: {failure.why}") from None
            check_genesis(data, network_id)
            return data
    raise PeerUnreachable(f"{multiaddr} did not answer within {JOIN_SECONDS_MAX:.0f} s; check the address")
