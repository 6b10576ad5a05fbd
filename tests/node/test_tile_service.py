"""The jobs of the tile thread: what waits for what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from consensus.events import HeadsVerified, TilesApplied
from node.services.tiles import TileService
from node.threads import in_thread
from protocol.digest import blob_digest
from protocol.ids import Digest, Height, TileId, Version
from protocol.rejection import Reason, Rejected
from protocol.roster import Decided, Head
from tests.consensus.genesis import TILES
from tests.consensus.samples import make_head
from tests.node.ground_samples import make_ground

LOST, HELD = (replace(make_head(), update=blob_digest(data)) for data in (b"lost", b"held"))


class SlowExchange:
    """Nobody gives one of two updates; neighbours may have to wait for the other until we give it to them."""

    async def ensure_updates(self, heads: Iterable[Head]) -> set[Digest]:
        if LOST in heads:
            await trio.sleep_forever()
        return set()


def test_a_head_waits_for_its_own_update_only() -> None:
    """Two regions' worth of neighbours that verify in order would wait for each other in circles."""
    said: list[HeadsVerified] = []

    async def main() -> None:
        ground = make_ground()
        ground.blobs.put(b"held")
        ground.work = SimpleNamespace(verify=lambda jobs: [None for _ in jobs])
        heard = trio.Event()

        async def post(event: Any) -> None:
            said.append(event)
            heard.set()

        service = TileService(ground, lambda: SlowExchange(), post, in_thread)
        service._repair_if_damaged = nothing_is_damaged
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            service.verify((LOST,))
            service.verify((HELD,))
            await heard.wait()
            assert service.waiting()["fetch"] == 1
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert said == [HeadsVerified(((HELD.digest(), None),), ())]


async def nothing_is_damaged(tile: TileId, version: Version) -> None:
    """What follows a verification is none of this test's business."""


def test_tiles_are_folded_behind_a_round() -> None:
    """After everybody heard that they are applied, each by itself; one that is found damaged then does not end the service."""
    said: list[Any] = []

    async def main() -> None:
        ground = make_ground()
        heads = [replace(make_head(), tile=tile) for tile in TILES[:2]]
        for head in heads:
            ground.tiles.put(head.tile, head.version, b"file", head.root)
        folded = trio.Event()

        def fold(tile: TileId) -> None:
            said.append(tile)
            if len(said) == 2:
                raise Rejected(Reason.TILE_CORRUPT, "a page")
            folded.set()

        async def post(event: Any) -> None:
            said.append(type(event))

        async def at_once(work: Callable[[], Any], limiter: trio.CapacityLimiter | None = None) -> Any:
            return work()

        ground.work = SimpleNamespace(fold=fold)
        service = TileService(ground, lambda: SlowExchange(), post, at_once)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            service.apply(Decided(head.slot, head, Height(1)) for head in heads)
            await folded.wait()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert said == [TilesApplied, *TILES[:2]]
