"""Light-client proofs: from something trusted to a block that is final now, without the blocks between (chain.md 2.7, 2.9).

Theory
------
A header names its epoch's roster and the next one by digest. A FINALIZE certificate by more than two thirds of the true
roster of its epoch makes a block final, so whoever knows the true roster needs nothing else. A proof carries that
knowledge from epoch to epoch. A step is a header, its certificate, and the roster of its epoch by value:

    within    the same epoch as what is trusted       the roster is the trusted one
    next      the epoch after it                      the roster has the digest that the trusted header names
    skipping  any later epoch                         the certificate's signers, found by vote key, hold more than a third
                                                      of the weight of the *trusted* roster

Why a third is enough to skip. Less than a third of the trusted roster is Byzantine, so among those signers is an honest one.
An honest member says FINALIZE in an epoch only for a block that it executed, and only if the header names the roster that
it knows for that epoch. So the roster shown is the true one, and the quorum in it, checked as well, makes the block final.

Why that holds for a while only. "Less than a third is Byzantine" is a statement about people with something to lose. Who
has taken its stake back can sell its old keys, and a third of old keys signs any future for nothing. So trust expires while the
stake behind it is still bound: after two thirds of the unbonding time (14 of 21 days), by header time and our clock. The
rest is there to report the forgery (docs/decisions/0014-light-client.md). Expiry is asked once, of where the proof begins:
each further header is younger. An epoch's stake is fixed two epochs ahead, so a member may have begun to unbond an hour
before its last header: the week between the two periods covers that.

What a proof does not say: that nothing newer exists (ask several peers, take the highest), and anything at all to somebody
whose clock is weeks behind.

Cost: nothing is verified before the form, the order and the weights of the *whole* proof hold; then one signature for each
signer. At most ``LIGHT_CLIENT_PROOF_BYTES_MAX``; a longer way is proved in parts, each from the tip of the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from consensus.finality.tally import check_certificate, signers_of
from consensus.signers import Verify
from protocol.codec import encode
from protocol.epochs import epoch_of, is_boundary
from protocol.finality import HEADER_VERSION, Certificate, ChainId, Header, VoteKind
from protocol.genesis import Genesis, genesis_roster
from protocol.ids import Digest, Epoch, Height
from protocol.keys import verify as verify_signature
from protocol.light_client import LightBlock, LightClientProof
from protocol.limits import CLOCK_SLACK_MS, KIB, LIGHT_CLIENT_BLOCKS_MAX, LIGHT_CLIENT_PROOF_BYTES_MAX
from protocol.rejection import Reason, Rejected, check_invariant
from protocol.roster import Roster, check_roster
from protocol.state_proof import StateProof, SubChain, check_state_proof

FRAME_OF_PROOF_BYTES = 4 * KIB  # around the blocks: lengths, and a state proof (below a kilobyte)

FindBoundary = Callable[[Epoch], LightBlock | None]  # the last block of an epoch, certified, with its roster


@dataclass(frozen=True, slots=True)
class LightClientRule:
    """What of a network's rules a light client needs."""

    chain: ChainId
    epoch_heights: int
    trusting_period_ms: int

    @classmethod
    def of(cls, genesis: Genesis, fork: int = 0) -> LightClientRule:
        """Two thirds of the unbonding time, and never longer than evidence is taken."""
        trusting_ms = min(genesis.ledger.unbonding_ms * 2 // 3, genesis.ledger.evidence_ms)
        return cls(ChainId.of(genesis.network_id(), fork), genesis.chain.epoch_heights, trusting_ms)


@dataclass(frozen=True, slots=True)
class Trust:
    """Where a proof begins: the true roster of an epoch, and the digest of the next one where it is known."""

    roster: Roster
    next_roster: Digest | None
    height: Height
    time_ms: int

    @classmethod
    def genesis(cls, genesis: Genesis) -> Trust:
        """No header yet: the founders, from the time at which the network was made."""
        return cls(genesis_roster(genesis), genesis_roster(genesis, 1).digest(), Height(0), genesis.created_ms)


@dataclass(frozen=True, slots=True)
class CheckedTip:
    """A header that is final, and the roster of its epoch. ``header.next_roster`` is the next roster's digest."""

    header: Header
    roster: Roster

    @property
    def trust(self) -> Trust:
        """The tip as the beginning of another proof."""
        return Trust(self.roster, self.header.next_roster, self.header.height, self.header.time_ms)


def tip_of(block: LightBlock) -> CheckedTip:
    """A block that is known to be final already, with its roster."""
    check_invariant(block.roster is not None, "a block that is known has its roster beside it")
    return CheckedTip(block.header, cast(Roster, block.roster))


def check_checkpoint(header: Header, roster: Roster, block: Digest) -> CheckedTip:
    """What is trusted by its block id alone, the bytes being from anybody. Raises ``Rejected`` (WRONG_DIGEST, MALFORMED)."""
    if header.digest() != block:
        raise Rejected(Reason.WRONG_DIGEST, "the header is not the block that was asked for")
    if check_roster(roster).digest() != header.roster:
        raise Rejected(Reason.WRONG_DIGEST, "the roster is not the header's")
    return CheckedTip(header, roster)


# -- checking ----------------------------------------------------------------------------------------------------------


def check_light_client_proof(
    proof: LightClientProof, trust: Trust, rule: LightClientRule, now_ms: int, verify: Verify = verify_signature
) -> CheckedTip:
    """The last block of a proof, now known to be final.

    Raises ``Rejected``: TRUST_EXPIRED, CLOCK_OFF (a header from the future), WRONG_CHAIN, BAD_STEP (heights, epochs, times,
    views or the certificate's block), MALFORMED, WRONG_DIGEST (a roster), TOO_LITTLE_TRUST, or as ``check_certificate``.
    """
    if now_ms - trust.time_ms >= rule.trusting_period_ms:
        raise Rejected(Reason.TRUST_EXPIRED, f"height {trust.height}")
    tips: list[CheckedTip] = []
    for number, block in enumerate(proof.blocks, 1):
        if block.header.time_ms > now_ms + CLOCK_SLACK_MS:
            raise Rejected(Reason.CLOCK_OFF, f"height {block.header.height} is from the future")
        # Else a proof could go through an epoch block by block, and each of them costs us a quorum of signatures.
        if block.header.epoch == trust.roster.epoch and number < len(proof.blocks):
            raise Rejected(Reason.BAD_STEP, "only the last step may stay in its epoch")
        tips.append(_check_form(block, trust, rule))
        trust = tips[-1].trust
    for block, tip in zip(proof.blocks, tips, strict=True):
        check_certificate(block.certificate, tip.roster, rule.chain, verify)
    return tips[-1]


def check_entry(proof: LightClientProof, tip: CheckedTip, chain: SubChain, key: bytes, value: bytes | None) -> None:
    """Check that ``key`` has ``value`` (None: is absent) in the state of the tip. Raises ``Rejected(BAD_PROOF)``."""
    if proof.entry is None:
        raise Rejected(Reason.BAD_PROOF, "the proof shows no entry")
    check_state_proof(proof.entry, tip.header.state_root, chain, key, value)


def _check_form(block: LightBlock, trust: Trust, rule: LightClientRule) -> CheckedTip:
    """Everything about one step but the quorum and its signatures."""
    header = block.header
    if header.chain != rule.chain:
        raise Rejected(Reason.WRONG_CHAIN, f"height {header.height}")
    if header.version != HEADER_VERSION:
        raise Rejected(Reason.MALFORMED, f"header version {header.version}")
    if header.height <= trust.height or header.time_ms <= trust.time_ms:
        raise Rejected(Reason.BAD_STEP, f"height {header.height} is not after height {trust.height}")
    if epoch_of(header.height, rule.epoch_heights) != header.epoch:
        raise Rejected(Reason.BAD_STEP, f"height {header.height} is not in epoch {header.epoch}")
    check_finalizes(block.certificate, header, rule)
    roster = _find_roster(block, trust)
    if roster.digest() != header.roster:
        raise Rejected(Reason.WRONG_DIGEST, f"the roster of epoch {header.epoch} is not the header's")
    _check_trusted(header, block.certificate, roster, trust)
    return CheckedTip(header, roster)


def check_finalizes(certificate: Certificate, header: Header, rule: LightClientRule) -> None:
    """Whether the certificate says FINALIZE of this header, in a view in which it can have been proposed."""
    if certificate.kind is not VoteKind.FINALIZE:
        raise Rejected(Reason.BAD_STEP, f"height {header.height} has no finalization")
    if (certificate.epoch, certificate.block) != (header.epoch, header.digest()):
        raise Rejected(Reason.BAD_STEP, f"the certificate of height {header.height} is another block's")
    is_last = is_boundary(
        header.height, rule.epoch_heights
    )  # proposed again, unchanged, until it is final (chain.md 2.7)
    if certificate.view != header.view and not (is_last and certificate.view > header.view):
        raise Rejected(Reason.BAD_STEP, f"height {header.height} was not proposed in view {certificate.view}")


def _find_roster(block: LightBlock, trust: Trust) -> Roster:
    """The roster of the header's epoch: shown if the reader lacks it, and only then, so that a step has one encoding."""
    if (block.roster is None) != (block.header.epoch == trust.roster.epoch):
        raise Rejected(Reason.BAD_STEP, "a step shows a roster if its epoch is another, and only then")
    if block.roster is None:
        return trust.roster
    roster = check_roster(block.roster)
    if roster.epoch != block.header.epoch:
        raise Rejected(Reason.WRONG_EPOCH, f"a roster of epoch {roster.epoch}")
    return roster


def _check_trusted(header: Header, certificate: Certificate, roster: Roster, trust: Trust) -> None:
    """The heart: why this roster is the true one of its epoch."""
    if header.epoch == trust.roster.epoch:
        return
    if header.epoch == trust.roster.epoch + 1 and trust.next_roster is not None:
        if header.roster != trust.next_roster:
            raise Rejected(Reason.WRONG_DIGEST, f"epoch {header.epoch} has another roster")
        return
    weight = trusted_weight(certificate, roster, trust.roster)
    if not is_enough(weight, trust.roster):
        raise Rejected(
            Reason.TOO_LITTLE_TRUST, f"{weight} of {trust.roster.weight_total} from epoch {trust.roster.epoch}"
        )


def trusted_weight(certificate: Certificate, roster: Roster, trusted: Roster) -> int:
    """What the certificate's signers weigh in another roster, by their vote keys. Signatures are not looked at."""
    weights = {member.vote: weight for member, weight in zip(trusted.members, trusted.weights, strict=True)}
    signers = (roster.members[signer] for signer in signers_of(certificate) if signer < len(roster.members))
    return sum(weights.get(member.vote, 0) for member in signers)


def is_enough(weight: int, trusted: Roster) -> bool:
    """Strictly more than a third: a third exactly may be all Byzantine."""
    return 3 * weight > trusted.weight_total


# -- making ------------------------------------------------------------------------------------------------------------


def build_light_client_proof(
    trust: Trust, target: LightBlock, find_boundary: FindBoundary, entry: StateProof | None = None
) -> LightClientProof:
    """A proof of ``target`` in as few steps as trust reaches, or the first part of it where the whole is too long.

    ``target`` and the blocks of ``find_boundary`` are final and have their roster. Each step goes as far as it can, found by
    halving: the fewest there are where trust only shrinks with distance, as it does unless members leave and return. A proof
    that ends before ``target`` has no entry: check it, and ask again from its tip.

    Raises ``Rejected``: BAD_STEP (nothing newer than what is trusted), NOT_FOUND (a boundary that is needed is not held any
    more), TOO_LITTLE_TRUST (only from genesis, whose next roster no header names).
    """
    if target.header.height <= trust.height:
        raise Rejected(Reason.BAD_STEP, f"height {target.header.height} is not after height {trust.height}")
    blocks: list[LightBlock] = []
    left_bytes = LIGHT_CLIENT_PROOF_BYTES_MAX - FRAME_OF_PROOF_BYTES
    while trust.height < target.header.height:
        block, roster = _farthest(trust, target, find_boundary)
        step = LightBlock(block.header, block.certificate, None if roster.epoch == trust.roster.epoch else roster)
        left_bytes -= len(encode(step))
        if left_bytes < 0 or len(blocks) == LIGHT_CLIENT_BLOCKS_MAX:
            return LightClientProof(tuple(blocks), None)
        blocks.append(step)
        trust = CheckedTip(block.header, roster).trust
    return LightClientProof(tuple(blocks), entry)


def _farthest(trust: Trust, target: LightBlock, find_boundary: FindBoundary) -> tuple[LightBlock, Roster]:
    """The target if trust reaches it, or the boundary block of the last epoch that it was found to reach."""
    roster = _reaches(trust, target)
    if roster is not None:
        return target, roster
    best: tuple[LightBlock, Roster] | None = None
    low, high = trust.roster.epoch + 1, target.header.epoch - 1
    while low <= high:
        middle = (low + high + 1) // 2
        block = find_boundary(Epoch(middle))
        if block is None:
            raise Rejected(Reason.NOT_FOUND, f"the last block of epoch {middle}")
        roster = _reaches(trust, block)
        if roster is not None:
            best, low = (block, roster), middle + 1
        else:
            high = middle - 1
    if best is None:
        raise Rejected(Reason.TOO_LITTLE_TRUST, f"no step leads on from epoch {trust.roster.epoch}")
    return best


def _reaches(trust: Trust, block: LightBlock) -> Roster | None:
    """The block's roster if a step from ``trust`` to it would hold."""
    roster = trust.roster if block.header.epoch == trust.roster.epoch else block.roster
    if roster is None:
        raise ValueError("a block to prove has its roster beside it")
    try:
        _check_trusted(block.header, block.certificate, roster, trust)
    except Rejected:
        return None
    return roster
