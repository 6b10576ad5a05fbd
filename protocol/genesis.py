"""Genesis: the first state as one canonical document. Its digest is the network id.

Everything that two nodes must agree on before they have talked is in here; nothing else is. Integers only: rates and
fractions are in millionths.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.codec import Message, decode, encode
from protocol.digest import Domain, digest, number
from protocol.ids import AccountField, Digest, DigestField, Epoch, Natural, NetworkId
from protocol.limits import (
    DATASET_SHARDS_MAX,
    DATASETS_PER_GENESIS_MAX,
    GENESIS_BYTES_MAX,
    HISTORY_TICKS_PER_SEGMENT_MAX,
    NANO_PER_NOCK,
    ROSTER_MEMBERS_MAX,
    SUPPLY_NANO_MAX,
    TILE_BYTES_MAX,
    WORK_BITS_MAX,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import Member, MemberCard, Roster, check_member_card

MILLION = 1_000_000
DAY_MS = 24 * 60 * 60 * 1000
HEIGHTS_PER_DAY = DAY_MS // 2_000  # one block in two seconds (chain.md 2.12)
_Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*\Z")]


class ModelShape(Message, frozen=True):
    """The mixture-of-experts transformer that everybody trains."""

    vocabulary: _Size
    layers: _Size
    width: _Size
    heads: _Size
    experts: _Size  # per layer
    expert_width: _Size
    experts_per_token: _Size
    context: _Size  # tokens


class LearningRule(Message, frozen=True):
    """How a round learns and merges. Rates in millionths."""

    inner_steps: _Size  # H: local AdamW steps a round
    batch_sequences: _Size  # sequences of `context` tokens a step
    learning_rate_micro: _Size
    learning_rate_floor_micro: Natural  # where the decay ends
    warmup_rounds: Natural
    decay_rounds: Natural  # rounds over which the rate decays to its floor; 0: never
    beta1_micro: Natural
    beta2_micro: Natural
    averaged_batches: _Size  # the inner optimiser steps as on the mean gradient of so many batches
    weight_decay_micro: Natural
    gradient_clip_micro: _Size
    balance_loss_micro: Natural  # weight of the load-balance loss
    delta_pipeline: _Name  # how learners compress (compute/delta/pipeline.py)
    update_pipeline: _Name  # how owners publish: stateless
    residual_decay_micro: Natural
    residual_start_micro: Natural  # share of its residual that a learner's own weights are ahead by as a round begins
    merge_rule: _Name  # compute/merge.py
    clip_multiple_micro: _Size  # norms are clipped to this multiple of their median
    outer_rule: _Name  # compute/outer.py
    outer_rate_micro: _Size
    outer_momentum_micro: Natural
    round_ms: _Size  # deadline of a round
    validation_sequences: _Size


class ChainRule(Message, frozen=True):
    """How the roster agrees."""

    view_delta_ms: _Size  # Delta of chain.md 2.5
    block_interval_ms_min: _Size  # from parent's time to the next block
    idle_interval_ms: _Size  # from parent's time to the next block when there is nothing to propose but an empty one
    tile_shards: _Size  # gossip topics over which heads are spread
    # Blocks of an epoch: who votes changes only between two (chain.md 2.7). One to close its reveals, one for its history.
    epoch_heights: Annotated[int, Meta(ge=2, le=2**31 - 1)]
    # Of each of the HISTORY_SEGMENTS: a quarter of a second of one core altogether, of which nothing is known in advance.
    history_segment_ticks: Annotated[int, Meta(ge=1, le=HISTORY_TICKS_PER_SEGMENT_MAX)] = 65_536


class LedgerRule(Message, frozen=True):
    """What transactions cost and how stake is held. Amounts in 10^-9 NOCK (nano); where no source is given, a guess."""

    fee_nano_per_byte: Natural = 1_000  # a transfer of 160 bytes pays 0.00016 NOCK
    stake_nano_min: Natural = 1_000 * NANO_PER_NOCK
    unbonding_ms: Natural = 21 * DAY_MS  # chain.md 2.7
    unbonding_heights: Natural = 21 * HEIGHTS_PER_DAY
    evidence_ms: Natural = 20 * DAY_MS  # chain.md 2.8: a day less than unbonding, in time and in heights
    evidence_heights: Natural = 20 * HEIGHTS_PER_DAY
    correlation_ms: Natural = 7 * DAY_MS  # chain.md 2.8: what is slashed in the same seven days counts together
    parameter_work_bits: Annotated[int, Meta(ge=0, le=WORK_BITS_MAX)] = 16  # a tenth of a second of one core
    dataset_work_bits: Annotated[int, Meta(ge=0, le=WORK_BITS_MAX)] = 21  # about three seconds of one core
    meta_author: AccountField | None = None  # who may record model versions until members vote on them; None: nobody


class Founder(Message, frozen=True):
    """A member of the first roster: its keys, and what it has at the beginning. All of it is minted here."""

    card: MemberCard
    stake_nano: Annotated[int, Meta(ge=1, le=SUPPLY_NANO_MAX)]
    balance_nano: Annotated[int, Meta(ge=0, le=SUPPLY_NANO_MAX)]


class DatasetManifest(Message, frozen=True):
    """Content-addressed shards of one data set. The manifest's own digest is the data set's root."""

    name: _Name
    licence: Annotated[str, Meta(max_length=64)]
    split_micro: Natural  # share of 4 KiB chunks held out for validation, by digest
    shards: Annotated[tuple[DigestField, ...], Meta(max_length=DATASET_SHARDS_MAX, min_length=1)]
    shard_bytes: tuple[_Size, ...]

    def root(self) -> Digest:
        return digest(Domain.DATASET, encode(self))


class Genesis(Message, frozen=True):
    """The first state. ``founders`` are in ascending order of node key."""

    version: Annotated[int, Meta(ge=1, le=1)]
    network_name: _Name
    created_ms: Natural
    model: ModelShape
    model_seed: DigestField
    tile_bytes: _Size  # float32 bytes of a tile's weights
    learning: LearningRule
    chain: ChainRule
    ledger: LedgerRule
    founders: Annotated[tuple[Founder, ...], Meta(min_length=1, max_length=ROSTER_MEMBERS_MAX)]
    datasets: Annotated[tuple[DatasetManifest, ...], Meta(min_length=1, max_length=DATASETS_PER_GENESIS_MAX)]

    def network_id(self) -> NetworkId:
        return NetworkId(digest(Domain.GENESIS, encode(self)))


def check_genesis(data: bytes, expected: NetworkId | None = None) -> Genesis:
    """Decode and check a genesis document; raises ``Rejected``.

    ``expected`` is the network id that the user gave: whoever serves the document need not be trusted.
    """
    genesis = decode(Genesis, data, limit_bytes=GENESIS_BYTES_MAX)
    if expected is not None and genesis.network_id() != expected:
        raise Rejected(
            Reason.FOREIGN_NETWORK,
            f"the genesis has id {genesis.network_id().hex()[:16]}..., the one asked for is {expected.hex()[:16]}...",
        )
    cards = [founder.card for founder in genesis.founders]
    nodes = [card.node for card in cards]
    if nodes != sorted(set(nodes)):
        raise Rejected(Reason.MALFORMED, "the roster is not in ascending order of distinct node keys")
    if len({card.vote for card in cards}) != len(nodes):
        raise Rejected(Reason.MALFORMED, "two members share a vote key")
    for card in cards:
        check_member_card(card)
    if sum(founder.stake_nano + founder.balance_nano for founder in genesis.founders) > SUPPLY_NANO_MAX:
        raise Rejected(Reason.MALFORMED, f"more than {SUPPLY_NANO_MAX // NANO_PER_NOCK} NOCK at the beginning")
    if not 4096 <= genesis.tile_bytes <= TILE_BYTES_MAX or genesis.tile_bytes % 4:
        raise Rejected(
            Reason.MALFORMED, f"tile_bytes must be between 4096 and {TILE_BYTES_MAX} and whole float32 values"
        )
    for manifest in genesis.datasets:
        if len(manifest.shards) != len(manifest.shard_bytes):
            raise Rejected(Reason.MALFORMED, "a data set lists as many sizes as shards")
    return genesis


def genesis_roster(genesis: Genesis, epoch: int = 0) -> Roster:
    """The roster of epoch 0 or 1: the founders by their stakes, beacon from the network id."""
    return Roster(
        epoch=Epoch(epoch),
        members=tuple(Member(founder.card.node, founder.card.vote) for founder in genesis.founders),
        weights=tuple(founder.stake_nano for founder in genesis.founders),
        beacon=digest(Domain.BEACON, genesis.network_id(), number(epoch)),
    )
