"""The table of gossip topics.

    topic text = nock/<first 8 hex digits of the network id>/<name>[/<shard>]

The network id is in the text so that two networks that share a peer never share a mesh. The text is all a host sees: it
looks the rule up and refuses what is larger or more frequent than the rule allows, before anybody decodes it. Rates count
per author (gossipsub messages are signed), not per forwarder: a forwarder speaks for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.ids import ShardId
from protocol.limits import GOSSIP_MESSAGE_BYTES_MAX, KIB


@dataclass(frozen=True, slots=True)
class TopicRule:
    """One row: what a topic carries and how much of it one author may say."""

    name: str
    message_bytes_max: int
    burst_count: int  # messages an author may say at once, after a silence
    per_second: float  # and how fast that allowance comes back
    is_sharded: bool
    says: str


# Rates are DESIGN 4's, times the slack of a short round (2 s on a laptop) and of a start, where everything is said at once.
TOPICS: Final = {
    rule.name: rule
    for rule in (
        TopicRule(
            "adverts", 16 * KIB, 16, 1.0, False, "what I am: addresses, hardware, roles, experts and tiles held, load"
        ),
        TopicRule(
            "tiles", GOSSIP_MESSAGE_BYTES_MAX, 1024, 128.0, True, "proposed and decided heads of one shard's tiles"
        ),
        TopicRule("tx", GOSSIP_MESSAGE_BYTES_MAX, 512, 64.0, False, "transactions"),
        TopicRule("final", GOSSIP_MESSAGE_BYTES_MAX, 128, 16.0, False, "finalized header and certificate"),
        TopicRule("usage", GOSSIP_MESSAGE_BYTES_MAX, 4, 0.01, False, "expert call counts, as a mergeable sketch"),
        TopicRule("alerts", GOSSIP_MESSAGE_BYTES_MAX, 64, 1.0, False, "evidence, quarantine, emergency"),
    )
}


def topic_text(network_id: bytes, name: str, shard: ShardId | None = None) -> str:
    """The text of a topic. KeyError for an unknown name; ValueError when a shard is missing or out of place."""
    rule = TOPICS[name]
    if rule.is_sharded != (shard is not None):
        raise ValueError(f"topic {name} {'needs a' if rule.is_sharded else 'has no'} shard")
    text = f"nock/{network_id[:4].hex()}/{name}"
    return text if shard is None else f"{text}/{shard}"


def find_topic_rule(topic: str) -> TopicRule | None:
    """The row of a topic text; None when the text is not one of ours."""
    parts = topic.split("/")
    if len(parts) < 3 or parts[0] != "nock" or len(parts[1]) != 8:
        return None
    rule = TOPICS.get(parts[2])
    if rule is None or len(parts) != 3 + rule.is_sharded:
        return None
    if rule.is_sharded and not (parts[3].isascii() and parts[3].isdigit() and len(parts[3]) <= 5):
        return None
    return rule


def get_topic_rule(topic: str) -> TopicRule:
    """The row of one of our own topics; ValueError when we invented it."""
    rule = find_topic_rule(topic)
    if rule is None:
        raise ValueError(f"{topic!r} is not a topic of p2p/topics.py")
    return rule
