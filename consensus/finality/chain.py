"""Checking what the sync protocol brought: a run of finalized blocks of one epoch, by that epoch's roster alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from consensus.finality.epochs import epoch_of_child
from consensus.finality.tally import check_certificate
from consensus.signers import Verify
from protocol.epochs import is_boundary
from protocol.finality import Certificate, ChainId, FinalizedBlock, Header, VoteKind, body_root
from protocol.genesis import ChainRule
from protocol.ids import Height
from protocol.keys import verify as verify_signature
from protocol.rejection import Reason, Rejected
from protocol.roster import Roster


def check_chain(
    blocks: Sequence[FinalizedBlock],
    roster: Roster,
    chain: ChainId,
    rule: ChainRule,
    verify: Verify = verify_signature,
) -> tuple[FinalizedBlock, ...]:
    """Check an answer of the sync protocol before it becomes ``Synced``: links, bodies, and the last certificate.

    All blocks are of the epoch of ``roster``: certificates of one epoch say nothing to another, so a server cuts its answers at
    boundaries. Raises ``Rejected`` (WRONG_ANCESTRY, WRONG_CHAIN, WRONG_EPOCH, WRONG_DIGEST, or as ``check_certificate``);
    whoever sent it is to blame, but for WRONG_EPOCH, which is what an answer to our last question looks like after a boundary.
    Whether it continues our own chain is for the machine to see.
    """
    if not blocks:
        raise Rejected(Reason.WRONG_ANCESTRY, "no blocks")
    for block in blocks:
        header = block.header
        if header.chain != chain:
            raise Rejected(Reason.WRONG_CHAIN, f"height {header.height}")
        if header.epoch != roster.epoch:
            raise Rejected(Reason.WRONG_EPOCH, f"height {header.height} in epoch {header.epoch}")
        if header.height == 0 or epoch_of_child(Height(header.height - 1), rule) != roster.epoch:
            raise Rejected(Reason.WRONG_ANCESTRY, f"height {header.height} is not of epoch {header.epoch}")
        if len(block.body) != header.body_bytes or body_root(block.body) != header.body_root:
            raise Rejected(Reason.WRONG_DIGEST, f"body of height {header.height}")
    for block, child in pairwise(blocks):
        if child.header.parent != block.header.digest() or child.header.height != block.header.height + 1:
            raise Rejected(Reason.WRONG_ANCESTRY, f"height {child.header.height} does not continue the one below")
    last = blocks[-1]
    if last.certificate is None or last.certificate.kind is not VoteKind.FINALIZE:
        raise Rejected(Reason.NO_QUORUM, "the last block has no finalization")
    if not _finalizes(last.certificate, last.header, rule):
        raise Rejected(Reason.WRONG_ANCESTRY, "the certificate is another block's")
    check_certificate(last.certificate, roster, chain, verify)
    return tuple(blocks)


def _finalizes(certificate: Certificate, header: Header, rule: ChainRule) -> bool:
    """A block is finalized in its own view; a boundary block also in a later one, where it was proposed again."""
    in_view = certificate.view == header.view or (
        certificate.view > header.view and is_boundary(header.height, rule.epoch_heights)
    )
    return in_view and certificate.block == header.digest()
