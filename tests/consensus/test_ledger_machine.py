"""Any sequence of transactions and blocks, honest and hostile: money is conserved, and who replays gets the same root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus.state import EVIDENCE, VALIDATORS, State
from consensus.state_tree import StateTree
from consensus.transition import BlockContext, Receipt, apply_block, build_block
from protocol.digest import blob_digest
from protocol.finality import OnionCommitment, VoteKind
from protocol.ids import AccountId
from protocol.rejection import Rejected
from protocol.state_proof import SubChain
from protocol.transactions import (
    AvailabilityRecord,
    EvidenceReport,
    Leave,
    ParameterRecord,
    Payload,
    RecordKind,
    Register,
    SignedTransaction,
    Stake,
    Transfer,
    Unstake,
)
from tests.consensus.genesis import TILES
from tests.consensus.ledger_samples import (
    ACCOUNT_IDS,
    CARDS,
    EPOCH_HEIGHTS,
    GENESIS,
    available,
    check_money,
    context,
    dataset,
    history_for,
    node_of,
    parameters,
    raw_entries,
    sign,
    snapshot_of,
    vote,
)
from tests.consensus.samples import GENESIS as HEADS
from tests.consensus.samples import make_head
from tests.strategies import values

ROOT = Path(__file__).parent.parent.parent
people = st.integers(0, 5)
amounts = st.one_of(st.integers(1, 5_000), st.integers(1, 2 * 10**9))
votes = st.builds(
    vote,
    people,
    st.sampled_from(VoteKind),
    st.sampled_from([b"one", b"other"]),
    view=st.integers(0, 3),
    epoch=st.integers(0, 2),
)
RECORDS = [available(GENESIS, snapshot_of(GENESIS, tile), epoch=epoch) for tile in TILES for epoch in (0, 1)]


def snapshot_record(sender: int, kept: AvailabilityRecord) -> ParameterRecord:
    """The parameter record of a tile's snapshot."""
    blob = kept.certificate.claim.blob
    return parameters(sender, "trunk", kind=RecordKind.TILE_SNAPSHOT, payload_root=blob, payload_bytes=kept.size_bytes)


honest_payloads = st.one_of(
    st.builds(Transfer, people.map(ACCOUNT_IDS.__getitem__), amounts),
    st.builds(Register, people.map(CARDS.__getitem__), amounts),
    st.builds(Stake, people.map(node_of), amounts),
    st.builds(Unstake, people.map(node_of), amounts),
    st.builds(Leave, people.map(node_of)),
    st.builds(EvidenceReport, people.map(node_of), votes, votes),
    st.builds(parameters, people, st.sampled_from(["layer4.expert1", "layer4.expert2"])),
    st.builds(dataset, people, st.sampled_from(["a", "b"])),
    st.sampled_from(RECORDS),
    st.builds(snapshot_record, people, st.sampled_from(RECORDS)),
)
pairs_of_votes = st.tuples(people, st.integers(0, 3), st.integers(0, 2))


def equivocation(which: tuple[int, int, int]) -> EvidenceReport:
    index, view, epoch = which
    first, second = (vote(index, VoteKind.NOTARIZE, block, view=view, epoch=epoch) for block in (b"one", b"other"))
    return EvidenceReport(node_of(index), first, second)


payloads = st.one_of(honest_payloads, pairs_of_votes.map(equivocation), values(Payload))


class Ledger(RuleBasedStateMachine):
    """Blocks of anything, one after the other."""

    @initialize()
    def begin(self) -> None:
        self.state: State = GENESIS
        self.height = 0
        self.blocks: list[tuple[list[SignedTransaction], BlockContext, tuple[Receipt, ...]]] = []

    def run(self, transactions: list[SignedTransaction], heights: int = 1) -> None:
        for _ in range(heights - 1):
            self.height += 1
            here = context(self.height)
            self.state, _ = apply_block(self.state, (), [], here, None, history_for(self.state, here))
            self.blocks.append(([], context(self.height), ()))
        self.height += 1
        here = context(self.height)
        history = history_for(self.state, here)
        built, included = build_block(self.state, (), transactions, here, None, history)
        after, receipts = apply_block(self.state, (), included, here, None, history)
        assert after.root() == built.root()
        if len(included) < len(transactions):  # whole, it is wrong
            try:
                apply_block(self.state, (), transactions, here, None, history)
            except Rejected:
                pass
            else:
                raise AssertionError("a block with a transaction that cannot pay was accepted")
        self.state = after
        self.blocks.append((list(included), here, receipts))

    def transaction(self, sender: int, payload: Payload, ahead: int = 0, fee_nano: int = 10_000) -> SignedTransaction:
        return sign(sender, self.state.account(ACCOUNT_IDS[sender]).nonce + ahead, payload, fee_nano)

    @rule(sender=people, payload=payloads)
    def one(self, sender: int, payload: Payload) -> None:
        self.run([self.transaction(sender, payload)])

    @rule(person=people, amount_nano=st.integers(1, 3_000_000))
    def register(self, person: int, amount_nano: int) -> None:
        self.run([self.transaction(person, Register(CARDS[person], amount_nano))])

    @rule(person=people, amount_nano=st.integers(1, 1_000_000), kind=st.sampled_from([Stake, Unstake, Unstake, Leave]))
    def change_stake(self, person: int, amount_nano: int, kind: Any) -> None:
        payload = Leave(node_of(person)) if kind is Leave else kind(node_of(person), amount_nano)
        self.run([self.transaction(person, payload)])

    @rule(reporter=people, which=st.integers(0, 5), view=st.integers(0, 3))
    def offend(self, reporter: int, which: int, view: int) -> None:
        known = [index for index in range(6) if self.state.find(VALIDATORS, node_of(index)) is not None]
        if known:
            report = equivocation((known[which % len(known)], view, context(self.height + 1).epoch))
            self.run([self.transaction(reporter, report)])

    @rule(sender=people, first=honest_payloads, second=payloads)
    def two(self, sender: int, first: Payload, second: Payload) -> None:
        block = [self.transaction(sender, first), self.transaction(sender, second, 1)]
        if not isinstance(second, EvidenceReport) or isinstance(first, EvidenceReport):
            self.run(block)

    @rule(sender=people, payload=payloads, ahead=st.integers(0, 2), fee_nano=st.sampled_from([0, 10_000, 10**9]))
    def hostile(self, sender: int, payload: Payload, ahead: int, fee_nano: int) -> None:
        self.run([self.transaction(sender, payload, ahead, fee_nano)])

    @rule(heights=st.integers(1, 30))
    def wait(self, heights: int) -> None:
        self.run([], heights)

    @invariant()
    def money_is_conserved(self) -> None:
        check_money(self.state)

    @invariant()
    def the_tree_is_its_entries(self) -> None:
        rebuilt = tuple(StateTree() for _ in SubChain)
        for chain in SubChain:
            tree = rebuilt[chain]
            for key, value in reversed(list(self.state.trees[chain].items())):
                tree = tree.put(key, value)
            assert tree.root() == self.state.trees[chain].root()

    @invariant()
    def every_validator_is_in_the_index(self) -> None:
        entries = dict(self.state.trees[SubChain.C].items())
        found = {key[1:] for key in entries if key[:1] == VALIDATORS.prefix}
        assert found == {each.card.node for each in self.state.validators()}
        assert all(each.exposed_nano or each.status == 1 for each in self.state.validators())

    @invariant()
    def nobody_is_punished_twice_for_a_view(self) -> None:
        entries = [key for key, _ in self.state.trees[SubChain.C].items() if key[:1] == EVIDENCE.prefix]
        reports = [
            transaction
            for transactions, _, receipts in self.blocks
            for transaction, receipt in zip(transactions, receipts, strict=True)
            if isinstance(transaction.plain.payload, EvidenceReport) and receipt.refusal is None
        ]
        assert len(entries) == len(reports)

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        replayed = GENESIS
        for transactions, here, receipts in self.blocks:
            replayed, again = apply_block(replayed, (), transactions, here, None, history_for(replayed, here))
            assert again == receipts
        assert replayed.root() == self.state.root()
        assert replayed.supply == self.state.supply
        assert raw_entries([replayed]) == raw_entries([self.state])


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=80, stateful_step_count=30)


def make_blocks() -> State:
    """A fixed history with everything in it."""
    state = GENESIS
    steps: list[tuple[int, Payload]] = [
        (2, Register(CARDS[2], 70_000)),
        (3, Transfer(AccountId(bytes(32)), 5)),
        (0, Unstake(node_of(0), 9)),
        (2, equivocation((2, 1, 0))),
        (4, parameters(4, "layer4.expert1")),
        (1, dataset(1)),
        (4, RECORDS[0]),
        (4, snapshot_record(4, RECORDS[0])),
    ]
    for height, (sender, payload) in enumerate(steps, 1):
        nonce = state.account(ACCOUNT_IDS[sender]).nonce
        state, (receipt,) = apply_block(state, (), [sign(sender, nonce, payload)], context(height))
        assert receipt.refusal is None
    state, _ = apply_block(state, [make_head(HEADS)], [], context(len(steps) + 1))
    for height in range(len(steps) + 2, EPOCH_HEIGHTS + 1):
        here = context(height)
        word = OnionCommitment(blob_digest(b"onion")) if height == EPOCH_HEIGHTS else None
        state, _ = apply_block(state, (), [], here, word, history_for(state, here))
    return state


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_the_root_is_the_same_in_every_process(hash_seed):
    """Under any PYTHONHASHSEED: no order of a set or a dictionary enters the state."""
    code = "from tests.consensus.test_ledger_machine import make_blocks; print(make_blocks().root().hex())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        text=True,
    )
    assert answer.stdout.strip() == make_blocks().root().hex()
