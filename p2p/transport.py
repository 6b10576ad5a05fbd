"""Transport: everything the node may ask of a network, and everything a network may tell the node.

Two hosts keep this promise: `p2p.io.libp2p_host` (sockets) and `p2p.io.memory_host` (one process, virtual links).
They pass the same tests, so whoever writes against this file cannot tell them apart.

    we ask                                     we are told (one bounded channel, in order of arrival)
    ------                                     ------
    publish(topic)    flood to all          -> GossipReceived(topic, forwarder, data)
    send(peer)        one way, in order     -> MessageReceived(peer, protocol, data)
    request(peer)     question and answer      (answered by the handler set for that protocol)
    dial, disconnect                        -> PeerConnected, PeerLost, PeerRefused
    put_record, provide, find_...              (the distributed table)

Awaitable methods are declared as plain functions that return an `Awaitable`: this file is a vocabulary and runs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from protocol.ids import PeerId, short
from protocol.rejection import Rejected


class PeerUnreachable(Exception):
    """The world failed us: nobody answered at that address, or we know no address. `str()` is one sentence for a person."""


class RequestFailed(Exception):
    """The world failed a request or a message: no connection, a broken stream, silence, an answer over the bound.

    It blames nobody. An answer that the peer refused to give is `Rejected` instead.
    """

    def __init__(self, peer: PeerId, protocol: str, why: str) -> None:
        super().__init__(f"request {protocol} to {short(peer)} failed: {why}")
        self.peer = peer
        self.protocol = protocol
        self.why = why


@dataclass(frozen=True, slots=True)
class GossipReceived:
    """A gossip message, once per message however many peers forward it; our own messages do not come back to us."""

    topic: str
    forwarder: PeerId  # who handed it to us; the author is inside the envelope
    data: bytes


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A one-way message of `send`, in the order the sender sent it."""

    peer: PeerId
    protocol: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A peer whose hello we accepted is now reachable; told once until its last connection is gone."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The last connection to an admitted peer is gone, or the peer went silent and we closed it."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """We refused this peer, or it refused us; told once per connection, with the sentence that explains it."""

    peer: PeerId
    reason_sentence: str


TransportEvent = GossipReceived | MessageReceived | PeerConnected | PeerLost | PeerRefused

RequestHandler = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Answers one request. `Rejected` travels to the caller; any other exception is logged and breaks only that stream."""

CheckHello = Callable[[PeerId, bytes], None]
"""Looks at the hello of a new peer; raises `Rejected` to refuse it."""

RecordKey = str | bytes


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload that one topic or one protocol carried: our bytes, without framing, encryption or gossip duplicates."""

    sent_count: int = 0
    sent_bytes: int = 0
    received_count: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """What a host has done since it opened."""

    bytes_sent_total: int = 0  # as they crossed the sockets: encryption, multiplexing, duplicates and all
    bytes_received_total: int = 0
    topics: Mapping[str, Traffic] = field(default_factory=dict)
    protocols: Mapping[str, Traffic] = field(default_factory=dict)
    drops: Mapping[str, int] = field(default_factory=dict)  # why -> how many messages were not delivered
    round_trip_milliseconds: Mapping[PeerId, int] = field(default_factory=dict)  # of the last ping
    clock_offset_milliseconds: int | None = None  # median over peers of (their clock - ours); None before any answer


class EventStream(Protocol):
    """The receiving end of the events: a `trio.MemoryReceiveChannel` keeps this promise."""

    def receive(self) -> Awaitable[TransportEvent]: ...

    def receive_nowait(self) -> TransportEvent: ...

    def __aiter__(self) -> AsyncIterator[TransportEvent]: ...

    def __anext__(self) -> Awaitable[TransportEvent]: ...


class Transport(Protocol):
    """A network as the node sees it. Peers are named by `PeerId` alone; only admitted peers are ever heard or shown."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Our own multiaddrs, each ending in `/p2p/<our id>`."""
        ...

    @property
    def events(self) -> EventStream:
        """Everything inbound, in one bounded channel. A reader that stops reading slows the network down, in the end."""
        ...

    def connected_peers(self) -> tuple[PeerId, ...]:
        """Admitted peers, sorted."""
        ...

    def known_addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Multiaddrs with `/p2p/<id>` at which this peer may be dialled; empty when we know none."""
        ...

    def statistics(self) -> TransportStatistics: ...

    def subscribe(self, topic: str) -> Awaitable[None]:
        """Join a topic; idempotent."""
        ...

    def publish(self, topic: str, data: bytes) -> Awaitable[None]:
        """Give a message to everybody on the topic; waits while our own queues are full.

        ValueError: larger than the topic allows.
        """
        ...

    def report(self, peer: PeerId, rejected: Rejected) -> None:
        """Something a peer sent was refused after decoding. It costs the peer when the reason blames the sender; after a few
        such it is banned for an hour."""
        ...

    def set_request_handler(self, protocol: str, handler: RequestHandler) -> None: ...

    def request(
        self, peer: PeerId, protocol: str, data: bytes, *, timeout_seconds: float, response_bytes_max: int
    ) -> Awaitable[bytes]:
        """Ask and wait for the answer.

        `RequestFailed` when the world fails, `Rejected` when the peer's handler raised it (same reason, same detail).
        """
        ...

    def send(self, peer: PeerId, protocol: str, data: bytes) -> Awaitable[None]:
        """Queue a one-way message; messages to one peer on one protocol arrive in order.

        They travel on one stream that lives as long as the connection and is opened again when it breaks. The queue is bounded:
        when it is full the oldest message is dropped and counted. A message may be lost with its connection; none is
        repeated.
        `RequestFailed` when the peer is not connected.
        """
        ...

    def dial(self, multiaddr: str) -> Awaitable[PeerId]:
        """Connect and be admitted. `PeerUnreachable` when nobody is there, `Rejected` when one side refused the other."""
        ...

    def disconnect(self, peer: PeerId) -> Awaitable[None]:
        """Close every connection to a peer and stop dialling it until the next `dial`."""
        ...

    def put_record(self, key: RecordKey, value: bytes) -> Awaitable[None]:
        """Store a record (see `p2p.records`) at the peers nearest to its key. `Rejected` when it does not prove itself."""
        ...

    def find_record(self, key: RecordKey) -> Awaitable[bytes | None]:
        """The best valid record the network and we ourselves hold."""
        ...

    def provide(self, key: RecordKey) -> Awaitable[None]:
        """Say that we hold the content of this name. A hint to others: they check by fetching."""
        ...

    def find_providers(self, key: RecordKey) -> Awaitable[tuple[PeerId, ...]]:
        """Peers that say so, sorted, without us."""
        ...
