"""A real node with little room for its chain: it prunes, is killed, verifies, goes on; a newcomer says what it misses."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.verify import verify_tiles
from protocol.ids import Height
from storage.io.rocks import RocksKeyValue
from storage.keys import BODY, block_key
from storage.kv import Batch
from storage.ledger import Ledger, count_bytes
from tests.node.processes import Network, NodeProcess, run_command, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ALLOWED_BYTES = 64 * 1024


def oldest_height(node: NodeProcess) -> int:
    return int((node.get("/consensus/status") or {}).get("oldest_height", 0))


def fits(node: NodeProcess, above: int) -> bool:
    """Whether blocks above this one were pruned and hardly more is left than must stay: the blocks of two epochs."""
    at = node.get("/consensus/status") or {}
    return at.get("oldest_height", 0) > above and at["chain_bytes"] < 4 * ALLOWED_BYTES


def change_body(node: NodeProcess, height: int, body: bytes | None) -> None:
    """Put another body in a block's place, or none."""
    index = RocksKeyValue(node.places.database)
    batch = Batch()
    if body is None:
        batch.delete(block_key(BODY, Height(height)))
    else:
        batch.put(block_key(BODY, Height(height)), body)
    index.write(batch)
    index.close()


def test_a_node_prunes_is_killed_and_goes_on(tmp_path: Path) -> None:
    """What is left is counted to the byte, its roots can be derived, and pruning goes on after the restart."""
    rules = {"chain.epoch_heights": 4, "chain.history_segment_ticks": 100, "learning.round_seconds": 1}
    with Network(tmp_path, 1, 1, rules=rules, config={"storage.chain_bytes_max": ALLOWED_BYTES}) as network:
        node, newcomer = network.nodes
        node.start()
        wait_for("the first pruning", lambda: oldest_height(node) > 1)
        pruned = oldest_height(node)
        said = run_command("chain", "block", "1", "--data-dir", str(node.directory)).stderr
        assert "block 1 was pruned here" in said

        newcomer.start("--no-learn", "--from-genesis", bootstrap=[node.address])
        wait_for(
            "the newcomer's complaint", lambda: bool(newcomer.log("no connected peer keeps the next block any more"))
        )
        assert newcomer.status("height") == 0

        node.kill()
        report = verify_tiles(node.directory, lambda done, total, what: None)
        assert report.problems == []
        assert report.first_block >= pruned
        assert min(report.blocks, report.heads, report.merges_derived, report.files_verified) > 0
        ground = node.ground()
        try:
            assert Ledger(ground.index).statistics().bytes_used == count_bytes(ground.index)
        finally:
            ground.close()

        node.start()
        # Between two looks at the ledger the chain grows as fast as the machine decides: it fits in the moment after one.
        wait_for("pruning after the restart", lambda: fits(node, above=report.first_block))
        assert network.stop() == [0, 0]

        oldest = verify_tiles(node.directory, lambda done, total, what: None).first_block
        for body, problem in (
            (b"other", f"block {oldest}: the one above it names another header, or it another body"),
            (None, f"The database lacks block {oldest}, or a part of it: sync again from peers."),
        ):
            change_body(node, oldest, body)
            assert node.problems() == [problem]
