"""Every bound, with the reason for its value, then assertions on how they relate.

A number without a source is marked as a guess. Sizes are bytes, times are milliseconds.
"""

from __future__ import annotations

from protocol.rejection import check_invariant

KIB = 1024
MIB = 1024 * KIB

# -- gossip and envelopes ---------------------------------------------------------------------------------------------
GOSSIP_MESSAGE_BYTES_MAX = 64 * KIB  # DESIGN 4: every gossip message; gossipsub carries 1 MiB, meshes choke long before
ENVELOPE_OVERHEAD_BYTES_MAX = (
    256  # version, network id, kind, sender, sequence, expiry, signature, framing: 183 measured
)
ENVELOPE_LIFETIME_MS_MAX = 10 * 60 * 1000  # DESIGN 4: `expires` at most ten minutes ahead
CLOCK_SLACK_MS = 5_000  # chain.md R3 allows headers five seconds from the future; envelopes get the same
SEQUENCE_WINDOW_BITS = 1024  # DESIGN 4: reordering that a receiver tolerates per (sender, kind)
SEQUENCE_WINDOWS_MAX = (
    16_384  # one window is about 250 bytes: 4 MB for peers times kinds; least recently used goes first
)
SEQUENCE_BLOCK = 65_536  # DESIGN 4: numbers reserved by one fsync, so that kill -9 never repeats one

# -- encoding ---------------------------------------------------------------------------------------------------------
NESTING_DEPTH_MAX = 16  # deepest honest message: proposal > certificates > certificate > signatures = 4
TEXT_BYTES_MAX = 256  # names, labels, reasons inside messages (a guess that needs no more)

# -- request streams --------------------------------------------------------------------------------------------------
FRAME_BYTES_MAX = 8 * MIB  # two tiles of 4 MiB: a delta bundle is split above this
BLOB_RANGE_BYTES_MAX = 4 * MIB  # one tile per answer, so that a slow peer costs at most one tile
BLOBS_PER_REQUEST_MAX = 256  # digests in one request: 8 KiB
STREAMS_PER_CONNECTION_MAX = 192  # yamux blocks silently at 256 (libp2p.md 2): stay below and say so
SYNC_BLOCKS_PER_ANSWER_MAX = 64  # a block of heads is about 20 KiB: stays below a frame

# -- tiles ------------------------------------------------------------------------------------------------------------
TILE_BYTES_MAX = 4 * MIB  # DESIGN 6: float32 bytes of one tile's weights
TILES_MAX = 65_536  # a model of 256 GiB of float32 weights
TILE_ID_CHARACTERS_MAX = 64
EXPERT_NAME_CHARACTERS_MAX = 48  # "layer9999.expert9999" and room; a tile's name is longer
EXPERT_SLICES_MAX = 64  # of one expert: 4 GB in slices that a phone holds (a guess)
EXPERT_TILES_MAX = 1_024  # of one expert: 4 GiB of float32
EXPERT_ROWS_BYTES_MAX = 4 * MIB  # 512 rows, as a step of decoding reads, of a model that is 2,048 wide
ANSWER_TOKENS_MAX = 4_096  # of one answer
PROMPT_TOKENS_MAX = 48_001  # the beginning of a document, and 12,000 characters of up to four bytes
ANSWER_RECORD_BYTES_MAX = 1 * MIB  # of a model of TILES_MAX tiles, whose versions are most of it
PAGE_BYTES = 64 * KIB  # learning.md 1: Merkle leaves of a tile
STREAMED_TILE_VALUES_MAX = TILE_BYTES_MAX // 4  # one tile streams as one, where its group is one matrix
STREAMED_MATRICES_MAX = 16  # of one stream: an expert has two (a guess that leaves room)

# -- coded blobs ------------------------------------------------------------------------------------------------------
CELLS_PER_TILE_MAX = 256  # chain.md 3.1: as many points as GF(2^8) has
CELL_LEAF_BYTES = 1 * KIB  # chain.md 3.2: what an audit asks for
CELL_BYTES_MAX = 1 * MIB  # the source documents' largest shard; one answer
CODED_TILE_BYTES_MAX = 32 * MIB  # what a manifest's author can make others hold at once; the profiles take 16 and 20
TILES_PER_BLOB_MAX = 16_384  # 64 GiB in tiles of 4 MiB
MERKLE_PATH_MAX = 10  # digests: a cell of 1 MiB has 1,024 leaves
TABLE_COLUMNS = 48  # chain.md 3.3: so many random sums of every cell; docs/decisions/0022 says what fewer would allow
TABLES_PATH_MAX = 14  # digests: a tree over the tables of as many tiles
TABLE_BYTES_MAX = TABLE_COLUMNS * CELLS_PER_TILE_MAX + 34 * TABLES_PATH_MAX + 64
MANIFEST_BYTES_MAX = 34 * TILES_PER_BLOB_MAX + 64
SHARD_BYTES_MAX = CELL_BYTES_MAX + 34 * MERKLE_PATH_MAX + 64
TABLES_PER_REQUEST_MAX = 256  # of a blob of a gigabyte in one answer
CELLS_ANSWER_BYTES_MAX = 4 * MIB  # cells in one answer without their proofs: as many live cells as rebuild a tile

# -- learning ---------------------------------------------------------------------------------------------------------
DELTAS_PER_SLOT_MAX = 64  # learning.md 4
UNREGISTERED_DELTAS_PER_SLOT_MAX = 8  # learning.md 4: learners outside the roster share these
CONTRIBUTORS_PER_AGGREGATE_MAX = DELTAS_PER_SLOT_MAX  # an aggregate is a merge, and a merge takes no more
CONTRIBUTORS_PER_HEAD_MAX = 512  # eight full aggregates: 17 KiB of a head, a quarter of a gossip message
# No aggregate weighs more than so many of the heaviest deltas, and all strangers of a slot together no more either.
AGGREGATE_WEIGHT_DELTAS_MAX = UNREGISTERED_DELTAS_PER_SLOT_MAX
TILE_VERSIONS_KEPT = 4  # learning.md 1
UPDATES_KEPT_MIN = 16  # learning.md 1: kept always; more while the storage budget lasts
UPDATES_PER_BASE_MAX = 10  # DESIGN 6: with more, a tile's newest version gets a whole file
HEADS_PER_BODY_MAX = (
    80  # as many heads of 64 deltas each as fit in a body (asserted below); fewer with many contributors
)
DIRECT_HEAD_BYTES_MAX = 320 + 88 * DELTAS_PER_SLOT_MAX  # the longest numbers: 306 bytes, and 88 for each delta
# Of each contributor 34 bytes, and two more for a list of more than fifteen.
HEAD_BYTES_MAX = DIRECT_HEAD_BYTES_MAX + 34 * CONTRIBUTORS_PER_HEAD_MAX + 2 * DELTAS_PER_SLOT_MAX

# -- finality ---------------------------------------------------------------------------------------------------------
ROSTER_MEMBERS_MAX = 100  # chain.md 2.1: vote lists instead of aggregates up to a hundred
BODY_BYTES_MAX = 512 * KIB  # chain.md 2.12
VIEWS_AHEAD_MAX = 64  # chain.md 2.5: votes further ahead are refused
NULLIFICATIONS_INLINE_MAX = 1024  # chain.md 2.5
PROPOSAL_BYTES_MAX = 512 * KIB  # header, parent certificate, 256 KiB of nullifications, the leader's vote
CERTIFICATES_PER_STATUS_MAX = 64  # chain.md R8
VIEW_TIMEOUT_MS_MAX = 8_000  # chain.md 2.5: Delta is capped, or recovery after a halt takes an hour
RECOVERY_REASON_BYTES_MAX = 200  # a sentence
RECOVERY_PROPOSAL_BYTES_MAX = 64 * KIB  # a header, a certificate and two rosters of a hundred members: 24 KiB
RECOVERY_BYTES_MAX = 128 * KIB  # the same, a hundred signatures, and a hundred reports of 330 bytes
LIGHT_CLIENT_PROOF_BYTES_MAX = 4 * MIB  # 330 steps of a hundred members: two seconds of signatures. More comes in parts
LIGHT_CLIENT_BLOCKS_MAX = (
    1_280  # epochs of 1,024 blocks a second in the trusting period of 14 days: 1,181; and a target
)

# -- transactions and the ledger --------------------------------------------------------------------------------------
NANO_PER_NOCK = 10**9  # nine decimals
SUPPLY_NANO_MAX = 10**9 * NANO_PER_NOCK  # 10^9 NOCK for ever; below 2^63, so every sum of money fits a `Natural`
TRANSACTION_BYTES_MAX = 8 * KIB  # of any kind: a certificate of a hundred members is 6.8 kB
PLAIN_TRANSACTION_BYTES_MAX = (
    2 * KIB
)  # without one: the largest is a parameter record with all its parents, about 1 KiB
ANSWER_TRANSACTION_BYTES_MAX = 3 * KIB  # a leaf and its path to a blob's root: 2.4 kB with the longest numbers
TRANSACTIONS_PER_BODY_MAX = 4_096  # the smallest transfer takes 150 bytes: 3,495 of them fill a body
TRANSACTIONS_PER_BUNDLE_MAX = 256  # by gossip: 16 ms of checking signatures, so that a bundle does not stall a node
EVIDENCE_BYTES_PER_BODY_MAX = 16 * KIB  # chain.md 2.8: about 40 reports, so that a flood leaves room for the rest
AVAILABILITY_BYTES_PER_BODY_MAX = 64 * KIB  # nine full certificates: 900 signatures, 60 ms, with whatever else is there
KEPT_RELEASED_PER_BLOCK_MAX = 256  # more than a body can record, so whatever is over goes faster than it came
PARENTS_PER_RECORD_MAX = 16  # meta version, base and merged versions (a guess); bounds the work of one record
RECORD_NAME_CHARACTERS_MAX = 64  # as a tile's, of which it is the group
WORK_BITS_MAX = 64  # 2^64 hashes are out of anybody's reach
STATE_BUCKETS = 65_536  # chain.md 4: the first 16 bits of a key's digest; about 16 KB a bucket per GiB of state
STATE_ENTRY_BYTES_MAX = 64 * KIB  # the largest is an index of a thousand validators
STATE_ANSWER_BYTES_MAX = 4 * MIB  # chain.md 4: entries in one answer, as much as a slow peer costs at most
STATE_PART_ENTRIES_MAX = 131_072  # none is smaller than 64 bytes, but for a few: a frame holds no more
STATE_RUN_ENTRIES = 64  # of a bucket that is too large for an answer: however large they are, so many fit
STATE_NAMES_PER_REQUEST_MAX = 256
STATE_CHILDREN_PER_REQUEST_MAX = 32  # 256 KiB of digests, for which 128 MiB of a large state are hashed
VALIDATORS_MAX = 1_024  # registered, not voting: a roster takes the hundred with the most stake; 34 KiB of index
UNBONDINGS_PER_VALIDATOR_MAX = 16  # withdrawals under way at once (a guess): one every 32 hours over 21 days
MEMPOOL_BYTES_MAX = 4 * MIB  # eight full bodies; at most 28,000 senders to look through for a body: a tenth of a second
MEMPOOL_PER_SENDER_MAX = 64  # one sender's share of a body stays below 2 %; also how far a nonce may run ahead

HISTORY_SEGMENTS = 16  # of an epoch's history: as many cores check it at once; the ends take 544 bytes of one body
HISTORY_TICKS_PER_SEGMENT_MAX = 2**22  # checked in about two seconds on one core
HISTORY_EVENTS_PER_SEGMENT_MAX = 4_096  # 160 KiB a segment
ONION_LAYERS_MAX = 65_536  # one reveal an epoch: years; a tenth of a second to make

# -- who is here ------------------------------------------------------------------------------------------------------
ADVERTS_MAX = 4_096  # peers whose adverts are kept: about 1 KiB each
ADVERTS_PER_ANSWER_MAX = 512  # so that no one peer decides whom another knows
ADVERT_NAME_BYTES = 8  # of a peer id, in a question: where two begin alike, one of them is not told

# -- data sets --------------------------------------------------------------------------------------------------------
DATASET_SHARD_BYTES_MAX = 1 * MIB  # one range request each
DATASET_SHARDS_MAX = 8_192  # 8 GiB of text in one manifest, which is a part of genesis
DATASETS_PER_GENESIS_MAX = 16
GENESIS_BYTES_MAX = 512 * KIB  # one full manifest (40 bytes a shard), 100 members of 400 bytes, and room

check_invariant(ENVELOPE_OVERHEAD_BYTES_MAX < GOSSIP_MESSAGE_BYTES_MAX, "an envelope fits in a gossip message")
check_invariant(BLOB_RANGE_BYTES_MAX + 4 * KIB <= FRAME_BYTES_MAX, "a blob range fits in a frame")
check_invariant(PROPOSAL_BYTES_MAX <= FRAME_BYTES_MAX, "a proposal fits in a frame")
check_invariant(BODY_BYTES_MAX <= FRAME_BYTES_MAX, "a body fits in a frame")
check_invariant(LIGHT_CLIENT_PROOF_BYTES_MAX + 4 * KIB <= FRAME_BYTES_MAX, "a light-client proof fits in a frame")
check_invariant(
    HEADS_PER_BODY_MAX * DIRECT_HEAD_BYTES_MAX <= BODY_BYTES_MAX, "the largest heads without aggregates fit in a body"
)
check_invariant(16 * HEAD_BYTES_MAX <= BODY_BYTES_MAX, "a body takes several of the largest heads")
check_invariant(
    HEAD_BYTES_MAX + ENVELOPE_OVERHEAD_BYTES_MAX <= GOSSIP_MESSAGE_BYTES_MAX, "a head fits in a gossip message"
)
check_invariant(MANIFEST_BYTES_MAX <= FRAME_BYTES_MAX, "a manifest fits in a frame")
check_invariant(SHARD_BYTES_MAX + 4 * KIB <= FRAME_BYTES_MAX, "a cell fits in a frame with its proof")
check_invariant(CELL_BYTES_MAX <= CELLS_ANSWER_BYTES_MAX, "the largest cell is answered")
check_invariant(
    CELLS_ANSWER_BYTES_MAX + CELLS_PER_TILE_MAX * (SHARD_BYTES_MAX - CELL_BYTES_MAX) + KIB <= FRAME_BYTES_MAX,
    "cells fit in a frame with their proofs",
)
check_invariant(
    TABLES_PER_REQUEST_MAX * TABLE_BYTES_MAX + KIB <= FRAME_BYTES_MAX, "as many tables as are asked for fit in a frame"
)
check_invariant(
    CELL_LEAF_BYTES << MERKLE_PATH_MAX == CELL_BYTES_MAX, "a path leads from any leaf of a cell to its root"
)
check_invariant(TILES_PER_BLOB_MAX <= 1 << TABLES_PATH_MAX, "a path leads from any tile's table to their root")
check_invariant(CELLS_PER_TILE_MAX <= 1 << MERKLE_PATH_MAX, "a path leads from any cell of a tile to its root")
check_invariant(TILE_BYTES_MAX % PAGE_BYTES == 0, "tiles are whole pages")
check_invariant(
    UPDATES_PER_BASE_MAX + TILE_VERSIONS_KEPT <= UPDATES_KEPT_MIN,
    "the updates on which the oldest kept version rests are always kept",
)
check_invariant(BLOBS_PER_REQUEST_MAX * 34 + 64 <= FRAME_BYTES_MAX, "a request for many blobs fits in a frame")
check_invariant(
    40 * DATASET_SHARDS_MAX + 400 * ROSTER_MEMBERS_MAX + 4 * KIB <= GENESIS_BYTES_MAX,
    "manifest and roster fit in genesis",
)
check_invariant(GENESIS_BYTES_MAX <= FRAME_BYTES_MAX, "genesis fits in a frame")
check_invariant(UNREGISTERED_DELTAS_PER_SLOT_MAX < DELTAS_PER_SLOT_MAX, "strangers never crowd the roster out")
check_invariant(
    UNREGISTERED_DELTAS_PER_SLOT_MAX * CONTRIBUTORS_PER_AGGREGATE_MAX <= CONTRIBUTORS_PER_HEAD_MAX,
    "the strangers' places may all be full aggregates",
)
check_invariant(DATASET_SHARD_BYTES_MAX <= BLOB_RANGE_BYTES_MAX, "a shard is one range")
check_invariant(SUPPLY_NANO_MAX < 2**63, "all money fits a field")
check_invariant(
    TRANSACTION_BYTES_MAX + ENVELOPE_OVERHEAD_BYTES_MAX <= GOSSIP_MESSAGE_BYTES_MAX,
    "a transaction fits in a gossip message",
)
check_invariant(
    PLAIN_TRANSACTION_BYTES_MAX <= EVIDENCE_BYTES_PER_BODY_MAX < BODY_BYTES_MAX, "evidence leaves room for others"
)
check_invariant(
    CELL_LEAF_BYTES + 34 * (2 * MERKLE_PATH_MAX + TABLES_PATH_MAX) + 512 <= ANSWER_TRANSACTION_BYTES_MAX,
    "a leaf with its path fits in a transaction",
)
check_invariant(ANSWER_TRANSACTION_BYTES_MAX <= TRANSACTION_BYTES_MAX, "no kind is longer than any may be")
check_invariant(
    ROSTER_MEMBERS_MAX * ANSWER_TRANSACTION_BYTES_MAX <= BODY_BYTES_MAX, "the answers of all members fit in one body"
)
check_invariant(
    TRANSACTION_BYTES_MAX <= AVAILABILITY_BYTES_PER_BODY_MAX < BODY_BYTES_MAX - EVIDENCE_BYTES_PER_BODY_MAX,
    "certificates of availability leave room for others",
)
check_invariant(
    66 * ROSTER_MEMBERS_MAX + KIB <= TRANSACTION_BYTES_MAX, "everybody's signatures fit in a transaction with the rest"
)
check_invariant(
    AVAILABILITY_BYTES_PER_BODY_MAX <= 256 * KEPT_RELEASED_PER_BLOCK_MAX,
    "no body records more than the next one can let go: 256 bytes are less than a record without signatures",
)
check_invariant(STATE_BUCKETS == 2**16, "a bucket is named by two bytes")
check_invariant(
    STATE_ANSWER_BYTES_MAX + 2 * STATE_ENTRY_BYTES_MAX <= FRAME_BYTES_MAX, "entries of a state fit in a frame"
)
check_invariant(
    STATE_RUN_ENTRIES * (STATE_ENTRY_BYTES_MAX + KIB) <= FRAME_BYTES_MAX, "a run of entries fits in a frame"
)
check_invariant(BODY_BYTES_MAX <= MEMPOOL_BYTES_MAX, "the pool can fill a body")
check_invariant(ROSTER_MEMBERS_MAX <= VALIDATORS_MAX, "every voter can be registered")
