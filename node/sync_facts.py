"""What people and programs see of joining: plain facts for JSON, while a state is fetched and after."""

from __future__ import annotations

from collections.abc import Sequence

from node.api.view import Facts
from node.checkpoints import list_checkpoints
from node.disk import Disk
from node.services.backfill import Backfill
from node.services.state_fetch import StateFetch
from protocol.codec import encode
from protocol.ids import peer_text


def join_facts(fetch: StateFetch, backfill: Backfill | None = None) -> Facts:
    """phase (one of ``JoinPhase``), detail (a sentence), height and state_root of the checkpoint or None, parts (that are known
    to be there), parts_verified, bytes, sources [{peer, bytes}]; of the blocks below it, which come later: history
    {oldest_height (0: no block is here), fetched_blocks (by this process), next_height or None where no more are to come}."""
    header = None if fetch.row is None else fetch.row.block.header
    at = fetch.progress
    return {
        "phase": fetch.phase.value,
        "detail": fetch.sentence(),
        "height": None if header is None else header.height,
        "state_root": None if header is None else header.state_root.hex(),
        "parts": 0 if at is None else at.parts,
        "parts_verified": 0 if at is None else at.parts_kept,
        "bytes": 0 if at is None else at.bytes_fetched,
        "history": {
            "oldest_height": fetch.ground.ledger.oldest() or 0,
            "fetched_blocks": 0 if backfill is None else backfill.fetched_blocks,
            "next_height": None if backfill is None else backfill.next_height(),
        },
        "sources": [] if at is None else [{"peer": peer_text(peer), "bytes": given} for peer, given in at.shares],
    }


def checkpoint_facts(disk: Disk) -> Sequence[Facts]:
    """Newest first: height, epoch, block (hash), time_ms, state_root, manifest_bytes."""
    return [
        {
            "height": kept.height,
            "epoch": kept.block.header.epoch,
            "block": kept.block.header.digest().hex(),
            "time_ms": kept.block.header.time_ms,
            "state_root": kept.block.header.state_root.hex(),
            "manifest_bytes": len(encode(kept)),
        }
        for kept in list_checkpoints(disk)
    ]
