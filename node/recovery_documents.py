"""The files of an emergency recovery: what an operator proposes and signs of a data directory, and what people read of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from consensus.epochs import roster_of
from consensus.light_client import LightClientRule
from consensus.recovery import check_form, check_proposal, check_recovery, check_unsigned, sign_recovery
from consensus.signers import signer_bitmap, signers_in
from node.fork_rows import rule_before
from node.ground import Ground
from protocol.codec import decode
from protocol.epochs import is_boundary
from protocol.finality import Certificate, Header
from protocol.genesis import Genesis
from protocol.ids import Height, peer_text
from protocol.light_client import LightBlock
from protocol.limits import FRAME_BYTES_MAX, KIB
from protocol.recovery import (
    Recovery,
    RecoveryProposal,
    SignedRecovery,
    check_reason,
    decode_proposal,
    decode_recovery,
    proposal_text,
)
from protocol.rejection import Reason, Rejected

_Document = TypeVar("_Document")


def make_proposal(ground: Ground, reason: str) -> RecoveryProposal:
    """This node's last final block, signed by its vote key. Raises ``Rejected(NOT_FOUND)`` where none is certified here."""
    check_reason(reason)
    tip = ground.ledger.tip() or Height(0)
    header, certificate = ground.ledger.find_header(tip), ground.ledger.find_certificate(tip)
    if header is None or not certificate:
        raise Rejected(
            Reason.NOT_FOUND, "no final block with its certificate is here: start the node once, then ask again"
        )
    block = decode(Header, header, limit_bytes=4 * KIB)
    state = ground.load_state()
    is_last = is_boundary(block.height, ground.genesis.chain.epoch_heights)
    return RecoveryProposal(
        block=LightBlock(
            block, decode(Certificate, certificate, limit_bytes=FRAME_BYTES_MAX), roster_of(state, block.epoch)
        ),
        following=roster_of(state, block.epoch + 1) if is_last else None,
        reason=reason,
        signer=ground.peer,
        signature=ground.keys.vote.sign(proposal_text(block, reason)),
    )


def sign_document(ground: Ground, signed: SignedRecovery) -> SignedRecovery:
    """The same with this node's signature; never of one that goes on from below what is final here, or whose block is not.

    Raises ``Rejected``: REVERTS_FINAL, NOT_A_MEMBER, or as ``check_unsigned``.
    """
    check_unsigned(signed.recovery, rule_before(signed, ground.genesis))
    check_not_below(ground, signed)
    return sign_recovery(signed, ground.keys.vote, ground.genesis.chain.epoch_heights)


def check_not_below(ground: Ground, signed: SignedRecovery) -> None:
    """Raises ``Rejected(REVERTS_FINAL)`` where a block that is final here would be taken back."""
    anchor, tip = signed.recovery.anchor.header, ground.ledger.tip() or Height(0)
    held = ground.ledger.find_header(anchor.height)
    is_other = held is not None and decode(Header, held, limit_bytes=4 * KIB) != anchor
    if tip > anchor.height or is_other:
        raise Rejected(Reason.REVERTS_FINAL, f"block {tip} is final here, the recovery goes on from {anchor.height}")


def unsigned(recovery: Recovery) -> SignedRecovery:
    """A document that nobody has signed yet."""
    return SignedRecovery(recovery, signer_bitmap((), len(recovery.remaining)), ())


def describe(signed: SignedRecovery, genesis: Genesis) -> dict[str, Any]:
    """What people read of a document before they sign it, or let their node go on with it."""
    recovery = signed.recovery
    checked = check_form(recovery, genesis.chain.epoch_heights)
    anchor = recovery.anchor.header
    signers = [checked.roster.members[index] for index in signers_in(signed.signers)]
    weight = checked.roster.weight_of({member.node for member in signers})
    try:
        check_recovery(signed, rule_before(signed, genesis))
        problem = None
    except Rejected as refusal:
        problem = str(refusal)
    return {
        "digest": recovery.digest().hex(),
        "reason": recovery.reason,
        "fork": recovery.fork,
        "height": anchor.height,
        "block": anchor.digest().hex(),
        "time_ms": anchor.time_ms,
        "remaining": [peer_text(node) for node in recovery.remaining],
        "remaining_weight": checked.roster.weight_total,
        "weight_before": checked.before.weight_total,
        "left_out": [
            peer_text(member.node) for member in checked.before.members if member.node not in recovery.remaining
        ],
        "convicted": [peer_text(report.validator) for report in recovery.evidence],
        "signed_by": [peer_text(member.node) for member in signers],
        "signed_weight": weight,
        "complete": problem is None,
        "problem": problem,
    }


# -- files --------------------------------------------------------------------------------------------------------------


def read_document(file: Path) -> SignedRecovery:
    """Raises ``Rejected`` with the file's name; nothing in it is checked yet but its form."""
    return _read(file, decode_recovery)


def read_documents(files: Sequence[Path]) -> list[SignedRecovery] | None:
    """Copies of a document; None where the first file is none."""
    try:
        decode_recovery(files[0].read_bytes())
    except Rejected:
        return None
    return [_read(file, decode_recovery) for file in files]


def read_proposals(files: Sequence[Path], genesis: Genesis) -> list[RecoveryProposal]:
    """Proposals, each checked by the rule of the fork that it is of. Raises ``Rejected`` with the file's name."""

    def checked(data: bytes) -> RecoveryProposal:
        proposal = decode_proposal(data)
        return check_proposal(proposal, LightClientRule.of(genesis, proposal.block.header.chain.fork))

    found = [_read(file, checked) for file in files]
    forks = {each.block.header.chain.fork for each in found}
    if len(forks) > 1:
        raise Rejected(Reason.WRONG_CHAIN, "the proposals are of different forks")
    return found


def _read(file: Path, decoder: Callable[[bytes], _Document]) -> _Document:
    try:
        return decoder(file.read_bytes())
    except Rejected as refusal:
        raise Rejected(refusal.reason, f"{file}: {refusal.detail}") from None
