"""Execution: votes only for what is durable and right, decides only what executes, and stays small."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.events import (
    Blamed,
    HeadsVerified,
    HistoryVerified,
    HistoryWalked,
    VerifyHeads,
    VerifyHistory,
    WalkHistory,
)
from consensus.execution import STATES_MAX, VALUES_PER_PROPOSER_MAX, Execution, FinalBlock, Verdict
from consensus.history import walk_segments
from consensus.known_histories import ENDS_PER_START_MAX, STARTS_MAX, KnownHistories
from consensus.state import all_rows, load_state
from consensus.transition import BlockRules, apply_block
from protocol.codec import decode, encode
from protocol.digest import blob_digest
from protocol.epochs import epoch_of
from protocol.finality import EMPTY_BODY, NO_BLOCK, Body, FinalizedBlock, Header
from protocol.ids import Digest, Height, MemberIndex
from protocol.limits import BODY_BYTES_MAX, HISTORY_SEGMENTS
from protocol.rejection import InvariantBroken, Reason
from protocol.roster import Head, sign_head
from protocol.transactions import SignedTransaction, Transfer
from tests.consensus.genesis import BLOCK_RULES, TICKS, TILES
from tests.consensus.ledger_samples import ACCOUNT_IDS, BALANCE, RULE, sign
from tests.consensus.ledger_samples import GENESIS as LEDGER
from tests.consensus.samples import (
    CHAIN,
    GENESIS,
    TILE,
    after_block,
    extend,
    key_of,
    make_block,
    make_head,
    member,
    refer,
    tile_at,
)

SENDER = member(3)


def make_execution() -> Execution:
    return Execution(BLOCK_RULES, GENESIS, NO_BLOCK, Height(0))


def verified(*heads: Head) -> HeadsVerified:
    return HeadsVerified(tuple((head.digest(), None) for head in heads))


def heads_of(execution: Execution, parent: Digest = NO_BLOCK) -> tuple[Head, ...]:
    built = execution.build(parent, Height(1), 1, MemberIndex(0))
    assert built is not None
    return decode(Body, built[0], limit_bytes=BODY_BYTES_MAX).heads


def test_a_vote_waits_until_every_head_is_verified():
    """A body of two heads is accepted when the second verdict has come, and not before."""
    one, two = make_head(tile=TILES[0]), make_head(tile=TILES[1])
    block, header, body = make_block([one, two])
    execution = make_execution()
    assert execution.check(block, header, body, SENDER) == [VerifyHeads((one, two))]
    assert execution.take_verdicts(verified(one)) == []
    assert execution.take_verdicts(verified(two)) == [Verdict(block, True, header.state_root)]
    assert execution.check(block, header, body, SENDER) == [Verdict(block, True, header.state_root)]


def test_a_head_is_verified_once_however_often_it_is_heard():
    """Gossip and body name the same head: one job, and a body of known heads is accepted at once."""
    head = make_head()
    execution = make_execution()
    assert execution.add_heads([head], SENDER) == [VerifyHeads((head,))]
    assert execution.add_heads([head], SENDER) == []
    execution.take_verdicts(verified(head))
    block, header, body = make_block([head])
    assert execution.check(block, header, body, SENDER) == [Verdict(block, True, header.state_root)]


def test_our_own_head_needs_no_verification():
    """What we merged from bytes that we hold is ready at once."""
    execution = make_execution()
    assert execution.add_heads([make_head()], member(0), own=True) == []
    assert execution.is_ready()


def test_a_child_is_concluded_after_its_parent():
    """A block whose parent is not executed yet waits; when the parent is accepted, both verdicts come, parent first."""
    one, two = make_head(tile=TILES[0]), make_head(tile=TILES[1])
    parent, parent_header, parent_body = make_block([one])
    state = extend(GENESIS, one)
    child, child_header, child_body = make_block([two], state, parent, 2)
    execution = make_execution()
    assert execution.check(child, child_header, child_body, SENDER) == [VerifyHeads((two,))]
    assert execution.take_verdicts(verified(two)) == []
    execution.check(parent, parent_header, parent_body, SENDER)
    verdicts = execution.take_verdicts(verified(one))
    assert [(each.block, each.accepted) for each in verdicts] == [(parent, True), (child, True)]


def test_a_refused_head_spoils_its_body_and_blames_its_proposer():
    """A wrong root is the proposer's fault; every body with that head is refused for that reason."""
    head = make_head()
    block, header, body = make_block([head])
    execution = make_execution()
    execution.check(block, header, body, SENDER)
    blamed, verdict = execution.take_verdicts(HeadsVerified(((head.digest(), Reason.WRONG_ROOT),)))
    assert blamed == Blamed(head.proposer, Reason.WRONG_ROOT, str(head.slot))
    assert (verdict.accepted, verdict.refusal.reason) == (False, Reason.WRONG_ROOT)
    assert not execution.is_ready()
    assert execution.build(NO_BLOCK, Height(1), 1, MemberIndex(0)) == (EMPTY_BODY, after_block(GENESIS, []).root())


def test_an_unavailable_update_leaves_the_question_open():
    """The answer is "not now"; asked again, the update is fetched again, and the vote can follow."""
    head = make_head()
    block, header, body = make_block([head])
    execution = make_execution()
    execution.check(block, header, body, SENDER)
    assert execution.take_verdicts(HeadsVerified((), (head.digest(),))) == [Verdict(block, None)]
    assert execution.check(block, header, body, SENDER) == [VerifyHeads((head,))]
    assert execution.take_verdicts(verified(head)) == [Verdict(block, True, header.state_root)]


@pytest.mark.parametrize("reason", [Reason.WRONG_STATE, Reason.WRONG_PARENT, Reason.MALFORMED])
def test_a_body_that_breaks_a_rule_is_refused_without_verification(reason):
    """A wrong state root, a head that does not continue the state, bytes that are no body."""
    head = make_head()
    if reason is Reason.WRONG_STATE:
        block, header, body = make_block([head], state_root=GENESIS.root())
    elif reason is Reason.WRONG_PARENT:
        bad = make_head(parent_root=tile_at(GENESIS, TILES[1]).root)
        block, header, body = make_block([bad], state_root=GENESIS.root())
    else:
        (block, header, _), body = make_block([head]), b"no body"
    answers = make_execution().check(block, header, body, SENDER)
    verdict = next(answer for answer in answers if isinstance(answer, Verdict))
    assert (verdict.accepted, verdict.refusal.reason) == (False, reason)


def test_gossip_takes_one_value_of_a_proposer_and_bodies_a_few():
    """A second value by gossip blames its proposer; inside bodies a few are verified, for finality decides which counts."""
    proposer = make_head().proposer
    values = [make_head(deltas=[refer(member(0), 0, salt=bytes([n]))]) for n in range(VALUES_PER_PROPOSER_MAX + 1)]
    execution = make_execution()
    execution.add_heads([values[0]], proposer)
    (blamed,) = execution.add_heads([values[1]], proposer)
    assert (blamed.peer, blamed.reason) == (proposer, Reason.SECOND_VALUE)
    for value in values[1:]:
        execution.check(*make_block([value]), SENDER)
    assert execution.statistics().heads_pooled == VALUES_PER_PROPOSER_MAX


def test_a_standbys_head_is_used_when_the_primarys_is_not_there_and_not_before():
    """Of verified heads of one slot the lowest attempt enters a body."""
    primary, standby = make_head(attempt=0), make_head(attempt=1)
    execution = make_execution()
    execution.add_heads([primary, standby], SENDER)
    execution.take_verdicts(verified(standby))
    assert heads_of(execution) == (standby,)
    execution.take_verdicts(verified(primary))
    assert heads_of(execution) == (primary,)


def test_a_body_is_built_on_the_parents_state():
    """On an open block that carries a tile's head, the next body leaves that tile out."""
    one, two = make_head(tile=TILES[0]), make_head(tile=TILES[1])
    execution = make_execution()
    execution.add_heads([one, two], SENDER)
    execution.take_verdicts(verified(one, two))
    block, header, body = make_block([one])
    execution.check(block, header, body, SENDER)
    assert heads_of(execution) == (one, two)
    assert heads_of(execution, block) == (two,)
    assert execution.build(Digest(bytes(32 * [7])), Height(1), 1, MemberIndex(0)) is None


def test_a_head_that_came_early_is_checked_when_its_time_comes():
    """A proposer sends the head after next, with a delta that the next one counts: it enters no body of ours."""
    first = make_head()
    bad = make_head(extend(GENESIS, first), deltas=[refer(member(0), 0)])
    good = make_head(extend(GENESIS, first), attempt=1)
    execution = make_execution()
    assert execution.add_heads([first, bad, good], SENDER) == [VerifyHeads((first,))]
    execution.take_verdicts(verified(first))
    block, header, body = make_block([first])
    execution.check(block, header, body, SENDER)
    execution.finalize(FinalizedBlock(header, body, None))
    blamed, asked = execution.resume()
    assert (blamed.peer, blamed.reason) == (bad.proposer, Reason.ALREADY_COUNTED)
    assert asked == VerifyHeads((good,))
    execution.take_verdicts(verified(bad, good))
    assert heads_of(execution, block) == (good,)


def test_a_head_of_a_round_that_cannot_be_yet_waits_for_it():
    """Whoever decided faster than we did is not to blame: its head is verified when we have caught up."""
    other = make_head(tile=TILES[1])
    fast = make_head(tile=TILES[0], round=1)
    execution = make_execution()
    assert execution.add_heads([fast], SENDER) == []
    assert not execution.is_ready()
    _, header, body = make_block([other])
    execution.finalize(FinalizedBlock(header, body, None))
    assert execution.resume() == [VerifyHeads((fast,))]


def test_heads_that_are_decided_or_far_ahead_are_not_kept():
    """Old news and distant futures are dropped without blame; an impostor is blamed."""
    first = make_head()
    _, header, body = make_block([first])
    execution = make_execution()
    execution.finalize(FinalizedBlock(header, body, None))
    far = sign_head(replace(first, version=9), key_of(first.proposer))
    assert execution.add_heads([first, far], SENDER) == []
    impostor = sign_head(replace(make_head(execution.state), attempt=2), key_of(first.proposer))
    (blamed,) = execution.add_heads([impostor], SENDER)
    assert blamed.reason is Reason.WRONG_OWNER
    assert execution.statistics().heads_pooled == 0


def test_a_final_block_decides_its_heads_and_clears_what_it_overtook():
    """Decided heads leave the pool with every other value of their slots; checks of lower heights are gone."""
    primary, standby = make_head(attempt=0), make_head(attempt=1)
    execution = make_execution()
    execution.add_heads([primary, standby], SENDER)
    block, header, body = make_block([standby])
    rival, rival_header, rival_body = make_block([primary])
    execution.check(block, header, body, SENDER)
    execution.check(rival, rival_header, rival_body, SENDER)
    (decided,) = execution.finalize(FinalizedBlock(header, body, None)).decided
    assert (decided.slot, decided.head, decided.height) == (standby.slot, standby, 1)
    assert execution.anchor == block
    assert execution.statistics() == type(execution.statistics())(0, 0, 0)


def test_a_final_block_that_does_not_execute_stops_the_node():
    """The roster agreed on something that breaks the rules, or on another state: going on would spread it."""
    bad = make_head(parent_root=tile_at(GENESIS, TILES[1]).root)
    for _, header, body in (
        make_block([bad], state_root=GENESIS.root()),
        make_block([make_head()], state_root=GENESIS.root()),
    ):
        with pytest.raises(InvariantBroken):
            make_execution().finalize(FinalizedBlock(header, body, None))


def test_blocks_that_were_never_checked_here_can_be_finalized():
    """A node that was away takes final blocks as they come."""
    state, parent, execution = GENESIS, NO_BLOCK, make_execution()
    for height in range(1, 6):
        head = make_head(state)
        block, header, body = make_block([head], state, parent, height)
        execution.finalize(FinalizedBlock(header, body, None))
        state, parent = extend(state, head), block
    assert execution.state.root() == state.root()


def test_every_question_is_answered_though_memory_is_bounded():
    """The oldest of too many open checks is answered "not now": it may be asked again."""
    execution = make_execution()
    unknown = Digest(bytes(31) + b"x")
    blocks = [make_block([make_head()], parent=unknown, height=2 + n) for n in range(STATES_MAX + 3)]
    answers = [answer for block in blocks for answer in execution.check(*block, SENDER)]
    assert [each for each in answers if isinstance(each, Verdict)] == [Verdict(b[0], None) for b in blocks[:3]]
    assert execution.statistics().blocks_waiting == STATES_MAX


def test_a_restart_begins_at_the_anchor():
    """From the decided state and its block alone, the next body is checked and built as before the restart."""
    first = make_head()
    block, header, body = make_block([first])
    before = make_execution()
    before.finalize(FinalizedBlock(header, body, None))
    after = Execution(BLOCK_RULES, before.state, before.anchor, before.height)
    second = make_head(after.state)
    child, child_header, child_body = make_block([second], after.state, block, 2)
    assert after.check(child, child_header, child_body, SENDER) == [VerifyHeads((second,))]
    assert after.take_verdicts(verified(second)) == [Verdict(child, True, child_header.state_root)]


def test_the_pool_stays_small_whatever_members_send():
    """Each member may fill its places of the next slots, and no more."""
    execution = make_execution()
    later = extend(GENESIS, make_head())
    for state in (GENESIS, later):
        for attempt in range(4):
            for salt in range(8):
                delta = refer(member(0), tile_at(state, TILE).version, salt=bytes([salt]))
                execution.add_heads([make_head(state, deltas=[delta], attempt=attempt)], SENDER)
    assert execution.statistics().heads_pooled == 2 * 4


# -- transactions -------------------------------------------------------------------------------------------------------

LEDGER_RULES = BlockRules(CHAIN, RULE, 1_024, 1_000, TICKS)


def make_ledger() -> Execution:
    return Execution(LEDGER_RULES, LEDGER, NO_BLOCK, Height(0))


def pay(nonce: int, amount_nano: int = 5) -> SignedTransaction:
    return sign(0, nonce, Transfer(ACCOUNT_IDS[1], amount_nano))


def propose(execution: Execution, height: int = 1) -> tuple[Digest, Header, bytes]:
    """The block that a node proposes on its decided state."""
    built = execution.build(execution.anchor, Height(height), height, MemberIndex(0))
    assert built is not None
    body, root = built
    header = replace(make_block([], height=height)[1], parent=execution.anchor, state_root=root)
    return header.digest(), header, body


def test_a_transaction_goes_through_pool_body_and_state():
    """Whoever proposes takes it out of its pool; whoever has never seen it checks and executes it to the same root."""
    proposer, other = make_ledger(), make_ledger()
    assert not proposer.is_ready()
    proposer.add_transaction(pay(0))
    assert proposer.is_ready()
    block, header, body = propose(proposer)
    assert other.check(block, header, body, SENDER) == [Verdict(block, True, header.state_root)]
    for execution in (proposer, other):
        final = execution.finalize(FinalizedBlock(header, body, None))
        assert [(receipt.id, receipt.refusal) for receipt in final.committed.receipts] == [(pay(0).id, None)]
        assert execution.state.account(ACCOUNT_IDS[1]).balance_nano == BALANCE + 5
        assert not execution.is_ready()


def test_what_a_block_changed_is_all_that_a_database_needs():
    """Rows of genesis, and what each block changed of them, give the state back, with its root."""
    execution = make_ledger()
    rows = {key: encode(value) for key, value in all_rows(LEDGER) if value is not None}
    for height in range(1, 5):
        execution.add_transaction(pay(height - 1))
        _, header, body = propose(execution, height)
        for key, value in execution.finalize(FinalizedBlock(header, body, None)).committed.changes:
            if value is None:
                del rows[key]
            else:
                rows[key] = encode(value)
        assert load_state(rows.items()).root() == execution.state.root()
        assert load_state(rows.items()).supply == execution.state.supply


def test_a_body_with_a_forged_transaction_is_refused():
    """A signature is checked by everybody, also of what would be without effect."""
    forged = encode(replace(pay(0).plain, fee_nano=10_001))
    execution = make_ledger()
    _, header, _ = propose(execution)
    body = encode(Body((), (forged,)))
    (verdict,) = execution.check(header.digest(), header, body, SENDER)
    assert (verdict.accepted, verdict.refusal.reason) == (False, Reason.BAD_SIGNATURE)


def test_a_block_of_another_epoch_or_by_nobody_is_refused():
    """The header's epoch is its height's, and its proposer is a member."""
    execution = make_ledger()
    _, header, body = propose(execution)
    for changes, reason in (({"epoch": 1}, Reason.WRONG_EPOCH), ({"proposer": 9}, Reason.NOT_A_MEMBER)):
        changed = replace(header, **changes)
        (verdict,) = execution.check(changed.digest(), changed, body, SENDER)
        assert (verdict.accepted, verdict.refusal.reason) == (False, reason)


def decide_next(execution: Execution) -> FinalBlock:
    """Propose, with the history that is due walked, and finalize."""
    for walk in execution.ask_history(execution.anchor):
        execution.take_history(walked(walk))
    height = execution.height + 1
    _, header, body = propose(execution, height)
    header = replace(header, epoch=epoch_of(height, execution.rules.epoch_heights))
    return execution.finalize(FinalizedBlock(header, body, None))


def test_a_new_epoch_forgets_the_heads_of_the_last():
    """At a boundary members and beacon change, and with them who may propose for a tile."""
    execution = short_epochs()
    heads = [make_head(LEDGER, tile, attempt=attempt) for tile in TILES for attempt in range(4)]
    execution.add_heads(heads, SENDER)
    for epoch in (1, 2):
        assert decide_next(execution).opened is None
        assert decide_next(execution).opened == (execution.roster, execution.next_roster)
        assert (execution.roster.epoch, execution.next_roster.epoch) == (epoch, epoch + 1)
    assert execution.statistics().heads_pooled == 0
    assert execution.add_heads(heads, SENDER) == []  # too late, which is nobody's fault


# -- history ------------------------------------------------------------------------------------------------------------


def short_epochs(epoch_heights: int = 2) -> Execution:
    """The block at the cut and that at the boundary: two make an epoch."""
    return Execution(BlockRules(CHAIN, RULE, epoch_heights, 1_000, TICKS), LEDGER, NO_BLOCK, Height(0))


def walked(effect: WalkHistory) -> HistoryWalked:
    return HistoryWalked(effect.start, walk_segments(effect.start, effect.segment_ticks, HISTORY_SEGMENTS))


def at_the_boundary() -> tuple[Execution, Execution, HistoryWalked]:
    """Two nodes whose next block is a boundary, and the history that both need."""
    execution, other = short_epochs(), short_epochs()
    _, header, body = propose(execution)
    for each in (execution, other):
        each.finalize(FinalizedBlock(header, body, None))
    (walk,) = execution.ask_history(execution.anchor)
    return execution, other, walked(walk)


def tell(execution: Execution, ends: tuple[Digest, ...]) -> tuple[Digest, Header, bytes]:
    """A block at the boundary with a history of these ends, whatever they are."""
    state, height = execution.state, execution.height + 1
    context = execution.rules.context(state, execution.head_rules, Height(height), height, MemberIndex(0))
    body = encode(Body((), (), None, ends))
    root = apply_block(state, (), (), context, None, ends)[0].root()
    header = replace(make_block([], height=height)[1], parent=execution.anchor, state_root=root)
    return header.digest(), header, body


def verdict_on(effect: VerifyHistory, right: bool) -> HistoryVerified:
    return HistoryVerified(effect.start, effect.ends, right)


def test_a_boundary_is_built_when_its_history_is_walked_and_not_before():
    """The walk is asked for once; the body then tells all its ends."""
    execution, _, answer = at_the_boundary()
    assert execution.ask_history(execution.anchor) == []
    assert execution.build(execution.anchor, Height(2), 2, MemberIndex(0)) is None
    assert execution.take_history(answer) == []
    built = execution.build(execution.anchor, Height(2), 2, MemberIndex(0), even_empty=False)
    assert built is not None
    assert decode(Body, built[0], limit_bytes=BODY_BYTES_MAX).history == answer.ends
    assert execution.ask_history(execution.anchor) == []


def test_between_cut_and_boundary_blocks_go_on_without_the_history_until_it_is_there():
    """It is in the first body that is built when it is known, though there is nothing else, and in none after that."""
    execution = short_epochs(18)  # the cut is two before the boundary
    for _ in range(16):
        decide_next(execution)
    (walk,) = execution.ask_history(execution.anchor)
    assert execution.build(execution.anchor, Height(17), 17, MemberIndex(0), even_empty=False) is None
    _, _, body = propose(execution, 17)
    assert decode(Body, body, limit_bytes=BODY_BYTES_MAX).history == ()
    execution.take_history(walked(walk))
    _, header, body = propose(execution, 17)
    assert decode(Body, body, limit_bytes=BODY_BYTES_MAX).history == walked(walk).ends
    execution.finalize(FinalizedBlock(header, body, None))
    assert execution.ask_history(execution.anchor) == []
    _, _, body = propose(execution, 18)
    assert decode(Body, body, limit_bytes=BODY_BYTES_MAX).history == ()


def test_a_vote_waits_until_the_history_of_the_body_is_verified():
    """Whoever did not walk it verifies it, once, however many bodies tell it."""
    proposer, other, answer = at_the_boundary()
    proposer.take_history(answer)
    block, header, body = propose(proposer, 2)
    assert proposer.check(block, header, body, SENDER) == [Verdict(block, True, header.state_root)]
    (effect,) = other.check(block, header, body, SENDER)
    assert effect == VerifyHistory(answer.start, answer.ends, TICKS)
    again = replace(header, time_ms=header.time_ms + 1)
    assert other.check(again.digest(), again, body, SENDER) == []
    verdicts = other.take_history(verdict_on(effect, right=True))
    assert [(each.block, each.accepted) for each in verdicts] == [(block, True), (again.digest(), True)]
    assert other.ask_history(other.anchor) == []  # nor does it have to walk


@given(st.integers(0, HISTORY_SEGMENTS - 1), st.binary(min_size=32, max_size=32))
def test_a_wrong_history_is_refused_and_costs_no_second_verification(index, end):
    """Whichever end is another; and where the right history is known, wrong ones cost nothing at all."""
    proposer, other, answer = at_the_boundary()
    wrong = (*answer.ends[:index], Digest(end), *answer.ends[index + 1 :])
    assume(wrong != answer.ends)
    block, header, body = tell(proposer, wrong)
    (effect,) = other.check(block, header, body, SENDER)
    (refused,) = other.take_history(verdict_on(effect, right=False))
    assert (refused.block, refused.accepted, refused.refusal.reason) == (block, False, Reason.BAD_PROOF)
    again = replace(header, time_ms=header.time_ms + 1)
    proposer.take_history(answer)
    for knowing in (other, proposer):
        (refused,) = knowing.check(again.digest(), again, body, SENDER)
        assert (refused.accepted, refused.refusal.reason) == (False, Reason.BAD_PROOF)


def test_a_final_history_is_not_verified_again():
    """More than two thirds did; so blocks that were fetched cost no hash."""
    proposer, other, answer = at_the_boundary()
    proposer.take_history(answer)
    _, header, body = propose(proposer, 2)
    assert other.finalize(FinalizedBlock(header, body, None)).opened is not None


def test_a_restart_between_cut_and_boundary_walks_or_verifies_anew():
    """What was walked is memory; the state says what is due."""
    before, _, answer = at_the_boundary()
    before.take_history(answer)
    block, header, body = propose(before, 2)
    after = Execution(before.rules, before.state, before.anchor, before.height)
    assert [walked(walk) for walk in after.ask_history(after.anchor)] == [answer]
    (effect,) = after.check(block, header, body, SENDER)
    assert isinstance(effect, VerifyHistory)
    (verdict,) = after.take_history(answer)  # what it walked itself answers the other question too
    assert (verdict.block, verdict.accepted) == (block, True)
    assert after.take_history(verdict_on(effect, right=True)) == []


def test_what_is_known_of_histories_is_bounded():
    """Starts and told ends that are forgotten are asked for again."""
    known = KnownHistories(TICKS)
    starts = [blob_digest(bytes([index])) for index in range(STARTS_MAX + 1)]
    assert all(known.ask_walk(start) for start in starts)
    assert [bool(known.ask_walk(start)) for start in reversed(starts)] == [False] * STARTS_MAX + [True]
    told = [(blob_digest(bytes([index, 1])),) for index in range(ENDS_PER_START_MAX + 1)]
    assert all(known.ask_verification(starts[0], ends) for ends in told)
    assert [bool(known.ask_verification(starts[0], ends)) for ends in reversed(told)][-2:] == [False, True]
    known.take(HistoryWalked(starts[1], told[0]))
    with pytest.raises(InvariantBroken):
        known.take(HistoryWalked(starts[1], told[1]))
