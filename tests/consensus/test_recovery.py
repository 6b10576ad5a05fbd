"""Emergency recovery: no final block is taken back, nobody decides for the others, and nothing of before counts after."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus.finality.signer import ExecutedBlock, VoteSigner
from consensus.finality.tally import check_vote
from consensus.light_client import LightClientRule
from consensus.recovery import (
    check_form,
    check_proposal,
    check_recovery,
    combine_proposals,
    find_guilty,
    merge_signatures,
    previous_rule,
    recover_state,
    sign_recovery,
)
from consensus.state import ROSTERS, VALIDATORS, State, ValidatorStatus, genesis_state
from consensus.transition import BlockRules
from protocol.codec import encode
from protocol.digest import blob_digest, number
from protocol.finality import ChainId, Vote, VoteKind, vote_text
from protocol.ids import Epoch, Height, MemberIndex, View
from protocol.light_client import LightBlock
from protocol.recovery import (
    Recovery,
    RecoveryProposal,
    SignedRecovery,
    decode_proposal,
    decode_recovery,
    proposal_text,
)
from protocol.rejection import Reason, Rejected
from protocol.roster import Member, Roster
from protocol.transactions import EvidenceReport
from simnet.finality.genesis import quick_verify
from tests.consensus.ledger_samples import (
    ACCOUNT_IDS,
    BALANCE,
    CARDS,
    FIRST_VERSION,
    RULE,
    STAKE,
    TICKS,
    VOTES,
)
from tests.consensus.light_chain import CHAIN, EPOCH_HEIGHTS, KEYS, LightChain
from tests.consensus.light_chain import RULE as LIGHT
from tests.consensus.recovery_samples import CHAIN_OF_FOUR, FOUR, WHY, combine, node, propose, signed_by
from tests.protocol.samples import genesis
from tests.strategies import wound

VECTORS = Path(__file__).parents[1] / "vectors" / "protocol"

FORK = ChainId(CHAIN.chain, 1)


def reason_of_proposal(proposal: RecoveryProposal, rule: LightClientRule = LIGHT) -> Reason:
    with pytest.raises(Rejected) as caught:
        check_proposal(proposal, rule, quick_verify)
    return caught.value.reason


def reason_of(signed: SignedRecovery, rule: LightClientRule = LIGHT) -> Reason:
    with pytest.raises(Rejected) as caught:
        check_recovery(signed, rule, quick_verify)
    return caught.value.reason


# -- proposals ---------------------------------------------------------------------------------------------------------


@given(st.data())
def test_the_anchor_is_never_below_a_certificate_that_was_shown(data: st.DataObject) -> None:
    """Whoever proposes what, in whatever order: the highest final block is built on."""
    heights = data.draw(st.lists(st.integers(1, 3 * EPOCH_HEIGHTS), min_size=1, max_size=8))
    random = data.draw(st.randoms(use_true_random=False))
    proposals = [propose(random.randrange(4), CHAIN_OF_FOUR.block(height, random)) for height in heights]
    for each in proposals:
        assert check_proposal(each, LIGHT, quick_verify) == each
    made = combine(*proposals)
    assert made.anchor.header.height == max(heights)
    assert made.chain == FORK
    assert set(made.remaining) == {proposal.signer for proposal in proposals}


def test_a_proposal_shows_a_final_block_and_is_signed_by_a_member() -> None:
    """Every other thing is refused, with whoever made it to blame."""
    block = CHAIN_OF_FOUR.block(10)
    good = propose(1, block)
    below = CHAIN_OF_FOUR.sign(block.header, CHAIN_OF_FOUR.roster(1), [1, 2, 3])  # nine of fourteen
    assert reason_of_proposal(propose(1, below)) is Reason.NO_QUORUM
    assert reason_of_proposal(replace(good, reason="another")) is Reason.BAD_SIGNATURE
    assert reason_of_proposal(replace(good, signer=node(2))) is Reason.BAD_SIGNATURE
    assert reason_of_proposal(propose(5, block)) is Reason.NOT_A_MEMBER
    assert reason_of_proposal(good, replace_chain(LIGHT, FORK)) is Reason.WRONG_CHAIN
    assert reason_of_proposal(replace(good, following=CHAIN_OF_FOUR.roster(2))) is Reason.MALFORMED
    assert reason_of_proposal(replace(good, block=replace(block, roster=None))) is Reason.MALFORMED
    other = replace(CHAIN_OF_FOUR.roster(1), weights=(1, 1, 1, 1))
    assert reason_of_proposal(replace(good, block=replace(block, roster=other))) is Reason.WRONG_DIGEST
    notarized = replace(block.certificate, kind=VoteKind.NOTARIZE)
    assert reason_of_proposal(replace(good, block=replace(block, certificate=notarized))) is Reason.BAD_STEP


def replace_chain(rule: LightClientRule, chain: ChainId) -> LightClientRule:
    return LightClientRule(chain, rule.epoch_heights, rule.trusting_period_ms)


def test_after_a_boundary_the_next_epochs_members_decide() -> None:
    """They vote about the next block: the header names their roster, and without it nothing can be combined."""
    chain = LightChain([FOUR, {4: 1, 5: 1, 6: 1, 7: 1}])
    block = chain.boundary(0)
    good = propose(4, block, chain)
    assert check_proposal(good, LIGHT, quick_verify)
    assert reason_of_proposal(replace(good, following=None)) is Reason.MALFORMED
    assert reason_of_proposal(propose(0, block, chain)) is Reason.NOT_A_MEMBER
    assert check_form(combine(good, propose(6, block, chain)), EPOCH_HEIGHTS).roster.epoch == 1


def two_finals() -> tuple[LightBlock, LightBlock]:
    """Two blocks that are final in one view: members 0 and 1, of eight in fourteen, signed both."""
    header = CHAIN_OF_FOUR.header(10)
    other = replace(header, body_root=blob_digest(b"other"))
    roster = CHAIN_OF_FOUR.roster(1)
    return CHAIN_OF_FOUR.sign(header, roster, [0, 1, 2]), CHAIN_OF_FOUR.sign(other, roster, [0, 1, 3])


def test_of_two_final_blocks_people_choose_and_who_signed_both_is_convicted() -> None:
    """Nothing here guesses; the evidence is in the certificates, and whom it convicts does not remain."""
    one, other = two_finals()
    proposals = [propose(number, block) for number, block in ((0, one), (2, one), (3, other))]
    with pytest.raises(Rejected) as caught:
        combine(*proposals)
    assert caught.value.reason is Reason.EQUIVOCATION
    assert one.header.digest().hex() in caught.value.detail
    made = combine_proposals(proposals, None, WHY, EPOCH_HEIGHTS, other.header.digest())
    assert made.anchor == other
    assert [report.validator for report in made.evidence] == [node(0), node(1)]
    assert made.remaining == (node(2), node(3))
    assert find_guilty(proposals[:2]) == ()
    lower = propose(1, CHAIN_OF_FOUR.block(9))
    with pytest.raises(Rejected) as caught:
        combine_proposals([*proposals, lower], None, WHY, EPOCH_HEIGHTS, lower.block.header.digest())
    assert caught.value.reason is Reason.REVERTS_FINAL
    with pytest.raises(Rejected, match="convicted"):
        signed_by(replace(made, remaining=(node(1), *made.remaining)), 2)


# -- the document ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True), st.data())
def test_more_than_two_thirds_of_those_who_remain_sign(remaining: list[int], data: st.DataObject) -> None:
    """By weight, and nobody else's signature counts."""
    made = combine(propose(remaining[0], CHAIN_OF_FOUR.block(10)), remaining=remaining)
    signers = data.draw(st.lists(st.sampled_from(remaining), unique=True))
    signed = signed_by(made, *signers)
    total, said = sum(FOUR[each] for each in remaining), sum(FOUR[each] for each in signers)
    if 3 * said > 2 * total:
        checked = check_recovery(signed, LIGHT, quick_verify)
        assert [member.node for member in checked.roster.members] == [node(each) for each in sorted(remaining)]
        assert checked.roster.weights == tuple(FOUR[each] for each in sorted(remaining))
        assert decode_recovery(encode(signed)) == signed
    else:
        assert reason_of(signed) is Reason.NO_QUORUM
    for stranger in {0, 1, 2, 3, 9} - set(remaining):
        with pytest.raises(Rejected):
            sign_recovery(signed, KEYS[stranger], EPOCH_HEIGHTS)


def test_copies_that_were_signed_apart_become_one() -> None:
    """In any order, each signature once; of another document nothing is taken."""
    made = combine(propose(0, CHAIN_OF_FOUR.block(10)), remaining=[0, 1])
    merged = merge_signatures([signed_by(made, 1), signed_by(made, 0), signed_by(made, 1)], EPOCH_HEIGHTS)
    assert merged == signed_by(made, 0, 1)
    assert check_recovery(merged, LIGHT, quick_verify)
    with pytest.raises(Rejected) as caught:
        merge_signatures([merged, signed_by(replace(made, reason="another"), 1)], EPOCH_HEIGHTS)
    assert caught.value.reason is Reason.WRONG_DIGEST


def test_what_was_signed_is_this_document_and_no_other() -> None:
    """Another anchor, fork, reason or set of members has another digest, which nobody signed."""
    signed = signed_by(combine(propose(0, CHAIN_OF_FOUR.block(10)), remaining=[0, 1, 2]), 0, 1, 2)
    made = signed.recovery
    changes = [
        (replace(made, reason="another"), Reason.BAD_SIGNATURE),
        (replace(made, anchor=CHAIN_OF_FOUR.block(9)), Reason.BAD_SIGNATURE),
        (replace(made, fork=2), Reason.MALFORMED),
        (replace(made, remaining=made.remaining[::-1]), Reason.MALFORMED),
        (replace(made, remaining=(*made.remaining[:2], node(3))), Reason.BAD_SIGNATURE),
        (replace(made, remaining=(*made.remaining[:2], node(7))), Reason.MALFORMED),
        (replace(made, evidence=(false_report(),)), Reason.NO_EVIDENCE),
    ]
    for changed, reason in changes:
        assert reason_of(replace(signed, recovery=changed)) is reason
    assert reason_of(replace(signed, signatures=signed.signatures[:2])) is Reason.MALFORMED
    assert reason_of(signed, replace_chain(LIGHT, FORK)) is Reason.WRONG_CHAIN
    assert previous_rule(made, replace_chain(LIGHT, FORK)) == LIGHT


def false_report() -> EvidenceReport:
    """Two votes of member 3 that agree."""
    vote = Vote(Epoch(1), View(1), VoteKind.NULLIFY, blob_digest(b""), MemberIndex(3), KEYS[0].sign(b""))
    return EvidenceReport(node(3), vote, vote)


@given(st.randoms(use_true_random=False))
def test_hostile_bytes_are_refused(random: Random) -> None:
    """Every wound of a proposal or a document is seen, by its form or by a signature."""
    proposal = encode(propose(1, CHAIN_OF_FOUR.block(8)))
    signed = encode(signed_by(combine(decode_proposal(proposal), remaining=[0, 1]), 0, 1))
    hurt = wound(random, proposal)
    if hurt != proposal:
        with pytest.raises(Rejected):
            check_proposal(decode_proposal(hurt), LIGHT, quick_verify)
    hurt = wound(random, signed)
    if hurt != signed:
        with pytest.raises(Rejected):
            check_recovery(decode_recovery(hurt), LIGHT, quick_verify)


# -- votes -------------------------------------------------------------------------------------------------------------


def test_nothing_that_was_signed_before_counts_after() -> None:
    """An old vote is no vote on the new fork, nor a new one on the old; one who signed both contradicts nothing."""
    roster, block = CHAIN_OF_FOUR.roster(1), blob_digest(b"a block")
    before, after = VoteSigner(KEYS[0], CHAIN, roster), VoteSigner(KEYS[0], FORK, roster)
    old, new = before.notarize(View(3), ExecutedBlock(block)), after.nullify(View(3))
    assert old is not None
    assert new is not None
    for said, right, wrong in ((old, CHAIN, FORK), (new, FORK, CHAIN)):
        assert check_vote(said.vote, roster, right, quick_verify)
        with pytest.raises(Rejected) as caught:
            check_vote(said.vote, roster, wrong, quick_verify)
        assert caught.value.reason is Reason.BAD_SIGNATURE


def test_the_memory_of_one_fork_says_nothing_about_another() -> None:
    """A signer that is shown the records of the fork before may vote where those forbade it; one of its own fork may not."""
    roster, block = CHAIN_OF_FOUR.roster(1), ExecutedBlock(blob_digest(b"a block"))
    said = VoteSigner(KEYS[0], CHAIN, roster).nullify(View(3))
    assert said is not None
    assert VoteSigner(KEYS[0], CHAIN, roster, [said.record]).notarize(View(3), block) is None
    assert VoteSigner(KEYS[0], FORK, roster, [said.record]).notarize(View(3), block) is not None


# -- the state ---------------------------------------------------------------------------------------------------------

RULES = BlockRules(CHAIN, RULE, EPOCH_HEIGHTS, 2**20, TICKS)
BY_NODE = sorted(range(4), key=lambda index: CARDS[index].node)


def real_roster(epoch: int) -> Roster:
    members = tuple(Member(CARDS[index].node, CARDS[index].vote) for index in BY_NODE)
    return Roster(Epoch(epoch), members, (STAKE,) * 4, blob_digest(number(epoch)))


def real_state() -> State:
    """Four validators with as much each."""
    return genesis_state(
        balances=[(account, BALANCE) for account in ACCOUNT_IDS],
        validators=[(CARDS[index], STAKE) for index in range(4)],
        tiles=[],
        first_version=FIRST_VERSION,
        created_ms=0,
        rosters=(real_roster(0), real_roster(1)),
    )


def real_recovery(*evidence: EvidenceReport) -> Recovery:
    """Two of them remain, after a block of epoch 0."""
    header = replace(CHAIN_OF_FOUR.header(5), roster=real_roster(0).digest(), next_roster=real_roster(1).digest())
    anchor = LightBlock(header, CHAIN_OF_FOUR.block(5).certificate, real_roster(0))
    remaining = tuple(real_roster(0).members[index].node for index in (0, 2))
    return Recovery(1, anchor, None, remaining, evidence, WHY)


def test_who_is_left_out_leaves_and_gets_its_stake_back() -> None:
    """Rosters of this epoch and the next are those who remain; no money is made or lost, and nothing else changes."""
    before = real_state()
    checked = check_form(real_recovery(), EPOCH_HEIGHTS)
    after = recover_state(before, checked, RULES)
    for epoch in (0, 1):
        roster = after.get(ROSTERS, number(epoch))
        assert (roster.epoch, roster.members, roster.weights) == (epoch, checked.roster.members, (STAKE, STAKE))
        assert roster.beacon == real_roster(epoch).beacon
    for index, member in enumerate(real_roster(0).members):
        validator = after.get(VALIDATORS, member.node)
        status, stake, unbonding = (
            (ValidatorStatus.ACTIVE, STAKE, 0) if index in (0, 2) else (ValidatorStatus.LEFT, 0, STAKE)
        )
        assert (validator.status, validator.stake_nano, validator.unbonding_nano) == (status, stake, unbonding)
    after.check_conserved()
    assert after.supply.unbonding_nano == 2 * STAKE
    assert [after.account(account) for account in ACCOUNT_IDS] == [before.account(account) for account in ACCOUNT_IDS]
    assert recover_state(before, checked, RULES).root() == after.root()


def test_after_a_boundary_the_next_two_epochs_are_those_who_remain() -> None:
    """The epoch that is over keeps its roster, and the one after next is drawn as ever."""
    header = replace(CHAIN_OF_FOUR.header(8), roster=real_roster(0).digest(), next_roster=real_roster(1).digest())
    anchor = LightBlock(header, CHAIN_OF_FOUR.block(8).certificate, real_roster(0))
    made = replace(real_recovery(), anchor=anchor, following=real_roster(1))
    state = real_state().put(ROSTERS, real_roster(2), number(2))
    after = recover_state(state, check_form(made, EPOCH_HEIGHTS), RULES)
    assert [len(after.get(ROSTERS, number(epoch)).members) for epoch in range(3)] == [4, 2, 2]
    assert [after.get(ROSTERS, number(epoch)).beacon for epoch in range(3)] == [real_roster(e).beacon for e in range(3)]


def test_who_is_convicted_is_slashed_once() -> None:
    """By the votes of the fork before; a state that has the punishment already does not punish again."""
    index = BY_NODE[1]
    votes = [
        Vote(Epoch(0), View(2), VoteKind.NOTARIZE, block, MemberIndex(1), VOTES[index].sign(text))
        for block in (blob_digest(b"one"), blob_digest(b"two"))
        if (text := vote_text(CHAIN, 0, 2, VoteKind.NOTARIZE, block))
    ]
    report = EvidenceReport(CARDS[index].node, votes[0], votes[1])
    checked = check_form(real_recovery(report), EPOCH_HEIGHTS)
    after = recover_state(real_state(), checked, RULES)
    validator = after.find(VALIDATORS, CARDS[index].node)
    assert validator is None or validator.status is ValidatorStatus.EXPELLED
    assert after.supply.burned_nano > 0
    assert recover_state(after.put(ROSTERS, real_roster(0), number(0)), checked, RULES).supply == after.supply


def test_a_document_whose_roster_is_not_the_states_changes_nothing() -> None:
    """Whoever shows a chain of its own is known by the state that a node has."""
    state = real_state().put(ROSTERS, replace(real_roster(0), weights=(1, 1, 1, 1)), number(0))
    with pytest.raises(Rejected) as caught:
        recover_state(state, check_form(real_recovery(), EPOCH_HEIGHTS), RULES)
    assert caught.value.reason is Reason.WRONG_DIGEST


def test_trust_begins_at_the_anchor_with_those_who_remain() -> None:
    """A light client that is told of the recovery proves what comes after it, on the new fork."""
    trust = check_form(real_recovery(), EPOCH_HEIGHTS).trust
    assert (trust.height, trust.time_ms, len(trust.roster.members)) == (Height(5), 5_000, 2)


def test_the_golden_documents_are_good() -> None:
    """What was signed in the past is understood today."""
    vectors = json.loads((VECTORS / "recovery.json").read_text())
    rule = LightClientRule.of(genesis())
    proposal = check_proposal(decode_proposal(bytes.fromhex(vectors["proposal"])), rule)
    assert proposal_text(proposal.block.header, proposal.reason).hex() == vectors["proposal text"]
    checked = check_recovery(decode_recovery(bytes.fromhex(vectors["signed"])), rule)
    assert checked.recovery.digest().hex() == vectors["digest"]
