"""Blocks between nodes: who has pruned what is asked for says so, and another is asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import structlog
import trio
from trio.testing import MockClock

from node.services.exchange import Exchange
from p2p.io.memory_host import MemoryNetwork, open_memory_host
from p2p.transport import Transport
from protocol.codec import encode
from protocol.ids import Height, PeerId
from protocol.learning import GetBlocks
from protocol.rejection import Reason, Rejected
from tests.node.chain_samples import SmallChain
from tests.node.ground_samples import MemoryGround, make_ground


def ground_of(blocks: int, pruned_below: int = 1) -> MemoryGround:
    """Blocks with certificates, of which the oldest are gone."""
    chain = SmallChain()
    for _ in range(blocks):
        chain.seal()
    chain.prune(pruned_below)
    return make_ground(chain.index)


def converse(grounds: list[MemoryGround], talk: Callable[[list[Exchange]], object]) -> None:
    """Nodes that are all connected to the first one, and what is done with their exchanges."""

    async def main() -> None:
        network = MemoryNetwork(random.Random(5))
        async with AsyncExitStack() as opened:
            hosts: list[Transport] = []
            for number in range(len(grounds)):
                host = open_memory_host(
                    network,
                    bytes([number]) * 32,
                    hello=b"hello",
                    check_hello=lambda peer, hello: None,
                    bootstrap=[address for host in hosts for address in host.addresses],
                )
                hosts.append(await opened.enter_async_context(host))
            made = [Exchange(ground, host, no_tiles, no_report) for ground, host in zip(grounds, hosts, strict=True)]
            while any(len(host.connected_peers()) < len(hosts) - 1 for host in hosts):
                await trio.sleep(0.1)
            await talk(made)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def no_tiles(work: object) -> object:
    raise AssertionError("no tile is asked for")


def no_report(peer: PeerId, refusal: Rejected) -> None:
    raise AssertionError(f"{peer.hex()} is blamed: {refusal}")


def test_another_peer_is_asked_for_what_one_has_pruned():
    """Whoever keeps the block gives it; that another does not is nobody's fault."""

    async def talk(made: list[Exchange]) -> None:
        for first in (1, 3, 6):
            answer = await made[0].fetch_blocks(Height(first))
            heights = [block.header.height for block in answer[0].blocks]
            assert heights == [*range(first, 5 if first < 5 else 9)]  # an answer ends with an epoch

    converse([ground_of(0), *[ground_of(8, 5) for _ in range(3)], ground_of(8)], talk)


def test_where_all_have_pruned_it_that_is_said_once():
    """A node that cannot catch up says which block nobody keeps, and does not say it at every try."""

    async def talk(made: list[Exchange]) -> None:
        with structlog.testing.capture_logs() as said:
            for _ in range(3):
                assert await made[0].fetch_blocks(Height(1)) is None
            assert await made[0].fetch_blocks(Height(9)) is None  # there is none yet
        (warning,) = said
        assert warning["event"] == "no connected peer keeps the next block any more"
        assert (warning["height"], warning["pruned_by"]) == (1, 2)

    converse([ground_of(0), ground_of(8, 5), ground_of(8, 5)], talk)


def test_the_answer_to_whoever_asks_below_says_from_where_on():
    """NOT_FOUND, with the lowest height that there is."""

    async def talk(made: list[Exchange]) -> None:
        with pytest.raises(Rejected, match="blocks below 5 were pruned here") as refused:
            await made[0]._serve_sync(PeerId(bytes(32)), encode(GetBlocks(Height(4), 3)))
        assert refused.value.reason is Reason.NOT_FOUND
        assert await made[0]._serve_sync(PeerId(bytes(32)), encode(GetBlocks(Height(5), 3)))

    converse([ground_of(8, 5)], talk)
