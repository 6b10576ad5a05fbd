"""What operators of an honest chain of four say when it cannot go on, and the documents that are made of it."""

from __future__ import annotations

from consensus.recovery import combine_proposals, sign_recovery
from protocol.ids import PeerId
from protocol.light_client import LightBlock
from protocol.recovery import Recovery, RecoveryProposal, SignedRecovery, proposal_text
from tests.consensus.light_chain import EPOCH_HEIGHTS, KEYS, LightChain

FOUR = {0: 5, 1: 3, 2: 3, 3: 3}
CHAIN_OF_FOUR = LightChain([FOUR])
WHY = "two of four are gone"


def node(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def propose(signer: int, block: LightBlock, chain: LightChain = CHAIN_OF_FOUR, reason: str = WHY) -> RecoveryProposal:
    """What the operator of a member says."""
    header = block.header
    following = chain.roster(header.epoch + 1) if header.height % EPOCH_HEIGHTS == 0 else None
    signature = KEYS[signer].sign(proposal_text(header, reason))
    return RecoveryProposal(block, following, reason, node(signer), signature)


def combine(*proposals: RecoveryProposal, remaining: list[int] | None = None) -> Recovery:
    stay = None if remaining is None else [node(number) for number in remaining]
    return combine_proposals(proposals, stay, WHY, EPOCH_HEIGHTS)


def signed_by(recovery: Recovery, *signers: int) -> SignedRecovery:
    signed = SignedRecovery(recovery, bytes((len(recovery.remaining) + 7) // 8), ())
    for signer in signers:
        signed = sign_recovery(signed, KEYS[signer], EPOCH_HEIGHTS)
    return signed
