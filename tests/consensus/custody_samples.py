"""Seven validators, blobs whose cells have real trees, and what the chain asks for of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from consensus.custody_answers import ask_members, asked_cell, find_question
from consensus.state import KEPT, CustodyQuestion, KeptEntry, State, genesis_state
from protocol.availability import TileSnapshot
from protocol.digest import blob_digest
from protocol.erasure import LIVE, Geometry, LeafProof, blob_root
from protocol.ids import Digest, Epoch, Height, TileId, Version, VoteKey
from protocol.keys import KeyPair
from protocol.limits import CELL_LEAF_BYTES, KIB
from protocol.merkle import leaf_digest, merkle_proof, merkle_root
from protocol.roster import Member, MemberCard, Roster
from protocol.transactions import CustodyAnswer
from tests.consensus.genesis import genesis_roots
from tests.consensus.ledger_samples import ACCOUNT_IDS, BALANCE, FIRST_VERSION, STAKE

BEACON = blob_digest(b"drawn")
CARDS = sorted(
    (MemberCard.bind(*(KeyPair(bytes([kind, index]) * 16) for kind in (6, 7, 8))) for index in range(7)),
    key=lambda card: card.node,
)


def roster(epoch: int, *weights: int) -> Roster:
    """Seven members, with these weights or with equal ones."""
    members = tuple(Member(card.node, VoteKey(card.vote)) for card in CARDS)
    return Roster(Epoch(epoch), members, weights or (STAKE,) * len(members), blob_digest(b"beacon"))


def seven(*stakes: int) -> State:
    """A chain of seven validators, each with an account that pays, before its first block."""
    given = stakes or (STAKE,) * len(CARDS)
    return genesis_state(
        balances=[(account, BALANCE) for account in ACCOUNT_IDS],
        validators=list(zip(CARDS, given, strict=True)),
        tiles=genesis_roots().items(),
        first_version=FIRST_VERSION,
        created_ms=0,
        rosters=(roster(0, *stakes), roster(1, *stakes)),
    )


@dataclass
class Blob:
    """A blob of cells that code nothing: their trees are real."""

    size_bytes: int
    salt: bytes = b""
    geometry: Geometry = LIVE

    def leaf(self, tile: int, cell: int, leaf: int) -> bytes:
        return blob_digest(self.salt + bytes([tile, cell, leaf])) * (CELL_LEAF_BYTES // 32)

    @cached_property
    def leaves(self) -> list[list[list[Digest]]]:
        return [
            [
                [leaf_digest(self.leaf(tile, cell, leaf)) for leaf in range(self.leaf_count(tile))]
                for cell in range(self.geometry.cells)
            ]
            for tile in range(self.geometry.tile_count(self.size_bytes))
        ]

    def leaf_count(self, tile: int) -> int:
        return self.geometry.cell_leaves(self.size_bytes, tile)

    @cached_property
    def cell_roots(self) -> list[list[Digest]]:
        return [[merkle_root(cell) for cell in tile] for tile in self.leaves]

    @cached_property
    def tile_roots(self) -> list[Digest]:
        return [merkle_root(tile) for tile in self.cell_roots]

    @property
    def root(self) -> Digest:
        return blob_root(self.geometry, self.size_bytes, merkle_root(self.tile_roots))

    def prove(self, tile: int, cell: int, leaf: int) -> LeafProof:
        cell_path = merkle_proof(self.leaves[tile][cell], leaf)
        return LeafProof(
            tile, cell, leaf, self.leaf(tile, cell, leaf), cell_path, merkle_proof(self.cell_roots[tile], cell)
        )

    def entry(self, **changes: Any) -> KeptEntry:
        """As the record has it: of a snapshot that nobody knows otherwise, certified in epoch 0."""
        subject = TileSnapshot(TileId("trunk/0"), Version(3), blob_digest(b"weights" + self.salt))
        values: dict[str, Any] = {
            "blob": self.root,
            "tables": blob_digest(b"tables"),
            "geometry": self.geometry,
            "size_bytes": self.size_bytes,
            "epoch": Epoch(0),
            "beacon": blob_digest(b"ring"),
            "kept_until": Epoch(16),
            "subject": subject,
            "author": ACCOUNT_IDS[0],
            "height": Height(1),
        }
        return KeptEntry(**values | changes)

    def answer(self, state: State, card: MemberCard, **changes: Any) -> CustodyAnswer:
        """The right answer of a member, with ``changes``."""
        question = question_of(state, card)
        cell = asked_cell(question, state.get(KEPT, question.subject), self.tile_roots[question.tile])
        leaf = self.prove(question.tile, cell, question.leaf)
        path = merkle_proof(self.tile_roots, question.tile)
        return replace(CustodyAnswer(card.node, question.epoch, self.root, leaf, path), **changes)


BLOB = Blob(200 * KIB)
TWO_TILES = Blob(LIVE.tile_bytes + 200 * KIB, b"two")


def keep(state: State, *entries: KeptEntry) -> State:
    """The state in which these are recorded; who certified them is not this file's concern."""
    for entry in entries:
        state = state.put(KEPT, entry, entry.subject.digest())
    return state


def question_of(state: State, card: MemberCard) -> CustodyQuestion:
    question = find_question(state, card.node)
    assert question is not None
    return question


def ask(state: State, *entries: KeptEntry, beacon: Digest = BEACON, epoch: int = 1) -> State:
    """What is recorded of these by the cut is asked for in an epoch."""
    return ask_members(keep(state, *entries), roster(epoch - 1), roster(epoch), beacon, recorded_by=40)
