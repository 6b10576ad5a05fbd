"""Blocks of a network with one member, which finalizes whatever it likes."""

from __future__ import annotations

from consensus.finality.tally import build_certificate
from consensus.state import State
from protocol.codec import encode
from protocol.epochs import epoch_of
from protocol.finality import (
    HEADER_VERSION,
    NO_BLOCK,
    Body,
    ChainId,
    FinalizedBlock,
    Header,
    Vote,
    VoteKind,
    body_root,
    vote_text,
)
from protocol.genesis import Genesis, genesis_roster
from protocol.ids import Digest, Height, MemberIndex, View
from protocol.keys import KeyPair

BLOCK_MS = 1


def finalized_block(genesis: Genesis, key: KeyPair, height: int, before: Header | None, state: State) -> FinalizedBlock:
    """An empty block after which the state is ``state``, with the certificate of the founder whose vote key is ``key``."""
    chain, epoch = ChainId.of(genesis.network_id(), 0), epoch_of(height, genesis.chain.epoch_heights)
    roster, body = genesis_roster(genesis, epoch), encode(Body((), ()))
    header = Header(
        version=HEADER_VERSION,
        chain=chain,
        epoch=epoch,
        view=View(height),
        height=Height(height),
        parent=NO_BLOCK if before is None else before.digest(),
        parent_view=View(0 if before is None else before.view),
        time_ms=genesis.created_ms + height * BLOCK_MS,
        proposer=MemberIndex(0),
        body_root=body_root(body),
        body_bytes=len(body),
        state_root=state.root(),
        roster=roster.digest(),
        next_roster=genesis_roster(genesis, epoch + 1).digest(),
        beacon=roster.beacon,
        evidence_root=Digest(bytes(32)),
    )
    text = vote_text(chain, epoch, header.view, VoteKind.FINALIZE, header.digest())
    vote = Vote(epoch, header.view, VoteKind.FINALIZE, header.digest(), MemberIndex(0), key.sign(text))
    return FinalizedBlock(header, body, build_certificate([vote], roster))
