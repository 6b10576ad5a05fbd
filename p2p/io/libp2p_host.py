"""The host with sockets: TCP, noise, yamux, gossipsub and Kademlia of libp2p 0.8.1, behind `Transport`.

    async with open_libp2p_host(seed, listen=["/ip4/127.0.0.1/tcp/0"], hello=..., check_hello=...) as transport:
        async for event in transport.events: ...

Order matters (B2): the services of gossip run before the host listens, or the first inbound stream meets a service that
has no manager and ends the process. Leaving closes the listeners explicitly, because leaving libp2p's own context does not
(B4, `tcp.py:303`).
"""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from p2p.io.libp2p_guards import AddressInUse, apply_guards, check_port_is_free

apply_guards()  # before anything of libp2p is built

import trio  # noqa: E402
from libp2p.abc import IRawConnection, ITransport  # noqa: E402
from libp2p.crypto.ed25519 import create_new_key_pair  # noqa: E402
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair  # noqa: E402
from libp2p.custom_types import TProtocol  # noqa: E402
from libp2p.host.basic_host import BasicHost  # noqa: E402
from libp2p.io.abc import ReadWriteCloser  # noqa: E402
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT  # noqa: E402
from libp2p.network.config import ConnectionConfig  # noqa: E402
from libp2p.network.connection.raw_connection import RawConnection  # noqa: E402
from libp2p.network.stream.exceptions import StreamEOF  # noqa: E402
from libp2p.network.swarm import Swarm  # noqa: E402
from libp2p.peer.id import ID  # noqa: E402
from libp2p.peer.peerstore import PeerStore  # noqa: E402
from libp2p.pubsub.pubsub_notifee import PubsubNotifee  # noqa: E402
from libp2p.records.validator import NamespacedValidator, Validator  # noqa: E402
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE  # noqa: E402
from libp2p.security.noise.transport import Transport as NoiseTransport  # noqa: E402
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX  # noqa: E402
from libp2p.stream_muxer.yamux.yamux import Yamux  # noqa: E402
from libp2p.tools.anyio_service import background_trio_service  # noqa: E402
from libp2p.transport.tcp.tcp import TCP  # noqa: E402
from libp2p.transport.upgrader import TransportUpgrader  # noqa: E402
from multiaddr import Multiaddr  # noqa: E402

from p2p import peerbook  # noqa: E402
from p2p.addresses import parse_address  # noqa: E402
from p2p.io.counters import Counters  # noqa: E402
from p2p.io.host import (  # noqa: E402
    CONNECT_SECONDS_MAX,
    GOODBYE_SECONDS_MAX,
    BrokenStream,
    Stream,
    StreamHost,
    key_text,
)
from p2p.io.libp2p_gossip import Gossip, build_router, from_libp2p, to_libp2p  # noqa: E402
from p2p.records import check_record, choose_best  # noqa: E402
from p2p.requests import GENESIS, REQUESTS  # noqa: E402
from p2p.transport import CheckHello, PeerUnreachable, RecordKey  # noqa: E402
from protocol.ids import PeerId, peer_text, short  # noqa: E402
from protocol.keys import KeyPair  # noqa: E402
from protocol.rejection import Reason, Rejected  # noqa: E402

CONNECTIONS_MAX: Final = 256
WRITE_BYTES: Final = 256 * 1024  # libp2p.md 2: smaller writes are slower, larger ones hold the connection's lock longer
LOOKUP_SECONDS_MAX: Final = 5.0  # for one question to one peer about a record
LOOKUP_PEERS_MAX: Final = 20  # Kademlia's k
DHT_STREAMS_MAX: Final = 128  # the default of 12 resets honest peers while a node starts
PROVIDES_PER_WINDOW_MAX: Final = 4096  # the default of 10 in 10 s forgets most of a data set's shards


@asynccontextmanager
async def open_libp2p_host(
    seed: bytes,
    *,
    listen: Sequence[str],
    hello: bytes,
    check_hello: CheckHello,
    announce: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    open_protocols: Iterable[str] = (GENESIS.protocol,),
    generator: random.Random | None = None,
    clock_milliseconds: Callable[[], int] | None = None,
    connections_wanted: int = peerbook.CONNECTIONS_WANTED,
) -> AsyncIterator[Libp2pHost]:
    """Open a host for as long as the body runs.

    `seed` is the 32-byte seed of the node key; `listen` are multiaddrs without a peer (`tcp/0` for a free port), `announce`
    what others are told in their place where they reach us elsewhere; `bootstrap` are multiaddrs with a peer, dialled for
    ever. A `generator` that is passed in must be another one for each life of a peer: it names the session, by which others
    notice a restart. `clock_milliseconds` reads the wall clock, for the offset between peers; without it there is none. Of
    `connections_wanted` on, nobody new is dialled.
    Raises `AddressInUse` when a port is taken, `Rejected(BAD_ADDRESS)` for a bad multiaddr.
    """
    host = Libp2pHost(
        seed,
        listen,
        announce,
        hello=hello,
        check_hello=check_hello,
        bootstrap=bootstrap,
        open_protocols=open_protocols,
        generator=generator or random.Random(),
        clock_milliseconds=clock_milliseconds,
        connections_wanted=connections_wanted,
    )
    async with host.run():
        yield host


class _CountedStream(ReadWriteCloser):
    """A socket that counts what crosses it, and that is found again when its host closes."""

    def __init__(self, stream: ReadWriteCloser, tcp: _CountedTCP) -> None:
        self._stream = stream
        self._counters = tcp.counters
        self._open_streams = tcp.open_streams
        self._open_streams.add(self)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)
        self._counters.bytes_sent_total += len(data)

    async def read(self, n: int | None = None) -> bytes:
        data = await self._stream.read(n)
        self._counters.bytes_received_total += len(data)
        return data

    async def close(self) -> None:
        self._open_streams.discard(self)
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._stream.get_remote_address()


class _CountedTCP(TCP):
    """TCP whose connections count.

    A connection whose upgrade is cancelled midway is closed by nobody in libp2p (`swarm.py:1255` catches one exception): what
    is left in `open_streams` at the end is closed by the host.
    """

    def __init__(self, counters: Counters) -> None:
        super().__init__()
        self.counters = counters
        self.open_streams: set[_CountedStream] = set()

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        connection = await super().dial(maddr)
        assert isinstance(connection, RawConnection)
        connection.stream = _CountedStream(connection.stream, self)
        return connection

    def create_listener(self, handler_function: Callable[[ReadWriteCloser], Awaitable[None]]) -> Any:
        async def counted(stream: ReadWriteCloser) -> None:
            await handler_function(_CountedStream(stream, self))

        return super().create_listener(counted)


class _Stream:
    """A libp2p stream as `p2p.io.host.Stream`: every failure of its dozen kinds is a `BrokenStream`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def connection(self) -> Any:
        return self._stream.muxed_conn

    async def write(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), WRITE_BYTES):
                await self._stream.write(data[start : start + WRITE_BYTES])
        except Exception as error:
            raise BrokenStream(_why(error)) from error

    async def read(self, size_bytes: int) -> bytes:
        try:
            data: bytes = await self._stream.read(size_bytes)
        except StreamEOF:
            return b""
        except Exception as error:
            raise BrokenStream(_why(error)) from error
        return data

    async def finish(self) -> None:
        try:
            await self._stream.close()
        except Exception as error:
            raise BrokenStream(_why(error)) from error

    async def reset(self) -> None:
        try:
            await self._stream.reset()
        except Exception:
            return  # it is gone already, which is what was wanted


class _RecordValidator(Validator):
    """`p2p.records` as Kademlia wants it: ValueError for a bad record."""

    def validate(self, key: str, value: bytes) -> None:
        try:
            check_record(key, value)
        except Rejected as rejected:
            raise ValueError(str(rejected)) from None

    def select(self, key: str, values: list[bytes]) -> int:
        try:
            return choose_best(key, values)
        except Rejected as rejected:
            raise ValueError(str(rejected)) from None


class _Connections:
    """Tells the host of connections; the other notifications of libp2p do not concern us."""

    def __init__(self, host: Libp2pHost) -> None:
        self._host = host

    async def connected(self, network: object, connection: Any) -> None:
        await self._host._libp2p_connected(connection)

    async def disconnected(self, network: object, connection: Any) -> None:
        await self._host._libp2p_disconnected(connection)

    async def opened_stream(self, network: object, stream: object) -> None: ...

    async def closed_stream(self, network: object, stream: object) -> None: ...

    async def listen(self, network: object, multiaddr: object) -> None: ...

    async def listen_close(self, network: object, multiaddr: object) -> None: ...


class Libp2pHost(StreamHost):
    """See `open_libp2p_host`."""

    def __init__(self, seed: bytes, listen: Sequence[str], announce: Sequence[str] = (), **options: Any) -> None:
        super().__init__(peer_id=PeerId(KeyPair.from_seed(seed).public), **options)
        self._listen = [_parse_listen(text) for text in listen]
        self._announce = tuple(parse_address(f"{text}/p2p/{peer_text(self._peer_id)}") for text in announce)
        key_pair = create_new_key_pair(seed)
        self._id = to_libp2p(self._peer_id)
        peerstore = PeerStore()
        peerstore.add_key_pair(self._id, key_pair)
        self._tcp = _CountedTCP(self._counters)
        upgrader = TransportUpgrader(
            secure_transports_by_protocol={
                NOISE: NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
            },
            muxer_transports_by_protocol={TProtocol(YAMUX): Yamux},
        )
        transports: list[ITransport] = [self._tcp]
        # Built by hand rather than by new_host: that offers plaintext and TLS too, and adds a resource manager whose
        # limits are per process, not per peer. No automatic dialling (watermarks of 0): the peer book dials.
        self._swarm = Swarm(
            self._id,
            peerstore,
            upgrader,
            transports,
            connection_config=ConnectionConfig(
                max_connections=CONNECTIONS_MAX, min_connections=0, low_watermark=0, high_watermark=CONNECTIONS_MAX
            ),
        )
        self._host = BasicHost(
            network=self._swarm,
            disable_identify_address_discovery=True,
            announce_addrs=[Multiaddr(address.transport_text) for address in self._announce] or None,
        )
        self._router = build_router(self._counters.dropped)
        self._gossip = Gossip(
            self._host,
            self._router,
            admit=self._admit_gossip,
            deliver=self._gossip_arrived,
            is_admitted=self._is_admitted,
            first_number=self._generator.getrandbits(62),
            misbehaved=self._misbehaved,
        )
        self._dht = KadDHT(
            self._host,
            DHTMode.SERVER,
            validator=NamespacedValidator({"nock": _RecordValidator()}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
            enable_random_walk=False,
        )
        self._dht._inbound_limiter = trio.CapacityLimiter(DHT_STREAMS_MAX)
        self._dht._provider_rate_max = PROVIDES_PER_WINDOW_MAX
        self._connection_ids: dict[int, PeerId] = {}  # connections that were announced to StreamHost

    @asynccontextmanager
    async def _link_layer(self) -> AsyncIterator[None]:
        for _, host, port in self._listen:
            check_port_is_free(host, port)
        network = self._swarm
        # Gossip learns of peers when they are admitted (`_peer_admitted`), not when they connect.
        for notifee in [notifee for notifee in network.notifees if isinstance(notifee, PubsubNotifee)]:
            network.remove_notifee(notifee)
        network.register_notifee(_Connections(self))  # type: ignore[arg-type]  # it has the six methods of INotifee
        for protocol in self._router.get_protocols():
            self._host.set_stream_handler(protocol, self._admitted_only(self._gossip.stream_handler))
        self._host.set_stream_handler(TProtocol("/ipfs/kad/1.0.0"), self._admitted_only(self._dht.handle_stream))
        for protocol_text in REQUESTS:
            self._host.set_stream_handler(TProtocol(protocol_text), self._serve(protocol_text))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(background_trio_service(self._router))
            await stack.enter_async_context(background_trio_service(self._gossip))
            await self._gossip.wait_until_ready()
            await stack.enter_async_context(self._host.run([multiaddr for multiaddr, _, _ in self._listen]))
            self._check_listening()
            await stack.enter_async_context(background_trio_service(self._dht))
            yield

    async def _close_all(self) -> None:
        """In an order in which a stuck peer keeps no listener and no socket open. B4: libp2p closes no listener by itself."""
        for listener in list(self._swarm.listeners.values()):
            await listener.close()
        async with trio.open_nursery() as nursery:  # each close sleeps 0.1 s: side by side
            for connections in list(self._swarm.connections.values()):
                for connection in list(connections):
                    nursery.start_soon(self._close_connection, connection)
        for stream in tuple(self._tcp.open_streams):
            await stream.close()
        await self._host.close()

    def _check_listening(self) -> None:
        """libp2p's `listen` reports failure by a bool that `run` throws away."""
        for multiaddr, _, _ in self._listen:
            if str(multiaddr) not in self._swarm.listeners:
                raise AddressInUse(errno.EADDRINUSE, f"cannot listen on {multiaddr}: the port was taken a moment ago")

    # -- facts --------------------------------------------------------------------------------------------------------
    @property
    def addresses(self) -> tuple[str, ...]:
        if self._announce:
            return tuple(map(str, self._announce))
        me = peer_text(self._peer_id)
        return tuple(f"{address}/p2p/{me}" for address in self.listening)

    @property
    def listening(self) -> tuple[str, ...]:
        """Our own sockets, as multiaddrs without a peer."""
        return tuple(str(address) for address in self._host.get_transport_addrs())

    # -- connections --------------------------------------------------------------------------------------------------
    async def _libp2p_connected(self, connection: Any) -> None:
        try:
            peer = from_libp2p(connection.muxed_conn.peer_id)
        except Rejected:
            await connection.close()
            return
        self._connection_ids[id(connection)] = peer
        remote = connection.muxed_conn.get_remote_address()
        self._connection_opened(peer, connection.muxed_conn.is_initiator, remote[0] if remote else None)

    async def _libp2p_disconnected(self, connection: Any) -> None:
        peer = self._connection_ids.pop(id(connection), None)
        if peer is not None:
            await self._connection_closed(peer)

    async def _connect(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Past `Swarm.dial_peer`, which refuses for 60 s every peer that failed once and ignores loopback addresses."""
        failure = f"we know no address of {short(peer)}"
        identity = to_libp2p(peer)
        for text in addresses:
            address = parse_address(text)
            failure = f"nobody answers at {address.transport_text}"
            with trio.move_on_after(CONNECT_SECONDS_MAX):
                try:
                    raw = await self._tcp.dial(Multiaddr(address.transport_text))
                except Exception as error:
                    failure = f"{failure} ({_why(error)})"
                    continue
                try:
                    await self._host.upgrade_outbound_connection(raw, identity)
                except Exception as error:
                    failure = f"{short(peer)} does not answer at {address.transport_text} ({_why(error)})"
                    await raw.close()
                    continue
                return
        raise PeerUnreachable(failure)

    async def _close(self, peer: PeerId) -> None:
        for connection in list(self._swarm.connections.get(to_libp2p(peer), ())):
            self._start(self._close_connection, connection)
        await trio.lowlevel.checkpoint()

    async def _close_connection(self, connection: Any) -> None:
        with trio.move_on_after(GOODBYE_SECONDS_MAX) as patience:
            await connection.close()
        if patience.cancelled_caught:  # its goodbye found no room in the socket: close that alone
            with trio.move_on_after(GOODBYE_SECONDS_MAX):
                await connection.muxed_conn.secured_conn.close()
            self._swarm.remove_conn(connection)
            await self._libp2p_disconnected(connection)

    async def _close_older(self, peer: PeerId, stream: Stream) -> None:
        assert isinstance(stream, _Stream)
        for connection in list(self._swarm.connections.get(to_libp2p(peer), ())):
            if connection.muxed_conn is not stream.connection:
                self._start(self._close_connection, connection)

    # -- streams ------------------------------------------------------------------------------------------------------
    async def _open_stream(self, peer: PeerId, protocol: str) -> Stream:
        identity = to_libp2p(peer)
        if not self._swarm.connections.get(identity):
            raise BrokenStream("the peer is not connected")  # libp2p would dial
        try:
            return _Stream(await self._host.new_stream(identity, [TProtocol(protocol)]))
        except Exception as error:
            raise BrokenStream(_why(error)) from error

    def _serve(self, protocol: str) -> Callable[[Any], Awaitable[None]]:
        async def serve(stream: Any) -> None:
            await self.serve_stream(from_libp2p(stream.muxed_conn.peer_id), protocol, _Stream(stream))

        return serve

    def _admitted_only(self, handler: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def serve(stream: Any) -> None:
            if await self._wait_admitted(from_libp2p(stream.muxed_conn.peer_id), is_open=False) is None:
                await stream.reset()
                return
            await handler(stream)

        return serve

    # -- gossip -------------------------------------------------------------------------------------------------------
    async def _join(self, topic: str) -> None:
        await self._gossip.subscribe(topic)

    async def _flood(self, topic: str, data: bytes) -> None:
        await self._gossip.publish_when_possible(topic, data)

    def _peer_admitted(self, peer: PeerId) -> None:
        identity = to_libp2p(peer)
        self._gossip.manager.run_task(self._gossip._handle_new_peer_with_retry, identity)
        self._start(self._enter_routing_table, identity)

    async def _enter_routing_table(self, identity: ID) -> None:
        """Connecting alone does not fill it (libp2p.md 4)."""
        peer = from_libp2p(identity)
        addresses = [Multiaddr(parse_address(text).transport_text) for text in self._book.known_addresses(peer)]
        self._host.get_peerstore().add_addrs(identity, addresses, 24 * 3600)
        await self._dht.routing_table.add_peer(identity, skip_server_mode_check=True)

    async def _peer_gone(self, peer: PeerId) -> None:
        identity = to_libp2p(peer)
        self._gossip._handle_dead_peer(identity)
        self._dht.routing_table.remove_peer(identity)
        await trio.lowlevel.checkpoint()

    # -- the distributed table ----------------------------------------------------------------------------------------
    async def put_record(self, key: RecordKey, value: bytes) -> None:
        text = key_text(key)
        check_record(text, value)
        try:
            await self._dht.put_value(text, value)
        except ValueError:
            raise Rejected(Reason.REPEATED, "a better record is known under this key") from None

    async def find_record(self, key: RecordKey) -> bytes | None:
        """`KadDHT.get_value` trusts the local copy, which may be old (libp2p.md 4): this asks the network every time."""
        text = key_text(key)
        name = text.encode()
        own = self._dht.value_store.get(name)
        values: list[bytes] = [] if own is None else [own.value]

        async def ask(identity: ID) -> None:
            value = await self._dht.value_store._get_from_peer(identity, name)
            if isinstance(value, bytes):
                values.append(value)

        await self._ask_nearest(name, ask)
        try:
            best = values[choose_best(text, values)]
        except Rejected:
            return None
        if own is None or best != own.value:
            self._dht.value_store.put(name, best)
        return best

    async def provide(self, key: RecordKey) -> None:
        await self._dht.provider_store.provide(key_text(key).encode())

    async def find_providers(self, key: RecordKey) -> tuple[PeerId, ...]:
        name = key_text(key).encode()
        found = list(self._dht.provider_store.get_providers(name))

        async def ask(identity: ID) -> None:
            providers, _ = await self._dht.provider_store._get_providers_from_peer_with_closers(identity, name)
            found.extend(providers)

        await self._ask_nearest(name, ask)
        peers: set[PeerId] = set()
        for provider in found:
            try:
                peer = from_libp2p(provider.peer_id)
            except Rejected:
                continue
            peers.add(peer)
            suffix = f"/p2p/{peer_text(peer)}"
            addresses = tuple(str(address).removesuffix(suffix) + suffix for address in provider.addrs)
            self._learn_hints(peer, addresses)
        return tuple(sorted(peers - {self._peer_id}))

    def _learn_hints(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        valid: list[str] = []
        for text in addresses:
            try:
                valid.append(str(parse_address(text)))
            except Rejected:
                continue
        self._decide(peerbook.AddressesLearned(peer, tuple(valid)))

    async def _ask_nearest(self, name: bytes, ask: Callable[[ID], Awaitable[None]]) -> None:
        """Put a question to the peers nearest to a key, side by side, each within its time."""

        async def ask_one(identity: ID) -> None:
            with trio.move_on_after(LOOKUP_SECONDS_MAX):
                try:
                    await ask(identity)
                except Exception:
                    self._counters.dropped("record lookup failed")

        nearest = await self._dht.peer_routing.find_closest_peers_network(name, LOOKUP_PEERS_MAX)
        async with trio.open_nursery() as nursery:
            for identity in nearest:
                if identity != self._id:
                    nursery.start_soon(ask_one, identity)


def _parse_listen(text: str) -> tuple[Multiaddr, str, int]:
    parts = text.split("/")
    if len(parts) != 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp" or not parts[4].isdigit():
        raise Rejected(Reason.BAD_ADDRESS, f"{text[:80]!r} is not /ip4/HOST/tcp/PORT, where to listen")
    try:
        return Multiaddr(text), parts[2], int(parts[4])
    except Exception:  # multiaddr raises a dozen types
        raise Rejected(Reason.BAD_ADDRESS, f"{text[:80]!r} is not an address of a socket") from None


def _why(error: BaseException) -> str:
    """One short line of a libp2p exception, whose texts are sentences, tuples or nothing."""
    cause = error.__cause__ or error
    line = " ".join(str(cause).split()) or type(cause).__name__
    return line[:160]
