"""Heads, deltas, bodies and headers for unit tests: a roster of four with real node keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from consensus.heads import HeadRules, HeadState
from protocol.codec import encode
from protocol.digest import blob_digest, digest
from protocol.finality import NO_BLOCK, Body, Header, body_root
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, Signature, TileId, Version, View
from protocol.keys import KeyPair
from protocol.roster import DeltaRef, Head, sign_head
from tests.consensus.world import (
    CHAIN,
    TILES,
    WEIGHT_MAX,
    genesis_roots,
    make_keys,
    make_roster,
    make_update,
    next_root,
)

KEYS = make_keys(4)
ROSTER = make_roster(KEYS, digest("nock/beacon/1", b"samples"))
RULES = HeadRules(ROSTER, WEIGHT_MAX)
GENESIS = HeadState.genesis(genesis_roots().items())
TILE = TILES[0]
STRANGERS = [PeerId(bytes([1, index]) * 16) for index in range(80)]


def refer(learner: PeerId, base: int, *, weight: int = 100, salt: bytes = b"") -> DeltaRef:
    """A delta by name; the same arguments give the same name."""
    return DeltaRef(blob_digest(learner + bytes([base]) + salt), learner, Version(base), weight)


def member(index: int) -> PeerId:
    return ROSTER.members[index].node


def key_of(peer: PeerId) -> KeyPair:
    return next(key for key in KEYS if key.public == peer)


def make_head(
    state: HeadState = GENESIS,
    tile: TileId = TILE,
    deltas: Sequence[DeltaRef] | None = None,
    *,
    attempt: int = 0,
    sign: bool = True,
    **changes: Any,
) -> Head:
    """A good head that continues ``state``, with ``changes``, signed by its proposer."""
    at = state.tiles[tile]
    chosen = [refer(member(0), at.version)] if deltas is None else deltas
    update = make_update(reference.delta for reference in chosen)
    head = Head(
        tile=tile,
        version=Version(at.version + 1),
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


def extend(state: HeadState, *heads: Head) -> HeadState:
    return RULES.apply_body(state, Body(tuple(sorted(heads, key=lambda head: head.tile))))


def make_block(
    heads: Iterable[Head],
    state: HeadState = GENESIS,
    parent: Digest = NO_BLOCK,
    height: int = 1,
    *,
    state_root: Digest | None = None,
    proposer: int = 0,
) -> tuple[Digest, Header, bytes]:
    """A block of heads on top of ``state``: its name, header and body."""
    listed = tuple(heads)
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
        state_root=state_root or state.extended(listed).root(),
        roster=ROSTER.digest(),
        next_roster=ROSTER.digest(),
        beacon=ROSTER.beacon,
        evidence_root=NO_BLOCK,
    )
    return header.digest(), header, body
