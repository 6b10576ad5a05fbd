"""StreamHost: what both hosts have in common, which is nearly everything.

A link layer (libp2p, or queues in memory) opens connections and streams and floods gossip. This file makes a `Transport`
of it: greetings and admission, requests with refusals, one-way senders, pings, re-dialling, counting, events.

    link layer calls                       and implements
    ----------------                       --------------
    connection_opened, connection_closed   _connect, _close, _open_stream
    serve_stream                           _flood, _join, record methods
    gossip_arrived                         _peer_admitted, _peer_gone

A peer is one `_Link` from its first connection to its last:

    greeting --> admitted --> gone        PeerConnected, PeerLost
           \\--> refused --> gone          PeerRefused

Each link has a cancel scope for the tasks that serve it, and every wait has a deadline: a peer that stops in the middle of
anything costs a bounded time and a bounded buffer.
"""

from __future__ import annotations

import abc
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any, Final, NoReturn, Protocol, assert_never

import trio

from p2p import peerbook
from p2p.addresses import parse_address, usable_addresses
from p2p.admission import Admission, Allowance
from p2p.framing import (
    ANSWER_OVERHEAD_BYTES,
    REFUSAL_BYTES_MAX,
    FrameReader,
    decode_answer,
    encode_answer,
    encode_frame,
    encode_refusal,
)
from p2p.greeting import OTHERS_MAX, OTHERS_PER_PONG_MAX, SESSION_BYTES, Greeting, Ping, Pong
from p2p.io.counters import Counters, count_received, count_sent
from p2p.peerbook import PeerBook
from p2p.requests import (
    BUDGET_BURST_TOKENS,
    BUDGET_TOKENS_PER_SECOND,
    GENESIS,
    HELLO,
    PING,
    REQUESTS,
    RequestRule,
    get_request_rule,
)
from p2p.topics import TopicRule, find_topic_rule, get_topic_rule
from p2p.transport import (
    CheckHello,
    GossipReceived,
    MessageReceived,
    PeerConnected,
    PeerLost,
    PeerRefused,
    PeerUnreachable,
    RecordKey,
    RequestFailed,
    RequestHandler,
    TransportEvent,
    TransportStatistics,
)
from protocol.codec import decode, encode
from protocol.ids import PeerId, short
from protocol.limits import KIB, MIB, STREAMS_PER_CONNECTION_MAX
from protocol.rejection import Blame, Reason, Rejected, check_invariant

EVENTS_MAX: Final = 4096  # unread events; beyond it the network waits for the node
SEND_QUEUE_MESSAGES_MAX: Final = 1024  # one-way messages waiting for one peer on one protocol
SEND_QUEUE_BYTES_MAX: Final = 32 * MIB
SERVED_STREAMS_MAX: Final = 256  # inbound streams of one peer at once
KEPT_SECONDS_MAX: Final = 60.0  # that a stream waits for another request (a guess)
RESERVED_STREAMS: Final = 32  # of STREAMS_PER_CONNECTION_MAX: gossip, greetings, pings, records, senders
READ_BYTES: Final = 256 * KIB  # libp2p.md 2: large reads, or frame handling dominates
GREETING_SECONDS_MAX: Final = 5.0
CONNECT_SECONDS_MAX: Final = 5.0
GOODBYE_SECONDS_MAX: Final = 1.0  # how long a refused peer may take to read why
CLOSE_SECONDS_MAX: Final = (
    4.0  # for everything; a stopped peer's socket may be full: then it is dropped without ceremony
)
REOPEN_SECONDS: Final = 0.25  # pause before a broken one-way stream is opened again
TICK_SECONDS: Final = 1.0
MISBEHAVIOUR_POINTS: Final = 20.0  # five of them within minutes are a ban

check_invariant(
    RESERVED_STREAMS < STREAMS_PER_CONNECTION_MAX < 256, "our own stream limit lies below yamux's silent one"
)

_log = getLogger("nock.p2p")


class Stream(Protocol):
    """What a link layer's stream can do. Every failure is a `BrokenStream`."""

    async def write(self, data: bytes) -> None: ...

    async def read(self, size_bytes: int) -> bytes:
        """At least one byte, or b"" when the other side has finished."""
        ...

    async def finish(self) -> None:
        """Nothing more from us; what was written still arrives."""
        ...

    async def reset(self) -> None:
        """Away with it, in both directions. Never raises."""
        ...


class BrokenStream(Exception):
    """The stream or its connection is gone."""


@dataclass(slots=True)
class _Sender:
    """The queue of one protocol to one peer, and the task that empties it."""

    waiting: deque[bytes] = field(default_factory=deque)
    waiting_bytes: int = 0
    wake: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True, eq=False)
class _Link:
    """One peer while it has a connection."""

    peer: PeerId
    connection_count: int = 0
    seen_host: str | None = None
    session: bytes | None = None
    is_admitted: bool = False
    is_gone: bool = False
    refusal: Rejected | None = None
    lost_reason: str | None = None
    decided: trio.Event = field(default_factory=trio.Event)  # admitted, refused or gone
    scopes: set[trio.CancelScope] = field(default_factory=set)  # of the tasks that serve this peer alone
    slots: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(STREAMS_PER_CONNECTION_MAX - RESERVED_STREAMS))
    served_count: int = 0
    senders: dict[str, _Sender] = field(default_factory=dict)
    kept: dict[str, list[Stream]] = field(default_factory=dict)  # by protocol: open, and nobody's now

    @contextmanager
    def while_here(self) -> Iterator[None]:
        """Runs its body until the peer is gone."""
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                if self.is_gone:
                    scope.cancel()
                yield
            finally:
                self.scopes.discard(scope)


class StreamHost(abc.ABC):
    """A `Transport` over a link layer. Opened by the functions of `libp2p_host` and `memory_host`, never by hand."""

    def __init__(
        self,
        *,
        peer_id: PeerId,
        hello: bytes,
        check_hello: CheckHello,
        bootstrap: Sequence[str],
        open_protocols: Iterable[str] = (GENESIS.protocol,),
        generator: random.Random,
        clock_milliseconds: Callable[[], int] | None,
        connections_wanted: int = peerbook.CONNECTIONS_WANTED,
    ) -> None:
        self._peer_id = peer_id
        self._hello = hello
        self._check_hello = check_hello
        self._bootstrap = [parse_address(text) for text in bootstrap]
        self._open_protocols = frozenset(open_protocols) | {HELLO.protocol}
        self._generator = generator
        self._session = generator.randbytes(SESSION_BYTES)
        self._clock_milliseconds = clock_milliseconds
        self._counters = Counters()
        self._admission = Admission()
        self._book = PeerBook(peer_id, generator, connections_wanted=connections_wanted)
        self._links: dict[PeerId, _Link] = {}
        self._connected: tuple[PeerId, ...] | None = None  # admitted peers, until that changes
        self._handlers: dict[str, RequestHandler] = {PING.protocol: self._answer_ping}
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._events_in, self._events_out = trio.open_memory_channel[TransportEvent](EVENTS_MAX)
        self._nursery: trio.Nursery | None = None
        self._is_closing = False

    # -- Transport: facts ---------------------------------------------------------------------------------------------
    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    @abc.abstractmethod
    def addresses(self) -> tuple[str, ...]: ...

    @property
    def events(self) -> trio.MemoryReceiveChannel[TransportEvent]:
        return self._events_out

    def connected_peers(self) -> tuple[PeerId, ...]:
        if self._connected is None:
            self._connected = tuple(sorted(peer for peer, link in self._links.items() if link.is_admitted))
        return self._connected

    def known_addresses(self, peer: PeerId) -> tuple[str, ...]:
        return self._book.known_addresses(peer)

    def statistics(self) -> TransportStatistics:
        counters = self._counters
        return TransportStatistics(
            bytes_sent_total=counters.bytes_sent_total,
            bytes_received_total=counters.bytes_received_total,
            topics=dict(counters.topics),
            protocols=dict(counters.protocols),
            drops=dict(counters.drops),
            round_trip_milliseconds=self._book.round_trip_milliseconds(),
            clock_offset_milliseconds=self._book.clock_offset_milliseconds(),
        )

    # -- Transport: gossip --------------------------------------------------------------------------------------------
    async def subscribe(self, topic: str) -> None:
        get_topic_rule(topic)
        await self._join(topic)

    async def publish(self, topic: str, data: bytes) -> None:
        rule = get_topic_rule(topic)
        if len(data) > rule.message_bytes_max:
            raise ValueError(f"{rule.name} carries at most {rule.message_bytes_max} bytes a message, not {len(data)}")
        count_sent(self._counters.topics, topic, len(data))
        await self._flood(topic, data)

    def _admit_gossip(
        self, topic: str, forwarder: PeerId, author: PeerId, size_bytes: int, now: float | None = None
    ) -> TopicRule | None:
        """The rule of a message that may be looked at; None when it is dropped, and counted."""
        link = self._links.get(forwarder)
        rule = find_topic_rule(topic)
        if link is None or not link.is_admitted:
            self._counters.dropped("gossip from a peer that is not admitted")
            return None
        if rule is None:
            self._misbehaved(forwarder, "gossip on an unknown topic")
            return None
        allowance = Allowance(rule.message_bytes_max, rule.burst_count, rule.per_second)
        try:
            now = trio.current_time() if now is None else now
            self._admission.check(author, rule.name, allowance, size_bytes, now)
        except Rejected as rejected:
            self._counters.dropped(f"gossip {rejected.reason.code}")
            if rejected.reason is Reason.TOO_LARGE:
                self._misbehaved(forwarder, "gossip too large")
            return None
        return rule

    async def _gossip_arrived(self, topic: str, forwarder: PeerId, data: bytes) -> None:
        """Tell the node of a message that `_admit_gossip` let in."""
        count_received(self._counters.topics, topic, len(data))
        self._book.handle(peerbook.Heard(forwarder), trio.current_time())
        await self._tell(GossipReceived(topic, forwarder, data))

    def report(self, peer: PeerId, rejected: Rejected) -> None:
        if rejected.reason.blame is Blame.SENDER:
            self._misbehaved(peer, str(rejected))

    # -- Transport: requests ------------------------------------------------------------------------------------------
    def set_request_handler(self, protocol: str, handler: RequestHandler) -> None:
        rule = get_request_rule(protocol)
        if rule.is_one_way or rule in (HELLO, PING):
            raise ValueError(
                f"{protocol} has no handler: it is {'told, not asked' if rule.is_one_way else 'the host itself'}"
            )
        self._handlers[protocol] = handler

    async def request(
        self, peer: PeerId, protocol: str, data: bytes, *, timeout_seconds: float, response_bytes_max: int
    ) -> bytes:
        rule = get_request_rule(protocol)
        if rule.is_one_way:
            raise ValueError(f"{protocol} is told, not asked")
        if len(data) > rule.request_bytes_max:
            raise ValueError(f"{protocol} takes at most {rule.request_bytes_max} bytes a request, not {len(data)}")
        link = self._links.get(peer)
        if link is None or not (link.is_admitted or protocol in self._open_protocols):
            raise RequestFailed(peer, protocol, "the peer is not connected")
        why = "too many requests were open the whole time"
        with trio.move_on_after(timeout_seconds):
            async with link.slots:
                why = f"no answer within {timeout_seconds:g} s"
                count_sent(self._counters.protocols, protocol, len(data))
                answer = await self._ask(link, rule, data, response_bytes_max)
                count_received(self._counters.protocols, protocol, len(answer))
                return answer
        raise RequestFailed(peer, protocol, why)

    async def _ask(self, link: _Link, rule: RequestRule, data: bytes, response_bytes_max: int) -> bytes:
        """One question, on a stream that was kept or on a new one; the caller holds the deadline."""
        kept = link.kept.setdefault(rule.protocol, [])
        frame = None
        while frame is None and kept:
            with suppress(RequestFailed):  # the other side was done with it
                frame = await self._ask_on(kept.pop(), link, rule, data, response_bytes_max)
        if frame is None:
            try:
                stream = await self._open_stream(link.peer, rule.protocol)
            except BrokenStream as error:
                raise RequestFailed(link.peer, rule.protocol, str(error) or "no stream opened") from None
            frame = await self._ask_on(stream, link, rule, data, response_bytes_max)
        self._book.handle(peerbook.Heard(link.peer), trio.current_time())
        return decode_answer(frame)

    async def _ask_on(
        self, stream: Stream, link: _Link, rule: RequestRule, data: bytes, response_bytes_max: int
    ) -> bytes:
        """The frame that comes back; then the stream is kept, or finished."""
        is_whole = False
        try:
            await stream.write(encode_frame(data))
            reader = FrameReader(max(response_bytes_max + ANSWER_OVERHEAD_BYTES, REFUSAL_BYTES_MAX))
            frame = await _read_frame(stream, reader)
            if frame is None:
                raise RequestFailed(link.peer, rule.protocol, "the peer closed the stream without an answer")
            is_whole = True
            kept = link.kept[rule.protocol]
            if len(kept) < rule.kept_streams and reader.is_empty and not link.is_gone:
                kept.append(stream)
            else:
                with suppress(BrokenStream):  # the other side may be done with the stream already
                    await stream.finish()
            return frame
        except BrokenStream as error:
            raise RequestFailed(link.peer, rule.protocol, str(error) or "the stream broke") from None
        except Rejected as rejected:  # the frame, not the answer: the reader refused it
            raise RequestFailed(link.peer, rule.protocol, str(rejected)) from None
        finally:
            if not is_whole:
                with shielded(CLOSE_SECONDS_MAX):
                    await stream.reset()

    async def serve_stream(self, peer: PeerId, protocol: str, stream: Stream) -> None:
        """An inbound stream on one of our protocols. Never raises but for cancellation and broken invariants."""
        rule = REQUESTS[protocol]
        link = await self._wait_admitted(peer, protocol in self._open_protocols)
        if link is None or link.served_count >= SERVED_STREAMS_MAX:
            self._counters.dropped("stream of a peer that is not admitted" if link is None else "too many streams")
            await stream.reset()
            return
        link.served_count += 1
        try:
            if rule is HELLO:
                await self._answer_greeting(link, stream)
            elif rule.is_one_way:
                await self._serve_messages(peer, rule, stream)
            else:
                await self._serve_requests(peer, rule, stream)
        except BrokenStream:
            pass
        except Rejected as rejected:
            self._counters.dropped(f"stream {rejected.reason.code}")
            self._misbehaved(peer, f"{protocol}: {rejected}")
            await stream.reset()
        except Exception:
            self._counters.dropped("handler failed")
            _log.exception("the handler of %s failed; its stream is reset, the host goes on", protocol)
            await stream.reset()
        finally:
            link.served_count -= 1

    async def _serve_requests(self, peer: PeerId, rule: RequestRule, stream: Stream) -> None:
        """One request, or where streams are kept as many as come, one after the other."""
        reader, patience_seconds = FrameReader(rule.request_bytes_max), rule.timeout_seconds
        while True:
            frame = None
            with trio.move_on_after(patience_seconds):
                frame = await _read_frame(stream, reader)
            if frame is None:
                await stream.reset()
                return
            if not await self._serve_request(peer, rule, stream, frame):
                return
            patience_seconds = KEPT_SECONDS_MAX

    async def _serve_request(self, peer: PeerId, rule: RequestRule, stream: Stream, frame: bytes) -> bool:
        """Answer one; whether another may come on this stream."""
        now = trio.current_time()
        self._book.handle(peerbook.Heard(peer), now)
        count_received(self._counters.protocols, rule.protocol, len(frame))
        try:
            self._admission.check(peer, rule.protocol, _allowance(rule), len(frame), now, rule.cost)
            handler = self._handlers.get(rule.protocol)
            if handler is None:
                raise Rejected(Reason.UNKNOWN_KIND, f"this node does not serve {rule.protocol}")
            body = await handler(peer, frame)
        except Rejected as rejected:
            payload = encode_refusal(rejected)
        else:
            if len(body) > rule.response_bytes_max:
                raise ValueError(f"an answer of {len(body)} bytes, at most {rule.response_bytes_max}")
            payload = encode_answer(body)
            count_sent(self._counters.protocols, rule.protocol, len(body))
        with trio.move_on_after(rule.timeout_seconds) as patience:
            await stream.write(encode_frame(payload))
            if not rule.kept_streams:
                await stream.finish()
        if patience.cancelled_caught:
            await stream.reset()
        return bool(rule.kept_streams) and not patience.cancelled_caught

    async def _serve_messages(self, peer: PeerId, rule: RequestRule, stream: Stream) -> None:
        reader = FrameReader(rule.request_bytes_max)
        while data := await stream.read(READ_BYTES):
            now = trio.current_time()
            self._book.handle(peerbook.Heard(peer), now)
            for frame in reader.feed(data):
                try:
                    self._admission.check(peer, rule.protocol, _allowance(rule), len(frame), now, rule.cost)
                except Rejected as rejected:
                    self._counters.dropped(f"message {rejected.reason.code}")
                    continue
                count_received(self._counters.protocols, rule.protocol, len(frame))
                await self._tell(MessageReceived(peer, rule.protocol, frame))
        await stream.finish()

    # -- Transport: one-way messages ----------------------------------------------------------------------------------
    async def send(self, peer: PeerId, protocol: str, data: bytes) -> None:
        rule = get_request_rule(protocol)
        if not rule.is_one_way:
            raise ValueError(f"{protocol} is asked, not told")
        if len(data) > rule.request_bytes_max:
            raise ValueError(f"{protocol} takes at most {rule.request_bytes_max} bytes a message, not {len(data)}")
        link = self._links.get(peer)
        if link is None or not link.is_admitted:
            raise RequestFailed(peer, protocol, "the peer is not connected")
        sender = link.senders.get(protocol)
        if sender is None:
            sender = link.senders[protocol] = _Sender()
            self._start(self._run_sender, link, protocol, sender)
        sender.waiting.append(data)
        sender.waiting_bytes += len(data)
        while len(sender.waiting) > SEND_QUEUE_MESSAGES_MAX or sender.waiting_bytes > SEND_QUEUE_BYTES_MAX:
            sender.waiting_bytes -= len(sender.waiting.popleft())
            self._counters.dropped("send queue full")
        sender.wake.set()
        await trio.lowlevel.checkpoint()

    async def _run_sender(self, link: _Link, protocol: str, sender: _Sender) -> None:
        """Write what waits, on one stream, for as long as the peer is there."""
        stream: Stream | None = None
        with link.while_here():
            while not link.is_gone:
                if not sender.waiting:
                    sender.wake = trio.Event()
                    await sender.wake.wait()
                    continue
                try:
                    if stream is None:
                        with trio.fail_after(CONNECT_SECONDS_MAX):
                            stream = await self._open_stream(link.peer, protocol)
                    data = sender.waiting.popleft()
                    sender.waiting_bytes -= len(data)
                    await stream.write(encode_frame(data))
                    count_sent(self._counters.protocols, protocol, len(data))
                except (BrokenStream, trio.TooSlowError):
                    if stream is not None:
                        self._counters.dropped("stream broke under a message")
                        await stream.reset()
                        stream = None
                    await trio.sleep(REOPEN_SECONDS)
        if sender.waiting:
            self._counters.dropped("peer lost with messages waiting", len(sender.waiting))
        if stream is not None:
            with shielded(CLOSE_SECONDS_MAX):
                await stream.reset()

    # -- Transport: connections ---------------------------------------------------------------------------------------
    async def dial(self, multiaddr: str) -> PeerId:
        address = parse_address(multiaddr)
        if address.peer == self._peer_id:
            raise Rejected(Reason.BAD_ADDRESS, "that is this node itself")
        await self._dial(address.peer, (str(address),))
        self._decide(peerbook.AddressesLearned(address.peer, (str(address),)))
        return address.peer

    async def _dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Connect unless there is a connection, and wait for the greeting. `PeerUnreachable` or `Rejected`."""
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:
                link = self._links.get(peer)
                if link is None:
                    await self._connect(peer, addresses)
                    link = self._links.get(peer)
                if link is None:
                    raise PeerUnreachable(f"{short(peer)} closed the connection at once")
                with trio.move_on_after(2 * GREETING_SECONDS_MAX):
                    await link.decided.wait()
                if link.refusal is not None:
                    raise link.refusal
                if not link.is_admitted:
                    raise PeerUnreachable(f"{short(peer)} did not greet us: {link.lost_reason or 'it said nothing'}")
        finally:
            if not lock.locked():
                self._dialling.pop(peer, None)

    async def disconnect(self, peer: PeerId) -> None:
        self._decide(peerbook.Forgotten(peer))
        link = self._links.get(peer)
        if link is not None:
            await self._drop(link, "we closed the connection")

    async def _drop(self, link: _Link, reason: str) -> None:
        """Tell the node first, then close: a stopped peer must not delay the news."""
        await self._lose(link, reason)
        with shielded(CLOSE_SECONDS_MAX):
            await self._close(link.peer)

    def _connection_opened(self, peer: PeerId, is_dialler: bool, seen_host: str | None) -> None:
        """The link layer has a new connection to this peer."""
        if self._is_closing:
            return
        if self._admission.is_banned(peer, trio.current_time()):
            self._start(self._close, peer)
            return
        link = self._links.get(peer)
        is_new = link is None
        if link is None:
            link = self._links[peer] = _Link(peer)
        link.connection_count += 1
        link.seen_host = seen_host or link.seen_host
        if is_dialler:
            self._start(self._greet, link)
        elif is_new:
            self._start(self._expect_greeting, link)

    async def _connection_closed(self, peer: PeerId) -> None:
        """The link layer lost one connection to this peer."""
        link = self._links.get(peer)
        if link is None or self._is_closing:
            return
        link.connection_count -= 1
        if link.connection_count <= 0:
            await self._lose(link, "the connection was closed")

    async def _lose(self, link: _Link, reason: str) -> None:
        if link.is_gone:
            return
        link.is_gone = True
        link.lost_reason = reason
        was_admitted, link.is_admitted = link.is_admitted, False
        self._connected = None
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
        link.decided.set()
        if was_admitted:
            self._book.handle(peerbook.Lost(link.peer), trio.current_time())
            await self._peer_gone(link.peer)
            await self._tell(PeerLost(link.peer, reason))
        for scope in tuple(link.scopes):  # last: the caller may be one of these tasks
            scope.cancel()

    # -- greeting -----------------------------------------------------------------------------------------------------
    def _greeting(self) -> bytes:
        return encode(
            Greeting(
                session=self._session,
                hello=self._hello,
                addresses=self.addresses[:8],
                others=self._some_others(OTHERS_MAX),
            )
        )

    def _others_wanted(self) -> int:
        """How many addresses we would like to hear with the answer to a ping."""
        return 0 if self._book.is_sated else OTHERS_PER_PONG_MAX

    def _some_others(self, count_max: int, asker: PeerId | None = None) -> tuple[str, ...]:
        """An address each of admitted peers: of all where they fit, else of some drawn evenly."""
        if not count_max:
            return ()
        drawn: Sequence[PeerId] = self.connected_peers()
        if len(drawn) > count_max:
            drawn = self._generator.choices(drawn, k=count_max + 1)  # the asker may be among them, or one twice
        known = [self._book.known_addresses(peer)[:1] for peer in dict.fromkeys(drawn) if peer != asker]
        return tuple(addresses[0] for addresses in known if addresses)[:count_max]

    async def _greet(self, link: _Link) -> None:
        """The dialler's part. Whatever goes wrong ends in `_refuse` or `_drop`."""
        why = "it did not greet us in time"
        with link.while_here(), trio.move_on_after(GREETING_SECONDS_MAX):
            try:
                stream = await self._open_stream(link.peer, HELLO.protocol)
                await stream.write(encode_frame(self._greeting()))
                frame = await _read_frame(stream, FrameReader(HELLO.response_bytes_max))
                if frame is None:
                    raise BrokenStream("it closed the stream before it answered our greeting")
                try:
                    greeting = decode(Greeting, decode_answer(frame), limit_bytes=HELLO.response_bytes_max)
                except Rejected as rejected:
                    await self._refuse(link, rejected, f"it refused us: {rejected}")
                    return
                if link.session not in (None, greeting.session):
                    self._start(self._begin_anew_and_greet, link, stream)
                    return
                try:
                    self._check_greeting(link, greeting)
                except Rejected as rejected:
                    await self._refuse(link, rejected, str(rejected), stream)
                    return
                await self._admit(link, greeting)
                await stream.write(encode_frame(encode_answer(b"")))
                await stream.finish()
                return
            except BrokenStream as error:
                why = str(error) or "the stream broke during the greeting"
        if not link.is_admitted:
            await self._drop(link, why)

    async def _answer_greeting(self, link: _Link, stream: Stream) -> None:
        """The listener's part."""
        with trio.move_on_after(GREETING_SECONDS_MAX):
            reader = FrameReader(HELLO.request_bytes_max)
            frame = await _read_frame(stream, reader)
            if frame is None:
                return
            greeting = decode(Greeting, frame, limit_bytes=HELLO.request_bytes_max)
            if link.session not in (None, greeting.session):
                link = await self._begin_anew(link, stream)
            try:
                self._check_greeting(link, greeting)
            except Rejected as rejected:
                await self._refuse(link, rejected, str(rejected), stream)
                return
            await stream.write(encode_frame(encode_answer(self._greeting())))
            verdict = await _read_frame(stream, reader)
            if verdict is None:
                return
            try:
                decode_answer(verdict)
            except Rejected as rejected:
                await self._refuse(link, rejected, f"it refused us: {rejected}")
                return
            await self._admit(link, greeting)
            await stream.finish()

    def _check_greeting(self, link: _Link, greeting: Greeting) -> None:
        if self._admission.is_banned(link.peer, trio.current_time()):
            raise Rejected(Reason.BANNED)
        self._check_hello(link.peer, greeting.hello)

    async def _begin_anew(self, link: _Link, stream: Stream) -> _Link:
        """The peer was restarted before we noticed that its old process is gone."""
        await self._lose(link, "it was restarted")
        fresh = self._links[link.peer] = _Link(
            link.peer, connection_count=link.connection_count, seen_host=link.seen_host
        )
        self._start(self._close_older, link.peer, stream)
        return fresh

    async def _begin_anew_and_greet(self, link: _Link, stream: Stream) -> None:
        await self._greet(await self._begin_anew(link, stream))

    async def _expect_greeting(self, link: _Link) -> None:
        with link.while_here():
            with trio.move_on_after(GREETING_SECONDS_MAX):
                await link.decided.wait()
            if not link.decided.is_set():
                await self._drop(link, "it did not greet us in time")

    async def _admit(self, link: _Link, greeting: Greeting) -> None:
        if link.is_gone or link.is_admitted:
            return
        peer = link.peer
        link.session = greeting.session
        link.is_admitted = True
        self._connected = None
        self._book.handle(peerbook.Admitted(peer), trio.current_time())
        self._decide(peerbook.AddressesLearned(peer, usable_addresses(greeting.addresses, peer, link.seen_host)))
        await self._tell(PeerConnected(peer, self._book.known_addresses(peer)))
        link.decided.set()
        self._peer_admitted(peer)
        self._learn_others(greeting.others)

    def _learn_others(self, others: Iterable[str]) -> None:
        """Hints of a peer: they cost a dial at most, and the book bounds how many it keeps."""
        for text in others:
            try:
                address = parse_address(text)
            except Rejected:
                continue
            if not self._book.known_addresses(address.peer):
                self._decide(peerbook.AddressesLearned(address.peer, (str(address),)))

    async def _refuse(self, link: _Link, rejected: Rejected, sentence: str, stream: Stream | None = None) -> None:
        """End a link that was refused; by us when there is a stream, on which the peer is given the time to read why."""
        if link.is_gone or link.refusal is not None:
            return
        link.refusal = rejected
        link.decided.set()
        self._book.handle(peerbook.Refused(link.peer), trio.current_time())
        await self._tell(PeerRefused(link.peer, sentence))
        if stream is not None:
            with trio.move_on_after(GOODBYE_SECONDS_MAX), suppress(BrokenStream):
                await stream.write(encode_frame(encode_refusal(rejected)))
                await stream.finish()
                await stream.read(1)
        await self._drop(link, sentence)

    async def _wait_admitted(self, peer: PeerId, is_open: bool) -> _Link | None:
        """The link of a peer that may speak; its first streams may overtake the end of the greeting."""
        link = self._links.get(peer)
        if link is None or is_open:
            return link
        with trio.move_on_after(GREETING_SECONDS_MAX):
            await link.decided.wait()
        return link if link.is_admitted else None

    # -- pings, dials, decisions of the book --------------------------------------------------------------------------
    async def _answer_ping(self, peer: PeerId, data: bytes) -> bytes:
        ping = decode(Ping, data, limit_bytes=PING.request_bytes_max)
        others = self._some_others(ping.others, peer)
        await trio.lowlevel.checkpoint()
        return encode(
            Pong(
                nonce=ping.nonce,
                milliseconds=self._clock_milliseconds() if self._clock_milliseconds else 0,
                others=others,
            )
        )

    def _start_ping(self, peer: PeerId) -> None:
        self._start(self._ping, peer)

    async def _ping(self, peer: PeerId) -> None:
        ping = Ping(nonce=self._generator.getrandbits(63), others=self._others_wanted())
        clock = self._clock_milliseconds
        now = clock or _monotonic_milliseconds
        link = self._links.get(peer)
        if link is None:
            return
        sent = now()
        with trio.move_on_after(PING.timeout_seconds):
            try:
                answer = await self._ask(link, PING, encode(ping), PING.response_bytes_max)
            except (RequestFailed, Rejected):
                return
            received = now()
            try:
                pong = decode(Pong, answer, limit_bytes=PING.response_bytes_max)
            except Rejected:
                pong = None
            if pong is None or pong.nonce != ping.nonce or len(pong.others) > ping.others:
                self._misbehaved(peer, "a wrong answer to a ping")
                return
            self._decide(peerbook.Pong(peer, sent, (pong.milliseconds or None) if clock else None, received))
            self._learn_others(pong.others)

    async def _dial_for_book(self, decision: peerbook.Dial) -> None:
        try:
            await self._dial(decision.peer, decision.addresses)
        except PeerUnreachable:
            self._decide(peerbook.DialFailed(decision.peer))
        except Rejected:
            self._decide(peerbook.Refused(decision.peer))
        else:
            is_here = self._is_admitted(decision.peer)  # it may be lost again by now
            self._decide(peerbook.Admitted(decision.peer) if is_here else peerbook.DialFailed(decision.peer))

    def _is_admitted(self, peer: PeerId) -> bool:
        link = self._links.get(peer)
        return link is not None and link.is_admitted

    def _misbehaved(self, peer: PeerId, what: str) -> None:
        _log.info("%s misbehaved: %s", short(peer), what)
        self._counters.dropped("misbehaviour")
        self._decide(peerbook.Misbehaved(peer, MISBEHAVIOUR_POINTS))

    def _decide(self, event: peerbook.Event) -> None:
        """Give the book an event and perform what it decides."""
        for decision in self._book.handle(event, trio.current_time()):
            match decision:
                case peerbook.Dial():
                    self._start(self._dial_for_book, decision)
                case peerbook.Ping(peer):
                    self._start_ping(peer)
                case peerbook.Drop(peer, reason):
                    link = self._links.get(peer)
                    if link is not None:
                        self._start(self._drop, link, reason)
                    else:
                        self._book.handle(peerbook.Lost(peer), trio.current_time())
                case peerbook.Ban(peer, until_seconds):
                    self._admission.ban(peer, until_seconds)
                case _:
                    assert_never(decision)

    async def _tick(self) -> NoReturn:
        for address in self._bootstrap:
            self._decide(peerbook.AddressesLearned(address.peer, (str(address),), is_bootstrap=True))
        while True:
            self._decide(peerbook.Tick())
            await trio.sleep(TICK_SECONDS)

    # -- life ---------------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """The host lives in a task of its own, beside the body.

        So an exception of the body comes out as itself: it neither unwinds through the services of the link layer, which
        would lose it, nor arrives wrapped in a group for each of their nurseries.
        """
        failure: Exception | None = None
        stop = trio.Event()
        async with trio.open_nursery() as outside:
            try:
                await outside.start(self._live, stop)
                yield
            except Exception as error:
                failure = error
            finally:
                stop.set()
        if failure is not None:
            raise failure

    async def _live(self, stop: trio.Event, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with self._link_layer():
                try:
                    async with trio.open_nursery() as nursery:
                        self._nursery = nursery
                        nursery.start_soon(self._tick)
                        task_status.started()
                        await stop.wait()
                        nursery.cancel_scope.cancel()
                finally:
                    self._is_closing = True
                    with shielded(CLOSE_SECONDS_MAX):
                        await self._close_all()
        finally:
            self._events_in.close()

    # -- plumbing -----------------------------------------------------------------------------------------------------
    async def _tell(self, event: TransportEvent) -> None:
        try:
            self._events_in.send_nowait(event)
        except trio.WouldBlock:
            await self._events_in.send(event)

    def _start(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """A task that lives at most as long as the host."""
        if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(self._contain, function, *arguments)

    async def _contain(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """A bug of ours that one peer meets must not cost us the others; a broken invariant still stops the node."""
        try:
            await function(*arguments)
        except Exception:
            self._counters.dropped("task failed")
            _log.exception("a task of the host failed; the host goes on")

    # -- what the link layer does -------------------------------------------------------------------------------------
    @abc.abstractmethod
    def _link_layer(self) -> AbstractAsyncContextManager[None]:
        """Listens for as long as its body runs."""

    @abc.abstractmethod
    async def _close_all(self) -> None:
        """Close every connection and listener."""

    @abc.abstractmethod
    async def _connect(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Open a connection at one of the addresses, having called `_connection_opened`; `PeerUnreachable` otherwise."""

    @abc.abstractmethod
    async def _close(self, peer: PeerId) -> None:
        """Close every connection to a peer. Never raises."""

    @abc.abstractmethod
    async def _close_older(self, peer: PeerId, stream: Stream) -> None:
        """Close every connection to a peer but the one that carries this stream."""

    @abc.abstractmethod
    async def _open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream on an open connection; `BrokenStream` otherwise."""

    @abc.abstractmethod
    async def _join(self, topic: str) -> None: ...

    @abc.abstractmethod
    async def _flood(self, topic: str, data: bytes) -> None: ...

    @abc.abstractmethod
    def _peer_admitted(self, peer: PeerId) -> None:
        """From now on the peer may gossip."""

    @abc.abstractmethod
    async def _peer_gone(self, peer: PeerId) -> None: ...

    @abc.abstractmethod
    async def put_record(self, key: RecordKey, value: bytes) -> None: ...

    @abc.abstractmethod
    async def find_record(self, key: RecordKey) -> bytes | None: ...

    @abc.abstractmethod
    async def provide(self, key: RecordKey) -> None: ...

    @abc.abstractmethod
    async def find_providers(self, key: RecordKey) -> tuple[PeerId, ...]: ...


@contextmanager
def shielded(seconds: float) -> Iterator[None]:
    """Runs its body even while the host is being closed, for so long at most: for goodbyes."""
    with trio.CancelScope() as scope:
        scope.shield = True
        scope.deadline = trio.current_time() + seconds
        yield


def _monotonic_milliseconds() -> int:
    return int(trio.current_time() * 1000)


def key_text(key: RecordKey) -> str:
    """Keys are ASCII text on the wire."""
    return key if isinstance(key, str) else key.decode("ascii")


def _allowance(rule: RequestRule) -> Allowance:
    return Allowance(rule.request_bytes_max, BUDGET_BURST_TOKENS, BUDGET_TOKENS_PER_SECOND)


async def _read_frame(stream: Stream, reader: FrameReader) -> bytes | None:
    """The next frame; None when the other side finished before there was one. At most one frame may be in flight."""
    while True:
        data = await stream.read(READ_BYTES)
        if not data:
            return None
        frames = reader.feed(data)
        if len(frames) > 1:
            raise Rejected(Reason.MALFORMED, "more frames than questions")
        if frames:
            return frames[0]
