"""What this node says to everybody: envelopes with numbers that are never used twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from consensus.election import tile_shard
from node.clock import Clock
from node.ground import Ground
from p2p.requests import HEADS
from p2p.topics import topic_text
from p2p.transport import RequestFailed, Transport
from protocol.codec import Message, encode
from protocol.envelope import PAYLOAD_BYTES_MAX, SequenceAllocator, seal
from protocol.ids import PeerId, ShardId
from protocol.learning import Advert, FinalizedTip, HeadProposals, RoundAnnouncement
from protocol.limits import HEADS_PER_BODY_MAX, TRANSACTIONS_PER_BUNDLE_MAX
from protocol.messages import KIND_OF
from protocol.roster import Head
from protocol.transactions import TransactionBundle

LIFETIME_MS = 2 * 60 * 1000  # an announcement that is two minutes old helps nobody
ADVERT_LIFETIME_MS = 9 * 60 * 1000  # of ten that are allowed: a clock may be a minute behind

TOPIC_OF: dict[type[Message], str] = {
    Advert: "adverts",
    RoundAnnouncement: "tiles",
    FinalizedTip: "final",
}
LIST_FRAME_BYTES = 16  # of a message that is one list, at most
ENTRY_FRAME_BYTES = 3  # of bytes shorter than 64 KiB, in a list

T = TypeVar("T")


def bundles(items: Iterable[tuple[T, int]], count_max: int) -> Iterator[tuple[T, ...]]:
    """Things with the bytes that each takes, in their order, as many in each message as fit; one too large goes alone."""
    bundle: list[T] = []
    size = LIST_FRAME_BYTES
    for item, item_bytes in items:
        if bundle and (size + item_bytes > PAYLOAD_BYTES_MAX or len(bundle) == count_max):
            yield tuple(bundle)
            bundle, size = [], LIST_FRAME_BYTES
        bundle.append(item)
        size += item_bytes
    if bundle:
        yield tuple(bundle)


class Gossip:
    """Seals and publishes."""

    def __init__(self, ground: Ground, transport: Transport, clock: Clock) -> None:
        self._ground = ground
        self._transport = transport
        self._clock = clock
        self._numbers = SequenceAllocator(ground.sequence_reserved())
        self._shards = ground.genesis.chain.tile_shards

    def topics(self) -> list[str]:
        """Every topic that this node follows."""
        network = self._ground.network
        shards = [topic_text(network, "tiles", ShardId(index)) for index in range(self._shards)]
        return [*(topic_text(network, name) for name in ("adverts", "final", "tx")), *shards]

    async def publish(self, message: Advert | RoundAnnouncement | FinalizedTip) -> None:
        """Say one thing on its topic."""
        name = TOPIC_OF[type(message)]
        shard = ShardId(0) if name == "tiles" else None
        await self._publish(topic_text(self._ground.network, name, shard), message)

    async def publish_heads(self, heads: tuple[Head, ...]) -> None:
        """Say heads on the topics of their shards, as many in a message as fit."""
        by_shard: dict[ShardId, list[Head]] = {}
        for head in heads:
            by_shard.setdefault(tile_shard(head.tile, self._shards), []).append(head)
        for shard, group in sorted(by_shard.items()):
            topic = topic_text(self._ground.network, "tiles", shard)
            for bundle in bundles(((head, len(encode(head))) for head in group), HEADS_PER_BODY_MAX):
                await self._publish(topic, HeadProposals(bundle))

    async def give_heads(self, heads: tuple[Head, ...], peers: Iterable[PeerId]) -> None:
        """Say heads to peers one by one, those that are in reach: gossip seems not to arrive."""
        for bundle in bundles(((head, len(encode(head))) for head in heads), HEADS_PER_BODY_MAX):
            data = encode(HeadProposals(bundle))
            for peer in peers:
                with suppress(RequestFailed):  # it is said again
                    await self._transport.send(peer, HEADS.protocol, data)

    async def publish_transactions(self, transactions: Sequence[bytes]) -> None:
        """Say signed transactions, as many in a message as fit."""
        sized = ((data, len(data) + ENTRY_FRAME_BYTES) for data in transactions)
        for bundle in bundles(sized, TRANSACTIONS_PER_BUNDLE_MAX):
            await self._publish(topic_text(self._ground.network, "tx"), TransactionBundle(bundle))

    async def _publish(self, topic: str, message: Message) -> None:
        while (number := self._numbers.take()) is None:
            until = self._numbers.next_block()
            self._ground.reserve_sequences(until)
            self._numbers.reserve(until)
        data = seal(
            self._ground.keys.node,
            self._ground.network,
            KIND_OF[type(message)],
            number,
            self._clock.now_ms() + (ADVERT_LIFETIME_MS if isinstance(message, Advert) else LIFETIME_MS),
            encode(message),
        )
        await self._transport.publish(topic, data)
