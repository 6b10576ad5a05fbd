"""Real processes in two regions: what each learned crosses between them once a tile, and counts once."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import default_config_text
from node.verify import verify_tiles
from protocol.codec import decode
from protocol.finality import Body
from protocol.ids import Height
from protocol.limits import BODY_BYTES_MAX
from protocol.roster import Head
from tests.node.processes import Network, NodeProcess, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def decided_heads(node: NodeProcess) -> list[Head]:
    """Every head in the ledger of a node that is not running."""
    ground = node.ground()
    try:
        blocks = ground.ledger.range(Height(1), ground.ledger.tip() or Height(0))
        return [head for block in blocks for head in decode(Body, block.body, limit_bytes=BODY_BYTES_MAX).heads]
    finally:
        ground.close()


def test_a_region_sends_one_delta_of_a_tile(tmp_path: Path) -> None:
    """Two nodes here and two there: heads hold aggregates of two, no delta is counted twice, and all is derived again."""
    with Network(tmp_path, 4) as network:
        for number, node in enumerate(network.nodes):
            region = "east" if number < 2 else "west"
            text = default_config_text({"network.id": network.network_id, "network.region": region})
            node.places.config.write_text(text)
        network.start("--rounds", "3")
        for node in network.nodes:
            node.wait_rounds(3)
            wait_for("all rounds applied", lambda node=node: set(node.versions().values()) == {3})
        assert network.stop() == [0] * 4
        heads = decided_heads(network.nodes[0])
        aggregates = [reference for head in heads for reference in head.deltas if reference.contributors]
        assert aggregates
        assert max(reference.learners for reference in aggregates) == 2
        counted = [name for head in heads for name in head.counted()]
        assert len(counted) == len(set(counted))
        reports = [verify_tiles(node.directory, lambda done, total, what: None) for node in network.nodes]
        assert [report.problems for report in reports] == [[]] * 4
        assert sum(report.aggregates_derived for report in reports) == len(aggregates)  # each by its aggregator
