"""Gossipsub on libp2p 0.8.1, with the reading side rewritten where the original loses messages or the process.

    publish --> sign --> mark seen --> router: queues of mesh peers (1024 each)
    stream of a peer --> frame --> for each message, in order: seen? known topic, size, rate? signature? --> router --> node

The original (`pubsub.py:547`) starts a task for each message: order is lost, memory is unbounded, the thousand-and-first task
raises `TooManyChildrenException`, and any exception in one ends the process (B1: a junk `key` is enough). Here a stream is
read by one task to the end of each message, so a node that is slow to read its events slows its peers down instead.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

import libp2p.pubsub.pubsub
import trio
from libp2p.abc import IHost, INetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, PROTOCOL_ID_V13, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.pubsub.validators import signature_validator
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from p2p.io.libp2p_guards import RPC_QUEUE_MESSAGES_MAX, DigestsOfMessages
from p2p.topics import TopicRule, find_topic_rule
from protocol.ids import PeerId, parse_peer, peer_text
from protocol.limits import GOSSIP_MESSAGE_BYTES_MAX, KIB
from protocol.rejection import Rejected, check_invariant

RPC_BYTES_MAX: Final = 1024 * KIB  # libp2p's own; several messages may share one
SEEN_SECONDS: Final = 120  # how long a message is known; mesh delays are seconds (libp2p.md 3)
SWEEP_SECONDS: Final = 15.0
PENDING_MESSAGES_MAX: Final = 256  # for a peer whose subscriptions have not arrived yet: half a second of a busy round
PUBLISH_PATIENCE_SECONDS: Final = (
    0.25  # a publisher waits this long for its slowest mesh peer, then the message is dropped
)
ERRORS_PER_STREAM_MAX: Final = 16

check_invariant(2 * GOSSIP_MESSAGE_BYTES_MAX < RPC_BYTES_MAX, "a gossip message fits in an RPC, twice")


@lru_cache(maxsize=4096)
def to_libp2p(peer: PeerId) -> ID:
    """The libp2p id of a peer; the two are in one-to-one correspondence."""
    return ID.from_base58(peer_text(peer))


@lru_cache(maxsize=4096)
def from_libp2p(identity: ID) -> PeerId:
    """The peer of a libp2p id; `Rejected(BAD_ADDRESS)` when its key is not Ed25519."""
    return parse_peer(identity.to_base58())


# Weights of penalties are POSITIVE here (`score.py` subtracts P4); P1 counts joins only; P3 is never fed. The thresholds
# are far below what an honest peer can reach, and -inf by default, which leaves scoring without effect.
SCORES: Final = ScoreParams(
    p1_time_in_mesh=TopicScoreParams(weight=0.01, cap=10.0, decay=0.99),
    p2_first_message_deliveries=TopicScoreParams(weight=0.5, cap=50.0, decay=0.95),
    p4_invalid_messages=TopicScoreParams(weight=10.0, cap=100.0, decay=0.9),
    p5_behavior_penalty_weight=1.0,
    p5_behavior_penalty_decay=0.9,
    p5_behavior_penalty_threshold=5.0,
    publish_threshold=-500.0,
    gossip_threshold=-200.0,
    graylist_threshold=-800.0,
    accept_px_threshold=math.inf,
)

pubsub: Any = libp2p.pubsub.pubsub  # its private names are guarded, and have no types

Admit = Callable[[str, PeerId, PeerId, int], TopicRule | None]
Deliver = Callable[[str, PeerId, bytes], Awaitable[None]]


class Router(GossipSub):
    """The original, but what it drops is counted."""

    dropped: Callable[[str], None]

    def _handle_dropped_rpc(self, peer_id: ID, rpc: Any, reason: str) -> None:
        for _ in rpc.publish:
            self.dropped(f"gossip {reason}")
        super()._handle_dropped_rpc(peer_id, rpc, reason)


def build_router(dropped: Callable[[str], None]) -> Router:
    """A router whose settings do not lose messages."""
    router = Router(
        protocols=[PROTOCOL_ID_V13, PROTOCOL_ID_V12, PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,  # the default is 120 s
        spam_protection_enabled=False,  # 10 messages/s for each forwarder, our own included; `admission` replaces it
        eclipse_protection_enabled=False,  # it prunes peers that share an address: all of a laptop's
        adaptive_gossip_enabled=False,  # it may raise the heartbeat to 30 s
        score_params=SCORES,
        max_pending_messages_per_peer=PENDING_MESSAGES_MAX,
    )
    router.dropped = dropped
    router.equivocation_detection = DigestsOfMessages()  # type: ignore[assignment]  # same mapping, bounded
    # Lists that only the adaptive part trims, and it is off: bounded here.
    short_list: Callable[[], Any] = functools.partial(deque, maxlen=64)
    router.recent_message_deliveries = defaultdict(short_list)
    router.recent_peer_connections = short_list()
    router.recent_peer_disconnections = short_list()
    return router


class Gossip(Pubsub):
    """Pubsub that asks `admit` before it verifies anything, and hands messages to `deliver` in order."""

    def __init__(
        self,
        host: IHost,
        router: Router,
        *,
        admit: Admit,
        deliver: Deliver,
        is_admitted: Callable[[PeerId], bool],
        first_number: int,
        misbehaved: Callable[[PeerId, str], None],
    ) -> None:
        super().__init__(host, router, strict_signing=True, seen_ttl=SEEN_SECONDS, max_inbound_rpc_size=RPC_BYTES_MAX)
        self._admit = admit
        self._deliver = deliver
        self._is_admitted = is_admitted
        self._misbehaved = misbehaved
        self._scorer = router.scorer
        # Messages are told apart by author and number. The original starts at seconds since the epoch, so a node that
        # said more than one message a second and restarted would repeat numbers, and its messages would count as seen.
        self.counter = first_number

    async def run(self) -> None:
        self.manager.run_daemon_task(self._sweep)
        await super().run()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_SECONDS)
            self.seen_messages._sweep()

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Then say what was missed: a topic joined while the greeting packet is being written is announced to nobody.

        The packet is built before the write and the peer is registered after it (`pubsub.py:1010`), and `subscribe` announces
        to registered peers only.
        """
        if not self._is_admitted(from_libp2p(peer_id)):
            return
        announced = set(self.topic_ids)
        await super()._handle_new_peer(peer_id)
        queue = self.peer_queues.get(peer_id)
        if queue is not None:
            for topic in set(self.topic_ids) - announced:
                packet, _ = self._build_announce_rpc(topic, subscribe=True)
                queue.push(packet)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """A stream to the peer died. While the peer is here, its subscriptions still hold: it will not say them again.

        They come on the peer's own stream, which may live on another connection; the original forgets them (`pubsub.py:1137`)
        and never sends to this peer again.
        """
        kept: list[str] = []
        if self._is_admitted(from_libp2p(peer_id)):
            kept = [topic for topic, peers in self.peer_topics.items() if peer_id in peers]
        super()._handle_dead_peer(peer_id)
        for topic in kept:
            self.handle_subscription(peer_id, rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic))

    def _schedule_peer_stream_retry(self, peer_id: ID) -> None:
        if self._is_admitted(from_libp2p(peer_id)):
            super()._schedule_peer_stream_retry(peer_id)

    async def publish_when_possible(self, topic: str, data: bytes) -> None:
        """Wait a little while a queue is full; then its copy is dropped and counted: a stopped peer must not stop us."""
        with trio.move_on_after(PUBLISH_PATIENCE_SECONDS):
            while any(len(queue) >= RPC_QUEUE_MESSAGES_MAX - 1 for queue in self.peer_queues.values()):
                await trio.sleep(0.005)
        await self.publish(topic, data)
        await trio.lowlevel.checkpoint()

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Replaces the original: bad frames end the stream, never the process; messages are handled in order."""
        peer = stream.muxed_conn.peer_id
        bad_count = 0
        while self.manager.is_running:
            try:
                raw = await read_varint_prefixed_bytes_limited(stream, self.max_inbound_rpc_size)
            except Exception:
                await stream.reset()
                return
            rpc = rpc_pb2.RPC()
            try:
                rpc.ParseFromString(raw)
                await self._take(peer, rpc)
            except Exception as error:
                bad_count += 1
                self._misbehaved(from_libp2p(peer), f"a gossip frame that fails with {type(error).__name__}")
                if bad_count >= ERRORS_PER_STREAM_MAX:
                    await stream.reset()
                    return

    async def _take(self, peer: ID, rpc: Any) -> None:
        if not pubsub.maybe_consume_signed_record(rpc, self.host, peer):  # the guarded one, looked up at each call
            return
        if len(rpc.subscriptions) <= self.max_subscriptions_per_rpc:
            for subscription in rpc.subscriptions:
                if find_topic_rule(subscription.topicid) is not None:  # nobody makes us remember topics of their own
                    self.handle_subscription(peer, subscription)
        for message in rpc.publish:
            if self._is_subscribed_to_msg(message):
                await self.push_msg(peer, message)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer)

    async def push_msg(self, msg_forwarder: ID, msg: Any) -> None:
        """Replaces the original: cheap questions first, the signature last, and our own messages are not handed back to us."""
        if self._is_msg_seen(msg):
            return
        if msg_forwarder == self.my_id:
            self._mark_msg_seen(msg)
            await self.router.publish(msg_forwarder, msg)
            return
        forwarder = from_libp2p(msg_forwarder)
        if len(msg.topicIDs) != 1:
            self._misbehaved(forwarder, "a gossip message on several topics")
            return
        (topic,) = msg.topicIDs
        try:
            author = from_libp2p(ID(msg.from_id))
        except Rejected:
            self._misbehaved(forwarder, "a gossip message without an author")
            return
        if author == from_libp2p(self.my_id):
            return  # our own, come back, or a forgery in our name
        if self._admit(topic, forwarder, author, len(msg.data)) is None:
            return
        if not signature_validator(msg):
            self._misbehaved(forwarder, "a gossip message with a wrong signature")
            return
        self._mark_msg_seen(msg)
        if self._scorer is not None:
            self._scorer.on_first_delivery(msg_forwarder, topic)
        await self.router.publish(msg_forwarder, msg)
        await self._deliver(topic, forwarder, msg.data)
