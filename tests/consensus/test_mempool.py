"""The pool: bounds that always hold, order that does not depend on arrival, and a reason for everything that leaves."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus.mempool import Dropped, Mempool
from consensus.state import State
from consensus.transition import apply_block, build_block
from protocol.finality import ChainId, VoteKind
from protocol.ids import AccountId
from protocol.limits import BODY_BYTES_MAX, EVIDENCE_BYTES_PER_BODY_MAX, MEMPOOL_PER_SENDER_MAX
from protocol.rejection import Reason, Rejected
from protocol.transactions import EvidenceReport, SignedTransaction, Transfer
from tests.consensus.ledger_samples import ACCOUNT_IDS, BALANCE, GENESIS, RULE, context, node_of, parameters, sign, vote
from tests.consensus.samples import CHAIN

SIZE = sign(0, 0, Transfer(ACCOUNT_IDS[1], 500), 10_000).size_bytes


def pay(sender: int, nonce: int, fee_nano: int = 10_000, amount: int = 500) -> SignedTransaction:
    """A transfer; with these fees and amounts all have one size."""
    return sign(sender, nonce, Transfer(ACCOUNT_IDS[1], amount), fee_nano)


def make_pool(*transactions: SignedTransaction, bytes_max: int = 10 * SIZE) -> Mempool:
    pool = Mempool(CHAIN, RULE, bytes_max)
    for transaction in transactions:
        assert pool.add(transaction, GENESIS) == []
    return pool


def refusal(pool: Mempool, transaction: SignedTransaction, state: State = GENESIS) -> Reason:
    before = (pool.statistics(), pool.take(BODY_BYTES_MAX, state))
    with pytest.raises(Rejected) as caught:
        pool.add(transaction, state)
    assert (pool.statistics(), pool.take(BODY_BYTES_MAX, state)) == before
    return caught.value.reason


def test_the_best_fee_comes_first_and_a_sender_stays_in_order():
    """A sender's good second transaction waits for its poor first one."""
    pool = make_pool(pay(0, 0, 1_000), pay(0, 1, 9_000), pay(1, 0, 5_000), pay(2, 0, 3_000))
    fees = [held.plain.fee_nano for held in pool.take(BODY_BYTES_MAX, GENESIS)]
    assert fees == [5_000, 3_000, 1_000, 9_000]


def test_people_find_what_waits_by_its_id_and_go_on_behind_it():
    """The next nonce is the first that is free, whatever waits behind the gap."""
    held = [pay(0, 0), pay(0, 1), pay(0, 3), pay(1, 1)]
    pool = make_pool(*held)
    assert [pool.find_id(transaction.id) for transaction in held] == held
    assert pool.find_id(pay(0, 2).id) is None
    assert [pool.next_nonce(ACCOUNT_IDS[sender], GENESIS) for sender in range(3)] == [2, 0, 0]
    after, _ = build_block(GENESIS, (), pool.take(BODY_BYTES_MAX, GENESIS), context())
    pool.advance([ACCOUNT_IDS[0]], after)
    assert pool.find_id(held[0].id) is None
    assert pool.next_nonce(ACCOUNT_IDS[0], after) == 2


def test_equal_fees_are_ordered_by_id():
    """Not by arrival: every pool with the same transactions proposes the same."""
    held = [pay(sender, 0) for sender in range(5)]
    taken = make_pool(*held).take(BODY_BYTES_MAX, GENESIS)
    assert taken == make_pool(*reversed(held)).take(BODY_BYTES_MAX, GENESIS)
    assert taken == sorted(held, key=lambda transaction: transaction.id)


def test_what_stands_behind_a_gap_waits():
    """It is held, and taken when the gap is filled."""
    pool = make_pool(pay(0, 2), pay(0, 0))
    assert [held.plain.nonce for held in pool.take(BODY_BYTES_MAX, GENESIS)] == [0]
    pool.add(pay(0, 1), GENESIS)
    assert [held.plain.nonce for held in pool.take(BODY_BYTES_MAX, GENESIS)] == [0, 1, 2]


def test_a_tenth_more_replaces():
    """Less does not, nor does the same transaction again; what is replaced is named."""
    first = pay(0, 0, 10_000)
    pool = make_pool(first)
    assert refusal(pool, first) is Reason.ALREADY_RECORDED
    for fee_nano in (9_000, 10_000, 10_999):
        assert refusal(pool, pay(0, 0, fee_nano, amount=501)) is Reason.UNDERPRICED
    assert pool.add(pay(0, 0, 11_000, amount=501), GENESIS) == [Dropped(first.id, Reason.REPLACED)]
    assert pool.statistics().transactions == 1
    assert not pool.holds(first)


def test_the_smallest_fee_is_replaced_by_more():
    """A tenth of nothing is nothing: it takes one more."""
    free = Mempool(CHAIN, type(RULE)(fee_nano_per_byte=0))
    free.add(pay(0, 0, 0), GENESIS)
    assert refusal(free, pay(0, 0, 0, amount=501)) is Reason.UNDERPRICED
    assert [dropped.reason for dropped in free.add(pay(0, 0, 1, amount=501), GENESIS)] == [Reason.REPLACED]


def test_a_full_pool_gives_up_the_lowest_fee():
    """From the end of a queue, so that no gap appears; and never for something worse, or as good."""
    pool = make_pool(
        *(pay(0, nonce, 2_000 + 100 * nonce) for nonce in range(5)), *(pay(1, nonce) for nonce in range(5))
    )
    assert refusal(pool, pay(2, 0, 2_399)) is Reason.OUTBID
    assert pool.add(pay(2, 0, 2_401), GENESIS) == [Dropped(pay(0, 4, 2_400).id, Reason.OUTBID)]
    assert pool.add(pay(3, 0, 9_000), GENESIS) == [Dropped(pay(0, 3, 2_300).id, Reason.OUTBID)]
    taken = [(held.plain.sender, held.plain.nonce) for held in pool.take(BODY_BYTES_MAX, GENESIS)]
    assert [nonce for sender, nonce in taken if sender == ACCOUNT_IDS[0]] == [0, 1, 2]


def test_what_waits_behind_a_gap_goes_first():
    """Its fee may never be paid, so a high one buys no place."""
    pool = make_pool(*(pay(0, nonce, 60_000) for nonce in range(1, 6)), *(pay(1, nonce, 1_000) for nonce in range(5)))
    assert pool.add(pay(2, 0, 1_000), GENESIS) == [Dropped(pay(0, 5, 60_000).id, Reason.OUTBID)]
    ready = make_pool(*(pay(1, nonce, 1_000) for nonce in range(10)))
    assert refusal(ready, pay(2, 1, 60_000)) is Reason.OUTBID


def test_what_is_next_after_a_block_does_not_wait_behind_a_gap():
    """The account has moved on, and the pool with it: the lowest fee goes, not what follows a used nonce."""
    pool = make_pool(*(pay(0, nonce) for nonce in range(5)), *(pay(1, nonce, 1_000) for nonce in range(5)))
    state, _ = apply_block(GENESIS, (), [pay(0, 0)], context())
    assert [dropped.reason for dropped in pool.advance([ACCOUNT_IDS[0]], state)] == [Reason.WRONG_NONCE]
    pool.add(pay(2, 0), state)
    assert pool.add(pay(3, 0), state) == [Dropped(pay(1, 4, 1_000).id, Reason.OUTBID)]


def test_a_large_transaction_takes_the_place_of_several():
    """One queue gives them up from its end, or all of them stay."""
    pool = make_pool(*(pay(0, nonce, 1_000) for nonce in range(8)), pay(1, 0, 1_100), pay(1, 1, 3_000))
    record = sign(2, 0, parameters(2, "layer4.expert7"), 2_000)
    assert SIZE < record.size_bytes < 2 * SIZE
    assert pool.add(record, GENESIS) == [Dropped(pay(0, nonce, 1_000).id, Reason.OUTBID) for nonce in (7, 6)]
    few = make_pool(pay(0, 0, 1_000), pay(1, 0, 3_000), bytes_max=2 * SIZE)
    assert refusal(few, record) is Reason.OUTBID


def test_a_sender_does_not_make_room_for_itself():
    """Its own queue gives nothing: what comes later would stand behind a gap."""
    pool = make_pool(*(pay(0, nonce, 1_000) for nonce in range(10)))
    assert refusal(pool, pay(0, 10, 60_000)) is Reason.OUTBID


def test_what_a_pool_refuses():
    """Another chain, a fee below the least, a nonce used or too far ahead, more fees than money."""
    pool = make_pool(pay(0, 0))
    assert refusal(Mempool(ChainId(b"else", 0), RULE), pay(0, 0)) is Reason.WRONG_CHAIN
    assert refusal(pool, pay(0, 1, 1)) is Reason.FEE_TOO_LOW
    assert refusal(pool, pay(0, MEMPOOL_PER_SENDER_MAX)) is Reason.WRONG_NONCE
    state, _ = apply_block(GENESIS, (), [pay(2, 0)], context())
    assert refusal(pool, pay(2, 0, 20_000), state) is Reason.WRONG_NONCE
    pool.add(pay(3, 0, BALANCE - 10_000), GENESIS)
    assert refusal(pool, pay(3, 1, 10_001)) is Reason.UNFUNDED
    pool.add(pay(3, 1, 10_000), GENESIS)


def test_a_block_clears_what_it_used_and_what_can_no_longer_be_paid():
    """From the end: what comes first can still be paid."""
    spends = sign(0, 0, Transfer(ACCOUNT_IDS[1], BALANCE - 25_000), 10_000)
    pool = make_pool(spends, pay(0, 1), pay(0, 2), pay(1, 0))
    state, _ = apply_block(GENESIS, (), [spends], context())
    dropped = pool.advance([ACCOUNT_IDS[0], ACCOUNT_IDS[0], ACCOUNT_IDS[4]], state)
    assert dropped == [Dropped(spends.id, Reason.WRONG_NONCE), Dropped(pay(0, 2).id, Reason.UNFUNDED)]
    assert sorted(held.plain.nonce for held in pool.take(BODY_BYTES_MAX, state)) == [0, 1]


def test_a_body_is_filled_within_its_bytes():
    """What does not fit is left out with what its sender has behind it; others may still fit."""
    pool = make_pool(pay(0, 0, 60_000), pay(1, 0), pay(1, 1), pay(2, 0, 1_000))
    assert [held.plain.fee_nano for held in pool.take(2 * SIZE + 4, GENESIS)] == [60_000, 10_000]
    assert pool.take(SIZE - 10, GENESIS) == []
    assert pool.statistics().transactions == 4


def test_evidence_comes_first_and_within_its_share():
    """Even at a low fee; behind a sender's other transactions it waits for the next block."""

    def report(sender: int, nonce: int, view: int) -> SignedTransaction:
        pair = (vote(0, VoteKind.NOTARIZE, block, view=view) for block in (b"one", b"other"))
        return sign(sender, nonce, EvidenceReport(node_of(0), *pair), 1_000)

    reports = [report(0, nonce, nonce) for nonce in range(60)]
    pool = make_pool(*reports, pay(1, 0), report(1, 1, 99), pay(2, 0), bytes_max=10**6)
    taken = pool.take(BODY_BYTES_MAX, GENESIS)
    kinds = [isinstance(held.plain.payload, EvidenceReport) for held in taken]
    assert kinds == sorted(kinds, reverse=True)
    assert 0 < sum(held.size_bytes for held in taken[: sum(kinds)]) <= EVIDENCE_BYTES_PER_BODY_MAX
    assert sum(kinds) < 60
    assert kinds.count(False) == 2
    build_block(GENESIS, (), taken, context())


arrivals = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(1_000, 1_300)), max_size=40)


@given(arrivals, st.integers(0, 2**32))
def test_a_pool_with_room_does_not_know_the_order_of_arrival(listed, seed):
    """Of different transactions at different nonces, every order gives the same body."""
    distinct = list({(sender, nonce): pay(sender, nonce, fee) for sender, nonce, fee in listed}.values())
    shuffled = list(distinct)
    Random(seed).shuffle(shuffled)
    pools = [make_pool(*order, bytes_max=10**6) for order in (distinct, shuffled)]
    assert pools[0].take(BODY_BYTES_MAX, GENESIS) == pools[1].take(BODY_BYTES_MAX, GENESIS)


class Pool(RuleBasedStateMachine):
    """Anything arrives, blocks are built from what the pool gives; its bounds and its books always hold."""

    @initialize()
    def begin(self) -> None:
        self.state = GENESIS
        self.height = 0
        self.pool = Mempool(CHAIN, RULE, 12 * SIZE)
        self.held: dict[bytes, SignedTransaction] = {}  # what it must hold, by what it said

    @rule(
        sender=st.integers(0, 5),
        ahead=st.integers(-1, 4),
        fee_nano=st.one_of(st.integers(1_000, 3_000), st.sampled_from([0, 10**9])),
        amount=st.sampled_from([1, 500, 9 * 10**8]),
        recipient=st.sampled_from([*ACCOUNT_IDS, AccountId(bytes(32))]),
    )
    def arrive(self, sender: int, ahead: int, fee_nano: int, amount: int, recipient: AccountId) -> None:
        nonce = max(0, self.state.account(ACCOUNT_IDS[sender]).nonce + ahead)
        transaction = sign(sender, nonce, Transfer(recipient, amount), fee_nano)
        try:
            dropped = self.pool.add(transaction, self.state)
        except Rejected:
            assert self.pool.holds(transaction) == (transaction.id in self.held)
            return
        self.forget(dropped)
        self.held[transaction.id] = transaction

    @rule(limit_bytes=st.integers(0, 10 * SIZE))
    def block(self, limit_bytes: int) -> None:
        self.height += 1
        taken = self.pool.take(limit_bytes, self.state)
        assert sum(transaction.size_bytes for transaction in taken) <= limit_bytes
        self.state, included = build_block(self.state, (), taken, context(self.height))
        self.forget(self.pool.advance([transaction.plain.sender for transaction in included], self.state))
        assert all(not self.pool.holds(transaction) for transaction in included)

    def forget(self, dropped: list[Dropped]) -> None:
        for gone in dropped:
            del self.held[gone.id]  # it was held, and is dropped once

    @invariant()
    def bounds_hold(self) -> None:
        at = self.pool.statistics()
        assert at.bytes_held == sum(held.size_bytes for held in self.held.values()) <= 12 * SIZE
        assert at.transactions == len(self.held)
        assert at.senders == len({held.plain.sender for held in self.held.values()})
        assert all(self.pool.holds(held) for held in self.held.values())
        assert len(self.pool._tails) <= 4 * at.senders + 64

    @invariant()
    def what_is_taken_can_follow_the_state(self) -> None:
        following: dict[AccountId, int] = {}
        for transaction in self.pool.take(BODY_BYTES_MAX, self.state):
            sender = transaction.plain.sender
            expected = following.get(sender, self.state.account(sender).nonce)
            assert transaction.plain.nonce == expected
            following[sender] = expected + 1


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40)
