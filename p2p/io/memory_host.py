"""The same `Transport` inside one process: a network made of queues, with latency, partitions and broken connections.

    network = MemoryNetwork(random.Random(7), latency_seconds=(0.01, 0.05))
    async with open_memory_host(network, seed, hello=..., check_hello=...) as transport: ...

Everything above connections and streams is the code of the real host (`p2p.io.host`), so it behaves like it. What differs:

* gossip goes over a mesh that hosts know of each other instead of negotiating it; a message is handed to each host once, at the
  time of its first arrival, while the bytes of every copy count;
* pings are no streams;
* the table is kept by the admitted peers alone.

Works under `trio.testing.MockClock`, with hundreds of hosts: what arrives is kept in one heap for the whole network.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import trio

from p2p import peerbook
from p2p.addresses import Address, parse_address
from p2p.framing import HEADER_BYTES
from p2p.io.counters import count_received
from p2p.io.host import CONNECT_SECONDS_MAX, BrokenStream, Stream, StreamHost, key_text
from p2p.io.memory_links import Links, UniformLinks
from p2p.peerbook import CONNECTIONS_WANTED
from p2p.records import check_record, choose_best
from p2p.requests import GENESIS, PING, REQUESTS
from p2p.transport import CheckHello, GossipReceived, PeerUnreachable, RecordKey
from protocol.digest import Domain, digest
from protocol.ids import PeerId, short
from protocol.keys import KeyPair
from protocol.limits import KIB
from protocol.rejection import Reason, Rejected

WINDOW_BYTES: Final = 256 * KIB  # unread bytes of a stream before its writer waits, as yamux does
MESH_DEGREE: Final = 4  # peers that each host chooses for gossip; with those that choose it, gossipsub's D of 6
NAME_BYTES: Final = 32  # of a message, as gossipsub's authors and sequence numbers take
PING_BYTES: Final = 96  # a stream's opening, a ping and its frames
CONTROL: Final = "control"  # kind of bytes that are no message of anybody: opening and greeting
STORED_AT_PEERS_MAX: Final = 20  # Kademlia's k
EPOCH_MILLISECONDS: Final = 1_700_000_000_000  # what the clock of this world shows at trio time 0

T = TypeVar("T")


class MemoryNetwork:
    """The world between hosts. The generator and the links decide everything, so one seed is one history."""

    def __init__(
        self,
        generator: random.Random,
        *,
        latency_seconds: tuple[float, float] = (0.0005, 0.002),
        break_probability: float = 0.0,
        links: Links | None = None,
    ) -> None:
        self.generator = generator
        self.links: Links = links or UniformLinks(generator, latency_seconds, break_probability)
        self._listeners: dict[str, MemoryHost] = {}
        self._connections: dict[_Connection, None] = {}
        self._changed = trio.Event()  # who reaches whom
        self._next_port = 10_000
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._sent_count = 0
        self._earlier = trio.Event()  # something comes before all that was known of
        self._is_pumping = False

    def partition(self, *islands: Collection[PeerId]) -> None:
        """From now on bytes between islands wait, and dials between them fail. Peers in no island reach everybody."""
        assert isinstance(self.links, UniformLinks)
        self.links.part(*islands)
        self.links_changed()

    def heal(self) -> None:
        """Bytes that waited arrive."""
        self.partition()

    def links_changed(self) -> None:
        """Whoever waits for somebody out of reach looks again."""
        self._changed.set()
        self._changed = trio.Event()

    async def break_connections(self, one: PeerId, other: PeerId) -> None:
        """Every connection between two peers breaks, as when a router between them forgets it."""
        for connection in list(self._connections):
            if {end.peer_id for end in connection.ends} == {one, other}:
                await connection.close()

    def cut_power(self, peer: PeerId) -> None:
        """The machine of this host goes dark: its connections stay open for the others, who are not told."""
        for connection in self._connections:
            for end in connection.ends:
                if end.peer_id == peer:
                    end._forget_connection(connection)

    def connections_of(self, peer: PeerId) -> int:
        """How many connections end at a peer."""
        return sum(any(end.peer_id == peer for end in connection.ends) for connection in self._connections)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def arrival(self, source: MemoryHost, sink: MemoryHost, kind: str, size_bytes: int) -> float:
        """When what is sent now arrives."""
        return self.links.arrival(source.peer_id, sink.peer_id, kind, size_bytes, trio.current_time())

    def call_at(self, time: float, call: Callable[[], None]) -> None:
        """Call ``call`` at that time, after what was asked for before it at the same time."""
        self._sent_count += 1
        is_first = not self._coming or time < self._coming[0][0]
        heapq.heappush(self._coming, (time, self._sent_count, call))
        if not self._is_pumping:
            self._is_pumping = True
            trio.lowlevel.spawn_system_task(self._pump)
        elif is_first:
            self._earlier.set()

    async def _pump(self) -> None:
        """Everything that comes, in its order."""
        while True:
            while self._coming and self._coming[0][0] <= trio.current_time():
                heapq.heappop(self._coming)[2]()
            self._earlier = trio.Event()
            with trio.move_on_at(self._coming[0][0] if self._coming else math.inf):
                await self._earlier.wait()

    def is_open(self, connection: _Connection) -> bool:
        """Whether bytes on a connection arrive at this moment."""
        one, other = connection.ends
        return not connection.is_closed and not self.links.are_apart(one.peer_id, other.peer_id)


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
    connections_wanted: int = CONNECTIONS_WANTED,
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
        connections_wanted=connections_wanted,
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

    def arrival_of_bytes_to(self, host: MemoryHost, kind: str, size_bytes: int) -> float:
        """When what is sent now arrives: later than all before it."""
        at = self.network.arrival(self.other(host), host, kind, size_bytes)
        at = max(at, self.arrival.get(host.peer_id, -math.inf))
        self.arrival[host.peer_id] = at
        return at

    async def travel_to(self, host: MemoryHost, kind: str = CONTROL, size_bytes: int = 0) -> bool:
        """Wait as bytes would; False when the connection broke on the way."""
        await trio.sleep_until(self.arrival_of_bytes_to(host, kind, size_bytes))
        while not self.is_closed and not self.network.is_open(self):
            await self.network._changed.wait()
        return not self.is_closed

    async def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        del self.network._connections[self]
        for pipe in self.pipes:
            pipe.break_down()
        for end in self.ends:
            if end._forget_connection(self):
                await end._memory_closed(self)


@dataclass(eq=False)
class _Pipe:
    """One direction of a stream."""

    connection: _Connection
    source: MemoryHost
    sink: MemoryHost
    protocol: str
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
        if not self.is_broken and self.connection.network.links.breaks():
            await self.connection.close()
        if self.is_broken:
            raise BrokenStream("the connection was closed")
        self.items.append((self.connection.arrival_of_bytes_to(self.sink, self.protocol, len(data)), data))
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
            if not self.connection.network.is_open(self.connection):
                await self.connection.network._changed.wait()
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


@dataclass(eq=False, slots=True)
class _Message:
    """One gossip message on its way to everybody."""

    topic: str
    author: PeerId
    data: bytes
    seen: set[PeerId] = field(default_factory=set)  # asked only "is it in"
    arrival: dict[PeerId, float] = field(default_factory=dict)  # of the first copy under way
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.size_bytes = HEADER_BYTES + len(self.topic) + NAME_BYTES + len(self.data)


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
        self._open_connections: dict[PeerId, list[_Connection]] = {}  # by the other end
        self._topics: set[str] = set()
        self._chosen: dict[PeerId, None] = {}  # with whom messages are exchanged: our choice, and who chose us
        self._chosen_by: dict[PeerId, None] = {}
        self._mesh_known: tuple[PeerId, ...] | None = None  # the two of them, until that changes
        self._distances: dict[PeerId, bytes] = {}
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
        for connections in list(self._open_connections.values()):
            for connection in list(connections):
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
            arrival = self._network.links.arrival(self._peer_id, peer, CONTROL, 0, trio.current_time())
            await trio.sleep(2 * (arrival - trio.current_time()))
            if self._network.links.are_apart(self._peer_id, peer):
                await trio.sleep(CONNECT_SECONDS_MAX)
                continue
            other = self._network._listeners.get(address.transport_text)
            if other is None or other.peer_id != peer:
                continue
            connection = _Connection(self._network, (self, other))
            self._network._connections[connection] = None
            for end in connection.ends:
                end._open_connections.setdefault(connection.other(end).peer_id, []).append(connection)
            other._connection_opened(self._peer_id, False, None)
            self._connection_opened(peer, True, None)
            return
        raise PeerUnreachable(failure)

    def _forget_connection(self, connection: _Connection) -> bool:
        """False where it was not known any more."""
        peer = connection.other(self).peer_id
        ours = self._open_connections.get(peer, [])
        if connection not in ours:
            return False
        ours.remove(connection)
        if not ours:
            del self._open_connections[peer]
        return True

    async def _memory_closed(self, connection: _Connection) -> None:
        # In the host's own task: whoever closes may be a task of the other host.
        self._start(self._connection_closed, connection.other(self).peer_id)
        await trio.lowlevel.checkpoint()

    def _connections_to(self, peer: PeerId) -> list[_Connection]:
        return list(self._open_connections.get(peer, ()))

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
        there, back = _Pipe(connection, self, other, protocol), _Pipe(connection, other, self, protocol)
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

    # -- pings --------------------------------------------------------------------------------------------------------
    def _start_ping(self, peer: PeerId) -> None:
        """There, the other's clock, and back; without a stream, because most of a quiet network's messages are pings."""
        connections = self._connections_to(peer)
        if not connections or self._clock_milliseconds is None:
            return
        connection, sent = connections[-1], self._clock_milliseconds()
        other = connection.other(self)
        arrival = self._network.arrival(self, other, PING.protocol, PING_BYTES)
        wanted = self._others_wanted()
        self._network.call_at(arrival, lambda: other._take_ping(self, connection, sent, wanted))

    def _take_ping(self, asker: MemoryHost, connection: _Connection, sent: int, wanted: int) -> None:
        link = self._links.get(asker.peer_id)
        if not self._network.is_open(connection) or link is None or self._clock_milliseconds is None:
            return
        self._heard(asker.peer_id)
        clock, others = self._clock_milliseconds(), self._some_others(wanted, asker.peer_id)
        size_bytes = PING_BYTES + sum(map(len, others))
        arrival = self._network.arrival(self, asker, PING.protocol, size_bytes)
        self._network.call_at(arrival, lambda: asker._take_pong(self.peer_id, connection, sent, clock, others))

    def _take_pong(self, peer: PeerId, connection: _Connection, sent: int, clock: int, others: tuple[str, ...]) -> None:
        if self._network.is_open(connection) and peer in self._links and self._clock_milliseconds is not None:
            self._decide(peerbook.Pong(peer, sent, clock, self._clock_milliseconds()))
            self._learn_others(others)

    def _heard(self, peer: PeerId) -> None:
        self._book.handle(peerbook.Heard(peer), trio.current_time())

    # -- gossip -------------------------------------------------------------------------------------------------------
    async def _join(self, topic: str) -> None:
        self._topics.add(topic)
        await trio.lowlevel.checkpoint()

    async def _flood(self, topic: str, data: bytes) -> None:
        message = _Message(topic, self._peer_id, data)
        message.seen.add(self._peer_id)
        self._relay(message, self._peer_id, trio.current_time())
        await trio.lowlevel.checkpoint()

    def _relay(self, message: _Message, forwarder: PeerId, now: float) -> None:
        """To everybody of the mesh but whom it came from. A copy that comes too late only costs its bytes."""
        network, me, size_bytes = self._network, self._peer_id, message.size_bytes
        for peer in self._mesh():
            connections = self._open_connections.get(peer)
            if peer == forwarder or peer == message.author or not connections:
                continue
            connection = connections[-1]
            other = connection.other(self)
            self._counters.bytes_sent_total += size_bytes
            at = network.links.arrival(me, peer, message.topic, size_bytes, now)
            if peer in message.seen or message.arrival.get(peer, math.inf) <= at or network.links.loses(me, peer):
                continue
            message.arrival[peer] = at
            network.call_at(at, partial(other._message_arrived, message, connection, at))

    def _message_arrived(self, message: _Message, connection: _Connection, at: float) -> None:
        if message.arrival.get(self._peer_id) != at or self._peer_id in message.seen:
            return  # another copy came, or will come, before
        if connection.is_closed:
            connection.other(self)._counters.dropped("gossip to a lost peer")
            del message.arrival[self._peer_id]  # a later copy may still make it
            return
        if not self._network.is_open(connection) or (link := self._links.get(connection.other(self).peer_id)) is None:
            self._start(self._take_waiting, message, connection)
        elif link.is_admitted:
            self._take_gossip(message, link.peer, at)
        else:
            self._start(self._take_waiting, message, connection)

    async def _take_waiting(self, message: _Message, connection: _Connection) -> None:
        """Bytes held up by a partition, or that overtook the end of the greeting."""
        forwarder = connection.other(self).peer_id
        if await connection.travel_to(self) and await self._wait_admitted(forwarder, is_open=False) is not None:
            self._take_gossip(message, forwarder, trio.current_time())

    def _take_gossip(self, message: _Message, forwarder: PeerId, now: float) -> None:
        topic, data = message.topic, message.data
        if self._peer_id in message.seen or topic not in self._topics:
            return
        self._counters.bytes_received_total += message.size_bytes
        if self._admit_gossip(topic, forwarder, message.author, len(data), now) is None:
            return
        message.seen.add(self._peer_id)
        self._relay(message, forwarder, now)
        count_received(self._counters.topics, topic, len(data))
        self._book.handle(peerbook.Heard(forwarder), now)
        try:
            self._events_in.send_nowait(GossipReceived(topic, forwarder, data))
        except trio.WouldBlock:
            self._start(self._tell, GossipReceived(topic, forwarder, data))
        except trio.ClosedResourceError:
            self._counters.dropped("gossip to a host that is closed")

    def _peer_admitted(self, peer: PeerId) -> None:
        self._choose()

    async def _peer_gone(self, peer: PeerId) -> None:
        self._unchosen(peer)
        self._choose()
        await trio.lowlevel.checkpoint()

    def _mesh(self) -> tuple[PeerId, ...]:
        if self._mesh_known is None:
            self._mesh_known = tuple(dict.fromkeys((*self._chosen, *self._chosen_by)))
        return self._mesh_known

    def _choose(self) -> None:
        """Exchange messages with the nearest few by a distance that both ends compute alike, and with who chose us."""
        nearest = sorted(self.connected_peers(), key=self._distance)[:MESH_DEGREE]
        for peer in [peer for peer in self._chosen if peer not in nearest]:
            for connection in self._connections_to(peer):
                connection.other(self)._unchosen(self._peer_id)
        self._chosen, self._mesh_known = dict.fromkeys(nearest), None
        for peer in nearest:
            for connection in self._connections_to(peer):
                connection.other(self)._chosen_by[self._peer_id] = None
                connection.other(self)._mesh_known = None

    def _unchosen(self, peer: PeerId) -> None:
        self._chosen_by.pop(peer, None)
        self._mesh_known = None

    def _distance(self, peer: PeerId) -> bytes:
        distance = self._distances.get(peer)
        if distance is None:
            distance = self._distances[peer] = digest(Domain.RECORD, *sorted((self._peer_id, peer)))
        return distance

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
