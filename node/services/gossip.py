"""What this node says to everybody: envelopes with numbers that are never used twice."""

from __future__ import annotations

from consensus.election import tile_shard
from node.clock import Clock
from node.ground import Ground
from p2p.topics import topic_text
from p2p.transport import Transport
from protocol.codec import Message, encode
from protocol.envelope import PAYLOAD_BYTES_MAX, SequenceAllocator, seal
from protocol.ids import ShardId
from protocol.learning import Advert, FinalizedTip, HeadProposals, RoundAnnouncement
from protocol.messages import KIND_OF
from protocol.roster import Head
from protocol.transactions import TransactionBundle

LIFETIME_MS = 2 * 60 * 1000  # an announcement that is two minutes old helps nobody
ADVERT_LIFETIME_MS = 9 * 60 * 1000  # of ten that are allowed: a clock may be a minute behind

TOPIC_OF: dict[type[Message], str] = {
    Advert: "adverts",
    RoundAnnouncement: "tiles",
    FinalizedTip: "final",
    TransactionBundle: "tx",
}


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

    async def publish(self, message: Advert | RoundAnnouncement | FinalizedTip | TransactionBundle) -> None:
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
            bundle: list[Head] = []
            size = 16
            for head in group:
                head_bytes = len(encode(head))
                if bundle and size + head_bytes > PAYLOAD_BYTES_MAX:
                    await self._publish(topic, HeadProposals(tuple(bundle)))
                    bundle, size = [], 16
                bundle.append(head)
                size += head_bytes
            await self._publish(topic, HeadProposals(tuple(bundle)))

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
