"""What every world of engines begins with: rules, keys, the first state; and its arithmetic, which is false but exact.

An update is the sorted digests of its deltas, a tile's root a digest of its parent's root and the update: every root can be
derived again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from consensus.history import HistorySegment, check_joined, check_segment
from consensus.state import State, genesis_state
from consensus.transition import BlockRules
from protocol.digest import blob_digest, digest
from protocol.finality import NO_BLOCK, ChainId
from protocol.genesis import ChainRule, LearningRule, LedgerRule
from protocol.ids import AccountId, Digest, Epoch, PeerId, TileId, VoteKey
from protocol.keys import KeyPair
from protocol.rejection import Rejected
from protocol.roster import Member, Roster
from protocol.transactions import (
    MetaVersion,
    SemVer,
)
from simnet.finality.genesis import QuickKey

ROUND_MS = 8_000
GENESIS_MS = 1_000_000
CHAIN = ChainId(b"test", 0)
CHAIN_RULE = ChainRule(
    view_delta_ms=500, block_interval_ms_min=100, idle_interval_ms=2_500, tile_shards=1, epoch_heights=1_024
)
TILES = (TileId("layer0.expert0/0"), TileId("trunk/0"), TileId("trunk/1"))
WEIGHT_MAX = 1_000
TICKS = 3  # of a segment of history
BLOCK_RULES = BlockRules(CHAIN, LedgerRule(), CHAIN_RULE.epoch_heights, WEIGHT_MAX, TICKS)
FIRST_VERSION = MetaVersion(NO_BLOCK, SemVer(1, 0, 0), 0, blob_digest(b"configuration"), 1_024)


def make_genesis(roster: Roster, tiles: Iterable[TileId] = TILES) -> State:
    """The state of a network without stakes, whose members have money to give away."""
    people = [(AccountId(account_key(member.node).public), 10**9) for member in roster.members]
    rosters = (roster, replace(roster, epoch=Epoch(1), beacon=digest("nock/beacon/1", roster.beacon)))
    return genesis_state(people, [], genesis_roots(tiles).items(), FIRST_VERSION, GENESIS_MS, rosters)


def learning_rule(round_ms: int = ROUND_MS) -> LearningRule:
    """The only number that the rules look at is the length of a round."""
    return LearningRule(
        inner_steps=1,
        batch_sequences=1,
        learning_rate_micro=1,
        learning_rate_floor_micro=0,
        warmup_rounds=0,
        decay_rounds=0,
        beta1_micro=0,
        beta2_micro=0,
        averaged_batches=1,
        weight_decay_micro=0,
        gradient_clip_micro=1,
        balance_loss_micro=0,
        delta_pipeline="none",
        update_pipeline="none",
        residual_decay_micro=0,
        residual_start_micro=0,
        merge_rule="mean",
        clip_multiple_micro=1,
        outer_rule="plain",
        outer_rate_micro=1,
        outer_momentum_micro=0,
        round_ms=round_ms,
        validation_sequences=1,
    )


def make_keys(count: int) -> list[KeyPair]:
    """Node keys in ascending order of their public halves, as a roster lists them."""
    return sorted((KeyPair(bytes([index + 1]) * 32) for index in range(count)), key=lambda key: key.public)


def make_roster(keys: list[KeyPair], beacon: Digest, weights: tuple[int, ...] = ()) -> Roster:
    """Vote keys are quick ones."""
    members = tuple(Member(PeerId(key.public), VoteKey(vote_key(key).public)) for key in keys)
    return Roster(Epoch(0), members, weights or (1,) * len(keys), beacon)


def account_key(node: bytes) -> KeyPair:
    """A real one, for a peer's payments."""
    return KeyPair(digest("nock/account/1", node))


def vote_key(key: KeyPair) -> KeyPair:
    return QuickKey(digest("nock/binding/1", key.public))


def genesis_roots(tiles: Iterable[TileId] = TILES) -> dict[TileId, Digest]:
    return {tile: digest("nock/weights/1", tile.encode()) for tile in tiles}


def next_root(parent: Digest, update: Digest) -> Digest:
    """What applying an update gives, in this world."""
    return digest("nock/weights/1", parent, update)


def is_history(start: Digest, segments: Sequence[HistorySegment]) -> bool:
    """Whether joined segments from ``start`` are each right."""
    try:
        check_joined(start, segments)
        for segment in segments:
            check_segment(segment)
    except Rejected:
        return False
    return True


def make_update(deltas: Iterable[Digest]) -> bytes:
    """What merging deltas gives, in this world."""
    return b"".join(sorted(deltas))
