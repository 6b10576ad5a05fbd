"""Heads, deltas, bodies and headers for unit tests: a roster of four with real node keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from consensus.heads import TileHead
from consensus.state import State
from consensus.state import tile_head as find_tile
from consensus.transition import apply_block
from protocol.codec import encode
from protocol.digest import blob_digest, digest
from protocol.finality import NO_BLOCK, Body, Header, body_root
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, Signature, TileId, Version, View
from protocol.keys import KeyPair
from protocol.roster import DeltaRef, Head, sign_head
from tests.consensus.genesis import (
    BLOCK_RULES,
    CHAIN,
    TILES,
    make_genesis,
    make_keys,
    make_roster,
    make_update,
    next_root,
)

KEYS = make_keys(4)
ROSTER = make_roster(KEYS, digest("nock/beacon/1", b"samples"))
RULES = BLOCK_RULES.head_rules(ROSTER)
GENESIS = make_genesis(ROSTER)
TILE = TILES[0]
STRANGERS = [PeerId(bytes([1, index]) * 16) for index in range(80)]


def refer(learner: PeerId, base: int, *, weight: int = 100, salt: bytes = b"") -> DeltaRef:
    """A delta by name; the same arguments give the same name."""
    return DeltaRef(blob_digest(learner + bytes([base]) + salt), learner, Version(base), weight)


def merge_of(aggregator: PeerId, base: int, *parts: DeltaRef) -> DeltaRef:
    """An aggregate of these, as a head names it."""
    names = tuple(sorted(part.delta for part in parts))
    weight = sum(part.weight for part in parts)
    return DeltaRef(blob_digest(aggregator + b"".join(names)), aggregator, Version(base), weight, names)


def member(index: int) -> PeerId:
    return ROSTER.members[index].node


def key_of(peer: PeerId) -> KeyPair:
    return next(key for key in KEYS if key.public == peer)


def tile_at(state: State, tile: TileId) -> TileHead:
    """Where a tile of ours stands."""
    at = find_tile(state, tile)
    assert at is not None
    return at


def make_head(
    state: State = GENESIS,
    tile: TileId = TILE,
    deltas: Sequence[DeltaRef] | None = None,
    *,
    attempt: int = 0,
    sign: bool = True,
    **changes: Any,
) -> Head:
    """A good head that continues ``state``, with ``changes``, signed by its proposer."""
    at = tile_at(state, tile)
    chosen = [refer(member(0), at.version)] if deltas is None else deltas
    update = make_update(reference.delta for reference in chosen)
    head = Head(
        tile=tile,
        version=Version(at.version + 1),
        epoch=Epoch(0),
        attempt=attempt,
        round=at.head.round + 1 if at.head else 0,
        parent_root=at.root,
        root=next_root(at.root, blob_digest(update)),
        update=blob_digest(update),
        update_bytes=len(update) or 1,
        deltas=tuple(chosen),
        proposer=member(RULES.order(tile)[attempt]),
        signature=Signature(bytes(64)),
    )
    head = replace(head, **changes)
    return sign_head(head, key_of(head.proposer)) if sign else head


def extend(state: State, *heads: Head) -> State:
    """The state after a block of these heads."""
    return after_block(state, sorted(heads, key=lambda head: head.tile))


def after_block(state: State, heads: Sequence[Head], height: int = 1, proposer: int = 0) -> State:
    """The state after a block with the time that ``make_block`` gives it; raises ``Rejected``."""
    context = BLOCK_RULES.context(state, RULES, Height(height), height, MemberIndex(proposer))
    return apply_block(state, heads, (), context)[0]


def make_block(
    heads: Iterable[Head],
    state: State = GENESIS,
    parent: Digest = NO_BLOCK,
    height: int = 1,
    *,
    state_root: Digest | None = None,
    proposer: int = 0,
) -> tuple[Digest, Header, bytes]:
    """A block of heads on top of ``state``: its name, header and body."""
    listed = tuple(heads)
    if state_root is None:
        state_root = after_block(state, listed, height, proposer).root()
    body = encode(Body(listed))
    header = Header(
        version=1,
        chain=CHAIN,
        epoch=Epoch(0),
        view=View(height),
        height=Height(height),
        parent=parent,
        parent_view=View(height - 1),
        time_ms=height,
        proposer=MemberIndex(proposer),
        body_root=body_root(body),
        body_bytes=len(body),
        state_root=state_root,
        roster=ROSTER.digest(),
        next_roster=ROSTER.digest(),
        beacon=ROSTER.beacon,
        evidence_root=NO_BLOCK,
    )
    return header.digest(), header, body
