"""What a node shows of what it keeps when the chain asks: at once, until a block has it, and not twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio
from msgspec.structs import replace

from consensus.custody_answers import ask_members, asked_cell, take_answer
from consensus.mempool import Mempool
from consensus.state import KEPT, State
from node.kept_cells import KeptCells, open_kernel_once
from node.services.keep_proof import KeepProof
from node.services.submission import Submission
from protocol.digest import blob_digest
from protocol.erasure import LIVE
from protocol.ids import AccountId, Digest
from protocol.transactions import CustodyAnswer, SignedTransaction, check_transaction
from storage.files import MemoryFiles
from storage.io.cell_store import CellStore
from storage.kv import MemoryKeyValue
from tests.consensus.custody_samples import BLOB, CARDS, keep, question_of, roster, seven
from tests.consensus.ledger_samples import KEYS, RULE
from tests.consensus.samples import CHAIN
from tests.node.test_kept_cells import offer

T = TypeVar("T")
MADE = offer(memoryview(bytes(range(256)) * 800))  # cells of four leaves
ENTRY = BLOB.entry(blob=MADE.manifest.root, tables=MADE.claim.tables, size_bytes=MADE.manifest.size_bytes)


def asked(epoch: int) -> State:
    """Seven members are asked for leaves of the blob that is really coded."""
    beacon = blob_digest(bytes([epoch]))
    return ask_members(keep(seven(), ENTRY), roster(epoch - 1), roster(epoch), beacon, recorded_by=40)


async def inline(work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
    return work()


class Node:
    """The first of the seven: its cells, its pool, and what it hands over."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.state = asked(1)
        self.pool = Mempool(CHAIN, RULE)
        self.doubted: list[Digest] = []
        self.handed_over: list[SignedTransaction] = []
        self.store = CellStore(MemoryFiles(), MemoryKeyValue())
        self.store.put_blob(MADE.manifest, MADE.claim.tables, MADE.tables, 16)
        self.coded = KeptCells(self.store, open_kernel_once(), inline).coded.of(MADE, 0)
        if keeps:
            self.put_cells()
        submit = Submission(KEYS[0], CHAIN, RULE, lambda: self.state, self.pool, self.hand_over)
        cells = KeptCells(self.store, open_kernel_once(), inline)
        self.proof = KeepProof(CARDS[0].node, cells, self.doubted.append, lambda: self.state, submit)

    def put_cells(self) -> None:
        self.store.put_cells(MADE.manifest.root, [self.coded.checked(cell) for cell in range(LIVE.cells)])

    async def hand_over(self, data: bytes) -> Digest:
        signed = check_transaction(data, CHAIN)
        self.pool.add(signed, self.state)
        self.handed_over.append(signed)
        return signed.id

    def look(self, *turns: int) -> None:
        async def main() -> None:
            for turn in turns:
                await self.proof.look(turn)

        trio.run(main)

    @property
    def answers(self) -> list[CustodyAnswer]:
        payloads = [each.plain.payload for each in self.handed_over]
        return [payload for payload in payloads if isinstance(payload, CustodyAnswer)]


def test_it_shows_the_leaf_that_is_asked_for_at_once() -> None:
    """The chain takes it; as long as it waits for a block nothing more is sent, and after that neither."""
    node = Node()
    node.look(0, 0, 1, 2)
    (answer,) = node.answers
    node.state = take_answer(node.state, answer, 1, 60)
    node.pool = Mempool(CHAIN, RULE)
    node.look(3)
    assert len(node.answers) == node.proof.answered == 1
    assert not node.proof.is_waiting
    assert answer.leaf.cell == asked_cell(question_of(node.state, CARDS[0]), ENTRY, MADE.manifest.tile_root(0))


def test_an_answer_that_was_lost_is_sent_again_in_the_next_part_of_the_epoch() -> None:
    """Not in the same one: a pool that drops everything is not filled again and again."""
    node = Node()
    node.look(0)
    node.pool.advance([AccountId(KEYS[0].public)], _spent(node.state))
    node.look(0)
    assert len(node.answers) == 1
    node.look(1)
    assert len(node.answers) == 2
    assert node.answers[0] == node.answers[1]


def _spent(state: State) -> State:
    """The state in which the sender's first nonce was used for something else."""
    account = AccountId(KEYS[0].public)
    before = state.account(account)
    return state.put_account(account, before, replace(before, nonce=1))


def test_a_cell_that_is_not_here_is_looked_for_and_then_shown() -> None:
    """In the same part of the epoch, as soon as it is here."""
    node = Node(keeps=False)
    node.look(0)
    assert (node.proof.is_waiting, node.answers, node.doubted) == (True, [], [MADE.manifest.root])
    node.put_cells()
    node.look(0)
    assert (node.proof.is_waiting, len(node.answers)) == (False, 1)


def test_who_is_asked_nothing_says_nothing() -> None:
    """Neither does who keeps nothing of what is asked: the blob itself is not here."""
    node = Node()
    node.state = seven()
    node.look(0)
    assert node.answers == []
    node = Node(keeps=False)
    node.store.drop_blob(MADE.manifest.root)
    node.look(0)
    assert node.answers == []
    assert node.proof.is_waiting


def test_each_epoch_has_its_own_answer() -> None:
    """The part of the epoch may have the same number as in the one before."""
    node = Node()
    node.look(0)
    node.state = replace(asked(2), supply=node.state.supply)
    node.pool.advance([AccountId(KEYS[0].public)], _spent(node.state))
    node.state = _spent(node.state)
    node.look(0)
    assert [answer.epoch for answer in node.answers] == [1, 2]
    assert take_answer(node.state, node.answers[1], 2, 120).find(KEPT, ENTRY.subject.digest()) == ENTRY


def test_who_cannot_pay_tries_again_in_each_part() -> None:
    """It says so in its log; money may come before the epoch ends."""
    node = Node()
    account = AccountId(KEYS[0].public)
    poor = node.state.add_balance(account, -node.state.account(account).balance_nano)
    rich, node.state = node.state, poor
    node.look(0, 1)
    assert (node.answers, node.proof.answered) == ([], 0)
    node.state = rich
    node.look(2)
    assert node.proof.answered == 1
