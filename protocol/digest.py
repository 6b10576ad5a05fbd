"""One hash, separated by domain: SHA-256 over a domain word and length-prefixed parts.

    digest(domain, p1, p2) = SHA-256( len(domain):u8 | domain | len(p1):u64 | p1 | len(p2):u64 | p2 )

The prefix makes the encoding injective: no two different lists of parts, and no two domains, share a digest by
construction. Every use has its own word, listed here; a word is never reused with another meaning.
"""

from __future__ import annotations

import hashlib
from typing import Final

from protocol.ids import Digest


class Domain:
    """Every domain word of the network."""

    BLOB: Final = "nock/blob/1"  # content-addressed bytes
    STREAMED_TILE: Final = "nock/streamed-tile/1"  # what a streamed tile holds, however it was compressed
    CODED_BLOB: Final = "nock/coded-blob/1"  # geometry, size and tile roots of a blob that is kept as cells
    CODED_TABLES: Final = (
        "nock/coded-tables/1"  # by which the holders of a coded blob's cells know that they are of one code
    )
    CHECK_MATRICES: Final = "nock/check-matrices/1"  # what a tile's table is computed with
    AVAILABILITY: Final = "nock/availability/1"  # what a holder signs when it has stored its cells
    TILE_SNAPSHOT: Final = "nock/tile-snapshot/1"  # what a blob is: one version of one tile
    STATE_CHECKPOINT: Final = "nock/state-checkpoint/1"  # what a blob is: the state after an epoch
    CUSTODY_RING: Final = "nock/custody-ring/1"  # in which order a tile's cells lie on the ring of the roster
    CUSTODY_PEER: Final = "nock/custody-peer/1"  # which cells of a tile a peer keeps that is in no roster
    CUSTODY_AUDIT: Final = "nock/custody-audit/1"  # which leaf of what it keeps a holder must show
    CUSTODY_QUESTION: Final = "nock/custody-question/1"  # which leaf of its cells the chain asks a member for
    GENESIS: Final = "nock/genesis/1"  # the network id
    ENVELOPE: Final = "nock/envelope/1"  # what an envelope's signature covers
    BINDING: Final = "nock/binding/1"  # three keys of one member
    BLOCK: Final = "nock/block/1"  # header -> block id
    BODY: Final = "nock/body/1"
    STATE: Final = "nock/state/1"  # stands for a state where there is none: villains of the simulated world, samples
    ROSTER: Final = "nock/roster/1"
    VOTE: Final = "nock/vote/1"
    RECOVERY: Final = "nock/recovery/1"  # what those who remain sign about how a chain goes on
    RECOVERY_PROPOSAL: Final = "nock/recovery-proposal/1"  # an operator's last final block
    BEACON: Final = "nock/beacon/1"
    LEADER: Final = "nock/leader/1"
    ELECTION: Final = "nock/election/1"
    AGGREGATOR: Final = "nock/aggregator/1"  # who gathers a region's deltas of a tile, and fetches its updates
    ALLOCATION: Final = "nock/allocation/1"  # in which order peers are asked to hold an expert
    SELECTION: Final = "nock/selection/1"  # which deltas of a slot are taken
    HEAD: Final = "nock/head/1"
    DELTA: Final = "nock/delta/1"  # what a learner signs about a delta
    RECORD: Final = "nock/record/1"  # DHT keys
    DATASET: Final = "nock/dataset/1"
    BATCH: Final = "nock/batch/1"
    SPLIT: Final = "nock/split/1"  # validation chunks of a data set
    WEIGHTS: Final = "nock/weights/1"  # genesis weights
    SHARD: Final = "nock/shard/1"  # tile -> gossip shard
    TRANSACTION: Final = "nock/transaction/1"  # what a transaction's signature covers
    TRANSACTION_ID: Final = "nock/transaction-id/1"
    PARAMETER: Final = "nock/parameter/1"  # sender and record -> name of a parameter record
    DATASET_RECORD: Final = "nock/dataset-record/1"  # sender and record -> name of a data set record
    META_VERSION: Final = "nock/meta-version/1"
    WORK: Final = "nock/work/1"  # light proof of work over a record's name and a number
    ACCOUNT: Final = "nock/account/1"  # accounts to which nobody has the key
    ANSWER: Final = "nock/answer/1"  # what was asked of a door -> the answer's name
    ANSWER_MODEL: Final = "nock/answer-model/1"  # by which weights
    ANSWER_PROMPT: Final = "nock/answer-prompt/1"
    ANSWER_SALT: Final = "nock/answer-salt/1"  # a door's secret -> what hides a prompt
    ANSWER_TOKEN: Final = "nock/answer-token/1"  # from the commitment to an answer to that to one more token
    ANSWER_RECEIPT: Final = "nock/answer-receipt/1"  # what a door signs
    BADGE: Final = "nock/badge/1"  # what a node signs about itself
    HISTORY: Final = "nock/history/1"  # an event mixed into the proof of history
    ONION: Final = "nock/onion/1"  # from one layer of a hash onion to the layer around it
    STATE_KEY: Final = "nock/state-key/1"  # key -> place in its tree
    STATE_VALUE: Final = "nock/state-value/1"
    STATE_BUCKET: Final = "nock/state-bucket/1"
    STATE_ROOT: Final = "nock/state-root/1"  # the five sub-roots


def domain_head(domain: str) -> bytes:
    """What stands before the parts, for code that hashes by the million: ``digest`` of one part ``p`` is SHA-256 of
    ``domain_head(domain) + number(len(p)) + p``."""
    word = domain.encode()
    return bytes([len(word)]) + word


def digest(domain: str, *parts: bytes | bytearray | memoryview) -> Digest:
    """The digest of ``parts`` under ``domain``."""
    hasher = hashlib.sha256(domain_head(domain))
    for part in parts:
        hasher.update((part.nbytes if isinstance(part, memoryview) else len(part)).to_bytes(8, "big"))
        hasher.update(part)
    return Digest(hasher.digest())


def expand(domain: str, size_bytes: int, *parts: bytes | bytearray | memoryview) -> bytes:
    """As many bytes as are wanted, drawn by the digest of ``parts``: SHAKE-256 of it."""
    return hashlib.shake_256(digest(domain, *parts)).digest(size_bytes)


def blob_digest(data: bytes | bytearray | memoryview) -> Digest:
    """The name of content-addressed bytes."""
    return digest(Domain.BLOB, data)


def number(value: int) -> bytes:
    """A natural number as a part of a digest: eight bytes, big-endian."""
    return value.to_bytes(8, "big")
