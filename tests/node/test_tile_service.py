"""The jobs of the tile thread: what waits for what."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from consensus.events import HeadsVerified
from node.services.tiles import TileService
from node.threads import in_thread
from protocol.digest import blob_digest
from protocol.ids import Digest, TileId, Version
from protocol.roster import Head
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
