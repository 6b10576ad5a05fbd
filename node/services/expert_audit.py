"""Computing again what a holder computed, with our own worker and tiles whose roots the chain decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from compute.io.pool import JobError, JobLost, JobTimedOut
from compute.jobs import ComputeExpert, ExpertComputed, TileFile
from compute.model.tiling import TileMap
from compute.spot_checks import find_deviation_micro
from node.services.expert_server import Computes
from p2p.requests import EXPERT
from protocol.experts import CallExpert
from protocol.ids import TileId, Version
from protocol.rejection import Rejected

log = structlog.get_logger()


class ExpertAudit:
    """What an expert makes of rows, as this node sees it."""

    def __init__(
        self,
        tile_map: TileMap,
        tile_files: Callable[[Sequence[tuple[TileId, Version]]], Awaitable[tuple[TileFile, ...]]],
        find_worker: Callable[[], Computes | None],
        width: int,
    ) -> None:
        """``width``: of a row."""
        self._tile_map = tile_map
        self._tile_files = tile_files
        self._find_worker = find_worker
        self._width = width

    async def find_deviation_micro(self, call: CallExpert, given: bytes) -> int | None:
        """How far off the answer to a call is; None where this node cannot compute it."""
        worker = self._find_worker()
        bases = [
            (tile.id, version)
            for tile, version in zip(self._tile_map.group_tiles(call.expert), call.versions, strict=True)
        ]
        if worker is None:
            return None
        try:
            files = await self._tile_files(bases)
            if len(files) < len(bases):
                return None
            job = ComputeExpert(files, call.expert, call.index, call.count, call.rows)
            reply = await worker.call(job, EXPERT.timeout_seconds)
        except (Rejected, JobLost, JobTimedOut, JobError) as failure:
            log.info("a holder's answer could not be computed again", expert=call.expert, why=str(failure))
            return None
        if not isinstance(reply, ExpertComputed):
            return None
        return find_deviation_micro(given, reply.rows, self._width)
