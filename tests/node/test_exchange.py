"""Blocks between nodes: who has pruned what is asked for says so, and another is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import structlog
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from consensus.regions import SERVED_DIRECTLY, Regions
from node.services.exchange import RELAY_PATIENCE_SECONDS, Exchange, _Expected
from protocol.codec import encode
from protocol.digest import blob_digest
from protocol.ids import Digest, Height, PeerId, Version
from protocol.learning import GetBlocks
from protocol.rejection import Reason, Rejected
from protocol.roster import Head
from storage.tile_format import tile_block
from tests.consensus.genesis import TILES
from tests.consensus.samples import make_head
from tests.node.chain_samples import SmallChain
from tests.node.ground_samples import MemoryGround, make_ground
from tests.node.memory_hosts import connected_hosts, no_report


def ground_of(blocks: int, pruned_below: int = 1) -> MemoryGround:
    """Blocks with certificates, of which the oldest are gone."""
    chain = SmallChain()
    for _ in range(blocks):
        chain.seal()
    chain.prune(pruned_below)
    return make_ground(chain.index)


async def no_tiles(work: object) -> Any:
    raise AssertionError("no tile is asked for")


def converse(
    grounds: list[MemoryGround],
    talk: Callable[[list[Exchange]], object],
    regions: Sequence[str] = (),
    in_tile_thread: Callable[[Any], Awaitable[Any]] = no_tiles,
) -> None:
    """Nodes that are all connected, each in its region if there are any, and what is done with their exchanges."""

    async def main() -> None:
        async with connected_hosts(len(grounds)) as hosts:
            labels = [Regions(host.peer_id, region) for host, region in zip(hosts, regions, strict=False)]
            for each in labels:
                for host, region in zip(hosts, regions, strict=True):
                    each.tell(host.peer_id, region)
            made = [
                Exchange(ground, host, in_tile_thread, no_report, *labels[number : number + 1])
                for number, (ground, host) in enumerate(zip(grounds, hosts, strict=True))
            ]
            await talk(made)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_another_peer_is_asked_for_what_one_has_pruned():
    """Whoever keeps the block gives it; that another does not is nobody's fault."""

    async def talk(made: list[Exchange]) -> None:
        for first in (1, 3, 6):
            answer = await made[0].fetch_blocks(Height(first))
            heights = [block.header.height for block in answer[0].blocks]
            assert heights == [*range(first, 5 if first < 5 else 9)]  # an answer ends with an epoch

    converse([ground_of(0), *[ground_of(8, 5) for _ in range(3)], ground_of(8)], talk)


def test_peers_are_given_tiles_one_at_a_time():
    """An old version may take half a second of the tile thread: what else waits for it never waits for two."""
    values = 100_000
    file, root = tile_block(TILES[0], bytes(4 * values), 1, values)
    holder = ground_of(0)
    holder.tiles.put(TILES[0], Version(3), file, root)
    running: list[None] = []
    fetched: list[bytes | None] = []

    async def slowly(work: Callable[[], Any]) -> Any:
        running.append(None)
        assert len(running) == 1
        await trio.sleep(0.5)
        running.pop()
        return work()

    async def talk(made: list[Exchange]) -> None:
        async def fetch(exchange: Exchange) -> None:
            fetched.append(await exchange.fetch_tile(TILES[0], root, [made[0]._transport.peer_id]))

        async with trio.open_nursery() as nursery:
            for exchange in made[1:]:
                nursery.start_soon(fetch, exchange)

    converse([holder, ground_of(0), ground_of(0)], talk, in_tile_thread=slowly)
    assert fetched == [file, file]


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


# -- updates between regions --------------------------------------------------------------------------------------------

UPDATE = b"an update" * 1_000


def head_of(proposer: PeerId, update: bytes = UPDATE) -> Head:
    """As gossip brings it."""
    return replace(make_head(), proposer=proposer, update=blob_digest(update))


async def fetch_all(made: list[Exchange], head: Head) -> list[int]:
    """Everybody wants the update at once; how much each was given by the proposer."""
    made[0]._ground.blobs.put(UPDATE)
    missing: list[Digest] = []

    async def fetch(one: Exchange) -> None:
        missing.extend(await one.ensure_updates([head]))

    async with trio.open_nursery() as nursery:
        for one in made[1:]:
            nursery.start_soon(fetch, one)
    assert not missing
    assert not any(one._expected for one in made)
    return [one.fetched_bytes[head.proposer] for one in made[1:]]


def test_a_region_fetches_an_update_once():
    """Five of the west want what the east proposes: one asks there, the others ask that one, which is still fetching."""

    async def talk(made: list[Exchange]) -> None:
        head = head_of(made[0]._transport.peer_id)
        given = await fetch_all(made, head)
        assert sum(count > len(UPDATE) for count in given) == 1
        assert all(one._ground.blobs.find(head.update) is not None for one in made)

    converse([ground_of(0) for _ in range(6)], talk, ["east", *["west"] * 5])


def test_within_a_small_region_everybody_asks_the_proposer():
    """And everywhere where nobody says where it is."""

    async def talk(made: list[Exchange]) -> None:
        given = await fetch_all(made, head_of(made[0]._transport.peer_id))
        assert all(count > len(UPDATE) for count in given)

    converse([ground_of(0) for _ in range(4)], talk, ["east"] * 4)
    converse([ground_of(0) for _ in range(4)], talk)


def test_within_a_large_region_a_proposer_serves_some_and_they_the_others():
    """Its line is as thin as anybody's."""

    async def talk(made: list[Exchange]) -> None:
        given = await fetch_all(made, head_of(made[0]._transport.peer_id))
        assert sum(count > len(UPDATE) for count in given) == SERVED_DIRECTLY

    converse([ground_of(0) for _ in range(12)], talk, ["east"] * 12)


def test_what_nobody_has_is_waited_for_once():
    """All let each other wait, from when they heard of it and not from when they were asked: then they know."""

    async def talk(made: list[Exchange]) -> None:
        head = head_of(made[0]._transport.peer_id)
        missing: list[Digest] = []

        async def fetch(one: Exchange) -> None:
            missing.extend(await one.ensure_updates([head]))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for one in made[1:]:
                nursery.start_soon(fetch, one)
        assert missing == [head.update] * (len(made) - 1)
        assert trio.current_time() - began < RELAY_PATIENCE_SECONDS + 5

    converse([ground_of(0) for _ in range(7)], talk, ["east", *["west"] * 6])


def test_a_neighbour_that_never_gets_it_costs_the_way_to_the_proposer():
    """It lets others wait for a while and then has nothing to give: they ask the proposer themselves."""

    async def talk(made: list[Exchange]) -> None:
        proposer, *west = made
        proposer._ground.blobs.put(UPDATE)
        head = head_of(proposer._transport.peer_id)
        (relay,) = [one for one in west if not one._find_sources(head)]
        (asker,) = [one for one in west if one is not relay]
        began = trio.current_time()
        relay._expected[head.update] = _Expected(began + RELAY_PATIENCE_SECONDS)
        assert await asker.ensure_updates([head]) == set()
        assert trio.current_time() - began >= RELAY_PATIENCE_SECONDS
        assert asker.fetched_bytes[head.proposer] > len(UPDATE)

    converse([ground_of(0) for _ in range(3)], talk, ["east", "west", "west"])
