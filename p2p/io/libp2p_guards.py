"""Guards for libp2p 0.8.1: each repairs one defect that kills the process or loses messages. Applied once, idempotently.

They reach into private names, so they are tied to one exact version, and `check_version` refuses any other. `B1`... are the
numbers of the design notes; files and lines are those of the installed package. What can be had by an option, a subclass or
an attribute of one object is not here but where that object is made (`libp2p_gossip.py`, `libp2p_host.py`).

Each of the ones that matter has a test that shows the crash or the loss without it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib
import importlib.metadata
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Final
from weakref import WeakKeyDictionary

LIBP2P_VERSION: Final = "0.8.1"
RPC_QUEUE_MESSAGES_MAX: Final = 1024  # a burst of a round's heads for every tile of a shard, with room
IDONTWANT_BYTES_MIN: Final = 4096  # below it the control message costs about as much as the duplicate it saves
EQUIVOCATION_ENTRIES_MAX: Final = 4096
SENDER_RECORD_SECONDS: Final = 5.0
VERIFIED_RECORDS_MAX: Final = 1024  # of connected peers

_applied: set[str] = set()
_log = logging.getLogger("nock.p2p.libp2p")


class UnsupportedLibp2p(Exception):
    """Another version of libp2p is installed than the one these guards were written for."""


class AddressInUse(OSError):
    """Another process listens there already."""


def apply_guards() -> None:
    """Check the version, then install every guard that is not installed yet. Before any host is built."""
    check_version(importlib.metadata.version("libp2p"))
    for guard in GUARDS:
        if guard.__name__ not in _applied:
            guard()
            _applied.add(guard.__name__)


def check_version(installed: str) -> None:
    """The guards reach into private names of one version; with another they might silently guard nothing."""
    if installed != LIBP2P_VERSION:
        raise UnsupportedLibp2p(
            f"nocknode needs libp2p {LIBP2P_VERSION} exactly, and {installed} is installed: "
            f"pip install libp2p=={LIBP2P_VERSION}"
        )


def _module(name: str) -> Any:
    """A module of libp2p, to be changed: its private names have no types."""
    return importlib.import_module(name)


def contain_stream_handlers() -> None:
    """B1: any exception of a stream handler ends the process.

    `host/basic_host.py:1554` awaits the handler (and negotiation, which may raise `StreamFailure`) inside the nursery of the
    connection, whose manager is the host's. A malformed pubsub frame (`DecodeError`) of a stranger is enough.
    """
    from libp2p.host.basic_host import BasicHost

    original = BasicHost._swarm_stream_handler

    @functools.wraps(original)
    async def contained(self: Any, net_stream: Any) -> None:
        try:
            await original(self, net_stream)
        except Exception as error:
            _log.info("a libp2p stream handler failed, its stream is reset: %r", error)
            try:
                await net_stream.reset()
            except Exception as second:
                _log.debug("resetting it failed too: %r", second)

    BasicHost._swarm_stream_handler = contained  # type: ignore[method-assign]


def dial_without_head_start() -> None:
    """B3: every dial waits the whole happy-eyeballs delay of 250 ms even after success (`network/swarm.py:92`, :935)."""
    _module("libp2p.network.swarm")._HAPPY_EYEBALLS_DELAY = 0.0


def release_windows_in_batches() -> None:
    """B5: a WINDOW_UPDATE frame follows every small read, single-byte varint reads included (`yamux.py:93`, :445)."""
    _module("libp2p.stream_muxer.yamux.yamux")._yamux_release_on_read = lambda: False


def cache_sender_records() -> None:
    """B6: our signed address record is attached to every RPC, and the other's is verified on each (`pubsub.py`: twice).

    Ours is made again at most every few seconds; theirs is verified when it differs from the last verified one. Kept with the
    host object and gone with it: a host that is opened again under the same key has other addresses, and an old record is
    refused together with the RPC that carries it.
    """
    kad = _module("libp2p.kad_dht.kad_dht")
    gossipsub = _module("libp2p.pubsub.gossipsub")
    pubsub = _module("libp2p.pubsub.pubsub")
    consume = pubsub.maybe_consume_signed_record
    build = pubsub.env_to_send_in_RPC
    verified: WeakKeyDictionary[Any, OrderedDict[Any, bytes]] = WeakKeyDictionary()
    built: WeakKeyDictionary[Any, tuple[float, bytes]] = WeakKeyDictionary()

    def consume_once(message: Any, host: Any, peer: Any) -> bool:
        if not message.HasField("senderRecord"):
            return True
        of_host = verified.setdefault(host, OrderedDict())
        if of_host.get(peer) == message.senderRecord:
            return True
        if not consume(message, host, peer):
            return False
        of_host[peer] = message.senderRecord
        if len(of_host) > VERIFIED_RECORDS_MAX:
            of_host.popitem(last=False)
        return True

    def build_once(host: Any) -> tuple[bytes, bool]:
        now = time.monotonic()
        entry = built.get(host)
        if entry is not None and now - entry[0] < SENDER_RECORD_SECONDS:
            return entry[1], False
        record, is_new = build(host)
        built[host] = (now, record)
        return record, is_new

    for module in (pubsub, gossipsub):
        module.maybe_consume_signed_record = consume_once
        module.env_to_send_in_RPC = build_once
    kad.env_to_send_in_RPC = build_once


def say_idontwant_for_large_messages_only() -> None:
    """B7: IDONTWANT goes to every mesh peer for every message, however small (`gossipsub.py:2166`)."""
    from libp2p.pubsub.gossipsub import GossipSub

    publish, emit = GossipSub.publish, GossipSub._emit_idontwant_for_message

    @functools.wraps(publish)
    async def publish_with_size(self: Any, msg_forwarder: Any, pubsub_msg: Any) -> None:
        # `publish` reaches the emission without a checkpoint, so the size is that of the same message.
        self.size_of_current_message_bytes = len(pubsub_msg.data)
        await publish(self, msg_forwarder, pubsub_msg)

    @functools.wraps(emit)
    async def emit_for_large(self: Any, msg_id: bytes, topic_ids: Any) -> None:
        if self.size_of_current_message_bytes >= IDONTWANT_BYTES_MIN:
            await emit(self, msg_id, topic_ids)

    GossipSub.publish = publish_with_size  # type: ignore[method-assign]
    GossipSub._emit_idontwant_for_message = emit_for_large  # type: ignore[method-assign]


def deepen_queues() -> None:
    """B8: the outbound queue of a peer holds 32 messages and drops the rest without a word (`rpc_queue.py:45`)."""
    from libp2p.pubsub.rpc_queue import RpcQueue

    pubsub = _module("libp2p.pubsub.pubsub")
    pubsub.RpcQueue = functools.partial(RpcQueue, max_size=RPC_QUEUE_MESSAGES_MAX)
    pubsub.SUBSCRIPTION_CHANNEL_SIZE = RPC_QUEUE_MESSAGES_MAX


def listen_exclusively() -> None:
    """B9: listeners set SO_REUSEPORT, so a second node on the same port starts and takes half of the connections
    (`transport/tcp/tcp.py:41`). We never punch holes from the listening port, which is what it is for.
    """

    def set_address_reuse_only(sock: Any) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    _module("libp2p.transport.tcp.tcp")._set_reuse_flags = set_address_reuse_only


def dial_nobody_automatically() -> None:
    """Whenever few peers are connected, `AutoConnector` dials everybody in the peer store, refused and banned peers included,
    and writes two lines about it (`network/auto_connector.py:262`). No setting turns it off; our peer book dials.
    """
    from libp2p.network.auto_connector import AutoConnector

    async def do_nothing(self: Any) -> None: ...

    AutoConnector.maybe_connect = do_nothing  # type: ignore[method-assign]


def sweep_caches_without_threads() -> None:
    """Each cache of seen messages starts a daemon thread with a wall-clock timer (`tools/timed_cache/base_timed_cache.py:26`).

    Leaked at close, and outside every nursery. `libp2p_gossip.py` calls `_sweep` from a task of its own instead.
    """
    module = _module("libp2p.tools.timed_cache.base_timed_cache")

    class NoThread:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None: ...

        def join(self) -> None: ...

    class Threading:
        Lock = module.threading.Lock
        Event = module.threading.Event
        Thread = NoThread

    module.threading = Threading


def log_to_our_logger() -> None:
    """libp2p prints warnings on stderr, an ERROR for each failed stream, and calls `logging.debug` on the root logger,
    which installs a handler there (`network/connection/swarm_connection.py:93`). It speaks to the logger "libp2p" instead,
    from CRITICAL up unless somebody lowered its level: our own hosts say what matters in their own words.
    """
    logger = logging.getLogger("libp2p")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    if logger.level in (logging.NOTSET, logging.WARNING, logging.INFO):
        logger.setLevel(logging.CRITICAL)
    _module("libp2p.network.connection.swarm_connection").logging = logging.getLogger("libp2p.network.connection")
    for name in ("libp2p.network.auto_connector", "multiaddr", "quic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the first sets itself to INFO when imported


GUARDS: Final[tuple[Callable[[], None], ...]] = (
    contain_stream_handlers,
    dial_without_head_start,
    release_windows_in_batches,
    cache_sender_records,
    say_idontwant_for_large_messages_only,
    deepen_queues,
    listen_exclusively,
    dial_nobody_automatically,
    sweep_caches_without_threads,
    log_to_our_logger,
)


class DigestsOfMessages(MutableMapping[bytes, Any]):
    """Bounded stand-in for `GossipSub.equivocation_detection` (`gossipsub.py:2928`, trimmed at :3541).

    The original keeps whole messages, up to a thousand and more: 300 of 256 KiB held 79 MB. Gossipsub compares `.data` and
    `.topicIDs` of what it finds here with a later message of the same author and number; digests compare as well.
    """

    class _Digests:
        __slots__ = ("_data", "topicIDs")

        def __init__(self, message: Any) -> None:
            self._data = hashlib.sha256(message.data).digest()
            self.topicIDs = list(message.topicIDs)

        @property
        def data(self) -> _EqualByDigest:
            return _EqualByDigest(self._data)

    def __init__(self, entries_max: int = EQUIVOCATION_ENTRIES_MAX) -> None:
        self._entries: OrderedDict[bytes, DigestsOfMessages._Digests] = OrderedDict()
        self._entries_max = entries_max

    def __getitem__(self, key: bytes) -> Any:
        return self._entries[key]

    def __setitem__(self, key: bytes, message: Any) -> None:
        self._entries[key] = self._Digests(message)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def __delitem__(self, key: bytes) -> None:
        del self._entries[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class _EqualByDigest:
    """Equal to the bytes that have this digest."""

    __slots__ = ("_digest",)

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and hashlib.sha256(other).digest() == self._digest

    def __hash__(self) -> int:
        return hash(self._digest)


def check_port_is_free(host: str, port: int) -> None:
    """`AddressInUse` with a sentence for a person, or the OSError of an address that this machine does not have.

    libp2p's `listen` only returns False.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise AddressInUse(
                error.errno, f"port {port} of {host} is in use by another process: stop it, or choose another port"
            ) from None
