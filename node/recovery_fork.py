"""Adopting a recovery: the node goes on from its anchor, on the new fork, as soon as that is the last block that it has."""

from __future__ import annotations

import structlog

from consensus.epochs import roster_of
from consensus.finality.signer import VoteSigner
from consensus.recovery import recover_state
from consensus.state import State, changes_between
from consensus.transition import BlockRules
from node.fork_rows import Fork, put_fork
from node.ground import Ground
from node.state_rows import store_changes
from protocol.codec import decode
from protocol.epochs import epoch_of
from protocol.finality import Header
from protocol.ids import Height
from protocol.limits import KIB
from protocol.rejection import Reason, Rejected
from protocol.transactions import transaction_id
from storage.kv import Batch

log = structlog.get_logger()


def adopt_when_due(ground: Ground) -> Ground:
    """The ground on the fork that its operator wants, where the anchor is its last block; else the same ground.

    Blocks above the anchor that were not final are forgotten. What was signed before stays in its own journal. Raises
    ``Rejected(REVERTS_FINAL)`` where a final block would be taken back, ``Rejected`` where the document is not of this state.
    """
    pending, tip = ground.pending, ground.ledger.tip()
    if pending is None or tip is None or tip < pending.height:
        return ground
    _check_reverts_nothing(ground, pending, tip)
    before = ground.load_state()
    rules = BlockRules.of(ground.genesis, ground.chain.fork)
    after = recover_state(before, pending.checked, rules)
    batch = Batch()
    store_changes(batch, changes_between(before, after), after)
    put_fork(batch, pending.signed, after.root())
    ground.forget_open_finality(batch)
    # What its users had sent and no block has, they signed for the fork before.
    ground.forget_transactions(batch, map(transaction_id, ground.own_transactions()))
    if _may_not_vote(ground, before, tip):
        ground.miss_votes(batch, pending.chain.fork)
    ground.index.write(batch)
    recovery = pending.signed.recovery
    log.warning("the recovery is adopted", fork=recovery.fork, height=tip, members=len(recovery.remaining))
    return ground.renewed()


def _check_reverts_nothing(ground: Ground, pending: Fork, tip: Height) -> None:
    anchor = pending.signed.recovery.anchor.header
    if ground.chain != anchor.chain:
        raise Rejected(
            Reason.WRONG_CHAIN, f"the recovery follows fork {anchor.chain.fork}, here is {ground.chain.fork}"
        )
    header = ground.ledger.find_header(anchor.height)
    if tip > anchor.height or header is None or decode(Header, header, limit_bytes=4 * KIB) != anchor:
        raise Rejected(
            Reason.REVERTS_FINAL,
            f"block {tip} is final here, and the recovery goes on from another chain or from below it, at {anchor.height}; "
            "nothing is taken back",
        )


def _may_not_vote(ground: Ground, state: State, tip: Height) -> bool:
    """Whether the votes of this fork are not all known: then those of the next one may not be either."""
    roster = roster_of(state, epoch_of(tip + 1, ground.genesis.chain.epoch_heights))
    signer = VoteSigner(ground.keys.vote, ground.chain, roster, ground.vote_records, ground.vote_state)
    return signer.refusal is not None
