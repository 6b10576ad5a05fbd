"""How a chain goes on that cannot go on by itself: from its highest final block, with those who are left (chain.md 2.11).

    proposals --combine--> recovery --signed by more than two thirds of those who remain--> adopted, where the operator says so

Theory
------
A chain stands still when a third of its weight is gone, and it has failed when two blocks are final that exclude each other. No
rule inside the chain can mend either: it would need the quorum that is not there. So people decide, outside of it, and the
rules here keep them from doing harm by it:

    no final block is taken back    the anchor is the highest block that any certificate shown proves final; whoever has a
                                    higher one neither signs nor adopts
    nobody is framed                every text that is signed names the fork: votes of before say nothing after, and the other
                                    way round, so no member's memory of what it signed is ever thrown away
    money stays                     the state after the anchor changes in who votes, and nothing else: who is left out gets its
                                    stake back as if it had left; who is convicted loses it as it would have anyway
    everybody does the same         the new rosters and the new state follow from the document and the state, by integers alone

What they cannot know is who is gone for ever. A minority may sign itself a chain of its own: that is why a node adopts nothing
but the document whose digest its operator wrote down, having seen what share of the weight remains.

Epochs and heights go on as they were; views begin anew, as in a new epoch, and the anchor's certificate, which is of the fork
before, is not shown to anybody again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from msgspec.structs import replace

from consensus.epochs import roster_of
from consensus.finality.tally import check_certificate, find_contradiction, votes_of
from consensus.light_client import LightClientRule, Trust, check_finalizes
from consensus.signers import Verify, check_signers, signer_bitmap, signers_in
from consensus.state import EVIDENCE, ROSTERS, TREASURY, State, Unbonding, Validator, ValidatorStatus, evidence_key
from consensus.transition import BlockContext, BlockRules, report_evidence
from protocol.digest import number
from protocol.epochs import epoch_of, is_boundary
from protocol.finality import HEADER_VERSION, ChainId, Vote
from protocol.ids import Digest, MemberIndex, PeerId, Signature
from protocol.keys import KeyPair
from protocol.keys import verify as verify_signature
from protocol.light_client import LightBlock
from protocol.limits import UNBONDINGS_PER_VALIDATOR_MAX
from protocol.recovery import Recovery, RecoveryProposal, SignedRecovery, proposal_text
from protocol.rejection import Reason, Rejected, check_invariant
from protocol.roster import Roster, check_roster
from protocol.transactions import EvidenceReport


@dataclass(frozen=True, slots=True)
class CheckedRecovery:
    """A recovery whose form holds: ``before`` votes about the next height without it, ``roster`` with it."""

    recovery: Recovery
    before: Roster
    roster: Roster

    @property
    def trust(self) -> Trust:
        """The anchor as the beginning of a light-client proof on the new fork."""
        header = self.recovery.anchor.header
        return Trust(self.roster, None, header.height, header.time_ms)


# -- proposals ----------------------------------------------------------------------------------------------------------


def check_proposal(
    proposal: RecoveryProposal, rule: LightClientRule, verify: Verify = verify_signature
) -> RecoveryProposal:
    """Check an operator's word: its block is final, and it is a member who says so.

    ``rule.chain`` is the chain that stands. Raises ``Rejected``: as ``_check_block``, NOT_A_MEMBER, BAD_SIGNATURE.
    """
    voters = _check_block(proposal.block, proposal.following, rule, verify)
    index = voters.find_index(proposal.signer)
    if index is None:
        raise Rejected(Reason.NOT_A_MEMBER, f"node {proposal.signer[:4].hex()} proposes a recovery")
    text = proposal_text(proposal.block.header, proposal.reason)
    if not verify(voters.members[index].vote, text, proposal.signature):
        raise Rejected(Reason.BAD_SIGNATURE, f"the proposal of node {proposal.signer[:4].hex()}")
    return proposal


def _check_block(block: LightBlock, following: Roster | None, rule: LightClientRule, verify: Verify) -> Roster:
    """That a block is final, by a roster that its header names; who votes about the next one.

    That the roster is the true one is for whoever has the chain to see. Raises ``Rejected``: WRONG_CHAIN, MALFORMED,
    BAD_STEP, WRONG_DIGEST, WRONG_EPOCH, or as ``check_certificate``.
    """
    header = block.header
    if header.chain != rule.chain:
        raise Rejected(Reason.WRONG_CHAIN, f"height {header.height}")
    if header.version != HEADER_VERSION or block.roster is None or header.height == 0:
        raise Rejected(Reason.MALFORMED, "a block that can be built on has a height, and its roster beside it")
    if epoch_of(header.height, rule.epoch_heights) != header.epoch:
        raise Rejected(Reason.BAD_STEP, f"height {header.height} is not in epoch {header.epoch}")
    check_finalizes(block.certificate, header, rule)
    roster = _check_named(block.roster, header.epoch, header.roster)
    check_certificate(block.certificate, roster, rule.chain, verify)
    is_last = is_boundary(header.height, rule.epoch_heights)
    if is_last != (following is not None):
        raise Rejected(Reason.MALFORMED, "the next epoch's roster is beside the last block of an epoch, and only there")
    return roster if following is None else _check_named(following, header.epoch + 1, header.next_roster)


def _check_named(roster: Roster, epoch: int, name: Digest) -> Roster:
    if check_roster(roster).epoch != epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"a roster of epoch {roster.epoch}")
    if roster.digest() != name:
        raise Rejected(Reason.WRONG_DIGEST, f"the roster of epoch {epoch} is not the header's")
    return roster


def combine_proposals(
    proposals: Sequence[RecoveryProposal],
    remaining: Iterable[PeerId] | None,
    reason: str,
    epoch_heights: int,
    anchor: Digest | None = None,
) -> Recovery:
    """The recovery that checked proposals make: from the highest final block, with ``remaining`` (None: who proposed).

    Where two blocks of that height are final, ``anchor`` says which: that is for people to decide, and nothing here guesses.
    Raises ``Rejected``: MALFORMED (no proposals), EQUIVOCATION (two blocks, and none named), REVERTS_FINAL (the one named is
    not of the greatest height), or as ``check_recovery``.
    """
    if not proposals:
        raise Rejected(Reason.MALFORMED, "a recovery is made of proposals, and there are none")
    height = max(proposal.block.header.height for proposal in proposals)
    highest = {each.block.header.digest(): each for each in proposals if each.block.header.height == height}
    if anchor is None and len(highest) > 1:
        names = ", ".join(name.hex() for name in sorted(highest))
        raise Rejected(Reason.EQUIVOCATION, f"these blocks of height {height} are final, name one of them: {names}")
    chosen = highest.get(min(highest) if anchor is None else anchor)
    if chosen is None:
        raise Rejected(Reason.REVERTS_FINAL, f"a block of height {height} is final, and another one is named")
    guilty = find_guilty(proposals)
    convicted = {report.validator for report in guilty}
    stay = {proposal.signer for proposal in proposals} if remaining is None else set(remaining)
    made = Recovery(
        fork=chosen.block.header.chain.fork + 1,
        anchor=chosen.block,
        following=chosen.following,
        remaining=tuple(sorted(stay - convicted)),
        evidence=guilty,
        reason=reason,
    )
    check_form(made, epoch_heights)
    return made


def find_guilty(proposals: Sequence[RecoveryProposal]) -> tuple[EvidenceReport, ...]:
    """The members whose votes in the certificates shown contradict each other, one report each, by node key."""
    found: dict[PeerId, EvidenceReport] = {}
    for one, other in combinations(proposals, 2):
        roster = one.block.roster
        if roster is None or one.block.header.epoch != other.block.header.epoch:
            continue
        votes: dict[MemberIndex, Vote] = {vote.signer: vote for vote in votes_of(one.block.certificate)}
        for vote in votes_of(other.block.certificate):
            said = votes.get(vote.signer)
            if said is not None and find_contradiction(said, vote) is not None:
                node = roster.members[vote.signer].node
                found.setdefault(node, EvidenceReport(node, said, vote))
    return tuple(found[node] for node in sorted(found))


# -- the document -------------------------------------------------------------------------------------------------------


def check_form(recovery: Recovery, epoch_heights: int) -> CheckedRecovery:
    """Who votes by a recovery, before anybody has signed it; the block's certificate is not looked at.

    Raises ``Rejected(MALFORMED)``: a fork that does not follow, members that were none, or who are convicted.
    """
    anchor = recovery.anchor
    if recovery.fork != anchor.header.chain.fork + 1:
        raise Rejected(Reason.MALFORMED, f"fork {recovery.fork} does not follow fork {anchor.header.chain.fork}")
    before = recovery.following if is_boundary(anchor.header.height, epoch_heights) else anchor.roster
    if before is None:
        raise Rejected(Reason.MALFORMED, "the roster that votes about the next block is missing")
    return CheckedRecovery(recovery, before, _remaining_roster(before, recovery))


def _remaining_roster(before: Roster, recovery: Recovery) -> Roster:
    remaining = recovery.remaining
    if list(remaining) != sorted(set(remaining)):
        raise Rejected(Reason.MALFORMED, "who remains is named in ascending order, each once")
    accused = [report.validator for report in recovery.evidence]
    if accused != sorted(set(accused)):
        raise Rejected(Reason.MALFORMED, "who is convicted is named in ascending order, each once")
    stay = [index for index, member in enumerate(before.members) if member.node in remaining]
    if len(stay) != len(remaining):
        raise Rejected(Reason.MALFORMED, "who remains was a member")
    if any(node in remaining for node in accused):
        raise Rejected(Reason.MALFORMED, "who is convicted does not remain")
    roster = replace(
        before,
        members=tuple(before.members[index] for index in stay),
        weights=tuple(before.weights[index] for index in stay),
    )
    if roster.weight_total == 0:
        raise Rejected(Reason.MALFORMED, "who remains has no weight")
    return roster


def sign_recovery(signed: SignedRecovery, key: KeyPair, epoch_heights: int) -> SignedRecovery:
    """The same document with one more signature; the same one where it is there. Raises ``Rejected(NOT_A_MEMBER)``."""
    roster = check_form(signed.recovery, epoch_heights).roster
    voters = [bytes(member.vote) for member in roster.members]
    if key.public not in voters:
        raise Rejected(Reason.NOT_A_MEMBER, "only who remains signs")
    place, name = MemberIndex(voters.index(key.public)), signed.recovery.digest()
    return _with_signatures(signed.recovery, {**_signatures(signed), place: key.sign(name)}, roster)


def merge_signatures(documents: Sequence[SignedRecovery], epoch_heights: int) -> SignedRecovery:
    """One document with the signatures of several copies of it. Raises ``Rejected(WRONG_DIGEST)`` where they differ."""
    recovery = documents[0].recovery
    if any(each.recovery != recovery for each in documents):
        raise Rejected(Reason.WRONG_DIGEST, "the files are different recoveries")
    roster, found = check_form(recovery, epoch_heights).roster, dict[MemberIndex, Signature]()
    for each in documents:
        found |= _signatures(each)
    return _with_signatures(recovery, found, roster)


def _signatures(signed: SignedRecovery) -> dict[MemberIndex, Signature]:
    signers = signers_in(signed.signers)
    if len(signers) != len(signed.signatures):
        raise Rejected(Reason.MALFORMED, "as many signatures as signers")
    return dict(zip(signers, signed.signatures, strict=True))


def _with_signatures(recovery: Recovery, found: dict[MemberIndex, Signature], roster: Roster) -> SignedRecovery:
    signers = sorted(found)
    if signers and signers[-1] >= len(roster.members):
        raise Rejected(Reason.MALFORMED, "a signer that does not remain")
    bitmap = signer_bitmap(signers, len(roster.members))
    return SignedRecovery(recovery, bitmap, tuple(found[signer] for signer in signers))


def check_unsigned(recovery: Recovery, rule: LightClientRule, verify: Verify = verify_signature) -> CheckedRecovery:
    """Check everything about a document but who signed it; raises ``Rejected`` as ``check_recovery``."""
    checked = check_form(recovery, rule.epoch_heights)
    _check_block(recovery.anchor, recovery.following, rule, verify)
    for report in recovery.evidence:
        if find_contradiction(report.first, report.second) is None:
            raise Rejected(Reason.NO_EVIDENCE, f"against node {report.validator[:4].hex()}")
    return checked


def check_recovery(signed: SignedRecovery, rule: LightClientRule, verify: Verify = verify_signature) -> CheckedRecovery:
    """Check a document whole: its anchor is final, and more than two thirds of those who remain signed it.

    ``rule`` is that of the chain before it. Raises ``Rejected``: as ``check_form``, ``_check_block`` and ``check_signers``,
    BAD_SIGNATURE, NO_EVIDENCE.
    """
    recovery = signed.recovery
    roster = check_form(recovery, rule.epoch_heights).roster
    signers = check_signers(signed.signers, signed.signatures, roster)
    checked = check_unsigned(recovery, rule, verify)
    name = recovery.digest()
    for signer, signature in zip(signers, signed.signatures, strict=True):
        if not verify(checked.roster.members[signer].vote, name, signature):
            raise Rejected(Reason.BAD_SIGNATURE, f"member {signer} of those who remain")
    return checked


# -- the state ----------------------------------------------------------------------------------------------------------


def recover_state(state: State, checked: CheckedRecovery, rules: BlockRules) -> State:
    """The state with which the new fork begins, of the state after the anchor. ``rules`` are those of the chain before.

    Raises ``Rejected`` for evidence that does not hold, and where the document's roster is not the one that the state has.
    """
    recovery, epoch = checked.recovery, checked.before.epoch
    if roster_of(state, epoch) != checked.before:
        raise Rejected(Reason.WRONG_DIGEST, f"the roster of epoch {epoch} is another one here")
    context = _context(state, checked, rules)
    for report in recovery.evidence:
        key = evidence_key(report.first.epoch, report.first.view, report.validator)
        if state.find(EVIDENCE, key) is None:
            state = report_evidence(state, TREASURY, report, context)
    for validator in list(state.validators()):
        is_out = checked.before.find_index(validator.card.node) is not None and (
            checked.roster.find_index(validator.card.node) is None
        )
        if is_out and validator.status is ValidatorStatus.ACTIVE:
            state = state.put_validator(validator, _retired(validator, context))
    following = replace(checked.roster, epoch=epoch + 1, beacon=roster_of(state, epoch + 1).beacon)
    for roster in (checked.roster, following):
        state = state.put(ROSTERS, roster, number(roster.epoch))
    return state.sealed()


def _context(state: State, checked: CheckedRecovery, rules: BlockRules) -> BlockContext:
    """As if the anchor had reported the evidence itself."""
    header = checked.recovery.anchor.header
    check_invariant(rules.chain == header.chain, "evidence of before is judged by the chain of before")
    at = replace(checked.before, epoch=header.epoch)
    return rules.context(state, rules.head_rules(at), header.height, header.time_ms, MemberIndex(0))


def _retired(validator: Validator, context: BlockContext) -> Validator:
    """As after ``Leave``: all its stake begins to unbond, slashable until then."""
    rule, entries, amount = context.rule, validator.unbonding, validator.stake_nano
    release_ms, release_height = context.time_ms + rule.unbonding_ms, context.height + rule.unbonding_heights
    if len(entries) == UNBONDINGS_PER_VALIDATOR_MAX:  # the last withdrawal waits with it
        amount, entries = amount + entries[-1].amount_nano, entries[:-1]
    if amount:
        entries = (*entries, Unbonding(amount, release_ms, release_height))
    return replace(validator, status=ValidatorStatus.LEFT, stake_nano=0, unbonding=entries)


def previous_rule(recovery: Recovery, rule: LightClientRule) -> LightClientRule:
    """The rule of the chain that a recovery stands on, of any fork's."""
    chain = ChainId(rule.chain.chain, recovery.anchor.header.chain.fork)
    return LightClientRule(chain, rule.epoch_heights, rule.trusting_period_ms)
