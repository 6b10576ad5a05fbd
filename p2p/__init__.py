"""p2p: words on the wire.

It moves bytes between peers and knows nothing of what they mean. It never decodes a message, never decides who is right,
never imports another sibling. Only files in `p2p/io/` touch a socket, and only `p2p/io/libp2p_*.py` import libp2p.

Read in this order:

1. `transport`   what the node may ask of a network, and what it is told
2. `topics`      the table of gossip topics
3. `requests`    the table of request protocols
4. `records`     what may stand in the distributed table, and which of two records wins
5. `addresses`   multiaddrs, as far as we use them
6. `framing`     bytes in, frames out
7. `greeting`    the first words of two peers, and their pings
8. `admission`   before any decoding: banned? too large? too often?
9. `peerbook`    whom we know, whom we dial, whom we drop
10. `io/host`    a `Transport` made of connections, streams and gossip
11. `io/libp2p_host`, `io/memory_host`  the two that have them; `io/libp2p_guards` is why the first one survives
"""

from p2p.transport import (
    GossipReceived,
    MessageReceived,
    PeerConnected,
    PeerLost,
    PeerRefused,
    PeerUnreachable,
    RequestFailed,
    Traffic,
    Transport,
    TransportEvent,
    TransportStatistics,
)

__all__ = [
    "GossipReceived",
    "MessageReceived",
    "PeerConnected",
    "PeerLost",
    "PeerRefused",
    "PeerUnreachable",
    "RequestFailed",
    "Traffic",
    "Transport",
    "TransportEvent",
    "TransportStatistics",
]
