"""The table of request protocols: what may be asked of a peer, or told it, over a stream.

A protocol is either asked (`Transport.request`: one frame there, one answer back; one stream each, but for those that are asked
again and again) or told (`Transport.send`: frames in order on a stream that stays open). Every bound is checked by the host on
both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.limits import (
    ADVERT_NAME_BYTES,
    ADVERTS_MAX,
    BLOB_RANGE_BYTES_MAX,
    BLOBS_PER_REQUEST_MAX,
    EXPERT_ROWS_BYTES_MAX,
    EXPERT_TILES_MAX,
    FRAME_BYTES_MAX,
    GENESIS_BYTES_MAX,
    GOSSIP_MESSAGE_BYTES_MAX,
    KIB,
    STATE_NAMES_PER_REQUEST_MAX,
    TABLES_PER_REQUEST_MAX,
)
from protocol.rejection import check_invariant


@dataclass(frozen=True, slots=True)
class RequestRule:
    """One row: bounds, patience and price of a protocol."""

    protocol: str
    request_bytes_max: int
    response_bytes_max: int  # 0 for a protocol that is told
    timeout_seconds: float  # what a caller should allow when it knows nothing better
    cost: int  # tokens that one request takes from the peer's budget for this protocol
    is_one_way: bool
    says: str
    kept_streams: int = 0  # that stay open to a peer for its next requests, each of which may be asked twice


GENESIS: Final = RequestRule(
    "/nock/genesis/1", 64, GENESIS_BYTES_MAX + KIB, 10.0, 64, False, "the genesis document, before anything else"
)
HELLO: Final = RequestRule(
    "/nock/hello/1", 20 * KIB, 20 * KIB, 5.0, 1, False, "who I am and which network I mean; hosts only"
)
BLOB: Final = RequestRule(
    "/nock/blob/1",
    BLOBS_PER_REQUEST_MAX * 34 + KIB,
    FRAME_BYTES_MAX,
    30.0,
    4,
    False,
    "content-addressed bytes: whole, or ranges with their proof",
)
DELTA: Final = RequestRule(
    "/nock/delta/1", FRAME_BYTES_MAX, 4 * KIB, 30.0, 4, False, "a learner's delta, to the tile's owner"
)
SYNC: Final = RequestRule(
    "/nock/sync/1", 64 * KIB, FRAME_BYTES_MAX, 30.0, 1, False, "headers, certificates, heads, status"
)
ADVERTS: Final = RequestRule(
    "/nock/adverts/1",
    ADVERT_NAME_BYTES * ADVERTS_MAX + KIB,
    256 * KIB,
    10.0,
    16,
    False,
    "who else is here, as they said it themselves",
)
STATE: Final = RequestRule(
    "/nock/state/1",
    9 * STATE_NAMES_PER_REQUEST_MAX + KIB,
    FRAME_BYTES_MAX,
    30.0,
    64,
    False,
    "parts of the state at a checkpoint, and the proof that its block is final",
)
CELLS: Final = RequestRule(
    "/nock/cells/1",
    4 * TABLES_PER_REQUEST_MAX + KIB,
    FRAME_BYTES_MAX,
    30.0,
    16,
    False,
    "coded blobs: their cells, each with its proof, and the word that somebody keeps its own",
)
EXPERT: Final = RequestRule(
    "/nock/expert/1",
    EXPERT_ROWS_BYTES_MAX + 10 * EXPERT_TILES_MAX + KIB,
    EXPERT_ROWS_BYTES_MAX + KIB,
    3.0,
    1,
    False,
    "rows of activations through an expert",
    kept_streams=16,  # a step of decoding calls a handful of experts at once, of each layer again (a guess)
)
VOTE: Final = RequestRule(
    "/nock/vote/1", FRAME_BYTES_MAX, 0, 10.0, 1, True, "validator to validator: votes, proposals, certificates"
)
HEADS: Final = RequestRule(
    "/nock/heads/1",
    GOSSIP_MESSAGE_BYTES_MAX,
    0,
    10.0,
    1,
    True,
    "a proposer to members, where gossip seems not to arrive",
)
PING: Final = RequestRule("/nock/ping/1", 64, 4 * KIB, 10.0, 1, False, "are you there, and what time is it; hosts only")

REQUESTS: Final = {
    rule.protocol: rule
    for rule in (GENESIS, HELLO, BLOB, DELTA, SYNC, ADVERTS, STATE, CELLS, EXPERT, VOTE, HEADS, PING)
}

BLOB_ANSWER_OVERHEAD_BYTES_MAX: Final = 4 * KIB
check_invariant(
    BLOB.response_bytes_max >= BLOB_RANGE_BYTES_MAX + BLOB_ANSWER_OVERHEAD_BYTES_MAX, "a blob range fits in an answer"
)

# What one peer may ask of us on one protocol. Guesses: far above an honest peer's need, far below what hurts.
BUDGET_BURST_TOKENS: Final = 8192
BUDGET_TOKENS_PER_SECOND: Final = 2048.0


def get_request_rule(protocol: str) -> RequestRule:
    """The row of one of our own protocols; ValueError when we invented it."""
    rule = REQUESTS.get(protocol)
    if rule is None:
        raise ValueError(f"{protocol!r} is not a protocol of p2p/requests.py")
    return rule
