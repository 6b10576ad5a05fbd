"""Transactions and blocks: what each kind does, what it refuses, and that money is neither made nor lost."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.heads import TileHead
from consensus.state import (
    DATASETS,
    EPOCH_MARKS,
    META_TIP,
    META_VERSIONS,
    PARAMETERS,
    PROGRESS,
    SLASHING_LOG,
    SUPPLY,
    VALIDATOR_INDEX,
    VALIDATORS,
    VOTE_KEYS,
    Account,
    EpochMark,
    Slashing,
    SlashingLog,
    State,
    Unbonding,
    ValidatorIndex,
    ValidatorStatus,
    expert_versions,
    find_level,
    place_record,
    tile_head,
)
from consensus.transition import (
    HANDLERS,
    apply,
    apply_block,
    build_block,
    fee_nano_min,
    penalty_nano,
)
from protocol.digest import blob_digest, number
from protocol.finality import ChainId, VoteKind
from protocol.genesis import LedgerRule
from protocol.ids import PeerId
from protocol.limits import UNBONDINGS_PER_VALIDATOR_MAX, VALIDATORS_MAX
from protocol.rejection import InvariantBroken, Reason, Rejected
from protocol.roster import MemberCard
from protocol.transactions import (
    EvidenceReport,
    Leave,
    MetaVersion,
    ParameterRecord,
    Payload,
    RecordKind,
    Register,
    SemVer,
    Stake,
    Transfer,
    Unstake,
    work_bits,
)
from tests.consensus.genesis import TILES as TILES_OF_SAMPLES
from tests.consensus.ledger_samples import (
    ACCOUNT_IDS,
    BALANCE,
    CARDS,
    FIRST_VERSION,
    GENESIS,
    KEYS,
    NODES,
    RULE,
    STAKE,
    VOTES,
    apply_all,
    balance,
    check_money,
    context,
    dataset,
    node_of,
    parameters,
    sign,
    treasury,
    validator,
    vote,
)
from tests.consensus.samples import GENESIS as HEADS
from tests.consensus.samples import TILE, make_head

NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
PAY = Transfer(ACCOUNT_IDS[1], 500)


def refusal(state: State, sender: int, payload: Payload, height: int = 1) -> Reason:
    """Why one transaction is refused; the same reason is in the receipt, and only the fee and the nonce are gone."""
    nonce = state.account(ACCOUNT_IDS[sender]).nonce
    with pytest.raises(Rejected) as caught:
        apply(state, sign(sender, nonce, payload), context(height))
    after, (reason,) = apply_all(state, (sender, payload), height=height)
    assert reason is caught.value.reason
    assert (after.account(ACCOUNT_IDS[sender]).nonce, after.sub_roots()[3]) == (nonce + 1, state.sub_roots()[3])
    check_money(after)
    return caught.value.reason


def done(state: State, *payloads: tuple[int, Payload], height: int = 1) -> State:
    """The state after a block in which everything did what it says."""
    after, refusals = apply_all(state, *payloads, height=height)
    assert refusals == (None,) * len(payloads)
    check_money(after)
    return after


def test_the_table_has_a_handler_for_every_kind():
    """No kind of transaction decodes that nothing handles."""
    assert set(HANDLERS) == set(get_args(Payload))


# -- fees and nonces ----------------------------------------------------------------------------------------------------


def test_a_transfer_moves_money_and_its_fee_is_shared_out():
    """A tenth of the fee is burned, four tenths are the proposer's, the rest the treasury's."""
    after = done(GENESIS, (0, PAY))
    assert balance(after, 0) == BALANCE - 500 - 10_000
    assert balance(after, 1) == BALANCE + 500
    assert balance(after, 5) == BALANCE + 4_000
    assert (after.supply.burned_nano, treasury(after)) == (1_000, 5_000)
    assert after.get(SUPPLY) == after.supply


def test_a_transfer_to_oneself_costs_its_fee_alone():
    """The sum that leaves comes back."""
    assert balance(done(GENESIS, (0, Transfer(ACCOUNT_IDS[0], 500))), 0) == BALANCE - 10_000


def test_what_a_block_cannot_contain():
    """A transaction that cannot pay, has another nonce or is of another chain makes its block wrong."""
    poor = GENESIS.add_balance(ACCOUNT_IDS[0], -BALANCE)
    fee_min = fee_nano_min(sign(0, 0, PAY, 200).size_bytes, RULE)
    for state, transaction, here, reason in [
        (GENESIS, sign(0, 1, PAY), context(), Reason.WRONG_NONCE),
        (GENESIS, sign(0, 0, PAY, fee_min - 1), context(), Reason.FEE_TOO_LOW),
        (poor, sign(0, 0, PAY), context(), Reason.UNFUNDED),
        (GENESIS, sign(0, 0, PAY), context(chain=ChainId(b"else", 0)), Reason.WRONG_CHAIN),
    ]:
        for attempt in (lambda s, t, c: apply(s, t, c), lambda s, t, c: apply_block(s, (), [t], c)):
            with pytest.raises(Rejected) as caught:
                attempt(state, transaction, here)
            assert caught.value.reason is reason
    apply(GENESIS, sign(0, 0, PAY, fee_min), context())


def test_a_transaction_takes_effect_once():
    """In the same block and in a later one its nonce is used."""
    transaction = sign(0, 0, PAY)
    after, _ = apply_block(GENESIS, (), [transaction], context())
    for state, block in ((GENESIS, [transaction, transaction]), (after, [transaction])):
        with pytest.raises(Rejected) as caught:
            apply_block(state, (), block, context())
        assert caught.value.reason is Reason.WRONG_NONCE


def test_a_transfer_of_too_much_costs_its_fee():
    """The balance after the fee is what can be given."""
    assert refusal(GENESIS, 0, Transfer(ACCOUNT_IDS[1], BALANCE - 9_999)) is Reason.UNFUNDED
    assert balance(done(GENESIS, (0, Transfer(ACCOUNT_IDS[1], BALANCE - 10_000))), 0) == 0


def test_a_builder_leaves_out_what_cannot_pay():
    """And what it includes gives everybody else the state that it has."""
    candidates = [
        sign(0, 0, Transfer(ACCOUNT_IDS[1], BALANCE - 10_000)),
        sign(0, 1, PAY),
        sign(2, 3, PAY),
        sign(3, 0, PAY),
    ]
    state, included = build_block(GENESIS, (), candidates, context())
    assert list(included) == [candidates[0], candidates[3]]
    assert apply_block(GENESIS, (), included, context())[0].root() == state.root()


def test_a_body_is_bounded_and_evidence_comes_first():
    """Too many bytes, too much evidence, or evidence after something else: the block is wrong."""
    report = sign(2, 0, EvidenceReport(node_of(0), vote(0, NOTARIZE, b"1"), vote(0, NOTARIZE, b"2")))
    pay = sign(0, 0, PAY)
    many = [replace_size(pay, 512 * 1024), pay]
    for block in ([pay, report], many, [pay] * 5_000, [replace_size(report, 16 * 1024 + 1)]):
        for run in (apply_block, build_block):
            with pytest.raises(Rejected) as caught:
                run(GENESIS, (), block, context())
            assert caught.value.reason is Reason.WRONG_BODY
    assert all(receipt.refusal is None for receipt in apply_block(GENESIS, (), [report, pay], context())[1])


def replace_size(transaction, size_bytes):
    return type(transaction)(transaction.plain, transaction.id, size_bytes)


# -- validators ---------------------------------------------------------------------------------------------------------


def test_who_registers_is_a_validator_with_its_stake():
    """The stake leaves the balance; the index has the node, in order."""
    after = done(GENESIS, (2, Register(CARDS[2], 5_000)))
    assert (validator(after, 2).stake_nano, validator(after, 2).status) == (5_000, ValidatorStatus.ACTIVE)
    assert balance(after, 2) == BALANCE - 10_000 - 5_000
    assert list(after.get(VALIDATOR_INDEX).nodes) == sorted(node_of(index) for index in range(3))
    assert after.find(VOTE_KEYS, CARDS[2].vote) is not None


def test_a_registration_that_is_refused():
    """Another's card, keys in use, too little stake, a binding that is not signed, a full list."""
    assert refusal(GENESIS, 3, Register(CARDS[2], 5_000)) is Reason.NOT_AUTHORISED
    assert refusal(GENESIS, 0, Register(CARDS[0], 5_000)) is Reason.ALREADY_RECORDED
    same_vote_key = MemberCard.bind(NODES[2], VOTES[0], KEYS[2])
    assert refusal(GENESIS, 2, Register(same_vote_key, 5_000)) is Reason.ALREADY_RECORDED
    assert refusal(GENESIS, 2, Register(CARDS[2], 999)) is Reason.STAKE_TOO_LOW
    assert refusal(GENESIS, 2, Register(CARDS[2], 2 * BALANCE)) is Reason.UNFUNDED
    forged = replace(CARDS[2], vote_signature=CARDS[2].node_signature)
    assert refusal(GENESIS, 2, Register(forged, 5_000)) is Reason.BAD_SIGNATURE
    nodes = tuple(PeerId(bytes(30) + index.to_bytes(2, "big")) for index in range(VALIDATORS_MAX))
    full = GENESIS.put(VALIDATOR_INDEX, ValidatorIndex(nodes))
    with pytest.raises(Rejected) as caught:
        apply(full, sign(2, 0, Register(CARDS[2], 5_000)), context())
    assert caught.value.reason is Reason.LIST_FULL


def test_stake_comes_back_when_time_and_height_are_reached():
    """Both: until then it is neither stake nor balance, and it can be slashed."""
    state = done(GENESIS, (0, Stake(node_of(0), 700)), (0, Unstake(node_of(0), 300)))
    assert validator(state, 0).stake_nano == STAKE + 400
    assert validator(state, 0).unbonding == (Unbonding(300, 2_200, 22),)
    before = balance(state, 0)
    for here in (context(21), context(22, time_ms=2_199), context(21, time_ms=9_999)):
        held, _ = apply_block(state, (), [], here)
        assert balance(held, 0) == before
    freed, _ = apply_block(state, (), [], context(22))
    assert (balance(freed, 0), validator(freed, 0).unbonding) == (before + 300, ())
    check_money(freed)


def test_who_leaves_is_forgotten_when_its_stake_is_back():
    """Then its keys may be registered again, and not before."""
    state = done(GENESIS, (0, Leave(node_of(0))))
    assert (validator(state, 0).status, validator(state, 0).exposed_nano) == (ValidatorStatus.LEFT, STAKE)
    for payload in (Leave(node_of(0)), Stake(node_of(0), 1), Unstake(node_of(0), 1)):
        assert refusal(state, 0, payload) is Reason.UNKNOWN_VALIDATOR
    assert refusal(state, 0, Register(CARDS[0], 5_000)) is Reason.ALREADY_RECORDED
    gone, _ = apply_block(state, (), [], context(22))
    assert gone.find(VALIDATORS, node_of(0)) is None
    assert gone.get(VALIDATOR_INDEX).nodes == (node_of(1),)
    check_money(gone)
    done(gone, (0, Register(CARDS[0], 5_000)), height=23)


def test_stake_that_is_refused():
    """Of another's validator, more than there is, so that too little remains, too many withdrawals at once."""
    for payload in (Stake(node_of(0), 1), Unstake(node_of(0), 1), Leave(node_of(0))):
        assert refusal(GENESIS, 2, payload) is Reason.NOT_AUTHORISED
        assert refusal(GENESIS, 2, replace(payload, validator=node_of(5))) is Reason.UNKNOWN_VALIDATOR
    assert refusal(GENESIS, 0, Stake(node_of(0), BALANCE)) is Reason.UNFUNDED
    assert refusal(GENESIS, 0, Unstake(node_of(0), STAKE + 1)) is Reason.UNFUNDED
    assert refusal(GENESIS, 0, Unstake(node_of(0), STAKE - 999)) is Reason.STAKE_TOO_LOW
    withdrawals = [(0, Unstake(node_of(0), 1))] * UNBONDINGS_PER_VALIDATOR_MAX
    busy = done(GENESIS, *withdrawals)
    assert refusal(busy, 0, Unstake(node_of(0), 1)) is Reason.LIST_FULL
    assert refusal(busy, 0, Leave(node_of(0))) is Reason.LIST_FULL


# -- evidence -----------------------------------------------------------------------------------------------------------


def report(index: int, *, view: int = 3, epoch: int = 0) -> EvidenceReport:
    pair = (vote(index, NOTARIZE, block, view=view, epoch=epoch) for block in (b"one", b"other"))
    return EvidenceReport(node_of(index), *pair)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (vote(0, NOTARIZE, b"one"), vote(0, NOTARIZE, b"other")),
        (vote(0, FINALIZE, b"one"), vote(0, FINALIZE, b"other")),
        (vote(0, NULLIFY, b""), vote(0, FINALIZE, b"other")),
        (vote(0, NOTARIZE, b"one"), vote(0, FINALIZE, b"other")),
        (vote(0, FINALIZE, b"one"), vote(0, NULLIFY, b"")),
    ],
)
def test_each_contradiction_is_punished(first, second):
    """E1 to E4, in either order: the validator is expelled and pays; who reports it pays a fee like everybody."""
    after = done(GENESIS, (2, EvidenceReport(node_of(0), first, second)))
    # 5 % and three times its share of all stake, a quarter: 80 % of a million
    assert (validator(after, 0).status, validator(after, 0).stake_nano) == (ValidatorStatus.EXPELLED, 200_000)
    assert after.supply.burned_nano == 800_000 + 1_000
    assert refusal(after, 2, EvidenceReport(node_of(0), second, first)) is Reason.ALREADY_RECORDED


def test_evidence_that_is_none():
    """Votes that agree, of different views, of another key, of a time to come, of one who is no validator."""
    one, other = vote(0, NOTARIZE, b"one"), vote(0, NOTARIZE, b"other")
    for pair in [
        (one, one),
        (one, vote(0, NULLIFY, b"")),
        (one, vote(0, FINALIZE, b"one")),
        (one, vote(0, NOTARIZE, b"other", view=4)),
        (one, vote(0, NOTARIZE, b"other", epoch=1)),
    ]:
        assert refusal(GENESIS, 2, EvidenceReport(node_of(0), *pair)) is Reason.NO_EVIDENCE
    assert refusal(GENESIS, 2, EvidenceReport(node_of(1), one, other)) is Reason.BAD_SIGNATURE
    forged = replace(other, signature=one.signature)
    assert refusal(GENESIS, 2, EvidenceReport(node_of(0), one, forged)) is Reason.BAD_SIGNATURE
    assert refusal(GENESIS, 2, EvidenceReport(node_of(4), one, other)) is Reason.UNKNOWN_VALIDATOR
    assert refusal(GENESIS, 2, report(0, epoch=1)) is Reason.WRONG_EPOCH


def test_evidence_grows_old_before_stake_is_free():
    """Taken as long as either its age in time or in heights is young enough; stake is free by both, and later."""
    assert RULE.evidence_ms < RULE.unbonding_ms
    assert RULE.evidence_heights < RULE.unbonding_heights
    assert LedgerRule().evidence_ms < LedgerRule().unbonding_ms
    assert LedgerRule().evidence_heights < LedgerRule().unbonding_heights
    for here, is_taken in [
        (context(20), True),
        (context(21), False),
        (context(21, time_ms=2_000), True),
        (context(20, time_ms=9_999), True),
    ]:
        _, (receipt,) = apply_block(GENESIS, (), [sign(2, 0, report(0))], here)
        assert receipt.refusal is (None if is_taken else Reason.TOO_OLD)


def test_marks_of_epochs_are_kept_as_long_as_evidence_is_taken():
    """Of an epoch that is forgotten nothing is punished any more; each has the root of the state in which it began."""
    state, roots = GENESIS, {}
    for epoch in (1, 2, 3):
        roots[epoch] = state.root()
        state, _ = apply_block(state, (), [], context(10 * epoch + 1, epoch=epoch, epoch_heights=10))
    assert (state.get(PROGRESS).epoch, state.get(PROGRESS).oldest_epoch) == (3, 1)
    assert state.find(EPOCH_MARKS, number(0)) is None
    assert state.get(EPOCH_MARKS, number(2)) == EpochMark(21, 2_100, roots[2])
    for epoch, reason in ((0, Reason.TOO_OLD), (1, None)):
        _, (receipt,) = apply_block(
            state, (), [sign(2, 0, report(0, epoch=epoch))], context(31, epoch=3, epoch_heights=10)
        )
        assert receipt.refusal is reason


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_is_a_run_of_heights(epoch):
    """A block of a height that says another epoch is wrong."""
    with pytest.raises(Rejected, match=f"epoch {epoch} at height 51"):
        apply_block(GENESIS, (), [], context(51, epoch=epoch))


def test_the_list_of_slashings_is_bounded():
    """When as many as may be validators were found out in one window, the oldest is let go."""
    strangers = tuple(Slashing(PeerId(number(index) * 4), 0, 1, 1, 1) for index in range(VALIDATORS_MAX))
    after = done(GENESIS.put(SLASHING_LOG, SlashingLog(strangers)), (2, report(0)))
    entries = after.get(SLASHING_LOG).entries
    assert (entries[:-1], entries[-1].validator) == (strangers[1:], node_of(0))


def test_who_leaves_can_still_be_slashed():
    """From what is on its way back, when there is no stake."""
    state = done(GENESIS, (0, Leave(node_of(0))))
    after = done(state, (2, report(0)))
    assert (validator(after, 0).stake_nano, validator(after, 0).unbonding_nano) == (0, 200_000)


def test_stake_is_slashed_first_then_the_latest_withdrawals():
    """80 % of 70 staked, and of 400 and then 530 on their way back (thousands): what comes back first is what remains."""
    state = done(GENESIS, (0, Unstake(node_of(0), 400_000)), height=1)
    state = done(state, (0, Unstake(node_of(0), 530_000)), height=2)
    after = done(state, (2, report(0)), height=3)
    assert validator(after, 0).stake_nano == 0
    assert [(entry.amount_nano, entry.release_height) for entry in validator(after, 0).unbonding] == [(200_000, 22)]


def test_who_is_found_out_with_a_third_of_all_stake_loses_everything():
    """Then it has nothing left, and is forgotten."""
    after = done(GENESIS, (2, report(1)))
    assert after.find(VALIDATORS, node_of(1)) is None
    assert after.supply.burned_nano == 3 * STAKE + 1_000


def test_who_lost_everything_and_registers_again_can_lose_that_too():
    """What was paid before does not pay for the next offence, in the same window too."""
    state = done(done(GENESIS, (2, report(1))), (1, Register(CARDS[1], 5_000)))
    assert refusal(state, 2, report(1)) is Reason.ALREADY_RECORDED
    after = done(state, (2, report(1, view=4)))
    assert after.find(VALIDATORS, node_of(1)) is None
    assert after.supply.staked_nano == STAKE


def test_the_order_of_reports_changes_nothing():
    """What the first owes grows with the second, whichever was first."""
    many = GENESIS
    for index in (2, 3, 4):
        many = done(many, (index, Register(CARDS[index], 100_000 * index)))
    roots = []
    for order in itertools.permutations([(5, report(2)), (5, report(3)), (5, report(4)), (5, report(2, view=9))]):
        after = done(many, *order)
        roots.append((after.supply, [after.find(VALIDATORS, node_of(index)) for index in range(5)]))
    assert all(root == roots[0] for root in roots)
    found, total = 900_000, 4 * STAKE + 900_000
    owed = [penalty_nano(100_000 * index, 2 if index == 2 else 1, found, total) for index in (2, 3, 4)]
    assert roots[0][0].burned_nano - many.supply.burned_nano == sum(owed) + 4_000


def test_offences_of_another_time_do_not_count_together():
    """After the window, what others did is forgotten; a second offence within it counts with the first."""
    state = done(GENESIS, (2, Register(CARDS[2], 100_000)), (3, Register(CARDS[3], 100_000)))
    apart = done(done(state, (5, report(2))), (5, report(3)), height=9)
    together = done(done(state, (5, report(2))), (5, report(3)), height=8)
    assert [entry.validator for entry in apart.get(SLASHING_LOG).entries] == [node_of(3)]
    assert [entry.validator for entry in together.get(SLASHING_LOG).entries] == [node_of(2), node_of(3)]
    assert validator(apart, 2).stake_nano > validator(together, 2).stake_nano
    twice = done(done(state, (5, report(2))), (5, report(2, view=4)))
    assert [entry.offences for entry in twice.get(SLASHING_LOG).entries] == [2]


def test_the_penalty_is_the_formula_in_integers():
    """5 % an offence and three times what was found out, rounded up, and never more than there was."""
    assert penalty_nano(1_000, 1, 0, 1_000) == 50
    assert penalty_nano(1_000, 2, 0, 1_000) == 100
    assert penalty_nano(1_001, 1, 0, 1_000) == 51
    assert penalty_nano(100_000, 1, 100_000, 1_000_000) == 35_000
    assert penalty_nano(100, 1, 333_333, 1_000_000) == 100
    assert penalty_nano(100, 1, 333_334, 1_000_000) == 100
    assert penalty_nano(0, 1, 0, 1) == 0


@given(st.integers(0, 10**18), st.integers(1, 30), st.integers(0, 10**18), st.integers(1, 10**18))
def test_a_penalty_is_bounded_and_grows(exposed, offences, found, total):
    """It is between 5 % and everything; more offences, or more found out, never cost less."""
    owed = penalty_nano(exposed, offences, found, total)
    assert exposed * 5 <= owed * 100
    assert owed <= exposed
    assert owed <= penalty_nano(exposed, offences + 1, found, total)
    assert owed <= penalty_nano(exposed, offences, found + 1, total)


# -- records ------------------------------------------------------------------------------------------------------------


def test_versions_of_an_expert_coexist():
    """The index names them in the order in which they came; each knows what it builds on."""
    first = parameters(2, "layer4.expert7")
    name = first.record_id(ACCOUNT_IDS[2])
    state = done(GENESIS, (2, first))
    second = parameters(3, "layer4.expert7", name, FIRST_VERSION.version_id())
    state = done(state, (3, second), (4, parameters(4, "layer4.expert8", name)))
    assert [entry.record for entry in expert_versions(state, "layer4.expert7")] == [first, second]
    assert [entry.level for entry in expert_versions(state, "layer4.expert7")] == [1, 2]
    assert state.get(PARAMETERS, name).author == ACCOUNT_IDS[2]
    assert list(expert_versions(state, "layer4.expert9")) == []


def test_a_parameter_record_that_is_refused():
    """Twice, without work, with parents unknown or out of order, of another layer than its name says."""
    record = parameters(2, "layer4.expert7")
    state = done(GENESIS, (2, record))
    assert refusal(state, 2, record) is Reason.ALREADY_RECORDED
    unknown = parameters(2, "layer4.expert7", blob_digest(b"nothing"))
    assert refusal(GENESIS, 2, unknown) is Reason.UNKNOWN_PARENT
    parents = (FIRST_VERSION.version_id(),) * 2
    assert refusal(GENESIS, 2, parameters(2, "layer4.expert7", *parents)) is Reason.NOT_CANONICAL
    assert refusal(GENESIS, 2, parameters(2, "layer4.expert7", layer=5)) is Reason.MALFORMED
    done(GENESIS, (2, parameters(2, "trunk", kind=RecordKind.TILE_DELTA)))
    lazy = next(lazy for work in range(99) if bits(lazy := replace(record, work=work), 2) < RULE.parameter_work_bits)
    assert refusal(GENESIS, 2, lazy) is Reason.BAD_WORK


def test_the_work_of_another_is_none():
    """The name under which it was done is its author's."""
    done_by_2 = (parameters(2, "layer4.expert7", salt=bytes([index])) for index in range(99))
    copied = next(record for record in done_by_2 if bits(record, 3) < RULE.parameter_work_bits)
    done(GENESIS, (2, copied))
    assert refusal(GENESIS, 3, copied) is Reason.BAD_WORK


def bits(record: ParameterRecord, sender: int) -> int:
    return work_bits(record.record_id(ACCOUNT_IDS[sender]), record.work)


@given(st.dictionaries(st.integers(0, 7), st.frozensets(st.integers(0, 7), min_size=1, max_size=3)), st.randoms())
def test_a_record_is_placed_when_nothing_that_it_needs_depends_on_it(graph, random):
    """Of any graph, cycles and missing parents too, those are placed that a naive search finds placeable; 0 is a root."""
    levels = {0: 0}
    waiting = sorted(node for node in graph if node != 0)
    for _ in range(len(waiting) + 1):
        random.shuffle(waiting)
        for node in list(waiting):
            try:
                levels[node] = place_record(levels.get(parent) for parent in sorted(graph[node]))
                waiting.remove(node)
            except Rejected as refused:
                if refused.reason is not Reason.UNKNOWN_PARENT:
                    raise
    naive = {node: depth for node in {0, *graph} if (depth := naive_level(graph, node, ())) is not None}
    assert levels == naive
    order = sorted(levels, key=lambda node: (levels[node], node))
    for node in set(levels) - {0}:
        assert all(order.index(parent) < order.index(node) for parent in graph[node])


def naive_level(graph, node, above):
    """The longest way down to the root, by walking every path; None when one of them meets itself or nothing."""
    if node == 0:
        return 0
    if node in above or node not in graph:
        return None
    below = [naive_level(graph, parent, (*above, node)) for parent in graph[node]]
    return None if None in below else 1 + max(below)


def test_tiles_advance_as_the_rule_for_heads_says():
    """A head moves its tile on, alone or beside others; one that breaks a rule makes its block wrong."""
    first, other = make_head(HEADS), make_head(HEADS, TILES_OF_SAMPLES[1])
    state, receipts = apply_block(GENESIS, [first, other], [], context())
    assert (receipts, tile_head(state, TILE)) == ((), TileHead(first.version, first.root, first))
    assert state.get(PROGRESS).newest_round == 0
    wrong = {
        Reason.SLOT_DECIDED: [first],
        Reason.WRONG_PARENT: [make_head(state, round=7)],
        Reason.WRONG_BODY: [make_head(state), make_head(state)],
    }
    for reason, heads in wrong.items():
        for run in (apply_block, build_block):
            with pytest.raises(Rejected) as caught:
                run(state, heads, [], context())
            assert caught.value.reason is reason
    apply_block(state, [make_head(state)], [], context())


def test_versions_of_the_model_follow_each_other():
    """One line, one generation after the other, by the author that the rule names."""
    next_version = MetaVersion(FIRST_VERSION.version_id(), SemVer(1, 1, 0), 1, blob_digest(b"wider"), 99)
    state = done(GENESIS, (0, next_version))
    assert state.get(META_TIP).id == next_version.version_id()
    assert state.get(META_VERSIONS, next_version.version_id()).version == next_version
    assert [find_level(state, each.version_id()) for each in (FIRST_VERSION, next_version)] == [0, 0]
    assert refusal(GENESIS, 1, next_version) is Reason.NOT_AUTHORISED
    assert refusal(state, 0, next_version) is Reason.WRONG_VERSION
    for changes in ({"generation": 2}, {"version": SemVer(1, 0, 0)}, {"version": SemVer(1, 1, 1)}):
        assert refusal(GENESIS, 0, replace(next_version, **changes)) is Reason.WRONG_VERSION
    nobody = context(rule=replace(RULE, meta_author=None))
    with pytest.raises(Rejected) as caught:
        apply(GENESIS, sign(0, 0, next_version), nobody)
    assert caught.value.reason is Reason.NOT_AUTHORISED


def test_a_data_set_is_recorded_as_pending():
    """By anybody who did the work, once."""
    record = dataset(3)
    state = done(GENESIS, (3, record))
    entry = state.get(DATASETS, record.record_id(ACCOUNT_IDS[3]))
    assert (entry.creator, entry.record, entry.stage.name) == (ACCOUNT_IDS[3], record, "PENDING")
    assert refusal_of_second(state, record) is Reason.ALREADY_RECORDED
    with pytest.raises(Rejected) as caught:
        apply(GENESIS, sign(3, 0, record), context(rule=replace(RULE, dataset_work_bits=60)))
    assert caught.value.reason is Reason.BAD_WORK


def refusal_of_second(state, record):
    return apply_all(state, (3, record))[1][0]


# -- invariants ---------------------------------------------------------------------------------------------------------


def test_money_that_appears_or_vanishes_stops_the_node():
    """At the end of a block, whoever made the mistake."""
    supply = GENESIS.supply
    for wrong in (
        replace(supply, balances_nano=supply.balances_nano + 1),
        replace(supply, burned_nano=1),
        replace(supply, staked_nano=-1, burned_nano=supply.staked_nano + 1),
        replace(supply, fees_nano=1, balances_nano=supply.balances_nano - 1),
        replace(supply, minted_nano=10**18 + 1, balances_nano=supply.balances_nano + 10**18 + 1 - supply.minted_nano),
    ):
        with pytest.raises(InvariantBroken):
            State(GENESIS.trees, wrong).sealed()


def test_accounts_and_validators_change_through_the_books_alone():
    """No other way leads to them, and none below nothing."""
    with pytest.raises(InvariantBroken):
        GENESIS.put(VALIDATORS, validator(GENESIS, 0), node_of(0))
    with pytest.raises(InvariantBroken):
        GENESIS.delete(VALIDATORS, node_of(0))
    with pytest.raises(InvariantBroken):
        GENESIS.add_balance(ACCOUNT_IDS[0], -BALANCE - 1)
    with pytest.raises(InvariantBroken):
        GENESIS.delete_validator(validator(GENESIS, 0))
    assert GENESIS.account(ACCOUNT_IDS[0]) == Account(BALANCE, 0)
