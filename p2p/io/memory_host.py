"""The same `Transport` inside one process: a network made of queues, with latency, partitions and broken connections.

    network = MemoryNetwork(random.Random(7), latency_seconds=(0.01, 0.05))
    async with open_memory_host(network, seed, hello=..., check_hello=...) as transport: ...

Everything above connections and streams is the code of the real host (`p2p.io.host`), so it behaves like it; what differs is
gossip (a flood over all admitted peers) and the table (kept by the admitted peers alone). Works under `trio.testing.MockClock`.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from p2p.addresses import Address, parse_address
from p2p.framing import HEADER_BYTES
from p2p.io.host import CONNECT_SECONDS_MAX, BrokenStream, Stream, StreamHost, key_text
from p2p.records import check_record, choose_best
from p2p.requests import GENESIS, REQUESTS
from p2p.transport import CheckHello, PeerUnreachable, RecordKey
from protocol.digest import Domain, digest
from protocol.ids import Digest, PeerId, short
from protocol.keys import KeyPair
from protocol.limits import KIB
from protocol.rejection import Reason, Rejected

WINDOW_BYTES: Final = 256 * KIB  # unread bytes of a stream before its writer waits, as yamux does
SEEN_MESSAGES_MAX: Final = 16_384
STORED_AT_PEERS_MAX: Final = 20  # Kademlia's k
EPOCH_MILLISECONDS: Final = 1_700_000_000_000  # what the clock of this world shows at trio time 0

T = TypeVar("T")


class MemoryNetwork:
    """The world between hosts. The generator decides every latency and every break, so one seed is one history."""

    def __init__(
        self,
        generator: random.Random,
        *,
        latency_seconds: tuple[float, float] = (0.0005, 0.002),
        break_probability: float = 0.0,
    ) -> None:
        self.generator = generator
        self._latency_seconds = latency_seconds
        self._break_probability = break_probability  # that one write breaks its connection
        self._listeners: dict[str, MemoryHost] = {}
        self._connections: list[_Connection] = []
        self._islands: tuple[frozenset[PeerId], ...] = ()
        self._healed = trio.Event()
        self._next_port = 10_000

    def partition(self, *islands: Collection[PeerId]) -> None:
        """From now on bytes between islands wait, and dials between them fail. Peers in no island reach everybody."""
        self._islands = tuple(frozenset(island) for island in islands)
        self._healed = trio.Event()

    def heal(self) -> None:
        """Bytes that waited arrive."""
        self._islands = ()
        self._healed.set()

    async def break_connections(self, one: PeerId, other: PeerId) -> None:
        """Every connection between two peers breaks, as when a router between them forgets it."""
        for connection in list(self._connections):
            if {end.peer_id for end in connection.ends} == {one, other}:
                await connection.close()

    def cut_power(self, peer: PeerId) -> None:
        """The machine of this host goes dark: its connections stay open for the others, who are not told."""
        for connection in self._connections:
            for end in connection.ends:
                if end.peer_id == peer and connection in end._open_connections:
                    end._open_connections.remove(connection)

    def _are_apart(self, one: PeerId, other: PeerId) -> bool:
        of_one = [one in island for island in self._islands]
        of_other = [other in island for island in self._islands]
        return any(of_one) and any(of_other) and of_one != of_other

    def _latency(self) -> float:
        return self.generator.uniform(*self._latency_seconds)

    def _may_break(self) -> bool:
        return self._break_probability > 0.0 and self.generator.random() < self._break_probability


@asynccontextmanager
async def open_memory_host(
    network: MemoryNetwork,
    seed: bytes,
    *,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    hello: bytes,
    check_hello: CheckHello,
    bootstrap: Sequence[str] = (),
    open_protocols: Iterable[str] = (GENESIS.protocol,),
    generator: random.Random | None = None,
    clock_milliseconds: Callable[[], int] | None = None,
) -> AsyncIterator[MemoryHost]:
    """As `open_libp2p_host`, on a made network."""
    host = MemoryHost(
        network,
        listen,
        peer_id=PeerId(KeyPair.from_seed(seed).public),
        hello=hello,
        check_hello=check_hello,
        bootstrap=bootstrap,
        open_protocols=open_protocols,
        generator=generator or random.Random(network.generator.getrandbits(64)),
        clock_milliseconds=clock_milliseconds or _world_milliseconds,
    )
    async with host.run():
        yield host


def _world_milliseconds() -> int:
    return EPOCH_MILLISECONDS + int(trio.current_time() * 1000)


@dataclass(eq=False)
class _Connection:
    network: MemoryNetwork
    ends: tuple[MemoryHost, MemoryHost]
    pipes: list[_Pipe] = field(default_factory=list)
    is_closed: bool = False
    arrival: dict[PeerId, float] = field(default_factory=dict)  # of the last bytes sent to this end

    def other(self, host: MemoryHost) -> MemoryHost:
        return self.ends[1] if self.ends[0] is host else self.ends[0]

    def arrival_of_bytes_to(self, host: MemoryHost) -> float:
        """When what is sent now arrives: later than all before it."""
        at = max(trio.current_time() + self.network._latency(), self.arrival.get(host.peer_id, -math.inf))
        self.arrival[host.peer_id] = at
        return at

    async def travel_to(self, host: MemoryHost) -> bool:
        """Wait as bytes would; False when the connection broke on the way."""
        await trio.sleep_until(self.arrival_of_bytes_to(host))
        while not self.is_closed and self.network._are_apart(self.ends[0].peer_id, self.ends[1].peer_id):
            await self.network._healed.wait()
        return not self.is_closed

    async def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.network._connections.remove(self)
        for pipe in self.pipes:
            pipe.break_down()
        for end in self.ends:
            if self in end._open_connections:
                await end._memory_closed(self)


@dataclass(eq=False)
class _Pipe:
    """One direction of a stream."""

    connection: _Connection
    source: MemoryHost
    sink: MemoryHost
    items: deque[tuple[float, bytes]] = field(default_factory=deque)  # arrival, bytes; empty bytes end the stream
    unread_bytes: int = 0
    is_broken: bool = False
    changed: trio.Event = field(default_factory=trio.Event)

    def break_down(self) -> None:
        self.is_broken = True
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self.unread_bytes > WINDOW_BYTES and not self.is_broken:
            await self.changed.wait()
        if not self.is_broken and self.connection.network._may_break():
            await self.connection.close()
        if self.is_broken:
            raise BrokenStream("the connection was closed")
        self.items.append((self.connection.arrival_of_bytes_to(self.sink), data))
        self.unread_bytes += len(data)
        self.source._counters.bytes_sent_total += len(data)
        self._wake()

    async def read(self, size_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.is_broken:
                raise BrokenStream("the connection was closed")
            if not self.items:
                await self.changed.wait()
                continue
            at, data = self.items[0]
            if at > trio.current_time():
                with trio.move_on_at(at):
                    await self.changed.wait()
                continue
            if self.connection.network._are_apart(self.source.peer_id, self.sink.peer_id):
                await self.connection.network._healed.wait()
                continue
            if not data:
                return b""  # stays: the end is the end
            self.items.popleft()
            if len(data) > size_bytes:
                self.items.appendleft((at, data[size_bytes:]))
                data = data[:size_bytes]
            self.unread_bytes -= len(data)
            self.sink._counters.bytes_received_total += len(data)
            self._wake()
            return data


@dataclass(eq=False)
class _MemoryStream:
    outward: _Pipe
    inward: _Pipe
    is_finished: bool = False

    async def write(self, data: bytes) -> None:
        await self.outward.write(data)

    async def read(self, size_bytes: int) -> bytes:
        return await self.inward.read(size_bytes)

    async def finish(self) -> None:
        if not self.is_finished:
            self.is_finished = True
            if not self.outward.is_broken:
                await self.outward.write(b"")

    async def reset(self) -> None:
        self.outward.break_down()
        self.inward.break_down()
        await trio.lowlevel.checkpoint()


class MemoryHost(StreamHost):
    """See `open_memory_host`."""

    def __init__(self, network: MemoryNetwork, listen: Sequence[str], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # the keyword arguments of StreamHost, unchanged
        self._network = network
        self._listen = listen
        self._addresses: tuple[Address, ...] = ()
        self._open_connections: list[_Connection] = []
        self._topics: set[str] = set()
        self._seen: OrderedDict[Digest, None] = OrderedDict()
        self._said_count = 0
        self._records: dict[str, bytes] = {}
        self._providers: dict[str, set[PeerId]] = {}

    @asynccontextmanager
    async def _link_layer(self) -> AsyncIterator[None]:
        addresses: list[Address] = []
        for text in self._listen:
            _, family, host, _, port_text = text.split("/")
            port = int(port_text)
            if port == 0:
                port, self._network._next_port = self._network._next_port, self._network._next_port + 1
            address = Address(family, host, port, self._peer_id)
            if address.transport_text in self._network._listeners:
                raise OSError(f"port {port} of {host} is in use by another host of this network")
            addresses.append(address)
        self._addresses = tuple(addresses)
        for address in addresses:
            self._network._listeners[address.transport_text] = self
        try:
            yield
        finally:
            for address in addresses:
                del self._network._listeners[address.transport_text]

    async def _close_all(self) -> None:
        for connection in list(self._open_connections):
            await connection.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self._addresses)

    # -- connections --------------------------------------------------------------------------------------------------
    async def _connect(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        failure = f"we know no address of {short(peer)}"
        for text in addresses:
            address = parse_address(text)
            failure = f"nobody answers at {address.transport_text}"
            await trio.sleep(2 * self._network._latency())
            if self._network._are_apart(self._peer_id, peer):
                await trio.sleep(CONNECT_SECONDS_MAX)
                continue
            other = self._network._listeners.get(address.transport_text)
            if other is None or other.peer_id != peer:
                continue
            connection = _Connection(self._network, (self, other))
            self._network._connections.append(connection)
            for end in connection.ends:
                end._open_connections.append(connection)
            other._connection_opened(self._peer_id, False, None)
            self._connection_opened(peer, True, None)
            return
        raise PeerUnreachable(failure)

    async def _memory_closed(self, connection: _Connection) -> None:
        self._open_connections.remove(connection)
        # In the host's own task: whoever closes may be a task of the other host.
        self._start(self._connection_closed, connection.other(self).peer_id)
        await trio.lowlevel.checkpoint()

    def _connections_to(self, peer: PeerId) -> list[_Connection]:
        return [connection for connection in self._open_connections if connection.other(self).peer_id == peer]

    async def _close(self, peer: PeerId) -> None:
        for connection in self._connections_to(peer):
            await connection.close()

    async def _close_older(self, peer: PeerId, stream: Stream) -> None:
        assert isinstance(stream, _MemoryStream)
        for connection in self._connections_to(peer):
            if connection is not stream.inward.connection:
                await connection.close()

    async def _open_stream(self, peer: PeerId, protocol: str) -> Stream:
        connections = self._connections_to(peer)
        if not connections:
            raise BrokenStream("the peer is not connected")
        if protocol not in REQUESTS:
            raise BrokenStream(f"the peer does not speak {protocol}")
        connection = connections[-1]
        other = connection.other(self)
        there, back = _Pipe(connection, self, other), _Pipe(connection, other, self)
        connection.pipes = [pipe for pipe in connection.pipes if not pipe.is_broken]
        connection.pipes += [there, back]
        other._start(other._serve_after_travel, self._peer_id, protocol, connection, _MemoryStream(back, there))
        await trio.lowlevel.checkpoint()
        return _MemoryStream(there, back)

    async def _serve_after_travel(
        self, peer: PeerId, protocol: str, connection: _Connection, stream: _MemoryStream
    ) -> None:
        if await connection.travel_to(self):
            await self.serve_stream(peer, protocol, stream)
            if stream.is_finished:
                stream.inward.break_down()  # both sides are done: forget what was not read
            else:
                await stream.reset()

    # -- gossip -------------------------------------------------------------------------------------------------------
    async def _join(self, topic: str) -> None:
        self._topics.add(topic)
        await trio.lowlevel.checkpoint()

    async def _flood(self, topic: str, data: bytes) -> None:
        self._said_count += 1
        name = digest(Domain.RECORD, self._peer_id, self._said_count.to_bytes(8, "big"), self._session)
        self._mark_seen(name)
        self._forward(topic, self._peer_id, name, data)
        await trio.lowlevel.checkpoint()

    def _forward(self, topic: str, author: PeerId, name: Digest, data: bytes, *skipped: PeerId) -> None:
        for peer in self.connected_peers():
            if peer not in skipped:
                self._start(self._carry, peer, topic, author, name, data)

    async def _carry(self, peer: PeerId, topic: str, author: PeerId, name: Digest, data: bytes) -> None:
        connections = self._connections_to(peer)
        if not connections:
            self._counters.dropped("gossip to a lost peer")
            return
        other = connections[-1].other(self)
        size_bytes = HEADER_BYTES + len(topic) + len(name) + len(data)
        self._counters.bytes_sent_total += size_bytes
        if not await connections[-1].travel_to(other):
            self._counters.dropped("gossip to a lost peer")
            return
        other._counters.bytes_received_total += size_bytes
        other._start(other._take_gossip, self._peer_id, topic, author, name, data)

    async def _take_gossip(self, forwarder: PeerId, topic: str, author: PeerId, name: Digest, data: bytes) -> None:
        if name in self._seen or topic not in self._topics:
            return
        await self._wait_admitted(forwarder, is_open=False)
        if name in self._seen or self._admit_gossip(topic, forwarder, author, len(data)) is None:
            return
        self._mark_seen(name)
        self._forward(topic, author, name, data, author, forwarder)
        await self._gossip_arrived(topic, forwarder, data)

    def _mark_seen(self, name: Digest) -> None:
        self._seen[name] = None
        if len(self._seen) > SEEN_MESSAGES_MAX:
            self._seen.popitem(last=False)

    def _peer_admitted(self, peer: PeerId) -> None:
        """Nothing to prepare: gossip goes to whoever is admitted at the moment."""

    async def _peer_gone(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()

    # -- the distributed table ----------------------------------------------------------------------------------------
    async def put_record(self, key: RecordKey, value: bytes) -> None:
        text = key_text(key)
        check_record(text, value)
        own = self._records.get(text)
        if own is not None and choose_best(text, [own, value]) == 0:
            raise Rejected(Reason.REPEATED, "a better record is known under this key")
        self._records[text] = value
        await self._ask_peers(lambda other: other._store(text, value))

    def _store(self, key: str, value: bytes) -> None:
        own = self._records.get(key)
        if choose_best(key, [value] if own is None else [own, value]) == (0 if own is None else 1):
            self._records[key] = value

    async def find_record(self, key: RecordKey) -> bytes | None:
        text = key_text(key)
        answers = await self._ask_peers(lambda other: other._records.get(text))
        values = [value for value in (self._records.get(text), *answers) if value is not None]
        return values[choose_best(text, values)] if values else None

    async def provide(self, key: RecordKey) -> None:
        text, me = key_text(key), self._peer_id
        self._note_provider(text, me)
        await self._ask_peers(lambda other: other._note_provider(text, me))

    def _note_provider(self, key: str, peer: PeerId) -> None:
        self._providers.setdefault(key, set()).add(peer)

    async def find_providers(self, key: RecordKey) -> tuple[PeerId, ...]:
        text = key_text(key)
        answers = await self._ask_peers(lambda other: frozenset(other._providers.get(text, ())))
        found = set(self._providers.get(text, ())).union(*answers)
        return tuple(sorted(found - {self._peer_id}))

    async def _ask_peers(self, question: Callable[[MemoryHost], T]) -> list[T]:
        """There, the answer, and back: with everybody who is admitted, side by side."""
        answers: list[T] = []

        async def ask(peer: PeerId) -> None:
            connections = self._connections_to(peer)
            if connections:
                other = connections[-1].other(self)
                with trio.move_on_after(CONNECT_SECONDS_MAX):
                    if await connections[-1].travel_to(other):
                        answer = question(other)
                        if await connections[-1].travel_to(self):
                            answers.append(answer)

        async with trio.open_nursery() as nursery:
            for peer in self.connected_peers()[:STORED_AT_PEERS_MAX]:
                nursery.start_soon(ask, peer)
        return answers
