"""A small chain that is real but for its votes: state, pool, ledger and index, and blocks made when a test says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from msgspec.structs import replace

from consensus.finality import Statistics
from consensus.mempool import Mempool
from consensus.state import State
from consensus.transition import BlockContext, Receipt, apply_block, build_block
from node.chain_index import DroppedTransactions, find_transaction, forget_rows, transaction_rows
from node.chain_view import ChainView
from node.data_directory import DataDirectory
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.finality import HEADER_VERSION, NO_BLOCK, Body, Certificate, Header, VoteKind, body_root
from protocol.ids import Digest, Epoch, Height, MemberIndex, PeerId, Signature, View
from protocol.limits import BODY_BYTES_MAX
from protocol.roster import Head, Member, Roster
from protocol.transactions import SignedTransaction, check_transaction
from storage.kv import MemoryKeyValue
from storage.ledger import FinalizedBlock, Ledger, PruneRule
from tests.consensus.genesis import CHAIN
from tests.consensus.ledger_samples import CARDS, GENESIS, RULE, STAKE, context
from tests.protocol import samples as protocol_samples

_VOTERS = sorted(((CARDS[0], STAKE), (CARDS[1], 3 * STAKE)), key=lambda voter: voter[0].node)
ROSTER = Roster(
    Epoch(0),
    tuple(Member(card.node, card.vote) for card, _ in _VOTERS),
    tuple(stake for _, stake in _VOTERS),
    blob_digest(b"beacon"),
)
DOCUMENT = replace(protocol_samples.genesis(), created_ms=0, ledger=RULE)


def write_keys(root: Path, index: int) -> None:
    """The keys of the ledger's samples as those of a data directory."""
    directory = DataDirectory(root).keys
    directory.mkdir(mode=0o700, parents=True)
    for number, name in ((3, "account"), (4, "node"), (5, "vote")):
        path = directory / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(bytes([number, index]) * 16)


def run_block(
    state: State, candidates: Sequence[SignedTransaction], at: BlockContext
) -> tuple[State, tuple[SignedTransaction, ...], tuple[Receipt, ...]]:
    """The state after a block of what can pay, what that is, and the receipts."""
    _, included = build_block(state, (), candidates, at)
    after, receipts = apply_block(state, (), included, at)
    return after, included, receipts


class SmallChain:
    """What a node holds of a chain, and its view. ``seals``: a transaction gets a block as soon as it is handed over."""

    def __init__(self) -> None:
        self.state = GENESIS
        self.pool = Mempool(CHAIN, RULE)
        self.index = MemoryKeyValue()
        self.ledger = Ledger(self.index)
        self.dropped = DroppedTransactions()
        self.now_ms = 0
        self.seals = False
        self.decided_height = 0  # of a block that is not written yet, if there is one
        self.roster = ROSTER
        self.next_roster: Roster | None = None
        self.connected: list[PeerId] = []
        self.refusal: str | None = None
        self.view = ChainView(
            genesis=DOCUMENT,
            pool=self.pool,
            ledger=self.ledger,
            index=self.index,
            state=lambda: self.state,
            finality=self.statistics,
            roster=lambda: self.roster,
            now_ms=lambda: self.now_ms,
            hand_over=self.hand_over,
            dropped=self.dropped.find,
            connected=lambda: self.connected,
            next_roster=lambda: self.next_roster,
            me=CARDS[0].node,
        )

    def statistics(self) -> Statistics:
        height = self.decided_height or self.ledger.tip() or Height(0)
        known = {
            "finalized_height": height,
            "view": View(9),
            "leader": MemberIndex(1),
            "refusal": self.refusal,
            "halted": None,
        }
        return Statistics(**({field.name: 0 for field in fields(Statistics)} | known))

    async def hand_over(self, data: bytes) -> Digest:
        transaction = check_transaction(data, CHAIN)
        self.add(transaction)
        if self.seals:
            self.seal()
        return transaction.id

    def add(self, *transactions: SignedTransaction) -> None:
        for transaction in transactions:
            self.dropped.note(self.pool.add(transaction, self.state))

    def seal(self, heads: Sequence[Head] = (), history: Sequence[Digest] = ()) -> Header:
        """Finalize a block of what waits; ``heads`` and ``history`` stand in its body and change nothing."""
        height = Height((self.ledger.tip() or 0) + 1)
        at = context(height)
        self.state, included, receipts = run_block(self.state, self.pool.take(BODY_BYTES_MAX, self.state), at)
        body = encode(Body(tuple(heads), tuple(encode(each.plain) for each in included), None, tuple(history)))
        header = Header(
            version=HEADER_VERSION,
            chain=CHAIN,
            epoch=Epoch(0),
            view=View(2 * height),
            height=height,
            parent=NO_BLOCK,
            parent_view=View(0),
            time_ms=at.time_ms,
            proposer=MemberIndex(height % len(self.roster.members)),
            body_root=body_root(body),
            body_bytes=len(body),
            state_root=self.state.root(),
            roster=self.roster.digest(),
            next_roster=self.roster.digest(),
            beacon=self.roster.beacon,
            evidence_root=NO_BLOCK,
        )
        votes = (Signature(bytes(64)),) * len(self.roster.members)
        bitmap = (2 ** len(votes) - 1).to_bytes((len(votes) + 7) // 8, "little")
        certificate = Certificate(VoteKind.FINALIZE, Epoch(0), header.view, header.digest(), bitmap, votes)
        block = FinalizedBlock(height, encode(header), body, encode(certificate))
        self.ledger.append(block, transaction_rows(height, receipts, heads))
        dropped = self.pool.advance([each.plain.sender for each in included], self.state)
        self.dropped.note(each for each in dropped if find_transaction(self.index, each.id) is None)
        return header

    def prune(self, until: int) -> None:
        """Forget the blocks below a height, with the rows of their transactions."""
        rule = PruneRule(0, Height(until), DOCUMENT.chain.epoch_heights)
        self.ledger.prune(
            rule,
            lambda block: forget_rows(decode(Body, block.body, limit_bytes=BODY_BYTES_MAX)),
            blocks_max=until,
            bytes_max=BODY_BYTES_MAX,
        )
