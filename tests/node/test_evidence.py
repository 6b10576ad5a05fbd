"""A contradiction that finality exposes is punished on the chain, without anybody's help."""

from __future__ import annotations

import trio
from msgspec.structs import replace

from consensus.epochs import choose_roster
from consensus.execution import Execution
from consensus.finality.events import Evidence
from consensus.finality.tally import find_contradiction
from consensus.state import ROSTERS, VALIDATORS, ValidatorStatus
from consensus.transition import BlockRules
from node.services.evidence import EvidenceService
from node.services.submission import NONCE_TRIES, Submission
from protocol.digest import blob_digest, number
from protocol.finality import NO_BLOCK, FinalizedBlock, VoteKind
from protocol.ids import Digest, Epoch, Height, MemberIndex
from protocol.rejection import Reason
from protocol.transactions import SignedTransaction, Transfer, check_transaction
from tests.consensus.genesis import TICKS
from tests.consensus.ledger_samples import ACCOUNT_IDS, GENESIS, KEYS, RULE, sign, vote
from tests.consensus.ledger_samples import VOTES as VOTE_KEYS
from tests.consensus.samples import CHAIN, make_block

ROSTER = choose_roster(GENESIS, Epoch(0), blob_digest(b"beacon"), GENESIS.get(ROSTERS, number(0)), Height(0))
STATE = GENESIS.put(ROSTERS, ROSTER, number(0))


class Node:
    """What the service needs of one: a state that moves, a pool, and a door."""

    def __init__(self) -> None:
        self.execution = Execution(BlockRules(CHAIN, RULE, 1_024, 1, TICKS), STATE, NO_BLOCK, Height(0))
        self.submitted: list[Digest] = []
        self.quicker: list[SignedTransaction] = []  # of the account's owner: each gets in before one of ours
        submit = Submission(KEYS[2], CHAIN, RULE, lambda: self.execution.state, self.execution.mempool, self.submit)
        self.service = EvidenceService(lambda: self.execution.state, submit)

    async def submit(self, data: bytes) -> Digest:
        signed = check_transaction(data, CHAIN)
        if self.quicker:
            self.execution.add_transaction(self.quicker.pop(0))
        self.execution.add_transaction(signed)
        self.submitted.append(signed.id)
        return signed.id

    def finalize(self) -> list[Reason | None]:
        """A block of what waits, on top of the last."""
        height = Height(self.execution.height + 1)
        built = self.execution.build(self.execution.anchor, height, height, MemberIndex(0))
        assert built is not None
        header = replace(make_block([], height=height)[1], parent=self.execution.anchor, state_root=built[1])
        final = self.execution.finalize(FinalizedBlock(header, built[0], None))
        return [receipt.refusal for receipt in final.committed.receipts]


def contradiction(kind: VoteKind = VoteKind.NOTARIZE, view: int = 3):
    """Two votes of whoever is member 0 of the roster."""
    index = next(i for i, key in enumerate(VOTE_KEYS) if key.public == ROSTER.members[0].vote)
    pair = [replace(vote(index, kind, block, view=view), signer=MemberIndex(0)) for block in (b"one", b"other")]
    found = find_contradiction(*pair)
    assert found is not None
    return Evidence(found, ROSTER.members[0].node, *pair)


def test_who_contradicts_itself_is_expelled():
    """The report goes into a block, by the account of whoever saw it, and names the validator by its key."""
    node = Node()
    trio.run(node.service.report, contradiction())
    assert node.finalize() == [None]
    validator = node.execution.state.get(VALIDATORS, ROSTER.members[0].node)
    assert validator.status is ValidatorStatus.EXPELLED
    assert node.execution.state.account(ACCOUNT_IDS[2]).nonce == 1


def test_a_contradiction_is_reported_once():
    """Neither heard again, nor in two forms, nor when somebody else has reported it."""
    node, other = Node(), Node()
    for kind in (VoteKind.NOTARIZE, VoteKind.NOTARIZE, VoteKind.FINALIZE):
        trio.run(node.service.report, contradiction(kind))
    assert len(node.submitted) == 1
    node.finalize()
    other.execution.state = node.execution.state
    trio.run(other.service.report, contradiction())
    assert other.submitted == []
    trio.run(other.service.report, contradiction(view=4))
    assert len(other.submitted) == 1


def test_who_cannot_pay_says_nothing():
    """The pool refuses: that is logged and harms nobody."""
    node = Node()
    account = node.execution.state.account(ACCOUNT_IDS[2])
    node.execution.state = node.execution.state.add_balance(ACCOUNT_IDS[2], -account.balance_nano)
    trio.run(node.service.report, contradiction())
    assert node.submitted == []


def test_a_nonce_that_the_owner_took_meanwhile_is_asked_for_again():
    """The owner's own transaction reaches the pool between our look at it and ours: the report goes behind it."""
    node = Node()
    node.quicker = [sign(2, nonce, Transfer(ACCOUNT_IDS[1], 7)) for nonce in range(2)]
    trio.run(node.service.report, contradiction())
    assert (len(node.submitted), node.execution.mempool.statistics().transactions) == (1, 3)
    assert [node.finalize(), node.finalize()] == [[None, None], [None]]  # evidence stands first, or in the next block


def test_who_is_never_quick_enough_says_nothing():
    """An owner that is quicker each time has its way; the pool's refusal is logged, and harms nobody."""
    node = Node()
    node.quicker = [sign(2, nonce, Transfer(ACCOUNT_IDS[1], 7)) for nonce in range(NONCE_TRIES)]
    trio.run(node.service.report, contradiction())
    assert (node.submitted, node.execution.mempool.statistics().transactions) == ([], NONCE_TRIES)
