"""Running a node until it has what the network has: the second half of every local repair, with progress for whoever waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import structlog
import trio

from consensus.light_client import LightClientRule
from node.config import HERE, Settings
from node.ground import Ground
from node.keys import AskPassphrase
from node.node import Node, run_node
from protocol.epochs import boundary_of, epoch_of
from protocol.ids import Height

log = structlog.get_logger()

PROGRESS_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.1
PRUNED: Final = (
    "no peer keeps the next block any more, and what this node trusts proves no checkpoint: set network.trusted_block in "
    "config.toml to HEIGHT:DIGEST of a recent block, as somebody whom you trust sees it, and run this again"
)


def catch_up(settings: Settings, ask_passphrase: AskPassphrase | None = None) -> Mapping[str, Any]:
    """Run the node of a data directory, without learning, until it is where the network is; where that is.

    ``why``: that it could not be, which only its user can change. Raises as ``run_node``. Ended before, it leaves a directory
    with which ``nocknode start`` goes on.
    """
    facts: dict[str, Any] = {"caught_up": False, "why": None}

    async def until(node: Node) -> None:
        facts["why"] = await _wait_caught_up(node)
        facts["caught_up"] = facts["why"] is None
        facts["height"] = node.ground.ledger.tip() or 0
        facts["state_root"] = node.engine.execution.state.root().hex()
        facts["refusal"] = node.engine.finality.statistics().refusal

    compute = replace(settings.compute, learn=False, experts=HERE)  # no worker for either
    run_node(replace(settings, compute=compute), ask_passphrase, until=until)
    return facts


async def _wait_caught_up(node: Node) -> str | None:
    """Until the node runs among others, and has every tile of them; or why that cannot be."""
    told_at = trio.current_time()
    while True:
        missing = None
        if node.phase == "running" and (node.transport.connected_peers() or _is_alone(node)):
            if node.exchange.is_pruned(Height((node.ground.ledger.tip() or 0) + 1)):
                return PRUNED
            missing = _missing_tiles(node)
            if missing == 0:
                return None
        if trio.current_time() - told_at >= PROGRESS_SECONDS:
            told_at = trio.current_time()
            log.info("catching up", height=node.ground.ledger.tip() or 0, phase=node.phase, tiles_missing=missing)
        await trio.sleep(POLL_SECONDS)


def _is_alone(node: Node) -> bool:
    """Whether there is nobody to catch up with: a network of one."""
    return [member.node for member in node.roster.members] == [node.ground.peer]


def _missing_tiles(node: Node) -> int:
    """Tiles of which this node has neither the decided version nor the one before, which a living network has just left."""
    newest = ((node.ground.tiles.newest(tile), head.version) for tile, head in node.tile_heads().items())
    return sum(held is None or held < version - 1 for held, version in newest)


def own_trust(ground: Ground, now_ms: int) -> str:
    """A block of this node's own ledger with which proofs can begin, as ``network.trusted_block``; empty where none is needed.

    That is the last block of an epoch, where the genesis has become too old to prove anything.
    """
    rule, tip = LightClientRule.of(ground.genesis), ground.ledger.tip()
    if tip is None or now_ms - ground.genesis.created_ms < rule.trusting_period_ms:
        return ""
    height = boundary_of(epoch_of(tip + 1, rule.epoch_heights) - 1, rule.epoch_heights)
    block = ground.find_light_block(Height(height)) if height else None
    return f"{height}:{block.header.digest().hex()}" if block is not None else ""
