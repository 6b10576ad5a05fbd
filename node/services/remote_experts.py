"""The experts of peers, for a trunk that decodes here: a layer's rows go out to all experts at once, and come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from compute.expert_caller import CallingStatistics
from compute.jobs import ExpertPart, RowsWanted
from compute.model.layout import TRUNK, expert_group
from compute.model.tiling import TileMap
from node.adverts import Adverts
from node.services.expert_client import ExpertClient
from p2p.transport import Transport
from protocol.experts import ExpertSlice
from protocol.ids import PeerId, TileId, Version
from protocol.limits import EXPERT_ROWS_BYTES_MAX
from protocol.rejection import Reason, Rejected

EXPERT_PATIENCE_SECONDS: Final = 10.0  # three holders may be lost on the way
PLACE_SECONDS: Final = 2.0  # between two looks at who computes


class RemoteExperts:
    """Who computes experts, and what they make of rows."""

    def __init__(
        self,
        transport: Transport,
        adverts: Adverts,
        client: ExpertClient,
        tile_map: TileMap,
        *,
        row_bytes: int,
        call_bytes_max: int = EXPERT_ROWS_BYTES_MAX,
    ) -> None:
        """``row_bytes``: of one row of activations; ``call_bytes_max``: of the rows of one call."""
        self._transport = transport
        self._adverts = adverts
        self._client = client
        self._tile_map = tile_map
        self._experts = {tile.group: None for tile in tile_map.tiles if tile.group != TRUNK}
        self._part_bytes_max = call_bytes_max // row_bytes * row_bytes
        self._able: tuple[PeerId, ...] = ()  # who computes experts

    def statistics(self) -> CallingStatistics:
        """Of the calls of experts."""
        return self._client.statistics()

    @property
    def holders(self) -> tuple[PeerId, ...]:
        """Who computes experts."""
        return self._able

    @property
    def client(self) -> ExpertClient:
        """Who was asked, and what came of it."""
        return self._client

    async def run(self) -> None:
        """Keep knowing who computes: peers that are connected and have a device. All of them alike, while nobody plans."""
        while True:
            self._able = tuple(peer for peer in self._transport.connected_peers() if self._computes(peer))
            copies = dict.fromkeys(self._able, 1)  # again each time: who had not the right version may have it by now
            self._client.place({ExpertSlice(expert): copies for expert in self._experts})
            await trio.sleep(PLACE_SECONDS)

    def _computes(self, peer: PeerId) -> bool:
        advert = self._adverts.find(peer)
        return advert is not None and bool(advert.device)

    def check(self) -> None:
        """Raises ``Rejected(BUSY)`` where nobody computes any expert."""
        if not self._able:
            raise Rejected(Reason.BUSY, "no peer that is connected computes experts; try again when one is there")

    async def compute(self, versions: Mapping[TileId, Version], wanted: RowsWanted) -> tuple[ExpertPart, ...]:
        """What the experts of a layer make of their rows. Raises ``Rejected(BUSY)`` when one was not computed in time."""
        given: dict[tuple[int, int], bytes] = {}  # by expert, and where its rows begin
        refusals: list[Rejected] = []

        async def ask(expert: int, first: int, rows: bytes, scope: trio.CancelScope) -> None:
            name = expert_group(wanted.layer, expert)
            meant = [versions[tile.id] for tile in self._tile_map.group_tiles(name)]
            try:
                given[expert, first] = await self._client.call(ExpertSlice(name), meant, rows, EXPERT_PATIENCE_SECONDS)
            except Rejected as refusal:
                refusals.append(refusal)
                scope.cancel()

        size = self._part_bytes_max
        async with trio.open_nursery() as nursery:
            for part in wanted.parts:
                for first in range(0, len(part.rows), size):
                    rows = part.rows[first : first + size]
                    nursery.start_soon(ask, part.expert, first, rows, nursery.cancel_scope)
        if refusals:
            raise refusals[0]
        return tuple(
            ExpertPart(part.expert, b"".join(given[part.expert, first] for first in range(0, len(part.rows), size)))
            for part in wanted.parts
        )
